import numpy as np
import pytest
from test_clip_evaluation import FACTS, NAMES, SCALE, make_scores, random_split

from wakeword_keras.evaluation.clip_evaluation import evaluate
from wakeword_keras.evaluation.clip_thresholds import ClipThresholds, choose

WORDS = ("happy",)


def test_a_threshold_does_not_hang_on_one_clip():
    rng = np.random.default_rng(0)
    labels = np.repeat((-1, 0), (500, 100))
    logits = np.concatenate([rng.normal(-4, 2, 500), rng.normal(2, 2, 100)])
    before = choose(make_scores(logits[:, None], labels), WORDS).logits["fp32"]
    # The fifth clip of 500 decides where 1 % fire: it moves most of the way to the fourth.
    above, clip = np.argsort(-logits[:500])[4:6]
    moved = logits.copy()
    moved[clip] += 0.9 * (logits[above] - logits[clip])
    after = choose(make_scores(moved[:, None], labels), WORDS).logits["fp32"]
    assert 0 < after - before < 0.25 * (moved[clip] - logits[clip])


def test_at_a_threshold_one_percent_of_the_negatives_fire():
    rng = np.random.default_rng(1)
    labels = np.repeat((-1, 0), (4000, 100))
    logits = np.concatenate([rng.normal(-4, 2, 4000), rng.normal(2, 2, 100)])
    threshold = choose(make_scores(logits[:, None], labels), WORDS).logits["fp32"]
    # By hand: the 99 % point of that normal distribution, 2.326 standard deviations up.
    assert threshold == pytest.approx(-4 + 2.326 * 2, abs=0.2)
    assert np.mean(logits[:4000] >= threshold) == pytest.approx(0.01, abs=0.002)


def test_given_thresholds_are_used_whatever_the_test_clips_say():
    validation, test = (make_scores(*random_split(seed)) for seed in (0, 1))
    high = ClipThresholds(dict.fromkeys(NAMES, 99.0), choose(validation, WORDS).shift_ci95, 3, 4)
    # No clip reaches 99, so at most the negatives could be right; a model has to be right once.
    report = evaluate(high, test, None, FACTS, SCALE, WORDS)
    for metrics in report.models.values():
        assert metrics.threshold == 99.0
        assert metrics.accuracy == np.mean(test.targets < 0)
    assert (report.validation_positives, report.validation_negatives) == (3, 4)


def test_a_model_without_a_threshold_is_named():
    test = make_scores(*random_split(1))
    chosen = choose(make_scores(*random_split(0)), WORDS)
    lacking = {name: value for name, value in chosen.logits.items() if name != "int8_ptq"}
    with pytest.raises(ValueError, match="int8_ptq"):
        evaluate(ClipThresholds(lacking, chosen.shift_ci95, 3, 4), test, None, FACTS, SCALE, WORDS)
