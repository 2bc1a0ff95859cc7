import numpy as np
import pytest
from scipy.stats import chi2

from wakeword_keras.metrics import intervals


def test_wilson_matches_the_published_example():
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    low, high = intervals.wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_wilson_is_not_a_point_at_the_ends():
    low, high = intervals.wilson_interval(50, 50)
    assert high == 1.0
    assert low == pytest.approx(50 / (50 + intervals.Z_95**2))
    assert intervals.wilson_interval(0, 50) == pytest.approx((0.0, 1 - low))
    with pytest.raises(ValueError, match="trials"):
        intervals.wilson_interval(0, 0)


def test_resamples_draw_whole_speakers_and_are_seeded():
    speakers = ["a", "a", "b", "", ""]
    first = intervals.resample_speakers(speakers, 200, seed=3)
    again = intervals.resample_speakers(speakers, 200, seed=3)
    other = intervals.resample_speakers(speakers, 200, seed=4)
    np.testing.assert_array_equal(first.unit_of_clip, [0, 0, 1, 2, 3])
    assert (first.draws.sum(axis=1) == 4).all()
    np.testing.assert_array_equal(first.draws, again.draws)
    assert (first.draws != other.draws).any()


def test_bootstrap_over_speakers_is_wider_than_over_clips():
    # Each speaker is right on all of its 20 clips or on none: the sample is 30, not 600.
    correct = np.repeat(np.arange(30) % 2, 20)
    speakers = [f"s{i // 20}" for i in range(600)]

    def width(names):
        values = intervals.resampled_mean(correct, intervals.resample_speakers(names))
        low, high = intervals.percentile_interval(values)
        return high - low

    assert width(speakers) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 30), rel=0.15)
    assert width([""] * 600) == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 600), rel=0.15)


def test_resampled_mean_by_hand():
    resamples = intervals.Resamples(
        np.array([0, 0, 1]), np.array([[2, 0], [1, 1], [0, 2]], np.float32)
    )
    np.testing.assert_allclose(intervals.resampled_mean([1, 0, 1], resamples), [1 / 2, 2 / 3, 1.0])


def test_interval_leaves_out_nan_and_refuses_all_nan():
    assert intervals.percentile_interval([np.nan, 1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="no resample"):
        intervals.percentile_interval([np.nan])


@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_false_accept_bounds_are_the_exact_poisson_bounds(count):
    rate = intervals.false_accepts_per_hour(count, 6.8)
    assert rate.per_hour == count / 6.8
    assert rate.upper_95_per_hour == pytest.approx(
        chi2.ppf(0.95, 2 * (count + 1)) / 2 / 6.8, rel=1e-6
    )
    low = chi2.ppf(0.025, 2 * count) / 2 / 6.8 if count else 0.0
    assert rate.ci95 == pytest.approx((low, chi2.ppf(0.975, 2 * (count + 1)) / 2 / 6.8), rel=1e-6)


def test_no_false_accept_gives_the_rule_of_three():
    assert intervals.false_accepts_per_hour(0, 10).upper_95_per_hour == pytest.approx(0.3, rel=2e-3)
    with pytest.raises(ValueError, match="hours"):
        intervals.false_accepts_per_hour(0, 0.0)
