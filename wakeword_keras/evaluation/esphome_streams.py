"""ESPHome models on streams: cutoff for a budget, false accepts per hour and misses at a cutoff.

Ours and released ones alike: what counts is ESPHome's own decision (`metrics.esphome_rule`) on the
reference kernels, which equal TFLite Micro's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.shards import WARM_MS
from wakeword_keras.metrics import esphome_rule, intervals
from wakeword_keras.progress import track
from wakeword_keras.streams import stepwise
from wakeword_keras.streams.scoring import SplitAudio
from wakeword_keras.tflite.interpreter import Source

Interval = tuple[float, float]


@dataclass(frozen=True)
class Probabilities:
    """A model's uint8 outputs over a split: [steps] of each stream and of each wake word."""

    ambient: tuple[NDArray[np.uint8], ...]
    positives: tuple[NDArray[np.uint8], ...]
    frames: int  # of a step


@dataclass(frozen=True)
class EsphomeMetrics:
    """A model at a cutoff on a split; intervals are 95 %: Poisson, Wilson (None without words)."""

    cutoff: int
    window: int
    hours: float
    false_accepts: int
    false_accepts_per_hour: float
    false_accepts_per_hour_ci95: Interval
    false_accepts_per_hour_upper95: float
    positives: int
    misses: int
    miss_rate_ci95: Interval | None


def score(model: Source, audio: SplitAudio, frontend: FrontendConfig) -> Probabilities:
    """Run a streaming model over every recording of a split.

    Args:
      model: uint8 probability out, as ESPHome takes it.
      audio: the split.
      frontend: the "micro" front end.

    Raises:
      InputError: the model is missing or no such one, or a recording is gone.
    """
    total = len(audio.streams) + len(audio.positives)
    recordings = track(audio.recordings(), f"steps ({audio.split})", total, "recordings")
    tracks = [stepwise.outputs(model, blocks, frontend)[:, 0] for blocks in recordings]
    streams = len(audio.streams)
    return Probabilities(
        tuple(tracks[:streams]), tuple(tracks[streams:]), stepwise.step_frames(model)
    )


def measure(
    found: Probabilities, audio: SplitAudio, frontend: FrontendConfig, cutoff: int, window: int
) -> EsphomeMetrics:
    """False accepts in a split's streams and misses of its wake words.

    A wake word is missed unless the model fires between its clip's start and the end of the sound
    around it (`shards.AFTER_MS` later).

    Args:
      found: from `score` on the same audio.
      audio, frontend: as there.
      cutoff: 0 to 255.
      window: outputs that are summed.
    """
    rule = (cutoff, window, found.frames)
    events = sum(len(esphome_rule.fires_at(track, *rule)) for track in found.ambient)
    first = stepwise.first_step_after(WARM_MS / 1000, found.frames, frontend)
    misses = sum(
        not any(step >= first for step in esphome_rule.fires_at(track, *rule, started=True))
        for track in found.positives
    )
    rate = intervals.false_accepts_per_hour(events, audio.hours)
    return EsphomeMetrics(
        cutoff,
        window,
        audio.hours,
        events,
        rate.per_hour,
        rate.ci95,
        rate.upper_95_per_hour,
        len(found.positives),
        misses,
        intervals.wilson_interval(misses, len(found.positives)) if found.positives else None,
    )
