"""The pictures of a report: what was found, and the run's history, as figures by name."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wakeword_keras.errors import InputError
from wakeword_keras.evaluation.clip_evaluation import EvaluationReport, detection_scores
from wakeword_keras.evaluation.findings import Findings
from wakeword_keras.evaluation.layer_error import LayerErrors
from wakeword_keras.evaluation.quantization_error import STEPS
from wakeword_keras.evaluation.scores import decisions, share_interval
from wakeword_keras.evaluation.stream_evaluation import StreamReport
from wakeword_keras.metrics import detection
from wakeword_keras.names import FP32, FP32_TFLITE, INT8, INT8_PTQ
from wakeword_keras.report import error_plots, plots
from wakeword_keras.report.style import MODEL_NAMES

MOST_LABELS = 15
"""Labels that the page shows of the confusables; report.json holds all."""
# The curves of the other two lie on those of FP32 and INT8.
_CURVE_MODELS = (FP32, INT8_PTQ, INT8)
_HISTORIES = {"teacher": "fp32/teacher_1", "FP32": "fp32", "QAT": "qat"}


@dataclass(frozen=True)
class _History:
    """Columns [epochs] of all stages in a row, NaN where one lacks it; where later ones begin."""

    epochs: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]
    begins: dict[str, float]


def figures(findings: Findings, run_dir: Path | None) -> Iterator[tuple[str, Figure]]:
    """Every picture of a run's report.

    Args:
      findings: from `findings.measure`.
      run_dir: learning curves are read from each stage's history.csv where it exists; None for
        none.

    Yields:
      Name and figure; "det_streams" only with streams, training's only with a history.

    Raises:
      InputError: a history.csv is not a table of numbers.
    """
    report = findings.evaluated
    history = _read_history(run_dir) if run_dir else None
    if history is not None:
        yield from _training_figures(history)
    yield from _curves(report)
    yield "logits", _logit_figure(report)
    steps = report.quantization_error.steps
    histograms = {
        step_name(*pair): (step.score_histogram_edges, step.score_histogram)
        for pair in STEPS
        if (step := steps.get("_to_".join(pair))) is not None
    }
    yield "errors", error_plots.score_errors(histograms)
    for name in ("qat_to_int8", "fp32_to_int8"):
        yield f"layers_{name}", _layer_figure(findings.layers[name])
    yield "confusables", _confusables_figure(findings)
    if findings.streams is not None:
        yield "det_streams", _stream_figure(findings.streams)


def step_name(reference: str, model: str) -> str:
    """A step from one model to another, such as "FP32 → QAT"."""
    return f"{MODEL_NAMES[reference]} → {MODEL_NAMES[model]}"


def _curves(report: EvaluationReport) -> Iterator[tuple[str, Figure]]:
    curves, points, spans = {}, {}, {}
    speakers = np.array(report.scores.speakers)
    for name in _CURVE_MODELS:
        if name not in report.models:
            continue
        scores, positive = detection_scores(report.scores, name)
        curve = detection.det_curve(scores, positive)
        curves[name] = (curve.false_positive_rate, curve.miss_rate)
        fired = scores >= report.models[name].threshold
        points[name] = (float(fired[~positive].mean()), float(1 - fired[positive].mean()))
        spans[name] = (
            share_interval(fired[~positive], speakers[~positive].tolist()),
            share_interval(~fired[positive], speakers[positive].tolist()),
        )
    yield "roc", plots.roc(curves, points)
    yield "det", plots.det(curves, points, {INT8: spans[INT8]})


def _stream_figure(streams: StreamReport) -> Figure:
    curves, points = {}, {}
    for name, model in streams.models.items():
        label = FP32 if name == FP32_TFLITE else name
        curves[label] = (model.curve.false_accepts_per_hour, model.curve.miss_rate)
        points[label] = (model.test.false_accepts_per_hour, model.test.miss_rate)
    return plots.det_streams(curves, points, streams.max_false_accepts_per_hour)


def _layer_figure(errors: LayerErrors) -> Figure:
    layers = errors.in_order()
    return error_plots.layer_bars(
        [layer.layer for layer in layers],
        np.array([layer.own_sqnr_db for layer in layers]),
        np.array([layer.sqnr_db for layer in layers]),
    )


def _confusables_figure(findings: Findings) -> Figure:
    shown = findings.mistaken[:MOST_LABELS]
    models = findings.evaluated.models
    ends = {
        name: (
            [label.models[name].mean_probability for label in shown],
            [label.models[name].highest_probability for label in shown],
        )
        for name in (FP32, INT8)
    }
    thresholds = {name: models[name].threshold_probability for name in ends}
    return error_plots.confusables([label.label for label in shown], ends, thresholds)


def _logit_figure(report: EvaluationReport) -> Figure:
    logits, models = report.scores.logits, report.models
    decided = {name: decisions(logits[name], models[name].threshold) for name in (FP32, INT8)}
    return error_plots.logits(
        logits[FP32].max(axis=1),
        logits[INT8].max(axis=1),
        report.scores.targets >= 0,
        decided[FP32] != decided[INT8],
        (models[FP32].threshold, models[INT8].threshold),
    )


def _training_figures(history: _History) -> Iterator[tuple[str, Figure]]:
    def found(**names: str) -> dict[str, NDArray[np.float64]]:
        columns = {label.replace("_", " "): history.columns.get(n) for label, n in names.items()}
        return {k: v for k, v in columns.items() if v is not None and np.isfinite(v).any()}

    stages = (history.epochs, history.begins)
    if loss := found(training="loss", validation="val_loss"):
        yield "loss", plots.training_curve("Loss", *stages, loss, log=True)
    for name, title, column in (
        ("auc", "Validation ROC AUC", "val_auc"),
        ("recall", "Validation recall at 1 % false positives", "val_recall_at_fpr_0_01"),
    ):
        for shares in found(share=column).values():
            yield name, plots.share_curve(title, *stages, shares)
    if weight := found(focal_loss="hardest_tenth_weight"):
        title = "Weight of the hardest tenth over the rest"
        line = ("cross-entropy", 1.0)
        yield "focal", plots.training_curve(title, *stages, weight, log=True, reference=line)
    parts = found(
        wake_word="share_positive",
        speech="share_speech",
        noise="share_noise",
        ambient_audio="share_stream",
        hard_negatives="share_hard",
    )
    if parts := {name: shares for name, shares in parts.items() if np.nansum(shares)}:
        yield "shares", plots.training_curve("Share of the training loss", *stages, parts)


def _read_history(run_dir: Path) -> _History | None:
    """The stages' history, epochs counted through, one teacher's for all; None without any."""
    tables = {}
    for stage, folder in _HISTORIES.items():
        path = run_dir / folder / "history.csv"
        if path.is_file() and (rows := _read_csv(path)):
            tables[stage] = rows
    if not tables:
        return None
    names = dict.fromkeys(name for rows in tables.values() for name in rows[0])
    columns = {
        name: np.array([row.get(name, np.nan) for rows in tables.values() for row in rows])
        for name in names
    }
    epochs = np.arange(1.0, sum(map(len, tables.values())) + 1)
    starts = np.cumsum([1.0, *map(len, tables.values())]).tolist()
    begins = dict(list(zip(tables, starts, strict=False))[1:])
    return _History(epochs, columns, begins)


def _read_csv(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        try:
            return [
                {name: float(value or "nan") for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}: not a table of numbers ({error}): remove it or train again"
            ) from error
