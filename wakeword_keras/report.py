"""EvaluationReport to report.json, report.html and pictures.

The page is one file: style and pictures are inside, nothing is fetched. The verdict compares the
relative accuracy drop from FP32 to INT8 with the limit and with our own aim, and says when the
95 % interval leaves the answer open.
"""

import csv
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from wakeword_keras import detection, plots
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import EvaluationReport
from wakeword_keras.files import write_bytes
from wakeword_keras.measurement import Findings
from wakeword_keras.stream_evaluation import StreamReport

DROP_LIMIT = 0.02
DROP_AIM = 0.002
_TEMPLATE = Path(__file__).with_name("report_template.html")
# The curves of the other two lie on those of "fp32" and "int8".
_CURVE_MODELS = ("fp32", "int8_ptq", "int8")


@dataclass(frozen=True)
class Verdict:
    """`level`: "good" (within the aim), "fair" (within the limit) or "poor"; the rest is prose."""

    level: str
    headline: str
    detail: str


@dataclass(frozen=True)
class _History:
    """Columns [epochs] of both stages in a row, NaN where a stage lacks one."""

    epochs: NDArray[np.float64]
    columns: dict[str, NDArray[np.float64]]
    qat_from: float | None


def write(findings: Findings, run_dir: str | Path) -> None:
    """Write report/ of a run: report.json, report.html and the page's pictures as PNG.

    Learning curves are drawn from fp32/history.csv and qat/history.csv where they exist.

    Args:
      findings: from `measurement.measure`.
      run_dir: the run; report/ is made if missing, its files are replaced one by one.

    Raises:
      InputError: a history.csv is not a table of numbers.
      ValueError: a figure of the report is NaN or infinite.
    """
    out = Path(run_dir) / "report"
    out.mkdir(parents=True, exist_ok=True)
    report, streams = findings.evaluated, findings.streams
    content = json.dumps(findings.to_json(), indent=2, allow_nan=False)
    svgs = {}
    pictures = itertools.chain(_figures(report, Path(run_dir)), _stream_figures(streams))
    for name, figure in pictures:
        write_bytes(out / f"{name}.png", plots.to_png(figure))
        svgs[name] = plots.to_svg(figure, name)
    write_bytes(out / "report.html", _page(report, streams, svgs).encode())
    write_bytes(out / "report.json", (content + "\n").encode())


def verdict(report: EvaluationReport) -> Verdict:
    """Judge the accuracy that INT8 lost against the limit of 2 % and the aim of 0.2 %.

    Args:
      report: from `evaluation.evaluate`.

    Returns:
      Verdict on the measured drop; the detail says whether its 95 % interval agrees.
    """
    error = report.quantization_error
    drop, (low, high) = error.relative_accuracy_drop, error.accuracy_drop_ci95
    if drop <= DROP_AIM:
        level, judged = "good", f"Within the aim of {_percent(DROP_AIM, 1)}."
    elif drop <= DROP_LIMIT:
        level, judged = (
            "fair",
            f"Within the limit of {_percent(DROP_LIMIT, 0)}, short of our {_percent(DROP_AIM, 1)}.",
        )
    else:
        level, judged = "poor", f"Over the limit of {_percent(DROP_LIMIT, 0)}."
    if low <= DROP_LIMIT < high:
        certainty = (
            f"reaches across the limit of {_percent(DROP_LIMIT, 0)}: more clips would settle it"
        )
    else:
        side = "over" if low > DROP_LIMIT else "within"
        certainty = f"lies {side} the limit of {_percent(DROP_LIMIT, 0)}"
    if drop > 0:
        headline = f"INT8 loses {_percent(drop)} of FP32's accuracy"
    elif drop < 0:
        headline = f"INT8 gains {_percent(-drop)} on FP32's accuracy"
    else:
        headline = "INT8 keeps all of FP32's accuracy"
    interval = f"95 % interval of the drop, {_between((low, high))},"
    return Verdict(level, headline, f"{judged} The {interval} {certainty}.")


def _figures(report: EvaluationReport, run_dir: Path) -> Iterator[tuple[str, Figure]]:
    history = _read_history(run_dir)
    if history is not None:
        yield from _training_figures(history)
    names = [name for name in _CURVE_MODELS if name in report.models]
    curves, points = {}, {}
    for name in names:
        scores, positive = _detection_scores(report, name)
        curve = detection.det_curve(scores, positive)
        curves[name] = (curve.false_positive_rate, curve.miss_rate)
        fired = scores >= report.models[name].threshold
        points[name] = (float(fired[~positive].mean()), float(1 - fired[positive].mean()))
    yield "roc", plots.roc(curves, points)
    yield "det", plots.det(curves, points)
    yield "logits", _logit_figure(report)


def _stream_figures(streams: StreamReport | None) -> Iterator[tuple[str, Figure]]:
    if streams is None:
        return
    curves, points = {}, {}
    for name, model in streams.models.items():
        label = "fp32" if name == "fp32_tflite" else name
        curves[label] = (model.curve.false_accepts_per_hour, model.curve.miss_rate)
        points[label] = (model.test.false_accepts_per_hour, model.test.miss_rate)
    yield "det_streams", plots.det_streams(curves, points, streams.max_false_accepts_per_hour)


def _logit_figure(report: EvaluationReport) -> Figure:
    logits, models = report.scores.logits, report.models
    decided = {name: _decisions(logits[name], models[name].threshold) for name in ("fp32", "int8")}
    return plots.logits(
        logits["fp32"].max(axis=1),
        logits["int8"].max(axis=1),
        report.scores.labels >= 0,
        decided["fp32"] != decided["int8"],
        (models["fp32"].threshold, models["int8"].threshold),
    )


def _training_figures(history: _History) -> Iterator[tuple[str, Figure]]:
    def found(**names: str) -> dict[str, NDArray[np.float64]]:
        columns = {label.replace("_", " "): history.columns.get(n) for label, n in names.items()}
        return {k: v for k, v in columns.items() if v is not None and np.isfinite(v).any()}

    stages = (history.epochs, history.qat_from)
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
    if parts := found(wake_word="share_positive", speech="share_speech", noise="share_noise"):
        yield "shares", plots.training_curve("Share of the training loss", *stages, parts)


def _read_history(run_dir: Path) -> _History | None:
    """Both stages' history, QAT's epochs counted on from FP32's last; None if there is neither."""
    tables = {}
    for stage in ("fp32", "qat"):
        path = run_dir / stage / "history.csv"
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
    qat_from = 1.0 + len(tables.get("fp32", [])) if "qat" in tables else None
    return _History(epochs, columns, qat_from)


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


def _detection_scores(
    report: EvaluationReport, name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A score per clip for which `score >= threshold` on a positive means heard, and by its name.

    A positive whose highest logit is another word's is missed at every threshold: it gets a score
    below all others.
    """
    logits, labels = report.scores.logits[name], report.scores.labels
    scores, positive = logits.max(axis=1), labels >= 0
    confused = positive & (logits.argmax(axis=1) != labels)
    return np.where(confused, scores.min() - 1, scores), positive


def _decisions(logits: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    return np.where(logits.max(axis=1) >= threshold, logits.argmax(axis=1), -1)


def _page(report: EvaluationReport, streams: StreamReport | None, svgs: dict[str, str]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = _percent
    environment.filters["between"] = _between
    # Both drawn by us; everything else on the page is escaped.
    pictures = {name: Markup(svg) for name, svg in svgs.items()}
    return environment.from_string(_TEMPLATE.read_text()).render(
        report=report, streams=streams, verdict=verdict(report), pictures=pictures
    )


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _between(interval: tuple[float, float], digits: int = 2) -> str:
    low, high = interval
    return f"{100 * low:.{digits}f} to {_percent(high, digits)}"
