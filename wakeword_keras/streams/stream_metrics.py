"""What a model's scores over streams mean: threshold, false accepts per hour, misses, curve.

Conventions. A false accept is any event in an ambient stream. A wake word is missed unless an event
of its own name falls between its clip's start and AFTER_MS after its end. A model's operating
threshold is chosen on validation streams under a budget of false accepts per hour, and used
unchanged on test streams. Thresholds are sums as the device compares them (see stream_rule.py),
given as the averaged probability too.

Intervals are 95 %: exact Poisson for false accepts, which takes them as independent; for misses
bootstrap over speakers, widened to Wilson's interval where that reaches further.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import INT8_MAX, Affine, dequantize
from wakeword_keras.metrics import detection, stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.streams.scoring import Ear, SplitAudio, Tracks

LOUDEST = 20
Interval = tuple[float, float]


@dataclass(frozen=True)
class StreamThreshold:
    """An operating threshold: the averaged probability, its logit, and what the device compares.

    `sum` is in units of 1 / PROBABILITY_ONE over the windows of an average. `within_budget` is
    False where the model fires too often on validation at the highest sum it can express.
    """

    probability: float
    logit: float
    sum: int
    within_budget: bool


@dataclass(frozen=True)
class StreamMetrics:
    """A model at its threshold on a split: false accepts of the streams, misses of wake words."""

    hours: float
    false_accepts: int
    false_accepts_per_hour: float
    false_accepts_per_hour_ci95: Interval
    false_accepts_per_hour_upper95: float
    positives: int
    misses: int
    miss_rate: float
    miss_rate_ci95: Interval


@dataclass(frozen=True)
class StreamCurve:
    """Every operating point of use, thresholds ascending; all of one length [points]."""

    probability: NDArray[np.float64]
    false_accepts: NDArray[np.int64]
    false_accepts_per_hour: NDArray[np.float64]
    misses: NDArray[np.int64]
    miss_rate: NDArray[np.float64]


@dataclass(frozen=True)
class Loud:
    """A peak in an ambient stream: recording, end of the window in it in s, averaged probability.

    `fires`: it reaches the operating threshold.
    """

    file: str
    seconds: float
    wake_word: str
    probability: float
    fires: bool


def allowed_events(max_per_hour: float, hours: float) -> int:
    """The most events in so many hours that are within a budget per hour."""
    # 0.29 * 100 is below 29.
    return math.floor(max_per_hour * hours * (1 + 1e-12))


def choose_threshold(
    tracks: Tracks, most_events: int, config: StreamConfig, output: Affine | None
) -> StreamThreshold:
    """The lowest threshold within a budget, midway to the next sum that is lower.

    All thresholds above the highest ambient sum that breaks the budget, up to the next higher sum
    of any stream or wake word, decide alike on these tracks: it stands in their middle, so that
    tiny shifts of scores change nothing. It is never above what the model's output can express.

    Args:
      tracks: of the validation split.
      most_events: false accepts allowed in its streams.
      config: times.
      output: quantization of int8 logits, or None.

    Returns:
      StreamThreshold.
    """
    highest = config.one
    if output is not None:
        highest = config.windows * int(stream_rule.probability_units(dequantize(INT8_MAX, output)))
    breaking, keeping = stream_rule.budget_range(tracks.sums, most_events, config.refractory_steps)
    if breaking is None:
        return _threshold(keeping, True, config)
    if breaking >= highest:
        return _threshold(highest, False, config)
    others = np.concatenate([*tracks.sums, tracks.positives[0].ravel()])
    above = int(np.min(others[others > breaking], initial=highest))
    return _threshold(breaking + (above - breaking + 1) // 2, True, config)


def _threshold(total: int, within_budget: bool, config: StreamConfig) -> StreamThreshold:
    probability = total / config.one
    # A float model can saturate: half a unit keeps its logit finite.
    inside = min(max(probability, 0.5 / config.one), 1 - 0.5 / config.one)
    logit = math.log(inside) - math.log1p(-inside)
    return StreamThreshold(probability, logit, total, within_budget)


def measure(
    tracks: Tracks, threshold: int, heard: SplitAudio, config: StreamConfig
) -> StreamMetrics:
    """False accepts and misses at one threshold.

    Args:
      tracks: of one model over the split.
      threshold: sum, at least `tracks.floor`.
      heard: the split's audio.
      config: times.

    Returns:
      StreamMetrics with intervals.
    """
    at = np.array([threshold], np.int64)
    count = int(stream_rule.event_counts(tracks.sums, at, config.refractory_steps)[0])
    rate = stream_rule.false_accepts_per_hour(count, heard.hours)
    missed = ~np.array([found[0] for found in _found(tracks, heard, at, config)])
    speakers = [clip.speaker for clip in heard.positives]
    # Drawing one speaker again and again would give an interval of no width.
    units = speakers if len(set(speakers)) > 1 else [""] * len(speakers)
    draws = detection.resampled_mean(missed, detection.resample_speakers(units))
    spans = (
        detection.percentile_interval(draws),
        detection.wilson_interval(int(missed.sum()), missed.size),
    )
    return StreamMetrics(
        heard.hours,
        count,
        rate.per_hour,
        rate.ci95,
        rate.upper_95_per_hour,
        missed.size,
        int(missed.sum()),
        float(missed.mean()),
        (min(low for low, _ in spans), max(high for _, high in spans)),
    )


def _found(
    tracks: Tracks, heard: SplitAudio, thresholds: NDArray[np.int64], config: StreamConfig
) -> Iterator[NDArray[np.bool_]]:
    """For each wake word whether it is heard by its name: bool [thresholds], ascending ones."""
    for clip, sums, words in zip(heard.positives, *tracks.positives, strict=True):
        found = np.zeros(len(thresholds), bool)
        for step, fires in stream_rule.firing(sums, thresholds, config.refractory_steps):
            if words[step] == clip.target:
                found[: len(fires)] |= fires
        yield found


def curve(tracks: Tracks, heard: SplitAudio, config: StreamConfig) -> StreamCurve:
    """Misses against false accepts at every threshold from `tracks.floor` on that differs.

    Args:
      tracks: of one model over the split.
      heard: the split's audio.
      config: times.

    Returns:
      StreamCurve: from many false accepts to none; exact counts, nothing interpolated.
    """
    sums = np.concatenate([[tracks.floor], *tracks.sums, tracks.positives[0].ravel()])
    thresholds = np.unique(sums[sums >= tracks.floor]).astype(np.int64)
    accepts = stream_rule.event_counts(tracks.sums, thresholds, config.refractory_steps)
    found = np.zeros(len(thresholds), np.int64)
    for row in _found(tracks, heard, thresholds, config):
        found += row
    positives = len(heard.positives)
    changed = (np.diff(accepts, prepend=-1) != 0) | (np.diff(found, prepend=-1) != 0)
    # Of thresholds that do the same the highest: there the device's own next step is.
    kept = np.append(changed[1:], True)
    accepts, misses = accepts[kept], positives - found[kept]
    return StreamCurve(
        thresholds[kept] / config.one,
        accepts,
        accepts / heard.hours,
        misses,
        misses / positives,
    )


def loudest(tracks: Tracks, threshold: int, heard: SplitAudio, ear: Ear) -> tuple[Loud, ...]:
    """The LOUDEST peaks of the ambient streams, at least a refractory time apart, loudest first."""
    apart = ear.config.refractory_steps
    peaks: list[tuple[int, int, int, int]] = []
    for stream, (sums, words) in enumerate(tracks.ambient):
        chosen: list[int] = []
        for step in np.argsort(-sums.astype(np.int64), kind="stable").tolist():
            if len(chosen) == LOUDEST:
                break
            if all(abs(step - other) >= apart for other in chosen):
                chosen.append(step)
        peaks += [(int(sums[step]), stream, step, int(words[step])) for step in chosen]
    peaks.sort(key=lambda peak: (-peak[0], *peak[1:]))
    found = []
    for total, stream, step, word in peaks[:LOUDEST]:
        at_s = (ear.window_ms + step * ear.config.stride_ms) / 1000
        for piece in heard.streams[stream]:
            length = piece.duration_s or 0.0
            if at_s <= length or piece is heard.streams[stream][-1]:
                break
            at_s -= length
        found.append(
            Loud(
                piece.clip_id.partition("#")[0],
                round(piece.start_s + at_s, 3),
                heard.shards.wake_words[word],
                total / ear.config.one,
                total >= threshold,
            )
        )
    return tuple(found)
