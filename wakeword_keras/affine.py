"""Affine quantization: the one place where real values become int8 and back.

    real = scale * (quantized - zero_point)

Rounding is to nearest with ties away from zero, as TFLite's `std::round` does; values outside the
range saturate. Specification: https://ai.google.dev/edge/litert/models/quantization_spec
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

INT8_MIN = -128
INT8_MAX = 127


@dataclass(frozen=True)
class Affine:
    """Scale (real units per step, > 0) and zero point (the int8 that stands for 0.0)."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale must be positive, got {self.scale}")
        if not INT8_MIN <= self.zero_point <= INT8_MAX:
            raise ValueError(f"zero point must lie in [-128, 127], got {self.zero_point}")

    @property
    def low(self) -> float:
        """The smallest real value that int8 can hold."""
        return self.scale * (INT8_MIN - self.zero_point)

    @property
    def high(self) -> float:
        """The largest real value that int8 can hold."""
        return self.scale * (INT8_MAX - self.zero_point)


def quantize(real: ArrayLike, affine: Affine) -> NDArray[np.int8]:
    """Round real values to int8, saturating.

    Args:
      real: float array of any shape, in real units.
      affine: scale and zero point.

    Returns:
      int8 array of the same shape.
    """
    steps = np.asarray(real, np.float32) / np.float32(affine.scale)
    # np.round is half-to-even; TFLite rounds half away from zero. In float64, because the float32
    # just below a tie would become the tie when 0.5 is added.
    wide = steps.astype(np.float64)
    rounded = np.trunc(wide + np.copysign(0.5, wide)) + affine.zero_point
    return np.clip(rounded, INT8_MIN, INT8_MAX).astype(np.int8)


def dequantize(quantized: ArrayLike, affine: Affine) -> NDArray[np.float32]:
    """Real values of int8 numbers: float32 array of the same shape."""
    steps = np.asarray(quantized, np.int32) - affine.zero_point
    return (steps * np.float32(affine.scale)).astype(np.float32)


def from_range(low: float, high: float) -> Affine:
    """The affine whose 256 steps cover [low, high], widened to hold 0.0 exactly.

    Args:
      low, high: real range, low < high after widening to include zero.

    Returns:
      Affine with `low` and `high` representable to within half a step.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not high > low:
        raise ValueError(f"empty range [{low}, {high}]")
    scale = (high - low) / (INT8_MAX - INT8_MIN)
    zero_point = int(np.clip(np.floor(INT8_MIN - low / scale + 0.5), INT8_MIN, INT8_MAX))
    return Affine(scale, zero_point)
