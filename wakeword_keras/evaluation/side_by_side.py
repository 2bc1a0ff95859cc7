"""Models of any origin on the same streams, in one table: ours and ESPHome's.

Each is judged by the decision that it ships with: `metrics.esphome_rule` at the manifest's cutoff,
or ours at the run's threshold. How well it could do there is said too: misses at the lowest
threshold that keeps a budget on these very streams, which flatters all of them alike.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wakeword_keras import labels
from wakeword_keras.evaluation import esphome_streams
from wakeword_keras.evaluation.esphome_streams import Interval
from wakeword_keras.evaluation.stream_evaluation import ModelStreams
from wakeword_keras.firmware.esphome_manifest import EsphomeModel
from wakeword_keras.metrics import esphome_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.streams.scoring import SplitAudio
from wakeword_keras.streams.stream_metrics import allowed_events

BUDGETS_PER_HOUR = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Row:
    """A model on the streams; intervals are 95 %.

    Attributes:
      model: name.
      rule: what decides, and its threshold.
      hours, false_accepts, false_accepts_per_hour: of the ambient streams.
      false_accepts_per_hour_ci95, false_accepts_per_hour_upper95: exact Poisson.
      positives, misses: wake words; 0 where the recordings hold none of this model's.
      miss_rate_ci95: None without wake words.
      missed_at: for each of BUDGETS_PER_HOUR the misses at the best threshold of these streams;
        None where no threshold of the model keeps the budget.
    """

    model: str
    rule: str
    hours: float
    false_accepts: int
    false_accepts_per_hour: float
    false_accepts_per_hour_ci95: Interval
    false_accepts_per_hour_upper95: float
    positives: int
    misses: int
    miss_rate_ci95: Interval | None
    missed_at: tuple[int | None, ...]


def esphome_row(name: str, model: EsphomeModel, audio: SplitAudio) -> Row:
    """Run a model of ESPHome's form over a split.

    Args:
      name: of the model.
      model: from `esphome_manifest.read`.
      audio: wake words of other labels are left out.

    Raises:
      InputError: the model is no such one, or a recording is gone.
    """
    label = labels.find(model.wake_word, audio.shards.wake_words)
    found = esphome_streams.score(model.path, _of_label(audio, label), model.frontend)

    def at(cutoff: int) -> esphome_streams.EsphomeMetrics:
        return esphome_streams.measure(found, audio, model.frontend, cutoff, model.window)

    missed: list[int | None] = []
    for budget in BUDGETS_PER_HOUR:
        allowed = allowed_events(budget, audio.hours)
        cutoff = esphome_rule.choose_cutoff(found.ambient, model.window, found.frames, allowed)
        missed.append(None if cutoff is None else at(cutoff).misses)
    own = dataclasses.asdict(at(model.cutoff))
    rule = f"sum of {own.pop('window')} > {own.pop('cutoff')}/255 each"
    return Row(name, rule, **own, missed_at=tuple(missed))


def _of_label(audio: SplitAudio, label: str | None) -> SplitAudio:
    """The same streams, without wake words of other labels."""
    clips = {
        split: tuple(
            clip if clip.label == label else dataclasses.replace(clip, target=-1) for clip in held
        )
        for split, held in audio.shards.clips.items()
    }
    return dataclasses.replace(audio, shards=dataclasses.replace(audio.shards, clips=clips))


def run_row(name: str, model: ModelStreams, config: StreamConfig) -> Row:
    """The same of a run's model.

    Args:
      name: of the run.
      model: its INT8 model, from `stream_evaluation.evaluate` on the same audio.
      config: how it listens.
    """
    missed: list[int | None] = []
    for budget in BUDGETS_PER_HOUR:
        allowed = allowed_events(budget, model.test.hours)
        kept = model.curve.misses[model.curve.false_accepts <= allowed]
        missed.append(int(kept[0]) if kept.size else None)
    own = dataclasses.asdict(model.test)
    own.pop("miss_rate")
    rule = f"mean of {config.windows} >= {model.threshold.probability:.4g}"
    return Row(name, rule, **own, missed_at=tuple(missed))


def table(rows: Sequence[Row]) -> str:
    """A line for each model.

    Args:
      rows: of the same streams.

    Returns:
      Lines without a newline at the end.
    """
    heads = ("model", "fires at", "false accepts per hour", "missed %", *_budget_heads())
    cells = [heads, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [
                *map(str.ljust, row[:2], widths[:2]),
                *map(str.rjust, row[2:], widths[2:]),
            ]
        ).rstrip()
        for row in cells
    ]
    first = rows[0]
    return "\n".join(
        [
            *lines,
            f"{first.hours:.2f} h without a wake word; wake words: "
            f"{', '.join(f'{row.model} {row.positives}' for row in rows)}; 95 % intervals. The "
            f"last {len(BUDGETS_PER_HOUR)} columns: missed at the best threshold of these streams.",
        ]
    )


def _budget_heads() -> list[str]:
    return [f"at {budget:g}/h" for budget in BUDGETS_PER_HOUR]


def _cells(row: Row) -> tuple[str, ...]:
    low, high = row.false_accepts_per_hour_ci95
    rate = f"{row.false_accepts_per_hour:.2f} ({low:.2f}-{high:.2f})"
    if not row.false_accepts:
        rate = f"0 (below {row.false_accepts_per_hour_upper95:.2f})"
    if row.miss_rate_ci95 is None:
        return (row.model, row.rule, rate, "-", *("-" for _ in row.missed_at))
    low, high = (100 * bound for bound in row.miss_rate_ci95)
    return (
        row.model,
        row.rule,
        rate,
        f"{100 * row.misses / row.positives:.1f} ({low:.1f}-{high:.1f})",
        *(
            "none" if missed is None else f"{100 * missed / row.positives:.1f}"
            for missed in row.missed_at
        ),
    )


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Plain JSON types."""
    return {
        "budgets_per_hour": list(BUDGETS_PER_HOUR),
        "models": [dataclasses.asdict(row) for row in rows],
    }
