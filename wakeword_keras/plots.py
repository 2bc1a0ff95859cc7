"""The report's pictures, drawn from plain arrays; one small figure each, so that they fit a phone.

Figures carry one ink and one rule colour on a transparent ground. `to_svg` turns these two into
CSS variables, so that a page can show the same picture on a light and on a dark ground.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

_INK, _RULE, _PAPER = "#2b2f36", "#cdd2da", "#f7f8fa"
_BLUE, _ORANGE, _GREEN, _PURPLE, _RED = "#3b82f6", "#e08a1e", "#10a37f", "#a855f7", "#ef4444"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.facecolor": "none",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color"), _INK)
_STYLE["ytick.color"] = _INK
# Colour and line of each model, so that two curves on top of each other can still be told apart.
_MODEL_LINES: dict[str, dict[str, Any]] = {
    "fp32": {"color": _BLUE, "linewidth": 3.2, "alpha": 0.55},
    "int8_ptq": {"color": _ORANGE, "linestyle": (0, (4, 2))},
    "int8": {"color": _GREEN, "linewidth": 1.4},
}
_DET_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element for the body of a page.

    Args:
      figure: from this module.
      name: distinct on the page; keeps the ids of several pictures apart.

    Returns:
      SVG text whose ink and rules are the CSS variables --ink and --rule.
    """
    buffer = io.StringIO()
    # Text as outlines: the page shows the same letters on every machine.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=160)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "var(--ink)").replace(_RULE, "var(--rule)")
    # The page sets the width; the view box keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG on a light ground."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_PAPER, dpi=160)
    return buffer.getvalue()


@mpl.rc_context(_STYLE)
def training_curve(
    title: str,
    epochs: NDArray[np.float64],
    qat_from: float | None,
    curves: Mapping[str, NDArray[np.float64]],
    *,
    log: bool = False,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Values by epoch, the QAT stage shaded.

    Args:
      title: what is shown, with its unit.
      epochs: [epochs], FP32 and QAT counted through.
      qat_from: first epoch of QAT; None without one.
      curves: [epochs] by name, NaN where there is no value.
      log: values on a log axis.
      reference: name and value of a horizontal line.
    """
    figure, axes = _figure(title)
    _by_epoch(axes, epochs, qat_from)
    colors = (_BLUE, _ORANGE, _GREEN, _PURPLE)
    for (name, values), color in zip(curves.items(), colors, strict=False):
        axes.plot(epochs, values, color=color, label=name, marker="o", markersize=2.5)
    if reference:
        name, value = reference
        axes.axhline(value, color=_INK, linestyle=(0, (4, 2)), linewidth=1.2, label=name)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.legend()
    return figure


@mpl.rc_context(_STYLE)
def share_curve(
    title: str, epochs: NDArray[np.float64], qat_from: float | None, shares: NDArray[np.float64]
) -> Figure:
    """A share near 1 (AUC, recall) by epoch, spaced by what is missing to 1.

    Args:
      title: what is shown.
      epochs: [epochs], FP32 and QAT counted through.
      qat_from: first epoch of QAT; None without one.
      shares: [epochs] in [0, 1].
    """
    figure, axes = _figure(title)
    _by_epoch(axes, epochs, qat_from)
    missing = 1.0 - np.asarray(shares, np.float64)
    # A log axis has no place for 1 - 1: a share of 1 is drawn just beyond the best one below it.
    one = np.min(missing[missing > 0], initial=0.01) / 3
    missing = np.where(missing == 0, one, missing)
    axes.plot(epochs, missing, color=_GREEN, marker="o", markersize=2.5)
    axes.set_yscale("log")
    low, high = np.nanmin(missing) * 0.7, min(1.0, np.nanmax(missing) * 1.4)
    axes.set_ylim(high, low)
    ticks = [step * 10.0**power for power in range(-5, 1) for step in (1, 2, 5)]
    shown = [one] * bool(low < one) + [t for t in ticks if max(low, 1.5 * one) <= t <= high]
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: "1" if y == one else f"{1 - y:.5g}"))
    return figure


@mpl.rc_context(_STYLE)
def roc(curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]]) -> Figure:
    """Recall against false-positive rate, the rate on a log axis.

    Args:
      curves: (false-positive rate, miss rate), each [points], by model.
      points: (false-positive rate, miss rate) at each model's threshold.
    """
    figure, axes = _figure("ROC: recall at a false-positive rate")
    least = _least_rate(curves.values())
    for name, (rate, miss) in curves.items():
        recall = 100 * (1 - miss)
        x = 100 * np.maximum(rate, least)
        axes.plot(x, recall, drawstyle="steps-post", label=name, **_line(name))
    _mark(axes, {n: (100 * max(x, least), 100 * (1 - y)) for n, (x, y) in points.items()})
    axes.set_xscale("log")
    axes.set_xlim(100 * least, 100)
    at_least = [1 - miss[rate <= 10 * least].min(initial=1.0) for rate, miss in curves.values()]
    at_least += [1 - miss for _, miss in points.values()]
    axes.set_ylim(max(0.0, 100 * min(at_least) - 5), 101)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.axvline(1, color=_INK, linestyle=":", linewidth=1.2, label="1 % of negatives")
    axes.set_xlabel("false-positive rate [% of negative clips]")
    axes.set_ylabel("recall [%]")
    axes.legend(loc="lower right")
    return figure


@mpl.rc_context(_STYLE)
def det(curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]]) -> Figure:
    """Miss rate against false-positive rate on normal-deviate axes (Martin et al. 1997).

    Args:
      curves: (false-positive rate, miss rate), each [points], by model.
      points: (false-positive rate, miss rate) at each model's threshold.
    """
    figure, axes = _figure("DET: misses against false positives")
    least = _least_rate(curves.values())
    least_miss = _least_rate([(miss, rate) for rate, miss in curves.values()])
    for name, (rate, miss) in curves.items():
        x, y = [_probit(r, least) for r in rate], [_probit(m, least_miss) for m in miss]
        axes.plot(x, y, drawstyle="steps-post", label=name, **_line(name))
    at_threshold = {n: (_probit(x, least), _probit(y, least_miss)) for n, (x, y) in points.items()}
    _mark(axes, at_threshold)
    for axis, low in ((axes.xaxis, least), (axes.yaxis, least_miss)):
        axis.set_major_locator(FixedLocator([_probit(t, low) for t in _DET_TICKS if t >= low]))
        axis.set_major_formatter(FuncFormatter(lambda z, _: f"{100 * NormalDist().cdf(z):.4g}"))
    axes.set_xlim(_probit(least, least), 0.0)
    axes.set_ylim(_probit(least_miss, least_miss), 0.0)
    axes.set_xlabel("false-positive rate [% of negative clips]")
    axes.set_ylabel("miss rate [% of positive clips]")
    axes.legend(loc="upper right")
    return figure


@mpl.rc_context(_STYLE)
def det_streams(
    curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]], budget: float
) -> Figure:
    """Miss rate against false accepts per hour, on a log axis with a place of its own for 0.

    Args:
      curves: (false accepts per hour, miss rate), each [points], by model.
      points: (false accepts per hour, miss rate) at each model's threshold.
      budget: false accepts per hour that the thresholds were chosen for.
    """
    figure, axes = _figure("Streams: misses against false accepts per hour")
    rates = np.concatenate([rate for rate, _ in curves.values()])
    least = min(float(rates[rates > 0].min(initial=1.0)), budget)
    zero = least / 3
    for name, (rate, miss) in curves.items():
        # The fewest misses that so many false accepts allow.
        order = np.lexsort((miss, rate))
        x, first = np.unique(np.asarray(rate)[order], return_index=True)
        y = 100 * np.asarray(miss)[order][first]
        axes.plot(np.maximum(x, zero), y, drawstyle="steps-post", label=name, **_line(name))
    _mark(axes, {name: (max(x, zero), 100 * y) for name, (x, y) in points.items()})
    axes.set_xscale("log")
    highest = max(float(rates.max()), budget) * 1.3
    axes.set_xlim(zero / 1.3, highest)
    powers = [step * 10.0**power for power in range(-4, 4) for step in (1, 2, 5)]
    axes.xaxis.set_major_locator(
        FixedLocator([zero, *(p for p in powers if least <= p <= highest)])
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "0" if x == zero else f"{x:g}"))
    # Between 0 and the least rate that these hours can show there is nothing to see.
    axes.axvspan(zero / 1.3, (zero * least) ** 0.5, color=_INK, alpha=0.08, linewidth=0)
    axes.axvline(budget, color=_INK, linestyle=":", linewidth=1.2, label="budget on validation")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("false accepts per hour of ambient audio")
    axes.set_ylabel("missed wake words [%]")
    axes.legend()
    return figure


@mpl.rc_context(_STYLE)
def logits(
    fp32: NDArray[np.float32],
    int8: NDArray[np.float32],
    positive: NDArray[np.bool_],
    flipped: NDArray[np.bool_],
    thresholds: tuple[float, float],
) -> Figure:
    """The INT8 logit of every clip against its FP32 logit, flipped decisions marked.

    Args:
      fp32, int8: highest logit of each clip [clips].
      positive: the clip holds a wake word [clips].
      flipped: the two models decide differently [clips].
      thresholds: of fp32 and int8, in logits.
    """
    figure, axes = _figure("INT8 against FP32, clip by clip")
    both = np.concatenate([fp32, int8])
    margin = 0.04 * float(np.ptp(both)) + 0.1
    limits = (float(both.min()) - margin, float(both.max()) + margin)
    axes.plot(limits, limits, color=_INK, linewidth=0.8)
    for name, chosen, color in (("other", ~positive, _ORANGE), ("wake word", positive, _BLUE)):
        axes.scatter(
            fp32[chosen],
            int8[chosen],
            s=9,
            color=color,
            alpha=0.6,
            linewidths=0,
            label=name,
            # Thousands of vector dots would make the page megabytes long.
            rasterized=True,
        )
    axes.scatter(
        fp32[flipped],
        int8[flipped],
        s=60,
        facecolors="none",
        edgecolors=_RED,
        linewidths=1.4,
        label=f"decided differently: {np.count_nonzero(flipped)}",
    )
    dotted: dict[str, Any] = {"color": _INK, "linestyle": ":", "linewidth": 1.2}
    axes.axvline(thresholds[0], label="thresholds", **dotted)
    axes.axhline(thresholds[1], **dotted)
    axes.set(xlim=limits, ylim=limits, xlabel="FP32 logit", ylabel="INT8 logit")
    axes.legend(loc="upper left")
    return figure


@mpl.rc_context(_STYLE)
def layer_bars(
    layers: Sequence[str],
    own_db: NDArray[np.float64],
    sqnr_db: NDArray[np.float64],
    worst: int = 3,
) -> Figure:
    """Signal to quantization noise of every layer, from the input down; the worst ones in red.

    Args:
      layers: names, in the order of the graph.
      own_db: [layers] of the layer's own error: the bars. What exceeds 80 dB is drawn as 80.
      sqnr_db: [layers] of the error accumulated up to the layer: the line.
      worst: how many layers to mark, those of the lowest `own_db`.
    """
    count = len(layers)
    figure, axes = _figure("Signal to quantization noise by layer", 1.1 + max(2.6, 0.19 * count))
    rows = np.arange(count)
    marked = np.isin(rows, np.argsort(own_db, kind="stable")[:worst])
    for name, chosen, color in (("own", ~marked, _BLUE), ("own, to blame", marked, _RED)):
        shown = np.clip(own_db[chosen], 0, 80)
        axes.barh(rows[chosen], shown, 0.72, color=color, alpha=0.75, label=name)
    line: dict[str, Any] = {"color": _ORANGE, "marker": "o", "markersize": 2.5}
    axes.plot(np.clip(sqnr_db, 0, 80), rows, label="accumulated", **line)
    axes.set_yticks(rows, layers, fontsize=8 if count < 40 else 6)
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("SQNR [dB], more is better")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _figure(title: str, height: float = 3.7) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, height))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    return figure, axes


def _by_epoch(axes: Axes, epochs: NDArray[np.float64], qat_from: float | None) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if qat_from is not None:
        axes.axvspan(qat_from - 0.5, epochs[-1] + 0.5, color=_GREEN, alpha=0.13, linewidth=0)
        axes.annotate("QAT", (qat_from - 0.35, 1.0), xycoords=("data", "axes fraction"), va="top")


def _line(name: str) -> dict[str, Any]:
    return _MODEL_LINES.get(name, {"color": _PURPLE})


def _mark(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    for name, (x, y) in points.items():
        axes.plot([x], [y], "o", color=_line(name)["color"], markersize=6, zorder=5, clip_on=False)


def _least_rate(curves: Iterable[Curve]) -> float:
    """Half of the smallest share above zero, the place of zero on an axis that has none."""
    return 0.5 * min(float(share[share > 0].min(initial=1.0)) for share, _ in curves)


def _probit(share: float, least: float) -> float:
    return NormalDist().inv_cdf(min(max(float(share), least), 1.0 - least))
