"""Does a model say the same in every runtime? Keras, TFLite and onnxruntime on the same clips."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wakeword_keras.evaluation.scores import Interval, Scores, decisions, share_interval
from wakeword_keras.names import FP32, FP32_ONNX, FP32_TFLITE, INT8, INT8_ONNX

PAIRS = (
    (FP32, FP32_TFLITE),
    (FP32, FP32_ONNX),
    (FP32_TFLITE, FP32_ONNX),
    (INT8, INT8_ONNX),
)
"""Two forms of the same weights each: the reference and what is compared with it."""


@dataclass(frozen=True)
class Agreement:
    """One model against the same model in another runtime.

    Attributes:
      reference, model: names of the two.
      max_abs_error: largest difference of a logit.
      max_lsb: the same in steps of the INT8 output; None for float models.
      decisions_equal: share of clips that both decide alike, at the reference's threshold.
      decisions_equal_ci95: its interval, over speakers.
      clips: test clips behind the figures.
      size_ratio: bytes of the model over those of the reference.
    """

    reference: str
    model: str
    max_abs_error: float
    max_lsb: float | None
    decisions_equal: float
    decisions_equal_ci95: Interval
    clips: int
    size_ratio: float


def measure(
    scores: Scores,
    thresholds: Mapping[str, float],
    sizes: Mapping[str, int],
    output_scale: float,
) -> tuple[Agreement, ...]:
    """Compare all PAIRS of which both were scored.

    Args:
      scores: test clips, every model.
      thresholds: logit by model.
      sizes: bytes by model.
      output_scale: logits per LSB of the INT8 output.
    """
    return tuple(
        _compare(scores, pair, thresholds[pair[0]], sizes, output_scale)
        for pair in PAIRS
        if set(pair) <= scores.logits.keys()
    )


def _compare(
    scores: Scores,
    pair: tuple[str, str],
    threshold: float,
    sizes: Mapping[str, int],
    output_scale: float,
) -> Agreement:
    reference, model = (scores.logits[name] for name in pair)
    worst = float(np.abs(reference.astype(np.float64) - model).max())
    equal = decisions(reference, threshold) == decisions(model, threshold)
    return Agreement(
        *pair,
        max_abs_error=worst,
        max_lsb=worst / output_scale if pair[0] == INT8 else None,
        decisions_equal=float(equal.mean()),
        decisions_equal_ci95=share_interval(equal, scores.speakers),
        clips=equal.size,
        size_ratio=sizes[pair[1]] / sizes[pair[0]],
    )


def table(agreements: tuple[Agreement, ...]) -> str:
    """A line for each pair, for the console."""
    return "\n".join(
        f"{a.model:<11} against {a.reference:<11}: within {a.max_abs_error:.1e}"
        f"{'' if a.max_lsb is None else f' ({a.max_lsb:.3g} LSB)'}, "
        f"{100 * a.decisions_equal:.2f} % of {a.clips} alike"
        for a in agreements
    )
