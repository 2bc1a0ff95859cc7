"""ESPHome's decision, integer for integer: when a streaming model's uint8 probabilities fire.

A model gives a probability every few slices of features (10 ms each). It fires when the sum of the
last ones exceeds `cutoff * window`, strictly, so that a cutoff of 255 never fires. At the start and
after it has fired, it has to stay below the cutoff for SLICES_BEFORE slices.
Source: ESPHome 2026.6, components/micro_wake_word/streaming_model.cpp.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SLICES_BEFORE = 100
HIGHEST_CUTOFF = 255


def fires_at(
    probabilities: NDArray[np.uint8],
    cutoff: int,
    window: int,
    slices: int,
    started: bool = False,
) -> list[int]:
    """The steps at which a model fires.

    Args:
      probabilities: uint8 [steps], the model's outputs.
      cutoff: 0 to 255.
      window: outputs that are summed, those before the first are 0.
      slices: of features from one output to the next.
      started: it has run below the cutoff for long enough before.

    Returns:
      Indices of steps, rising.
    """
    steps = np.arange(len(probabilities))
    padded = np.concatenate([np.zeros(window, np.int64), probabilities.astype(np.int64)])
    total = np.cumsum(padded)
    reaching = steps[total[window:] - total[:-window] > cutoff * window]
    # A slice counts when the newest output is below the cutoff: the last slice of a step has the
    # step's own output, those before it the output of the step before.
    below = probabilities < cutoff
    before = np.concatenate([[cutoff > 0], below[:-1]])
    calm = np.cumsum((slices - 1) * before + below)
    fired: list[int] = []
    since = -SLICES_BEFORE if started else 0
    for step in reaching.tolist():
        if calm[step] - since >= SLICES_BEFORE:
            fired.append(step)
            # What was summed is forgotten: the slices up to the next output see zeros.
            forgotten = (slices - 1) * (int(cutoff > 0) - int(below[step]))
            since = int(calm[step]) - forgotten
    return fired


def choose_cutoff(
    streams: Sequence[NDArray[np.uint8]], window: int, slices: int, allowed: float
) -> int | None:
    """The lowest cutoff from which on no higher one fires more often than allowed.

    Args:
      streams: uint8 [steps] each, without a wake word.
      window, slices: as `fires_at`.
      allowed: times in all streams.

    Returns:
      0 to 254; None if even 254 fires more often.
    """
    chosen = None
    for cutoff in range(HIGHEST_CUTOFF - 1, -1, -1):
        if sum(len(fires_at(stream, cutoff, window, slices)) for stream in streams) > allowed:
            break
        chosen = cutoff
    return chosen


def manifest_cutoff(cutoff: int) -> float:
    """The `probability_cutoff` of a manifest that ESPHome turns into this integer."""
    value = round((cutoff + 0.5) / HIGHEST_CUTOFF, 4)
    assert int(value * HIGHEST_CUTOFF) == cutoff
    return value
