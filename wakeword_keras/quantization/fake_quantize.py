"""Fake quantization inserted into a float model, as TFLite's int8 kernels will compute it.

Every weight and every tensor of the int8 graph is rounded to int8. Scheme: 8 bit, weights symmetric
(per channel for convolutions, depthwise ones too), activations asymmetric. The registry of
tensorflow-model-optimization rejects what MobileNetV3 is made of, places quantizers inside what
TFLite fuses and leaves weights of a convolution before a plain ReLU unquantized; so the decisions
are ours (`layer_rules`).
"""

import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import Affine
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import layer_rules, tfmot_access
from wakeword_keras.quantization.preflight import Problem, check_quantizable
from wakeword_keras.quantization.shared_ranges import INPUT, RangeGroup, range_groups

__all__ = ["Problem", "check_quantizable", "quantize", "refuse_unquantizable", "unquantized"]


def quantize(model: keras.Model, input_affine: Affine) -> keras.Model:
    """Insert fake quantization into a trained float model.

    The weights are copied: training the result leaves `model` as it was. The ranges of activations
    are tfmot's placeholders (+-6) until `calibration.calibrate` sets them; those that a kernel
    demands are fixed.

    Args:
      model: functional or Sequential model in which `check_quantizable` finds nothing.
      input_affine: pinned quantization of the input, so that the int8 a device feeds does not
        change from one training to the next.

    Returns:
      Functional model of the same inputs and outputs, layers named `quant_<name>`.

    Raises:
      InputError: layers cannot be quantized; the message lists each, with the reason and the mend.
    """
    refuse_unquantizable(model)
    model = layer_rules.functional(model)
    return tfmot_access.wrap(
        model, layer_quantizations(model), (input_affine.low, input_affine.high)
    )


def refuse_unquantizable(model: keras.Model) -> None:
    """Raise InputError if a model has layers that `quantize` does not take."""
    problems = check_quantizable(model)
    if problems:
        raise InputError(
            f"model {getattr(model, 'name', model)!r} cannot be quantized: "
            + "; ".join(map(str, problems))
        )


def layer_quantizations(model: keras.Model) -> dict[str, tfmot_access.LayerQuantization]:
    """Decide for every layer of a quantizable model what of it is quantized.

    Args:
      model: functional model in which `check_quantizable` finds nothing.

    Returns:
      LayerQuantization by layer name, input layers left out.
    """
    outputs: dict[str, tfmot_access.Quantizer] = {}
    for group in range_groups(model):
        outputs |= _output_quantizers(group)
    return {
        layer.name: tfmot_access.LayerQuantization(
            *_weight(layer), output_quantizer=outputs.get(layer.name)
        )
        for layer in model.layers
        if not isinstance(layer, layers.InputLayer)
    }


def _output_quantizers(group: RangeGroup) -> dict[str, tfmot_access.Quantizer]:
    """One quantizer for every layer that writes a tensor of the group."""
    ranges = list(group.demanded.values())
    if INPUT in ranges:
        return {}
    quantizer = tfmot_access.fixed_range(*ranges[0]) if ranges else tfmot_access.measured_range()
    return {layer.name: quantizer for layer in group.writers}


def _weight(layer: layers.Layer) -> tuple:
    weight = layer_rules.RULES[layer_rules.kind(layer)].weight
    return (weight.attribute, weight.quantizer(layer), weight.held_as) if weight else ()


def unquantized(qat: keras.Model, fp32: keras.Model) -> keras.Model:
    """The float model with the weights of the QAT model: what INT8 would be without rounding.

    Between FP32 and it lies what fine-tuning changed, between it and INT8 quantization.

    Args:
      qat: model from `quantize(fp32, ...)`, trained or not.
      fp32: the float model that was quantized; stays as it is.

    Returns:
      A new float model, layers named as in `fp32`.
    """
    model = keras.models.clone_model(fp32)
    for layer in model.layers:
        if layer.weights:
            wrapped = tfmot_access.wrapper_of(qat, layer.name).weights
            held = {_short(variable): variable.numpy() for variable in wrapped}
            layer.set_weights([held[_short(variable)] for variable in layer.weights])
    return model


def _short(variable) -> str:
    return variable.name.split("/")[-1]
