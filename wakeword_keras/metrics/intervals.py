"""How far a figure could be off: Wilson, Poisson, and the bootstrap over speakers.

All intervals are of 95 %. Wilson's and the Poisson bounds take events as independent; the bootstrap
takes whole speakers, whose clips stand or fall together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64s = NDArray[np.float64]
Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
# Entries of a float32 table held at once while resampling: bounds memory to some 32 MB.
_TABLE_ENTRIES = 8_000_000


class FalseAcceptRate(NamedTuple):
    """False accepts per hour: as counted, two-sided 95 % interval, one-sided 95 % upper bound."""

    per_hour: float
    ci95: tuple[float, float]
    upper_95_per_hour: float


class Resamples(NamedTuple):
    """Draws of whole speakers: unit of each clip [clips], times drawn [resamples, units]."""

    unit_of_clip: NDArray[np.intp]
    draws: NDArray[np.float32]


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927), sound also at 0 and all successes.

    Args:
      successes: count in [0, trials].
      trials: count > 0, taken as independent.

    Returns:
      (low, high) in [0, 1].

    Raises:
      ValueError: on impossible counts.
    """
    if not (trials > 0 and 0 <= successes <= trials):
        raise ValueError(f"need 0 <= successes <= trials > 0, got {successes} of {trials}")
    share, spread = successes / trials, Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    # At the ends rounding would miss 0 and 1 by a hair.
    low = 0.0 if successes == 0 else float(centre - half)
    return low, 1.0 if successes == trials else float(centre + half)


def resample_speakers(speakers: Sequence[str], resamples: int = 1000, seed: int = 0) -> Resamples:
    """Draw speakers with replacement: clips of one voice stand or fall together (Efron 1979).

    Args:
      speakers: speaker of each clip, at least one; "" is nobody, such a clip is its own unit.
      resamples: number of draws.
      seed: of the random generator.

    Returns:
      Resamples; each row of `draws` sums to the number of units.
    """
    names = [("speaker", s) if s else ("clip", str(i)) for i, s in enumerate(speakers)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    units = np.array([index[name] for name in names], np.intp)
    count = len(index)
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=resamples)
    return Resamples(units, draws.astype(np.float32))


def resampled_mean(values: ArrayLike, resamples: Resamples) -> Float64s:
    """Mean over clips under every draw of speakers.

    Args:
      values: numbers or bool [clips], such as "decided right".
      resamples: from `resample_speakers` over the same clips.

    Returns:
      float64 [resamples].
    """
    units = resamples.unit_of_clip
    sums = np.bincount(units, weights=np.asarray(values, np.float64))
    return (resamples.draws @ sums) / (resamples.draws @ np.bincount(units))


def resampled_counts(
    column: NDArray[np.intp], columns: int, values: Float64s, resamples: Resamples
) -> Float64s:
    """Sum of `values` [clips] that fall in each column, under each draw.

    Args:
      column: column of each clip [clips], in [0, columns).
      columns: their number.
      values: whole numbers [clips].
      resamples: from `resample_speakers` over the same clips.

    Returns:
      float64 [resamples, columns].
    """
    units = resamples.draws.shape[1]
    block = max(1, _TABLE_ENTRIES // columns)
    total = np.zeros((len(resamples.draws), columns))
    for first in range(0, units, block):
        size = min(block, units - first)
        unit = resamples.unit_of_clip - first
        inside = (unit >= 0) & (unit < size)
        cell = unit[inside] * columns + column[inside]
        table = np.bincount(cell, weights=values[inside], minlength=size * columns)
        # Whole numbers below 2**24 stay exact in float32.
        table = table.reshape(size, columns).astype(np.float32)
        total += resamples.draws[:, first : first + size] @ table
    return total


def percentile_interval(values: ArrayLike) -> tuple[float, float]:
    """95 % percentile interval (low, high) of bootstrap values [resamples].

    NaN draws, where a class was absent, are left out.

    Raises:
      ValueError: if every value is NaN.
    """
    drawn = np.asarray(values)[~np.isnan(values)]
    if not drawn.size:
        raise ValueError("no resample holds both positives and negatives")
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def false_accepts_per_hour(events: int, hours: float) -> FalseAcceptRate:
    """Rate of false accepts with its Poisson bounds (Garwood 1936).

    Under the upper bound so few events have a chance of 5 %; 3 / hours at 0 events, because
    -ln(0.05) = 2.996 (rule of three). The interval leaves 2.5 % on both sides.

    Args:
      events: false accepts counted, >= 0.
      hours: of negatives listened to, > 0.

    Returns: FalseAcceptRate, all numbers per hour.

    Raises:
      ValueError: if the count is negative or there are no hours.
    """
    if not (events >= 0 and hours > 0):
        raise ValueError(f"need events >= 0 in hours > 0, got {events} in {hours}")
    low = _poisson_mean(events - 1, 0.975) / hours if events else 0.0
    high = _poisson_mean(events, 0.025) / hours
    return FalseAcceptRate(events / hours, (low, high), _poisson_mean(events, 0.05) / hours)


def _poisson_mean(events: int, chance: float) -> float:
    """The mean at which at most so many events have this chance."""
    counts = np.arange(events + 1)
    log_factorials = np.cumsum(np.log(np.maximum(counts, 1)))
    # At twice the count plus ten the chance of so few events is far below 2.5 %.
    low, high = 0.0, 2.0 * events + 10.0
    while high - low > 1e-9 * high:
        mean = (low + high) / 2
        likely = np.exp(counts * np.log(mean) - mean - log_factorials).sum() > chance
        low, high = (mean, high) if likely else (low, mean)
    return (low + high) / 2
