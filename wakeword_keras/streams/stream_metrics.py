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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import INT8_MAX, Affine, dequantize
from wakeword_keras.data.corpus import Clip
from wakeword_keras.metrics import intervals, stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.streams.scoring import SplitAudio, StreamSettings, Tracks

MOST_PEAKS = 20
# False accepts per hour at which recall is compared.
RATES_PER_HOUR = (0.0, 0.5, 1.0, 2.0, 5.0)
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
class Peak:
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
    tracks: Tracks, threshold: int, audio: SplitAudio, config: StreamConfig
) -> StreamMetrics:
    """False accepts and misses at one threshold.

    Args:
      tracks: of one model over the split.
      threshold: sum, at least `tracks.floor`.
      audio: the split's audio.
      config: times.

    Returns:
      StreamMetrics with intervals.
    """
    at = np.array([threshold], np.int64)
    count = int(stream_rule.event_counts(tracks.sums, at, config.refractory_steps)[0])
    rate = intervals.false_accepts_per_hour(count, audio.hours)
    missed = ~np.array([found[0] for found in _found(tracks, audio, at, config)])
    speakers = [clip.speaker for clip in audio.positives]
    # Drawing one speaker again and again would give an interval of no width.
    units = speakers if len(set(speakers)) > 1 else [""] * len(speakers)
    draws = intervals.resampled_mean(missed, intervals.resample_speakers(units))
    spans = (
        intervals.percentile_interval(draws),
        intervals.wilson_interval(int(missed.sum()), missed.size),
    )
    return StreamMetrics(
        audio.hours,
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
    tracks: Tracks, audio: SplitAudio, thresholds: NDArray[np.int64], config: StreamConfig
) -> Iterator[NDArray[np.bool_]]:
    """For each wake word whether it is detected by its name: bool [thresholds], ascending ones."""
    for clip, sums, words in zip(audio.positives, *tracks.positives, strict=True):
        found = np.zeros(len(thresholds), bool)
        for step, fires in stream_rule.firing(sums, thresholds, config.refractory_steps):
            if words[step] == clip.target:
                found[: len(fires)] |= fires
        yield found


def curve(tracks: Tracks, audio: SplitAudio, config: StreamConfig) -> StreamCurve:
    """Misses against false accepts at every threshold from `tracks.floor` on that differs.

    Args:
      tracks: of one model over the split.
      audio: the split's audio.
      config: times.

    Returns:
      StreamCurve: from many false accepts to none; exact counts, nothing interpolated.
    """
    sums = np.concatenate([[tracks.floor], *tracks.sums, tracks.positives[0].ravel()])
    thresholds = np.unique(sums[sums >= tracks.floor]).astype(np.int64)
    accepts = stream_rule.event_counts(tracks.sums, thresholds, config.refractory_steps)
    found = np.zeros(len(thresholds), np.int64)
    for row in _found(tracks, audio, thresholds, config):
        found += row
    positives = len(audio.positives)
    changed = (np.diff(accepts, prepend=-1) != 0) | (np.diff(found, prepend=-1) != 0)
    # Of thresholds that do the same the highest: there the device's own next step is.
    kept = np.append(changed[1:], True)
    accepts, misses = accepts[kept], positives - found[kept]
    return StreamCurve(
        thresholds[kept] / config.one,
        accepts,
        accepts / audio.hours,
        misses,
        misses / positives,
    )


def recall_within(found: StreamCurve, most_per_hour: float) -> float:
    """Recall at the best threshold for so many false accepts per hour, were it known before.

    Args:
      found: from `curve`; its own streams choose the threshold.
      most_per_hour: false accepts per hour, >= 0.

    Returns:
      0 to 1; 0 if every threshold gives more.
    """
    within = found.false_accepts_per_hour <= most_per_hour * (1 + 1e-12)
    return 1.0 - float(np.min(found.miss_rate[within], initial=1.0))


def highest_peaks(
    tracks: Tracks, threshold: int, audio: SplitAudio, settings: StreamSettings
) -> tuple[Peak, ...]:
    """The MOST_PEAKS highest of the ambient streams, a refractory time apart, highest first."""
    peaks = [
        (-int(sums[step]), stream, step, int(words[step]))
        for stream, (sums, words) in enumerate(tracks.ambient)
        for step in _peak_steps(sums, settings.config.refractory_steps)
    ]
    found = []
    for minus_sum, stream, step, word in sorted(peaks)[:MOST_PEAKS]:
        ends_s = (settings.window_ms + step * settings.config.stride_ms) / 1000
        piece, seconds = _place(audio.streams[stream], ends_s)
        found.append(
            Peak(
                piece.clip_id.partition("#")[0],
                round(piece.start_s + seconds, 3),
                audio.shards.wake_words[word],
                -minus_sum / settings.config.one,
                -minus_sum >= threshold,
            )
        )
    return tuple(found)


def _peak_steps(sums: NDArray[np.uint32], apart: int) -> list[int]:
    """Steps of the MOST_PEAKS highest sums that are at least so many steps apart."""
    chosen: list[int] = []
    for step in np.argsort(-sums.astype(np.int64), kind="stable").tolist():
        if len(chosen) == MOST_PEAKS:
            break
        if all(abs(step - other) >= apart for other in chosen):
            chosen.append(step)
    return chosen


def _place(pieces: Sequence[Clip], stream_s: float) -> tuple[Clip, float]:
    """The piece of a stream at a time of the stream, and the seconds from that piece's start."""
    for piece in pieces[:-1]:
        length_s = piece.duration_s or 0.0
        if stream_s <= length_s:
            return piece, stream_s
        stream_s -= length_s
    return pieces[-1], stream_s
