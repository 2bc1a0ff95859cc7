import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clip_evaluation import FACTS, NAMES, SCALE, make_scores, random_split

from wakeword_keras.evaluation import clip_thresholds
from wakeword_keras.evaluation.clip_evaluation import evaluate
from wakeword_keras.evaluation.clip_thresholds import ClipThresholds, choose
from wakeword_keras.evaluation.scores import FALSE_POSITIVE_RATE, resample
from wakeword_keras.metrics import detection

WORDS = ("happy",)


@given(st.integers(0, 1000), st.integers(4, 60))
@settings(max_examples=40)
def test_drawn_thresholds_are_those_of_the_repeated_clips(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 1, count)
    labels[:2] = (-1, 0)
    # Few distinct scores, so that ties are common.
    scores = make_scores(rng.integers(-6, 7, (count, 1)) / 4, labels)
    _, resamples = resample(scores)
    logits = scores.logits["fp32"][:, 0]
    drawn = clip_thresholds._draws(logits, labels >= 0, resamples)
    for draw, threshold in list(zip(resamples.draws, drawn, strict=True))[:8]:
        times = draw[resamples.unit_of_clip].astype(int)
        repeated = np.repeat(labels, times) >= 0
        if repeated.all():
            assert np.isnan(threshold)
        elif repeated.any():
            expected = detection.threshold_for_false_positive_rate(
                np.repeat(logits, times), repeated, FALSE_POSITIVE_RATE
            )
            assert threshold == pytest.approx(expected, abs=1e-6)


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
