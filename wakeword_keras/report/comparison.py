"""Finished runs side by side: one table, one picture. Reads their report.json; scores nothing.

Figures compare only where they were measured on the same clips. Intervals are each run's own:
where two of them overlap, the runs may or may not differ.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from wakeword_keras import json_file
from wakeword_keras.errors import InputError
from wakeword_keras.files import sha256, write_bytes
from wakeword_keras.names import FP32, INT8, INT8_PTQ
from wakeword_keras.progress import say
from wakeword_keras.report import style, verdicts

MODELS = (FP32, INT8_PTQ, INT8)
_COUNTS = ("clips", "positives", "speakers")
_MOST_SETTINGS = 4
_REPEAT = "delete it and repeat the command that began the run"


_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_NUMBER = {"type": "number"}
_COUNT = {"type": "integer", "minimum": 0}
_INTERVAL = {**json_file.array(_NUMBER), "minItems": 2, "maxItems": 2}
_METRICS = json_file.fields(
    accuracy=_SHARE,
    accuracy_ci95=_INTERVAL,
    recall_at_fpr_0_01=_SHARE,
    recall_ci95=_INTERVAL,
    roc_auc=_SHARE,
    bytes=_COUNT,
    clips=_COUNT,
)
_STEP = json_file.fields(relative_accuracy_drop=_NUMBER, relative_accuracy_drop_ci95=_INTERVAL)
_ERROR = json_file.fields(relative_accuracy_drop=_NUMBER, accuracy_drop_ci95=_INTERVAL)
_ERROR["properties"] |= {"steps": json_file.dictionary(_STEP)}
_TEST = json_file.fields(false_accepts_per_hour={"type": "number", "minimum": 0}, miss_rate=_SHARE)
_REPORT = json_file.fields(
    wake_words={**json_file.array({"type": "string"}), "minItems": 1},
    clips=json_file.dictionary(_COUNT),
    positives=_COUNT,
    speakers=_COUNT,
    models=json_file.fields(**dict.fromkeys(MODELS, _METRICS)),
    quantization_error=_ERROR,
)
_REPORT["properties"] |= {
    "streams": json_file.fields(
        models=json_file.fields(**{INT8: json_file.fields(test=_TEST)}),
    ),
    "calibration_coverage": {"type": "object"},
}
_FILES = json_file.fields(files=json_file.dictionary(json_file.SHA256))
_RUN = json_file.fields(config={"type": "object"}, stages=json_file.dictionary(_FILES))
_CORPUS = json_file.fields(sha256=json_file.SHA256)


@dataclass(frozen=True)
class ComparedRun:
    """A run as it is compared.

    Attributes:
      name: distinct among the compared ones.
      report: its report.json.
      settings: its flags; none where it is a report on other data.
      corpus_sha256: of the recordings and their splits; "" where it is not known.
    """

    name: str
    report: Mapping[str, Any]
    settings: Mapping[str, Any]
    corpus_sha256: str


def compare(directories: Sequence[str], out_dir: str | Path) -> None:
    """Print the table of several runs and write comparison.png.

    Args:
      directories: run directories, or folders of reports on other data.
      out_dir: where the picture goes; made if missing.

    Raises:
      InputError: fewer than two, no report, or reports that do not compare.
    """
    runs = read(directories)
    say(table(runs))
    path = Path(out_dir) / "comparison.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, style.to_png(figure(runs)))
    say(f"picture: {path}")


def read(directories: Sequence[str]) -> tuple[ComparedRun, ...]:
    """Read the reports of runs that are to be compared.

    Args:
      directories: run directories, or folders of reports on other data.

    Returns:
      The runs in this order.

    Raises:
      InputError: fewer than two, no report, or they are of other wake words or other test clips.
    """
    paths = [Path(directory) for directory in directories]
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise InputError("nothing to compare: give two or more different run directories")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    runs = tuple(_read(path, name) for path, name in zip(paths, names, strict=True))
    for path, run in zip(paths[1:], runs[1:], strict=True):
        _check_same_clips(paths[0], runs[0], path, run)
    return runs


def _read(path: Path, name: str) -> ComparedRun:
    found = [p for p in (path / "report" / "report.json", path / "report.json") if p.is_file()]
    if not found:
        raise InputError(
            f"{path} holds no report: finish the run (its settings: {path / 'run.flags'}), "
            "or name another directory"
        )
    report = json_file.read(found[0], _REPORT, "evaluate that run again", sealed=True)
    run, corpus = (
        json_file.read(path / file, schema, _REPEAT, sealed=True) if (path / file).is_file() else {}
        for file, schema in (("run.json", _RUN), ("corpus.json", _CORPUS))
    )
    _check_hashes(path, run, found[0])
    return ComparedRun(name, report, run.get("config", {}), corpus.get("sha256", ""))


def _check_hashes(directory: Path, run: Mapping[str, Any], report: Path) -> None:
    """Refuse a report or a corpus.json that is not the run's own."""
    written = {
        file: digest
        for stage in run.get("stages", {}).values()
        for file, digest in stage["files"].items()
    }
    for path, mend in ((report, "evaluate that run again"), (directory / "corpus.json", _REPEAT)):
        name = path.relative_to(directory).as_posix()
        changed = name in written and path.is_file() and sha256(path) != written[name]
        if changed:
            raise InputError(f"{path} is not what {directory} wrote: {mend}")


def _check_same_clips(path: Path, run: ComparedRun, other_path: Path, other: ComparedRun) -> None:
    words, other_words = (r.report["wake_words"] for r in (run, other))
    if words != other_words:
        raise InputError(
            f"{path} detects {', '.join(words)} and {other_path} "
            f"{', '.join(other_words)}; compare runs of the same wake words"
        )
    if not _same_clips(run, other):
        counts = [f"{r.report['models']['int8']['clips']} clips" for r in (run, other)]
        raise InputError(
            f"{path} and {other_path} were not measured on the same test clips "
            f"({counts[0]} and {counts[1]}); measure both on the same recordings with "
            "a report each (`run_dir`, `data_dir`, `report_dir`), then "
            "compare the OUT folders"
        )


def _same_clips(run: ComparedRun, other: ComparedRun) -> bool:
    """Whether sound and labels of the test clips are known to be the same.

    Equal features of equal ids prove it whatever else was trained on, an equal corpus whatever the
    front end is.
    """
    if any(run.report[count] != other.report[count] for count in _COUNTS):
        return False
    hashes = [r.report.get("calibration_coverage", {}).get("checked_sha256") for r in (run, other)]
    same_features = hashes[0] is not None and hashes[0] == hashes[1]
    return same_features or run.corpus_sha256 == other.corpus_sha256 != ""


def differing_settings(runs: Sequence[ComparedRun]) -> list[str]:
    """What each run was made with that another was not, such as "seed 2"; "" where unknown."""
    shared = set.intersection(*(set(run.settings) for run in runs))
    names = [
        name
        for name in runs[0].settings
        if name in shared and any(r.settings[name] != runs[0].settings[name] for r in runs)
    ]
    more = f", {len(names) - _MOST_SETTINGS} more" if len(names) > _MOST_SETTINGS else ""
    return [
        ", ".join(f"{name} {_value(run.settings[name])}" for name in names[:_MOST_SETTINGS]) + more
        for run in runs
    ]


def _value(value: Any) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def table(runs: Sequence[ComparedRun]) -> str:
    """The runs as text, a row for each.

    Args:
      runs: from `read`.

    Returns:
      Lines without a newline at the end; percentages, 95 % intervals in parentheses.
    """
    rows = [
        ("", "accuracy %", "", "", "accuracy drop %", "recall %", "", "AUC", "KiB"),
        ("run", "FP32", "PTQ", "INT8", "FP32 to INT8", "FP32", "INT8", "INT8", "INT8"),
        *(_row(run) for run in runs),
    ]
    if any("streams" in run.report for run in runs):
        heads = [("false accepts/h", "missed %"), ("INT8", "INT8")]
        rows = [
            (*row, *more) for row, more in zip(rows, [*heads, *map(_streams, runs)], strict=True)
        ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, *_remarks(runs)])


def _row(run: ComparedRun) -> tuple[str, ...]:
    models, error = run.report["models"], run.report["quantization_error"]
    accuracy = [f"{100 * models[model]['accuracy']:.2f}" for model in MODELS]
    int8 = models[INT8]
    drop = _with_interval(error["relative_accuracy_drop"], error["accuracy_drop_ci95"], "+.2f")
    return (
        run.name,
        *accuracy[:2],
        _with_interval(int8["accuracy"], int8["accuracy_ci95"]),
        drop,
        f"{100 * models['fp32']['recall_at_fpr_0_01']:.2f}",
        _with_interval(int8["recall_at_fpr_0_01"], int8["recall_ci95"]),
        f"{int8['roc_auc']:.4f}",
        f"{int8['bytes'] / 1024:.1f}",
    )


def _streams(run: ComparedRun) -> tuple[str, str]:
    if "streams" not in run.report:
        return "-", "-"
    test = run.report["streams"]["models"][INT8]["test"]
    return f"{test['false_accepts_per_hour']:.2f}", f"{100 * test['miss_rate']:.2f}"


def _remarks(runs: Sequence[ComparedRun]) -> Iterator[str]:
    first = runs[0].report
    yield (
        f"{first['models']['int8']['clips']} test clips, {first['positives']} positive, "
        f"{first['speakers']} speakers, the same for all; recall at 1 % FPR; "
        "95 % intervals, each run's own"
    )
    for run, settings in zip(runs, differing_settings(runs), strict=True):
        if settings:
            yield f"{run.name}: {settings}"


def _with_interval(share: float, interval: Sequence[float], spec: str = ".2f") -> str:
    low, high = (format(100 * bound, spec) for bound in interval)
    return f"{format(100 * share, spec)} ({low} to {high})"


@mpl.rc_context(style.STYLE)
def figure(runs: Sequence[ComparedRun]) -> Figure:
    """Accuracy, recall and what quantization cost, a row for each run.

    Args:
      runs: from `read`.

    Returns:
      The picture; points are figures, bars their 95 % intervals.
    """
    layout = ConstrainedLayoutEngine(wspace=0.05)
    picture = Figure(figsize=(11.0, 1.6 + 0.72 * len(runs)), layout=layout)
    panels = picture.subplots(1, 3, sharey=True)
    titles = ("accuracy [%]", "recall at 1 % FPR [%]", "accuracy lost from FP32 [%]")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelleft=False)
        axes.spines["left"].set_visible(False)
        for row in range(1, len(runs)):
            axes.axhline(row - 0.5, color=style.RULE, linewidth=0.7)
    for place, model in enumerate(MODELS):
        for row, run in enumerate(runs):
            _draw(panels, row + 0.22 * (place - 1), run, model)
    _mark_limits(panels[2])
    panels[0].set_ylim(len(runs) - 0.5, -0.5)
    _name_rows(panels[0], runs)
    handles, names = panels[0].get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    picture.legend(by_name.values(), by_name, loc="outside lower center", ncols=len(by_name))
    return picture


def _draw(panels: Sequence[Axes], y: float, run: ComparedRun, model: str) -> None:
    metrics, error = run.report["models"][model], run.report["quantization_error"]
    _point(panels[0], y, model, metrics["accuracy"], metrics["accuracy_ci95"])
    _point(panels[1], y, model, metrics["recall_at_fpr_0_01"], metrics["recall_ci95"])
    if model == INT8:
        drop, interval = error["relative_accuracy_drop"], error["accuracy_drop_ci95"]
        _point(panels[2], y, model, drop, interval)
    # Reports of earlier versions hold the step to INT8 alone.
    elif step := error.get("steps", {}).get(f"fp32_to_{model}"):
        drop, interval = step["relative_accuracy_drop"], step["relative_accuracy_drop_ci95"]
        _point(panels[2], y, model, drop, interval)


def _point(axes: Axes, y: float, model: str, share: float, interval: Sequence[float]) -> None:
    line = style.model_line(model)
    axes.plot([100 * bound for bound in interval], [y, y], color=line["color"], linewidth=2.2)
    axes.plot([100 * share], [y], "o", color=line["color"], markersize=6.5, label=line["label"])


def _mark_limits(axes: Axes) -> None:
    """Zero, and the aim of the drop, or its limit where figures reach beyond half of that."""
    axes.axvline(0, color=style.INK, linewidth=1.0)
    low, high = axes.get_xlim()
    far = max(-low, high) > 50 * verdicts.DROP_LIMIT
    name, share = ("limit", verdicts.DROP_LIMIT) if far else ("aim", verdicts.DROP_AIM)
    axes.axvline(100 * share, color=style.INK, linewidth=1.2, linestyle=":")
    axes.annotate(f" {name}", (100 * share, 1.0), xycoords=("data", "axes fraction"), va="top")
    axes.set_xlim(low, max(high, 115 * share))


def _name_rows(axes: Axes, runs: Sequence[ComparedRun]) -> None:
    """The run's name left of its row, below it in small what it was made with."""
    for row, (run, text) in enumerate(zip(runs, differing_settings(runs), strict=True)):
        place: dict[str, Any] = {
            "xy": (0.0, row),
            "xycoords": ("axes fraction", "data"),
            "textcoords": "offset points",
            "ha": "right",
        }
        # "seed 1" stays on one line.
        unbroken = ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in text.split(", "))
        lines = textwrap.wrap(unbroken, 30, max_lines=2, placeholder=" …")
        height = 12.0 * len(lines)
        axes.annotate(run.name, xytext=(-12, height / 2), va="center", weight="bold", **place)
        axes.annotate(
            "\n".join(lines), xytext=(-12, height / 2 - 8), va="top", fontsize=8.5, **place
        )
