"""Every model as it is used, listening to streams: thresholds, false accepts per hour, misses.

Validation streams choose a threshold for each model, test streams are reported; what the numbers
mean is said in stream_metrics.py.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wakeword_keras import stream_scoring
from wakeword_keras.events import StreamConfig
from wakeword_keras.stream_metrics import (
    Loud,
    StreamCurve,
    StreamMetrics,
    StreamThreshold,
    allowed_events,
    choose_threshold,
    curve,
    loudest,
    measure,
)
from wakeword_keras.stream_scoring import Ear, SplitAudio, StreamModel

# Thresholds with more false accepts than that are of no use to anybody.
USEFUL_PER_HOUR = 60.0
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
    loudest: tuple[Loud, ...]
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
    validation: SplitAudio,
    test: SplitAudio,
    models: Mapping[str, StreamModel],
    ear: Ear,
    max_false_accepts_per_hour: float,
) -> StreamReport:
    """Listen to both splits with every model.

    Args:
      validation: chooses the thresholds.
      test: is reported.
      models: by name; "int8" is the one that ships.
      ear: front end and times.
      max_false_accepts_per_hour: budget on validation, > 0.

    Returns:
      StreamReport.

    Raises:
      InputError: streams are shorter than a window, or a recording is gone.
      ValueError: a model gives NaN or infinity.
    """
    most = allowed_events(max_false_accepts_per_hour, validation.hours)
    heard = stream_scoring.score(validation, models, ear, _useful(validation.hours, most), most)
    thresholds = {
        name: choose_threshold(tracks, most, ear.config, models[name].output)
        for name, tracks in heard.items()
    }
    tests = stream_scoring.score(
        test,
        models,
        ear,
        _useful(test.hours, most),
        thresholds={name: threshold.sum for name, threshold in thresholds.items()},
    )
    return StreamReport(
        test.shards.wake_words,
        ear.config,
        max_false_accepts_per_hour,
        len(validation.streams),
        len(test.streams),
        {
            name: ModelStreams(
                threshold,
                measure(heard[name], threshold.sum, validation, ear.config),
                measure(tests[name], threshold.sum, test, ear.config),
                curve(tests[name], test, ear.config),
                loudest(tests[name], threshold.sum, test, ear),
                "xnnpack" if models[name].exact is None else "reference",
                heard[name].windows + tests[name].windows,
                heard[name].rescored + tests[name].rescored,
                _larger(heard[name].largest_difference_lsb, tests[name].largest_difference_lsb),
            )
            for name, threshold in thresholds.items()
        },
        tuple(_messages(validation.hours, test.hours, max_false_accepts_per_hour, thresholds)),
    )


def _useful(hours: float, allowed: int) -> float:
    return max(USEFUL_PER_HOUR * hours, 4 * allowed + 20)


def _larger(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else max(first, second)


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
    """The report as text: a row for each model and split.

    Args:
      report: from `evaluate`.

    Returns:
      Lines without a newline at the end.
    """
    lines = [
        f"{'streams':<12}{'split':<12}{'threshold':>10}{'hours':>7}{'events':>8}"
        f"{'false accepts per hour':>26}{'missed %':>24}"
    ]
    for name, model in report.models.items():
        for split, m in (("validation", model.validation), ("test", model.test)):
            low, high = m.false_accepts_per_hour_ci95
            rate = f"{m.false_accepts_per_hour:.2f} ({low:.2f}-{high:.2f})"
            if not m.false_accepts:
                rate = f"0 (below {m.false_accepts_per_hour_upper95:.2f})"
            low, high = (100 * bound for bound in m.miss_rate_ci95)
            lines.append(
                f"{name:<12}{split:<12}{model.threshold.probability:>10.5f}{m.hours:>7.2f}"
                f"{m.false_accepts:>8}{rate:>26}"
                f"{f'{100 * m.miss_rate:.2f} ({low:.2f}-{high:.2f})':>24}"
            )
    return "\n".join([*lines, *report.messages])
