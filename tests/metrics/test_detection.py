import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import roc_auc_score, roc_curve

from wakeword_keras.metrics import detection, intervals


@st.composite
def scored_clips(draw):
    count = draw(st.integers(2, 60))
    # Few distinct values, so that ties within and across classes are common.
    scores = draw(hnp.arrays(np.int8, count, elements=st.integers(-6, 6))).astype(np.float32) / 4
    labels = draw(hnp.arrays(np.int8, count, elements=st.integers(0, 1)))
    labels[:2] = (0, 1)
    return scores, labels


@given(scored_clips())
def test_roc_auc_equals_sklearn_with_ties(clips):
    scores, labels = clips
    assert detection.roc_auc(scores, labels) == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )


@given(scored_clips())
def test_det_curve_is_sklearns_roc_curve(clips):
    scores, labels = clips
    fpr, recall, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    curve = detection.det_curve(scores, labels)
    np.testing.assert_allclose(curve.false_positive_rate, fpr)
    np.testing.assert_allclose(curve.miss_rate, 1 - recall, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


@given(scored_clips(), st.integers(0, 40))
def test_a_threshold_midway_decides_as_the_one_it_replaces(clips, place):
    scores, _ = clips
    threshold = float(np.sort(scores)[place % scores.size])
    midway = detection.midway(scores, threshold)
    np.testing.assert_array_equal(scores >= midway, scores > threshold)


def test_a_threshold_stands_midway():
    scores = np.array([0.0, 1.0, 2.0, 4.0, 5.0])
    assert detection.midway(scores, 2.1) == 3.0
    assert detection.midway(scores, 1.0) == 1.5
    assert detection.midway(scores.astype(np.float32), 5.0) > 5.0


def test_a_threshold_between_neighbouring_float32_still_separates():
    low = np.float32(1.0)
    scores = np.array([low, np.nextafter(low, np.float32(2))])
    np.testing.assert_array_equal(scores >= detection.midway(scores, 1.0), [False, True])


@given(scored_clips(), st.sampled_from([0.0, 0.01, 0.1, 0.29, 0.5, 1.0]), st.integers(0, 2**31))
@settings(max_examples=50)
def test_resampled_thresholds_are_those_of_the_repeated_negatives(clips, fpr, seed):
    scores, labels = clips
    speakers = np.random.default_rng(seed).choice(["a", "b", "c", "d", ""], scores.size)
    resamples = intervals.resample_speakers(speakers, 5, seed)
    drawn = detection.resampled_thresholds(scores, labels, fpr, resamples)
    for draw, threshold in zip(resamples.draws, drawn, strict=True):
        times = draw[resamples.unit_of_clip].astype(int)
        negatives = np.repeat(scores[labels == 0], times[labels == 0])
        if not negatives.size:
            assert np.isnan(threshold)
            continue
        # Midway between two that differ; equal ones, or rounding, leave no room to be stricter.
        assert np.mean(negatives > threshold + 1e-9) <= fpr
        lower = negatives[negatives < threshold - 1e-9]
        if lower.size:
            assert np.mean(negatives >= lower.max()) > fpr


def test_resampled_thresholds_by_hand():
    scores, labels = np.append(np.arange(100.0), 1000.0), np.append(np.zeros(100), 1)
    once = intervals.Resamples(np.arange(101), np.ones((1, 101)))
    for fpr, expected in ((0.0, 99.0), (0.01, 98.5), (0.29, 70.5), (1.0, 0.0)):
        assert detection.resampled_thresholds(scores, labels, fpr, once) == [expected]


def test_budget_of_29_in_100_is_29_despite_rounding():
    scores = np.append(np.arange(100.0), 70.5)
    labels = np.append(np.zeros(100), 1)
    assert detection.recall_at_false_positive_rate(scores, labels, 0.29) == 1.0
    assert detection.recall_at_false_positive_rate(scores, labels, 0.28) == 0.0


def test_delta_miss_is_positive_when_the_second_misses_more():
    labels = np.array([1, 1, 1, 1, 0, 0])
    reference = np.array([5.0, 5, 5, 5, 0, 1])
    worse = np.array([5.0, 5, 5, 0, 0, 1])
    delta = detection.delta_miss_rate_at_equal_false_accepts
    assert delta(reference, worse, labels, 0.0) == 0.25
    assert delta(worse, reference, labels, 0.0) == -0.25
    assert delta(reference, reference * 3 + 7, labels, 0.0) == 0.0


@given(scored_clips(), st.integers(0, 2**31))
@settings(max_examples=50)
def test_resampled_ranking_equals_the_metrics_of_repeated_clips(clips, seed):
    scores, labels = clips
    speakers = np.random.default_rng(seed).choice(["a", "b", "c", "d", ""], scores.size)
    resamples = intervals.resample_speakers(speakers, 5, seed)
    metrics = detection.resampled_ranking(scores, labels, 0.2, resamples)
    for draw, auc, recall in zip(resamples.draws, *metrics, strict=True):
        times = draw[resamples.unit_of_clip].astype(int)
        repeated_scores, repeated_labels = np.repeat(scores, times), np.repeat(labels, times)
        if np.unique(repeated_labels).size < 2:
            assert np.isnan(auc)
            assert np.isnan(recall)
            continue
        assert auc == pytest.approx(detection.roc_auc(repeated_scores, repeated_labels))
        expected = detection.recall_at_false_positive_rate(repeated_scores, repeated_labels, 0.2)
        assert recall == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "positives and negatives"),
        ([1.0, 2.0], [0, 0], "positives and negatives"),
        ([1.0, np.nan], [0, 1], "NaN"),
        ([1.0, np.inf], [0, 1], "infinite"),
        ([1.0, 2.0], [0, 1, 1], "equally long"),
        ([1.0, 2.0], [-1, 1], "0 or 1"),
        ([], [], "positives and negatives"),
    ],
)
def test_degenerate_input_is_one_clear_line(scores, labels, message):
    for metric in (
        detection.roc_auc,
        detection.det_curve,
        lambda s, y: detection.recall_at_false_positive_rate(s, y, 0.01),
        lambda s, y: detection.resampled_thresholds(
            s, y, 0.01, intervals.resample_speakers(["a", "b"])
        ),
    ):
        with pytest.raises(ValueError, match=message) as error:
            metric(scores, labels)
        assert "\n" not in str(error.value)


def test_rate_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"1\.5"):
        detection.recall_at_false_positive_rate([0.0, 1.0], [0, 1], 1.5)


def test_resampling_in_blocks_of_speakers_equals_resampling_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=80), np.arange(80) % 2
    resamples = intervals.resample_speakers([f"s{i % 23}" for i in range(80)], 50)
    whole = detection.resampled_ranking(scores, labels, 0.1, resamples)
    monkeypatch.setattr(intervals, "_TABLE_ENTRIES", 200)
    blocks = detection.resampled_ranking(scores, labels, 0.1, resamples)
    np.testing.assert_array_equal(blocks.roc_auc, whole.roc_auc)
    np.testing.assert_array_equal(blocks.recall, whole.recall)
