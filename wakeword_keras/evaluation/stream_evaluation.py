"""Every model as it is used, over test streams: false accepts per hour and misses.

Thresholds are those that validation streams chose (`stream_thresholds`); what the numbers
mean is said in stream_metrics.py.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wakeword_keras.evaluation.stream_thresholds import StreamChoice, most_useful
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.names import INT8
from wakeword_keras.streams import scoring
from wakeword_keras.streams.scoring import SplitAudio, StreamModel, StreamSettings, Tracks
from wakeword_keras.streams.stream_metrics import (
    RATES_PER_HOUR,
    Peak,
    StreamCurve,
    StreamMetrics,
    StreamThreshold,
    allowed_events,
    curve,
    highest_peaks,
    measure,
    recall_within,
)

RULE_OF_THREE = -math.log(0.05)


@dataclass(frozen=True)
class ModelStreams:
    """One model: threshold from validation, figures on both splits, curve and peaks on test.

    `kernels`: "xnnpack", or "reference" where the sums of every useful threshold are those of the
    reference kernels; then `rescored` of `windows` were scored with them, and differed from XNNPACK
    by at most `largest_difference_lsb`.
    """

    threshold: StreamThreshold
    validation: StreamMetrics
    test: StreamMetrics
    curve: StreamCurve
    loudest: tuple[Peak, ...]
    kernels: str
    windows: int
    rescored: int
    largest_difference_lsb: float | None


@dataclass(frozen=True)
class StreamReport:
    """All models over the streams, and what their hours cannot show."""

    wake_words: tuple[str, ...]
    config: StreamConfig
    max_false_accepts_per_hour: float
    validation_streams: int
    test_streams: int
    models: dict[str, ModelStreams]
    messages: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON types."""
        models = {}
        for name, model in self.models.items():
            fields = dataclasses.asdict(model)
            fields["curve"] = {key: value.tolist() for key, value in fields["curve"].items()}
            models[name] = fields
        return {
            **dataclasses.asdict(self.config),
            "max_false_accepts_per_hour": self.max_false_accepts_per_hour,
            "validation_streams": self.validation_streams,
            "test_streams": self.test_streams,
            "models": models,
            "messages": list(self.messages),
        }


def evaluate(
    thresholds: Mapping[str, StreamChoice],
    test: SplitAudio,
    models: Mapping[str, StreamModel],
    settings: StreamSettings,
    max_false_accepts_per_hour: float,
) -> StreamReport:
    """Listen to the streams with every model.

    Args:
      thresholds: what validation streams decided, for every model.
      test: is reported.
      models: by name; "int8" is the one that ships.
      settings: front end and times.
      max_false_accepts_per_hour: budget on validation, > 0.

    Returns:
      StreamReport.

    Raises:
      InputError: streams are shorter than a window, or a recording is gone.
      ValueError: a model gives NaN or infinity.
    """
    hours = thresholds[INT8].validation.hours
    most = allowed_events(max_false_accepts_per_hour, hours)
    chosen = {name: thresholds[name].threshold for name in models}
    tests = scoring.score(
        test,
        models,
        settings,
        most_useful(test.hours, most),
        thresholds={name: threshold.sum for name, threshold in chosen.items()},
    )
    return StreamReport(
        test.shards.wake_words,
        settings.config,
        max_false_accepts_per_hour,
        thresholds[INT8].streams,
        len(test.streams),
        {
            name: _model_streams(models[name], thresholds[name], tests[name], test, settings)
            for name in models
        },
        tuple(_messages(hours, test.hours, max_false_accepts_per_hour, chosen)),
    )


def _model_streams(
    model: StreamModel,
    chosen: StreamChoice,
    tracks: Tracks,
    test: SplitAudio,
    settings: StreamSettings,
) -> ModelStreams:
    exact = model.exact is not None
    return ModelStreams(
        chosen.threshold,
        chosen.validation,
        measure(tracks, chosen.threshold.sum, test, settings.config),
        curve(tracks, test, settings.config),
        highest_peaks(tracks, chosen.threshold.sum, test, settings),
        "reference" if exact else "xnnpack",
        chosen.windows + tracks.windows,
        chosen.rescored + tracks.rescored,
        max(chosen.largest_difference_lsb, tracks.largest_difference_lsb or 0.0) if exact else None,
    )


def _messages(
    validation_hours: float,
    test_hours: float,
    budget: float,
    thresholds: Mapping[str, StreamThreshold],
) -> Iterator[str]:
    needed = RULE_OF_THREE / budget
    for split, hours in (("validation", validation_hours), ("test", test_hours)):
        if hours < needed:
            yield (
                f"{split}: even no false accept in {hours:.2f} h shows with 95 % confidence only "
                f"fewer than {RULE_OF_THREE / hours:.2g} per hour; {budget:g} per hour would take "
                f"{needed:.1f} h without one"
            )
    for name, threshold in thresholds.items():
        if not threshold.within_budget:
            yield (
                f"{name}: fires more than {budget:g} times per hour on validation at the highest "
                "score it can express: train on more speech without the wake word"
            )


def console_table(report: StreamReport) -> str:
    """The report as text: a row for each model and split, then what other thresholds would give.

    Args:
      report: from `evaluate`.

    Returns:
      Lines without a newline at the end.
    """
    lines = [
        f"{'streams':<12}{'split':<11}{'threshold':>9}{'hours':>6}{'events':>7}"
        f"{'per hour':>19}{'missed %':>16}"
    ]
    for name, model in report.models.items():
        for split, m in (("validation", model.validation), ("test", model.test)):
            low, high = m.false_accepts_per_hour_ci95
            rate = f"{_short(m.false_accepts_per_hour)} ({_short(low)}-{_short(high)})"
            if not m.false_accepts:
                rate = f"0 (below {m.false_accepts_per_hour_upper95:.2f})"
            low, high = (100 * bound for bound in m.miss_rate_ci95)
            lines.append(
                f"{name:<12}{split:<11}{model.threshold.probability:>9.5f}{m.hours:>6.1f}"
                f"{m.false_accepts:>7} {rate:>18}"
                f" {f'{100 * m.miss_rate:.1f} ({low:.0f}-{high:.0f})':>15}"
            )
    rates = "".join(f"{rate:>8g}" for rate in RATES_PER_HOUR)
    lines.append(f"{'recall % at best, test':<23}{rates}  false accepts per hour")
    for name, model in report.models.items():
        recalls = (100 * recall_within(model.curve, rate) for rate in RATES_PER_HOUR)
        lines.append(f"{name:<23}" + "".join(f"{recall:>8.1f}" for recall in recalls))
    return "\n".join([*lines, *report.messages])


def _short(rate: float) -> str:
    return f"{rate:.2f}" if rate < 100 else f"{rate:.0f}"
