"""What the report's pictures share: colours, one size, and how they become SVG and PNG.

Figures carry one ink and one rule colour on a transparent ground. `to_svg` turns these two into
CSS variables, so that a page can show the same picture on a light and on a dark ground.
"""

import io
import re
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wakeword_keras.names import (
    FP32,
    FP32_ONNX,
    FP32_TFLITE,
    INT8,
    INT8_ONNX,
    INT8_PTQ,
    QAT,
)

INK, RULE, PAPER = "#2b2f36", "#cdd2da", "#f7f8fa"
BLUE, ORANGE, GREEN, PURPLE, RED = "#3b82f6", "#e08a1e", "#10a37f", "#a855f7", "#ef4444"
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.facecolor": "none",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color"), INK)
STYLE["ytick.color"] = INK
MODEL_NAMES = {
    FP32: "FP32",
    FP32_TFLITE: "FP32 TFLite",
    QAT: "QAT",
    INT8_PTQ: "INT8 PTQ",
    INT8: "INT8",
    FP32_ONNX: "FP32 ONNX",
    INT8_ONNX: "INT8 ONNX",
}
# Colour and line of each model, so that two curves on top of each other can still be told apart.
_MODEL_LINES: dict[str, dict[str, Any]] = {
    FP32: {"color": BLUE, "linewidth": 3.2, "alpha": 0.55},
    INT8_PTQ: {"color": ORANGE, "linestyle": (0, (4, 2))},
    INT8: {"color": GREEN, "linewidth": 1.4},
}


def new_figure(title: str, height: float = 3.7) -> tuple[Figure, Axes]:
    """A titled picture with one pair of axes, `height` in inches."""
    figure = Figure(figsize=(5.0, height))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    return figure, axes


def model_line(name: str) -> dict[str, Any]:
    """Colour, stroke and label of a model's line, the same on every picture."""
    return {"label": MODEL_NAMES.get(name, name)} | _MODEL_LINES.get(name, {"color": PURPLE})


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element for the body of a page.

    Args:
      figure: from this module.
      name: distinct on the page; keeps the ids of several pictures apart.

    Returns:
      SVG text whose ink and rules are CSS variables.
    """
    buffer = io.StringIO()
    # Text as outlines: the page shows the same letters on every machine.
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None}, dpi=160)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "var(--ink)").replace(RULE, "var(--rule)")
    # The page sets the width; the view box keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG on a light ground."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER, dpi=160)
    return buffer.getvalue()
