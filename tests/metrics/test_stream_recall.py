import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeword_keras.metrics import stream_recall, stream_rule

SUMS = st.lists(st.integers(0, 12), min_size=1, max_size=30).map(np.asarray)


@given(SUMS, st.lists(SUMS, min_size=1, max_size=3), st.integers(0, 4), st.integers(1, 5))
def test_recall_is_that_of_the_best_threshold_within_the_budget(peaks, tracks, most, apart):
    """By trying every threshold; half a unit between sums too, as a device may choose it."""
    by_hand = [
        float(np.mean(peaks >= threshold))
        for threshold in np.arange(0, 14, 0.5)
        if sum(len(stream_rule._steps(track, threshold, apart)) for track in tracks) <= most
    ]
    assert stream_recall.recall(peaks, tracks, most, apart) == max(by_hand)


def test_the_mean_weighs_each_number_of_events_by_its_range_of_rates():
    # Events at 9, 7 and 5: none above 9, one above 7, two above 5; half an hour, to 3 per hour.
    tracks = [np.array([9, 0, 7, 0, 5, 0])]
    peaks = np.array([10, 8, 6, 4])
    recalls = [stream_recall.recall(peaks, tracks, n, 1) for n in range(3)]
    assert recalls == [0.25, 0.5, 0.75]
    # 0 to 2 per hour holds no event, 2 to 3 per hour holds one.
    mean = stream_recall.mean_recall(peaks, tracks, 0.5, 1, most_per_hour=3.0)
    assert mean == pytest.approx((2 * 0.25 + 1 * 0.5) / 3)


def test_a_word_that_is_never_the_highest_is_not_found_at_any_threshold():
    assert stream_recall.recall(np.array([-1, 3]), [np.array([0])], 5, 1) == 0.5
