"""Events in a stream: how scores become detections on the device, and how false accepts count.

The device adds up the probabilities of the last `windows` scores, each a whole number of
1 / PROBABILITY_ONE from a table of 256 entries, with zeros before the first score; a wake word is
detected when its sum is the largest and reaches a threshold; then none is for the refractory
time. Everything that decides here does it with these integers, so that a stream on the device and
in the report have the same events.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wakeword_keras.errors import InputError

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
PROBABILITY_ONE = 1 << 24
# Sums of so many fit 32 bits, unsigned.
MOST_WINDOWS = 255
LONGEST_AVERAGE_MS = 2500  # so many scores at steps of 10 ms


@dataclass(frozen=True)
class StreamConfig:
    """How a stream is listened to, all times in ms.

    `stride_ms` lies between two scores (whole front-end steps), `average_ms` is how far scores are
    averaged (whole strides), `refractory_ms` is the silence after a detection.

    Raises:
      InputError: on impossible times.
    """

    stride_ms: int = 50
    average_ms: int = 600
    refractory_ms: int = 1000

    def __post_init__(self) -> None:
        if self.stride_ms < 1:
            raise InputError(f"`stride_ms`={self.stride_ms}: must be at least 1")
        if self.average_ms < 1 or self.average_ms % self.stride_ms:
            raise InputError(
                f"`average_ms`={self.average_ms}: not a multiple of `stride_ms`={self.stride_ms}"
            )
        if self.windows > MOST_WINDOWS:
            raise InputError(f"`average_ms`={self.average_ms}: at most {MOST_WINDOWS} strides")
        if self.refractory_ms < 0:
            raise InputError(f"`refractory_ms`={self.refractory_ms}: must not be negative")

    @property
    def windows(self) -> int:
        """Scores in an average."""
        return self.average_ms // self.stride_ms

    @property
    def refractory_steps(self) -> int:
        """Scores from an event to the first one that can fire again."""
        return max(1, math.ceil(self.refractory_ms / self.stride_ms))

    @property
    def one(self) -> int:
        """The sum that stands for an averaged probability of 1."""
        return self.windows * PROBABILITY_ONE


def of_steps(step_ms: int, average_ms: int = StreamConfig.average_ms) -> StreamConfig:
    """Times for a score every step: the average as near as whole steps come to it.

    Args:
      step_ms: from one score to the next.
      average_ms: how far scores are averaged.

    Raises:
      InputError: that is more steps than a sum holds.
    """
    windows = max(1, round(average_ms / step_ms))
    return StreamConfig(step_ms, windows * step_ms)


def probability_units(logits: ArrayLike) -> Int64s:
    """Sigmoid of logits as the device's table holds it.

    Args:
      logits: float of any shape.

    Returns:
      int64 of the same shape in [0, PROBABILITY_ONE]: round(PROBABILITY_ONE * probability).

    Raises:
      ValueError: a logit is not finite.
    """
    values = np.asarray(logits, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("logits are NaN or infinite")
    return np.rint(PROBABILITY_ONE * np.exp(-np.logaddexp(0.0, -values))).astype(np.int64)


def probability_sums(logits: ArrayLike, windows: int) -> Int64s:
    """What the device compares: the sum of the last `windows` probabilities, zeros before them.

    ESPHome's window starts from zeros too, so that a stream cannot fire on its first step alone.

    Args:
      logits: float [steps, ...].
      windows: scores in a sum, at least 1.

    Returns:
      int64 of the same shape, in [0, windows * PROBABILITY_ONE].

    Raises:
      ValueError: the window is not positive, or a logit is not finite.
    """
    if windows < 1:
        raise ValueError(f"need at least 1 window, got {windows}")
    units = probability_units(logits)
    padded = np.concatenate([np.zeros((windows, *units.shape[1:]), np.int64), units])
    running = np.cumsum(padded, axis=0)
    return running[windows:] - running[:-windows]


def detections(
    scores: ArrayLike, threshold: float, step_ms: float, refractory_ms: float
) -> Float64s:
    """Events of a stream: steps that fire at least `refractory_ms` after the event before.

    A score that stays high fires again each time the refractory period is over.

    Args:
      scores: float [steps]; a step fires when score >= threshold.
      threshold: in units of the scores.
      step_ms: time from one score to the next, > 0.
      refractory_ms: silence after an event, >= 0.

    Returns:
      Ascending times in s, the first score standing at 0.

    Raises:
      ValueError: on scores that are not finite or impossible times.
    """
    values = np.asarray(scores)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"need finite scores of one wake word [steps], got {values.shape}")
    if not (step_ms > 0 and refractory_ms >= 0):
        raise ValueError(f"impossible times: step {step_ms} ms, refractory {refractory_ms} ms")
    # Whole steps: times in floating point would make exact multiples of a step a matter of luck.
    refractory_steps = max(1, int(np.ceil(refractory_ms / step_ms - 1e-9)))
    return _steps(values, threshold, refractory_steps).astype(np.float64) * step_ms / 1000.0


def firing(
    track: NDArray, thresholds: NDArray, refractory_steps: int
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """`detections` at many thresholds in one pass.

    Args:
      track: scores [steps].
      thresholds: [thresholds], ascending.
      refractory_steps: from an event to the first step that can fire again, at least 1.

    Yields:
      (step, fires) for the steps that reach a threshold; fires: bool [reached], for the lowest so
      many thresholds, true where the refractory time is over.
    """
    ready = np.zeros(len(thresholds), np.int64)
    for step in np.flatnonzero(track >= thresholds[0]) if len(thresholds) else ():
        reached = int(np.searchsorted(thresholds, track[step], side="right"))
        fires = ready[:reached] <= step
        ready[:reached][fires] = step + refractory_steps
        yield int(step), fires


def event_counts(
    tracks: Iterable[NDArray], thresholds: NDArray, refractory_steps: int
) -> NDArray[np.int64]:
    """Events of all streams together at every threshold; never more at a higher one.

    Taking the earliest is taking the most: events are the largest set of firing steps at least
    `refractory_steps` apart, and a higher threshold leaves fewer steps to choose from.

    Args:
      tracks: scores [steps] of each stream.
      thresholds: [thresholds], ascending.
      refractory_steps: from an event to the first step that can fire again, at least 1.

    Returns:
      int64 [thresholds].
    """
    counts = np.zeros(len(thresholds), np.int64)
    for track in tracks:
        for _, fires in firing(track, thresholds, refractory_steps):
            counts[: len(fires)] += fires
    return counts


def budget_range(
    tracks: Iterable[NDArray], most_events: float, refractory_steps: int
) -> tuple[int | None, int]:
    """The scores between which a threshold just keeps a budget of events.

    Args:
      tracks: int scores [steps] of each stream.
      most_events: >= 0.
      refractory_steps: from an event to the first step that can fire again, at least 1.

    Returns:
      (breaking, keeping): the highest score that as threshold gives more events, None if none does;
      and the next higher score, that plus 1 if there is none. All thresholds above `breaking` up to
      `keeping` give the same events.

    Raises:
      ValueError: no scores.
    """
    tracks = list(tracks)
    scores = np.unique(np.concatenate([np.empty(0, np.int64), *tracks])).astype(np.int64)
    if not scores.size:
        raise ValueError("streams without a score have no threshold")
    low, high = 0, len(scores)
    while low < high:
        middle = (low + high) // 2
        events = sum(_steps(track, scores[middle], refractory_steps).size for track in tracks)
        low, high = (low, middle) if events <= most_events else (middle + 1, high)
    keeping = int(scores[low]) if low < len(scores) else int(scores[-1]) + 1
    return (int(scores[low - 1]) if low else None), keeping


def _steps(track: NDArray, threshold: float, refractory_steps: int) -> NDArray[np.intp]:
    """The steps at which events stand, ascending."""
    hits = np.flatnonzero(track >= threshold)
    events: list[int] = []
    next_hit = 0
    while next_hit < hits.size:
        events.append(int(hits[next_hit]))
        next_hit = int(np.searchsorted(hits, events[-1] + refractory_steps))
    return np.array(events, np.intp)
