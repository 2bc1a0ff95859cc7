"""Fake quantization inserted into a float model, as TFLite's int8 kernels will compute it.

tensorflow-model-optimization (tfmot) puts a fake-quantize operation behind every weight and every
activation. Scheme: 8 bit, weights symmetric (per channel for convolutions), activations asymmetric.
"""

import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import quantizers
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)

from wakeword_keras.affine import Affine
from wakeword_keras.errors import InputError


def quantize(model: keras.Model, input_affine: Affine) -> keras.Model:
    """Insert fake quantization into a trained float model.

    The weights are copied: training the result leaves `model` as it was. The ranges of activations
    are tfmot's placeholders (+-6) until `calibration.calibrate` sets them.

    Args:
      model: functional Keras model whose layers are known to the scheme.
      input_affine: pinned quantization of the input, so that the int8 a device feeds does not
        change from one training to the next.

    Returns:
      Functional model of the same inputs and outputs, layers named `quant_<name>`.

    Raises:
      InputError: a layer cannot be quantized; the message names it.
    """
    try:
        annotated = tfmot.quantization.keras.quantize_annotate_model(model)
        quantized = tfmot.quantization.keras.quantize_apply(annotated)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"model {model.name!r} cannot be quantized: {error}") from error
    # tfmot's own input quantizer widens with every loud clip; a fixed one keeps the contract.
    for layer in quantized.layers:
        if isinstance(layer, QuantizeLayer):
            layer.quantizer = quantizers.FixedQuantizer(
                num_bits=8,
                init_min=input_affine.low,
                init_max=input_affine.high,
                narrow_range=False,
            )
    return quantized
