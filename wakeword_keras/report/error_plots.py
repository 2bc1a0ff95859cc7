"""Pictures of what quantization changed: clip by clip, step by step, layer by layer, by label."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
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

_SOUND_DB = 80  # what exceeds it is drawn as that: nobody needs to tell it from more
_PROBABILITY_TICKS = (1e-6, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999, 1 - 1e-6)
_FARTHEST_LOGIT = 16.0


@mpl.rc_context(STYLE)
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
    figure, axes = new_figure("INT8 against FP32, clip by clip")
    both = np.concatenate([fp32, int8])
    margin = 0.04 * float(np.ptp(both)) + 0.1
    limits = (float(both.min()) - margin, float(both.max()) + margin)
    axes.plot(limits, limits, color=INK, linewidth=0.8)
    for name, chosen, color in (("other", ~positive, ORANGE), ("wake word", positive, BLUE)):
        # Thousands of vector dots would make the page megabytes long.
        dots: dict[str, Any] = {"s": 9, "alpha": 0.6, "linewidths": 0, "rasterized": True}
        axes.scatter(fp32[chosen], int8[chosen], color=color, label=name, **dots)
    rings: dict[str, Any] = {"s": 60, "facecolors": "none", "edgecolors": RED, "linewidths": 1.4}
    label = f"decided differently: {np.count_nonzero(flipped)}"
    axes.scatter(fp32[flipped], int8[flipped], label=label, **rings)
    dotted: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 1.2}
    axes.axvline(thresholds[0], label="thresholds", **dotted)
    axes.axhline(thresholds[1], **dotted)
    axes.set(xlim=limits, ylim=limits, xlabel="FP32 logit", ylabel="INT8 logit")
    axes.legend(loc="upper left")
    return figure


@mpl.rc_context(STYLE)
def score_errors(
    steps: Mapping[str, tuple[Sequence[float], Sequence[int]]],
) -> Figure:
    """How often a logit moved how far, step by step.

    Args:
      steps: edges [bins + 1] in logits and counts [bins] of the signed error, by name.
    """
    figure, axes = new_figure("Error of the logits by step")
    strokes = ((PURPLE, "-"), (GREEN, "-"), (BLUE, "-"), (ORANGE, "--"))
    least, farthest = 1.0, 0.0
    for (name, (edges, counts)), (color, stroke) in zip(steps.items(), strokes, strict=False):
        # A share per bin would make the step with the wider bins look the worse.
        density = np.asarray(counts) / max(1, sum(counts)) / np.diff(edges)
        line: dict[str, Any] = {"color": color, "linestyle": stroke, "linewidth": 1.5}
        axes.stairs(np.maximum(density, 1e-12), edges, label=name, **line)
        least = min(least, float(density[density > 0].min(initial=1.0)))
        farthest = max(farthest, *map(abs, edges))
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5 * least)
    axes.set_xlim(-farthest, farthest)
    axes.set_xlabel("later model's logit less the earlier one's")
    axes.set_ylabel("share of logits, per logit")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@mpl.rc_context(STYLE)
def layer_bars(
    layers: Sequence[str],
    own_db: NDArray[np.float64],
    sqnr_db: NDArray[np.float64],
    worst: int = 3,
    most: int = 30,
) -> Figure:
    """Signal to quantization noise of every layer, from the input down; the worst ones in red.

    Args:
      layers: names, in the order of the graph.
      own_db: [layers] of the layer's own error: the bars. What exceeds 80 dB is drawn as 80.
      sqnr_db: [layers] of the error accumulated up to the layer: the line.
      worst: how many layers to mark, those of the lowest `own_db`.
      most: how many layers to show, those of the lowest `own_db`; still in the graph's order.
    """
    ranked = np.argsort(own_db, kind="stable")
    shown = np.sort(ranked[:most])
    count, everything = len(shown), len(layers)
    title = "Signal to quantization noise by layer"
    if count < everything:
        title += f",\nthe worst {count} of {everything}"
    figure, axes = new_figure(title, 1.1 + max(2.6, 0.19 * count))
    rows = np.arange(count)
    marked = np.isin(shown, ranked[:worst])
    for name, chosen, color in (("own", ~marked, BLUE), ("own, to blame", marked, RED)):
        bars = np.clip(own_db[shown][chosen], 0, _SOUND_DB)
        axes.barh(rows[chosen], bars, 0.72, color=color, alpha=0.75, label=name)
    line: dict[str, Any] = {"color": ORANGE, "marker": "o", "markersize": 2.5}
    axes.plot(np.clip(sqnr_db[shown], 0, _SOUND_DB), rows, label="accumulated", **line)
    axes.set_yticks(rows, [_shortened(layers[i]) for i in shown], fontsize=8)
    axes.set_ylim(count - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("SQNR [dB], more is better")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@mpl.rc_context(STYLE)
def confusables(
    labels: Sequence[str],
    scores: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    thresholds: Mapping[str, float],
) -> Figure:
    """How near to firing the clips of each label come: from their mean to their highest score.

    Args:
      labels: names, the first on top.
      scores: mean and highest probability, each [labels], by model.
      thresholds: probabilities, by model.
    """
    count, models = len(labels), len(scores)
    figure, axes = new_figure("How near a label comes to firing", 1.4 + max(1.0, 0.26 * count))
    for number, (name, ends) in enumerate(scores.items()):
        rows = np.arange(count) + (number - (models - 1) / 2) * 0.3
        mean, highest = (np.array([_logit(p) for p in values]) for values in ends)
        color, label = model_line(name)["color"], model_line(name)["label"]
        axes.hlines(rows, mean, highest, color=color, linewidth=3.5, alpha=0.45)
        axes.plot(highest, rows, "o", color=color, markersize=4.5, label=label)
        threshold = _logit(thresholds[name])
        axes.axvline(threshold, color=color, linestyle=":", linewidth=1.4)
    axes.plot([], [], ":", color=INK, label="threshold")
    axes.set_yticks(np.arange(count), [_shortened(label) for label in labels], fontsize=8)
    axes.set_ylim(count - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    low, high = axes.get_xlim()
    ticks = [tick for tick in _PROBABILITY_TICKS if low <= _logit(tick) <= high]
    axes.xaxis.set_major_locator(FixedLocator([_logit(tick) for tick in ticks]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{1 / (1 + np.exp(-x)):.6g}"))
    axes.set_xlabel("probability, from the mean (faint) to the highest (dot)")
    figure.legend(loc="outside lower center", ncols=models + 1)
    return figure


def _shortened(name: str, most: int = 26) -> str:
    """A name that leaves the picture room; its end tells layers of a block apart."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _logit(probability: float) -> float:
    inside = min(max(probability, 1e-12), 1 - 1e-12)
    return float(np.clip(np.log(inside / (1 - inside)), -_FARTHEST_LOGIT, _FARTHEST_LOGIT))
