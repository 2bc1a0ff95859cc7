import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeword_keras import InputError
from wakeword_keras.affine import Affine, dequantize
from wakeword_keras.metrics import stream_rule

# Few distinct values and short streams, so that ties and refractory times meet often.
scores = st.lists(st.integers(0, 6), min_size=1, max_size=25).map(np.array)
streams = st.lists(scores, min_size=1, max_size=4)


def test_sums_are_the_causal_sum_of_sigmoids_that_starts_from_zeros():
    logits = np.array([[0.0, np.log(3)], [0.0, -np.log(3)], [0.0, 0.0]])
    one = stream_rule.PROBABILITY_ONE
    expected = np.array([[0.5, 0.75], [1.0, 1.0], [1.0, 0.75]]) * one
    np.testing.assert_allclose(stream_rule.probability_sums(logits, 2), expected, atol=1)
    np.testing.assert_array_equal(
        stream_rule.probability_sums(logits, 1), stream_rule.probability_units(logits)
    )


def test_probabilities_saturate_without_overflow_and_refuse_nan():
    units = stream_rule.probability_units([-1e4, 0.0, 1e4])
    assert units.tolist() == [0, stream_rule.PROBABILITY_ONE // 2, stream_rule.PROBABILITY_ONE]
    with pytest.raises(ValueError, match="NaN"):
        stream_rule.probability_sums([[np.nan]], 2)
    with pytest.raises(ValueError, match="window"):
        stream_rule.probability_sums([[0.5]], 0)


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=30), st.integers(1, 4))
def test_sums_equal_the_devices_table_lookup(outputs, windows):
    affine = Affine(0.064, -18)
    table = stream_rule.probability_units(dequantize(np.arange(-128, 128), affine)).tolist()
    last = [0] * windows
    by_table = []
    for value in outputs:
        last = [*last[1:], table[value + 128]]
        by_table.append(sum(last))
    logits = dequantize(outputs, affine)[:, None]
    assert stream_rule.probability_sums(logits, windows)[:, 0].tolist() == by_table


@given(streams, st.integers(1, 6))
def test_counting_at_all_thresholds_equals_counting_at_each(tracks, refractory_steps):
    thresholds = np.arange(-1, 9)
    counts = stream_rule.event_counts(tracks, thresholds, refractory_steps)
    one_by_one = [
        sum(len(stream_rule.detections(track, at, 50, 50 * refractory_steps)) for track in tracks)
        for at in thresholds
    ]
    assert counts.tolist() == one_by_one
    assert (np.diff(counts) <= 0).all()


@given(streams, st.integers(0, 12), st.integers(1, 6))
def test_budget_range_is_where_the_budget_breaks(tracks, most, refractory_steps):
    breaking, keeping = stream_rule.budget_range(tracks, most, refractory_steps)

    def count(threshold):
        return int(stream_rule.event_counts(tracks, np.array([threshold]), refractory_steps)[0])

    assert count(keeping) <= most
    if breaking is None:
        assert keeping == min(track.min() for track in tracks)
    else:
        assert breaking < keeping
        assert count(breaking) > most
        assert count(breaking + 1) == count(keeping)


def test_no_scores_have_no_threshold():
    with pytest.raises(ValueError, match="score"):
        stream_rule.budget_range([], 0, 1)


def test_more_windows_than_32_bits_hold_are_refused():
    assert stream_rule.StreamConfig(10, 2550).one < 2**32
    with pytest.raises(InputError, match="`average_ms`=2560"):
        stream_rule.StreamConfig(10, 2560)


def test_detections_by_hand():
    scores = np.zeros(100)
    scores[[10, 11, 12, 29, 30, 80]] = 1.0
    # 10 fires; 11, 12 and 29 lie within 200 ms = 20 steps of it; 30 is exactly 20 steps later.
    np.testing.assert_allclose(
        stream_rule.detections(scores, 0.5, step_ms=10, refractory_ms=200), [0.10, 0.30, 0.80]
    )
    np.testing.assert_allclose(
        stream_rule.detections(scores, 0.5, step_ms=10, refractory_ms=0),
        [0.10, 0.11, 0.12, 0.29, 0.30, 0.80],
    )
    assert stream_rule.detections(scores, 1.5, 10, 200).size == 0
    assert stream_rule.detections(scores, 1.0, 10, 200)[0] == 0.10


def test_detections_of_a_plateau_repeat_once_per_refractory_period():
    np.testing.assert_allclose(stream_rule.detections(np.ones(31), 0.5, 20, 300), [0.0, 0.3, 0.6])


def test_detections_refuse_nan():
    with pytest.raises(ValueError, match="finite"):
        stream_rule.detections([0.0, np.nan], 0.5, 10, 100)


@pytest.mark.parametrize(("step_ms", "average_ms", "whole_ms"), [(30, 400, 390), (50, 10, 50)])
def test_an_average_is_of_whole_steps_and_of_one_at_least(step_ms, average_ms, whole_ms):
    assert stream_rule.of_steps(step_ms, average_ms).average_ms == whole_ms
