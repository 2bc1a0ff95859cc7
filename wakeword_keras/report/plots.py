"""Pictures of training and of detection: plain arrays in, one small figure each, to fit a phone."""

from collections.abc import Iterable, Mapping
from statistics import NormalDist
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from wakeword_keras.report.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    STYLE,
    model_line,
    new_figure,
)

_DET_TICKS = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
Spans = tuple[tuple[float, float], tuple[float, float]]


@mpl.rc_context(STYLE)
def training_curve(
    title: str,
    epochs: NDArray[np.float64],
    begins: Mapping[str, float],
    curves: Mapping[str, NDArray[np.float64]],
    *,
    log: bool = False,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Values by epoch, each later stage shaded.

    Args:
      title: what is shown, with its unit.
      epochs: [epochs], those of all stages counted through.
      begins: first epoch of each later stage, in their order.
      curves: [epochs] by name, NaN where there is no value.
      log: values on a log axis.
      reference: name and value of a horizontal line.
    """
    figure, axes = new_figure(title)
    _by_epoch(axes, epochs, begins)
    colors = (BLUE, ORANGE, GREEN, PURPLE, RED)
    for (name, values), color in zip(curves.items(), colors, strict=False):
        axes.plot(epochs, values, color=color, label=name, marker="o", markersize=2.5)
    if reference:
        name, value = reference
        axes.axhline(value, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label=name)
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    figure.legend(loc="outside lower center", ncols=3)  # inside it would hide a curve
    return figure


@mpl.rc_context(STYLE)
def share_curve(
    title: str,
    epochs: NDArray[np.float64],
    begins: Mapping[str, float],
    shares: NDArray[np.float64],
) -> Figure:
    """A share near 1 (AUC, recall) by epoch, spaced by what is missing to 1.

    Args:
      title: what is shown.
      epochs: [epochs], those of all stages counted through.
      begins: first epoch of each later stage, in their order.
      shares: [epochs] in [0, 1].
    """
    figure, axes = new_figure(title)
    _by_epoch(axes, epochs, begins)
    missing = 1.0 - np.asarray(shares, np.float64)
    # A log axis has no place for 1 - 1: a share of 1 is drawn just beyond the best one below it.
    one = np.min(missing[missing > 0], initial=0.01) / 3
    missing = np.where(missing == 0, one, missing)
    axes.plot(epochs, missing, color=GREEN, marker="o", markersize=2.5)
    axes.set_yscale("log")
    low, high = np.nanmin(missing) * 0.7, min(1.0, np.nanmax(missing) * 1.4)
    axes.set_ylim(high, low)
    ticks = [step * 10.0**power for power in range(-5, 1) for step in (1, 2, 5)]
    shown = [one] * bool(low < one) + [t for t in ticks if max(low, 1.5 * one) <= t <= high]
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: "1" if y == one else f"{1 - y:.5g}"))
    return figure


@mpl.rc_context(STYLE)
def roc(curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]]) -> Figure:
    """Recall against false-positive rate, the rate on a log axis.

    Args:
      curves: (false-positive rate, miss rate), each [points], by model.
      points: (false-positive rate, miss rate) at each model's threshold.
    """
    figure, axes = new_figure("ROC: recall at a false-positive rate")
    least = _least_rate(curves.values())
    for name, (rate, miss) in curves.items():
        recall = 100 * (1 - miss)
        x = 100 * np.maximum(rate, least)
        axes.plot(x, recall, drawstyle="steps-post", **model_line(name))
    _mark(axes, {n: (100 * max(x, least), 100 * (1 - y)) for n, (x, y) in points.items()})
    axes.set_xscale("log")
    axes.set_xlim(100 * least, 100)
    at_least = [1 - miss[rate <= 10 * least].min(initial=1.0) for rate, miss in curves.values()]
    at_least += [1 - miss for _, miss in points.values()]
    axes.set_ylim(max(0.0, 100 * min(at_least) - 5), 101)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.axvline(1, color=INK, linestyle=":", linewidth=1.2, label="1 % of negatives")
    axes.set_xlabel("false-positive rate [% of negative clips]")
    axes.set_ylabel("recall [%]")
    axes.legend(loc="lower right")
    return figure


@mpl.rc_context(STYLE)
def det(
    curves: Mapping[str, Curve],
    points: Mapping[str, tuple[float, float]],
    spans: Mapping[str, Spans] | None = None,
) -> Figure:
    """Miss rate against false-positive rate on normal-deviate axes (Martin et al. 1997).

    Args:
      curves: (false-positive rate, miss rate), each [points], by model.
      points: (false-positive rate, miss rate) at each model's threshold.
      spans: intervals of both rates at the threshold, drawn as a cross, of some models.
    """
    figure, axes = new_figure("DET: misses against false positives")
    least = _least_rate(curves.values())
    least_miss = _least_rate([(miss, rate) for rate, miss in curves.values()])
    for name, (rate, miss) in curves.items():
        x, y = [_probit(r, least) for r in rate], [_probit(m, least_miss) for m in miss]
        axes.plot(x, y, drawstyle="steps-post", **model_line(name))
    at_threshold = {n: (_probit(x, least), _probit(y, least_miss)) for n, (x, y) in points.items()}
    _mark(axes, at_threshold)
    for name, (rates, misses) in (spans or {}).items():
        across = [_probit(rate, least) for rate in rates]
        up = [_probit(miss, least_miss) for miss in misses]
        cross: dict[str, Any] = {"color": model_line(name)["color"], "linewidth": 1.0}
        axes.plot(across, [at_threshold[name][1]] * 2, **cross)
        axes.plot([at_threshold[name][0]] * 2, up, **cross)
    for axis, low in ((axes.xaxis, least), (axes.yaxis, least_miss)):
        axis.set_major_locator(
            FixedLocator([_probit(t, low) for t in _DET_TICKS if low <= t <= 1 - low])
        )
        axis.set_major_formatter(FuncFormatter(lambda z, _: f"{100 * NormalDist().cdf(z):.4g}"))
    axes.set_xlim(_probit(least, least), 0.0)
    highest = max((y for _, y in at_threshold.values()), default=0.0)
    axes.set_ylim(_probit(least_miss, least_miss), max(0.0, 1.1 * highest))
    axes.set_xlabel("false-positive rate [% of negative clips]")
    axes.set_ylabel("miss rate [% of positive clips]")
    axes.legend(loc="upper right")
    return figure


@mpl.rc_context(STYLE)
def det_streams(
    curves: Mapping[str, Curve], points: Mapping[str, tuple[float, float]], budget: float
) -> Figure:
    """Miss rate against false accepts per hour, on a log axis with a place of its own for 0.

    Args:
      curves: (false accepts per hour, miss rate), each [points], by model.
      points: (false accepts per hour, miss rate) at each model's threshold.
      budget: false accepts per hour that the thresholds were chosen for.
    """
    figure, axes = new_figure("Streams: misses against false accepts per hour")
    rates = np.concatenate([rate for rate, _ in curves.values()])
    least = min(float(rates[rates > 0].min(initial=1.0)), budget)
    zero = least / 3
    for name, (rate, miss) in curves.items():
        # The fewest misses that so many false accepts allow.
        order = np.lexsort((miss, rate))
        x, first = np.unique(np.asarray(rate)[order], return_index=True)
        y = 100 * np.asarray(miss)[order][first]
        axes.plot(np.maximum(x, zero), y, drawstyle="steps-post", **model_line(name))
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
    axes.axvspan(zero / 1.3, (zero * least) ** 0.5, color=INK, alpha=0.08, linewidth=0)
    axes.axvline(budget, color=INK, linestyle=":", linewidth=1.2, label="budget on validation")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("false accepts per hour of ambient audio")
    axes.set_ylabel("missed wake words [%]")
    axes.legend()
    return figure


def _by_epoch(axes: Axes, epochs: NDArray[np.float64], begins: Mapping[str, float]) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    ends = [*begins.values(), epochs[-1] + 1.0][1:]
    spans = [*zip(begins.items(), ends, strict=True)]
    # The last is QAT, in one colour whatever comes before it.
    for ((name, first), end), color in zip(spans[::-1], (GREEN, BLUE), strict=False):
        axes.axvspan(first - 0.5, end - 0.5, color=color, alpha=0.13, linewidth=0)
        axes.annotate(name, (first - 0.35, 1.0), xycoords=("data", "axes fraction"), va="top")


def _mark(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    for name, (x, y) in points.items():
        axes.plot(
            [x], [y], "o", color=model_line(name)["color"], markersize=6, zorder=5, clip_on=False
        )


def _least_rate(curves: Iterable[Curve]) -> float:
    """Half of the smallest share above zero, the place of zero on an axis that has none."""
    return 0.5 * min(float(share[share > 0].min(initial=1.0)) for share, _ in curves)


def _probit(share: float, least: float) -> float:
    return NormalDist().inv_cdf(min(max(float(share), least), 1.0 - least))
