"""Fake quantization inserted into a float model, as TFLite's int8 kernels will compute it.

tensorflow-model-optimization (tfmot) puts a fake-quantize operation behind every weight and every
activation. Scheme: 8 bit, weights symmetric (per channel for convolutions, depthwise ones too),
activations asymmetric. tfmot's own registry rejects what MobileNetV3 is made of, places quantizers
inside what TFLite fuses and leaves weights of a convolution before a plain ReLU unquantized; so the
decisions are ours (`layer_rules`), put in through its `QuantizeScheme`.
"""

import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_layout_transform,
    quantize_registry,
    quantize_scheme,
    quantizers,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_transforms,
)
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import (
    model_transformer,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)

from wakeword_keras.affine import Affine
from wakeword_keras.errors import InputError
from wakeword_keras.quantization.layer_rules import layer_quantizations
from wakeword_keras.quantization.preflight import Problem, check_quantizable

__all__ = ["Problem", "check_quantizable", "float_twin", "quantize"]


def quantize(model: keras.Model, input_affine: Affine) -> keras.Model:
    """Insert fake quantization into a trained float model.

    The weights are copied: training the result leaves `model` as it was. The ranges of activations
    are tfmot's placeholders (+-6) until `calibration.calibrate` sets them; those that a kernel
    demands are fixed.

    Args:
      model: functional Keras model in which `check_quantizable` finds nothing.
      input_affine: pinned quantization of the input, so that the int8 a device feeds does not
        change from one training to the next.

    Returns:
      Functional model of the same inputs and outputs, layers named `quant_<name>`.

    Raises:
      InputError: layers cannot be quantized; the message lists each, with the reason and the mend.
    """
    problems = check_quantizable(model)
    if problems:
        raise InputError(
            f"model {model.name!r} cannot be quantized: " + "; ".join(map(str, problems))
        )
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    quantized = tfmot.quantization.keras.quantize_apply(annotated, scheme=_Scheme())
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


def float_twin(qat: keras.Model, fp32: keras.Model) -> keras.Model:
    """The float model with the weights of the QAT model: what INT8 would be without rounding.

    Between FP32 and its twin lies what fine-tuning changed, between the twin and INT8 quantization.

    Args:
      qat: model from `quantize(fp32, ...)`, trained or not.
      fp32: the float model it was made from; stays as it is.

    Returns:
      A new float model, layers named as in `fp32`.
    """
    twin = keras.models.clone_model(fp32)
    for layer in twin.layers:
        if layer.weights:
            held = {_short(v): v.numpy() for v in qat.get_layer(f"quant_{layer.name}").weights}
            layer.set_weights([held[_short(variable)] for variable in layer.weights])
    return twin


def _short(variable) -> str:
    return variable.name.split("/")[-1]


class _Layout(quantize_layout_transform.QuantizeLayoutTransform):
    """Quantize the input, and give every layer its LayerQuantization."""

    def apply(self, model, layer_quantize_map):
        for name, quantization in layer_quantizations(model).items():
            layer_quantize_map[name]["quantize_config"] = quantization
        return model_transformer.ModelTransformer(
            model,
            [default_8bit_transforms.InputLayerQuantize()],
            set(layer_quantize_map),
            layer_quantize_map,
        ).transform()


class _NoDefaults(quantize_registry.QuantizeRegistry):
    """Nothing by layer type: `_Layout` has decided by then."""

    def supports(self, layer):
        return False

    def get_quantize_config(self, layer):
        return None


class _Scheme(quantize_scheme.QuantizeScheme):
    def get_layout_transformer(self):
        return _Layout()

    def get_quantize_registry(self):
        return _NoDefaults()
