import numpy as np
import pytest

from wakeword_keras.data.clips import ClipInfo
from wakeword_keras.evaluation import confusables
from wakeword_keras.evaluation.scores import Scores


def scores_of(logits, targets, names, **others):
    logits = np.asarray(logits, np.float32).reshape(len(targets), -1)
    models = {"int8": logits, **{k: np.float32(v).reshape(logits.shape) for k, v in others.items()}}
    clips = tuple(
        ClipInfo(f"{name}/{i}", name, at, "positive" if at >= 0 else "speech", f"s{i}", 1.0)
        for i, (name, at) in enumerate(zip(names, targets, strict=True))
    )
    return Scores(clips, models)


def test_what_fires_stands_first_then_what_comes_nearest():
    names = ["happy", "dog", "dog", "cat", "cat", "nappy", "nappy"]
    scores = scores_of([9, -5, -4, -3, -6, 1, -9], [0] + [-1] * 6, names)
    found = confusables.measure(scores, {"int8": 0.0}, ("happy",))
    assert [label.label for label in found] == ["nappy", "cat", "dog"]
    nappy = found[0].models["int8"]
    assert (nappy.false_accepts, found[0].clips) == (1, 2)
    assert nappy.highest_probability == pytest.approx(1 / (1 + np.exp(-1)))
    mean = (1 / (1 + np.exp(-1)) + 1 / (1 + np.exp(9))) / 2
    assert nappy.mean_probability == pytest.approx(mean)
    assert (nappy.nearest_clip_id, nappy.nearest_wake_word) == ("nappy/5", "happy")
    low, high = nappy.false_accept_rate_ci95
    assert 0 <= low < 0.5 < high <= 1


def test_the_share_that_fires_counts_not_the_number():
    names = ["few"] * 2 + ["many"] * 8
    scores = scores_of([1, 1] + [1] * 3 + [-1] * 5, [-1] * 10, names)
    found = confusables.measure(scores, {"int8": 0.0}, ("happy",))
    assert [(x.label, x.models["int8"].false_accepts) for x in found] == [("few", 2), ("many", 3)]


def test_every_model_has_its_own_threshold():
    scores = scores_of([1, 1], [-1, -1], ["dog", "dog"], fp32=[1, 1], int8_ptq=[1, 3])
    (dog,) = confusables.measure(scores, {"fp32": 2.0, "int8_ptq": 2.0, "int8": 0.0}, ("happy",))
    assert {k: v.false_accepts for k, v in dog.models.items()} == {
        "fp32": 0,
        "int8_ptq": 1,
        "int8": 2,
    }


def test_wake_words_are_confusables_of_each_other_and_never_of_themselves():
    # "up" is heard as "down" once and as itself once; "down" is right.
    logits = [[1, 5], [6, -2], [-7, 4], [-3, -4]]
    scores = scores_of(logits, [0, 0, 1, -1], ["up", "up", "down", "dog"])
    found = {x.label: x for x in confusables.measure(scores, {"int8": 0.0}, ("up", "down"))}
    up, down, dog = (found[name].models["int8"] for name in ("up", "down", "dog"))
    assert (up.false_accepts, up.nearest_wake_word) == (1, "down")
    assert up.highest_probability == pytest.approx(1 / (1 + np.exp(-5)))
    assert (down.false_accepts, down.nearest_wake_word) == (0, "up")
    assert down.highest_probability == pytest.approx(1 / (1 + np.exp(7)), rel=1e-6)
    assert (dog.false_accepts, dog.nearest_wake_word) == (0, "up")


def test_logits_of_100_stay_probabilities():
    scores = scores_of([100, -100], [-1, -1], ["a", "b"])
    a, b = confusables.measure(scores, {"int8": 0.0}, ("happy",))
    assert a.models["int8"].highest_probability == 1.0
    assert 0 < b.models["int8"].highest_probability < 1e-40
