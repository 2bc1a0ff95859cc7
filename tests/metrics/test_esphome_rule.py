import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wakeword_keras.metrics.esphome_rule import choose_cutoff, fires_at, manifest_cutoff


def device(outputs, cutoff, window, slices, started=False):
    """ESPHome's loop, slice by slice, as its source has it (stop_after_detection: false)."""
    ring, place, ignore = [0] * window, window - 1, 0 if started else -100
    fired = []
    for step, output in enumerate(outputs):
        for part in range(slices):
            if part == slices - 1:
                place = (place + 1) % window
                ring[place] = int(output)
            if ring[place] < cutoff:
                ignore = min(ignore + 1, 0)
            if part == slices - 1 and ignore >= 0 and sum(ring) > cutoff * window:
                fired.append(step)
                ring, ignore = [0] * window, -100
    return fired


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(1, 60)), min_size=1, max_size=12),
    st.integers(0, 255),
    st.integers(1, 8),
    st.integers(1, 4),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_it_fires_when_the_device_does(runs, cutoff, window, slices, started):
    outputs = np.concatenate([np.full(length, value) for value, length in runs]).astype(np.uint8)
    expected = device(outputs, cutoff, window, slices, started)
    assert fires_at(outputs, cutoff, window, slices, started) == expected


def test_the_sum_has_to_exceed_the_cutoff_strictly():
    calm = [0] * 100
    assert fires_at(np.array([*calm, 200, 200], np.uint8), 200, 2, 1) == []
    assert fires_at(np.array([*calm, 200, 201], np.uint8), 200, 2, 1) == [101]


def test_a_cutoff_of_one_never_fires():
    assert fires_at(np.full(1000, 255, np.uint8), 255, 3, 3) == []


def test_the_slices_after_the_start_are_ignored():
    outputs = np.zeros(200, np.uint8)
    outputs[[20, 120]] = 255
    assert fires_at(outputs, 128, 1, 1) == [120]
    assert fires_at(outputs, 128, 1, 1, started=True) == [20]  # 100 slices later it is ready again


def test_the_cutoff_is_the_lowest_within_the_budget():
    rng = np.random.default_rng(0)
    streams = [rng.integers(0, 200, 4000).astype(np.uint8) for _ in range(3)]

    def count(cutoff):
        return sum(len(fires_at(stream, cutoff, 3, 3)) for stream in streams)

    chosen = choose_cutoff(streams, 3, 3, 2)
    assert count(chosen) <= 2 < count(chosen - 1)
    assert choose_cutoff([np.full(2000, 255, np.uint8)], 1, 3, 0) == 0  # never below: never ready
    loud = np.tile(np.repeat(np.array([0, 255], np.uint8), 60), 20)
    assert choose_cutoff([loud], 1, 3, 1) is None


@pytest.mark.parametrize("cutoff", range(256))
def test_esphome_reads_the_very_cutoff_back(cutoff):
    assert int(manifest_cutoff(cutoff) * 255) == cutoff
