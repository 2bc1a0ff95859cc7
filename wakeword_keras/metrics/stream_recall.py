"""Recall in streams at a number of false accepts, for a model that still trains.

Scores are sums as the device compares them (stream_rule.py). A wake word is found if the highest
sum of its own name reaches the threshold; what the refractory time of another event could hide is
left out.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.metrics import stream_rule


def recall(
    peaks: NDArray[np.int64],
    tracks: Sequence[NDArray],
    most_events: int,
    refractory_steps: int,
) -> float:
    """Share of the wake words above every sum that as threshold gives too many false accepts.

    Args:
      peaks: int64 [wake words], each one's highest sum, negative if it is never the highest word.
      tracks: sums [steps] of each stream without a wake word.
      most_events: false accepts allowed, >= 0.
      refractory_steps: from an event to the first step that can fire again, at least 1.

    Returns:
      0 to 1.
    """
    breaking, _ = stream_rule.budget_range(tracks, most_events, refractory_steps)
    return float(np.mean(peaks > (-1 if breaking is None else breaking)))


def mean_recall(
    peaks: NDArray[np.int64],
    tracks: Sequence[NDArray],
    hours: float,
    refractory_steps: int,
    most_per_hour: float = 2.0,
) -> float:
    """Mean of `recall` over 0 to `most_per_hour` false accepts per hour, as microWakeWord has it.

    Args:
      peaks, tracks, refractory_steps: as `recall` takes them.
      hours: length of the streams, > 0.
      most_per_hour: end of the mean, > 0.

    Returns:
      0 to 1: the exact mean of a function that steps at each whole event.
    """
    most = most_per_hour * hours
    return sum(
        recall(peaks, tracks, events, refractory_steps) * (min(most, events + 1) - events) / most
        for events in range(math.ceil(most))
    )
