"""What becomes of the activations' ranges while an INT8 model trains."""

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.progress import say
from wakeword_keras.quantization import calibration, fake_quantize, integer_model

CLIPPED_LIMIT = 0.01
"""Share of a layer's values outside its range above which a line is printed."""


class QuantizationRanges(keras.callbacks.Callback):
    """Adds `clipped`, the largest share of a layer's values outside its range, to an epoch's logs.

    Calibration sets the ranges and they stand still; it is the weights that move, and values with
    them out of their range. A line is printed when a layer first clips more than CLIPPED_LIMIT.

    Args:
      int8: model that trains, from `wakeword_keras.quantize` or `integer_model.device_model`.
      features: float32 [clips, ...] to look at.
    """

    def __init__(self, int8: keras.Model, features: NDArray[np.float32]) -> None:
        super().__init__()
        parts = integer_model.parts_of(int8)
        if parts is None:
            raise ValueError(f"model {int8.name!r} is not quantized: give what `quantize` returned")
        self.clipped: list[dict[str, float]] = []
        """For each epoch the share by layer."""
        self._qat, self._fp32 = parts
        self._features = features
        self._told: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Run the float twin of the trained weights over the features."""
        twin = fake_quantize.unquantized(self._qat, self._fp32)
        ranges = calibration.read_ranges(self._qat)
        shares = calibration.clipped_fractions(twin, self._features, ranges)
        self.clipped.append(shares)
        # Logits beyond the range are far from any threshold.
        inside = [layer for layer in shares if layer not in self._fp32.output_names]
        worst = max(inside or shares, key=lambda layer: shares[layer])
        if logs is not None:
            logs["clipped"] = shares[worst]
        if shares[worst] > CLIPPED_LIMIT and worst not in self._told:
            self._told.add(worst)
            low, high = ranges[worst]
            say(
                f"warning: layer {worst}: {shares[worst]:.1%} of its values are outside of "
                f"{low:.3g} to {high:.3g}: lower the learning rate, or calibrate again"
            )
