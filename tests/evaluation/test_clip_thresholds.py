import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clip_evaluation import NAMES, make_scores, random_split, run

from wakeword_keras.evaluation import thresholds
from wakeword_keras.evaluation.scores import FALSE_POSITIVE_RATE, resample
from wakeword_keras.metrics import detection


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
    drawn = thresholds._draws(logits, labels >= 0, resamples)
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


def test_what_a_report_holds_decides_as_the_validation_clips_did():
    validation, test = (make_scores(*random_split(seed, words=2)) for seed in (0, 1))
    words = ("up", "down")
    report = run(validation, test, test, words=words)
    kept = thresholds.of_report(json.loads(json.dumps(report.to_json())))
    assert kept == thresholds.choose(validation)
    assert run(kept, test, test, words=words).to_json() == report.to_json()


def test_given_thresholds_are_used_whatever_the_test_clips_say():
    validation, test = (make_scores(*random_split(seed)) for seed in (0, 1))
    high = thresholds.Thresholds(
        dict.fromkeys(NAMES, 99.0), thresholds.choose(validation).shift_ci95, 3, 4
    )
    # No clip reaches 99, so at most the negatives could be right; a model has to be right once.
    report = run(high, test)
    for metrics in report.models.values():
        assert metrics.threshold == 99.0
        assert metrics.accuracy == np.mean(test.labels < 0)
    assert (report.validation_positives, report.validation_negatives) == (3, 4)


def test_a_model_without_a_threshold_is_named():
    test = make_scores(*random_split(1))
    chosen = thresholds.choose(make_scores(*random_split(0)))
    lacking = {name: value for name, value in chosen.logits.items() if name != "int8_ptq"}
    with pytest.raises(ValueError, match="int8_ptq"):
        run(thresholds.Thresholds(lacking, chosen.shift_ci95, 3, 4), test)
