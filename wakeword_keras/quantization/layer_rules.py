"""Which tensors of a float model carry a range: one for every tensor that an int8 kernel writes.

TFLite fuses layers: batch norm and the clamp of a ReLU into the convolution before them, a constant
into its bias. Inside such a chain nothing is rounded, so only its last layer gets a quantizer.
Kernels with a fixed output range, and those that hand on their input's, follow the specification:
https://ai.google.dev/edge/litert/models/quantization_spec
"""

from dataclasses import dataclass

import tensorflow as tf
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_config,
    quantizers,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantizers,
)
from tf_keras import layers

from wakeword_keras.models import activations, operations

KERNELS = {
    layers.Conv2D: "kernel",
    layers.DepthwiseConv2D: "depthwise_kernel",
    layers.Dense: "kernel",
}
"""Layers with weights, and the attribute that is quantized; biases are int32 on the device."""

SAME_RANGE = (
    layers.AveragePooling2D,
    layers.Dropout,
    layers.Flatten,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling2D,
    layers.Permute,
    layers.Reshape,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.ZeroPadding2D,
    operations.RelativeShift,
)
"""Layers whose output keeps the scale and zero point of their input."""

FREE_RANGE = (
    layers.Add,
    layers.BatchNormalization,
    layers.Concatenate,
    layers.GlobalAveragePooling2D,
    layers.Multiply,
    layers.ReLU,
    layers.Subtract,
    activations.HardSigmoidShift,
    activations.HardSwish,
    operations.ChannelMean,
    operations.HeadBias,
    operations.MatMul,
    operations.RelativePositions,
    *KERNELS,
)
"""Layers whose output range is measured."""

# The highest value that int8 holds at the scale the kernel demands: 1/256, or 1/128 for tanh.
FIXED_ACTIVATIONS = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}
UNIT_RANGE = (-1.0, 127 / 128)
"""What the kernel of UnitLength demands, with a zero point of 0."""

CLAMPS = ("relu", "relu6")
"""Activation functions that fuse into the kernel before them."""


CLAMPING = (
    layers.Add,
    layers.BatchNormalization,
    layers.Multiply,
    layers.Subtract,
    activations.HardSigmoidShift,
)
"""Layers besides those with weights whose kernel takes the clamp of the ReLU behind them."""


class DepthwiseQuantizer(default_8bit_quantizers.Default8BitConvWeightsQuantizer):
    """Symmetric int8 weights, a range for every channel of [height, width, channels, multiplier].

    tfmot takes the last axis for the channels, which is the multiplier, of size 1: one range for
    all channels, while channels of a depthwise kernel differ most.
    """

    def build(self, tensor_shape, name, layer):
        """Create the range variables of every channel."""
        return super().build((tensor_shape[2] * tensor_shape[3],), name, layer)

    def __call__(self, inputs, training, weights, **kwargs):
        """The kernel, fake-quantized."""
        shape = inputs.shape
        by_channel = tf.reshape(inputs, (1, shape[0], shape[1], shape[2] * shape[3]))
        quantized = super().__call__(by_channel, training, weights, **kwargs)
        return tf.reshape(quantized, shape)


class PositionQuantizer(quantizers.LastValueQuantizer):
    """What the device holds of RelativePositions: not its kernel but the projected sinusoids."""

    def __init__(self, heads: int, steps: int):
        super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        self.heads, self.steps = heads, steps

    def __call__(self, inputs, training, weights, **kwargs):
        """The projected sinusoids, fake-quantized."""
        projected = operations.project(inputs, self.heads, self.steps)
        return super().__call__(projected, training, weights, **kwargs)


QUANTIZED_AS = {operations.RelativePositions: "projected"}
"""Attribute that takes the quantized kernel, where it is not the kernel's own."""


@dataclass(frozen=True)
class LayerQuantization(quantize_config.QuantizeConfig):
    """What of a layer is quantized: one kernel or none, its output or not."""

    kernel: str | None = None
    kernel_quantizer: quantizers.Quantizer | None = None
    output_quantizer: quantizers.Quantizer | None = None

    def get_weights_and_quantizers(self, layer):
        """The kernel and its quantizer."""
        return [(getattr(layer, self.kernel), self.kernel_quantizer)] if self.kernel else []

    def set_quantize_weights(self, layer, quantize_weights):
        """Let the layer compute with the fake-quantized kernel."""
        if self.kernel:
            setattr(layer, QUANTIZED_AS.get(type(layer), self.kernel), quantize_weights[0])

    def get_activations_and_quantizers(self, layer):
        """None: activations inside a layer fuse with it."""
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        """Nothing to set."""
        return None  # a body, or AutoGraph warns

    def get_output_quantizers(self, layer):
        """The quantizer of the output, if the output is a tensor of the int8 graph."""
        return [self.output_quantizer] if self.output_quantizer else []

    def get_config(self):
        """tfmot clones models by configuration; ours are made anew from the layers each time."""
        return {}


def layer_quantizations(model: keras.Model) -> dict[str, LayerQuantization]:
    """Decide for every layer of a quantizable model what of it is quantized.

    Args:
      model: functional model in which `preflight.check_quantizable` finds nothing.

    Returns:
      LayerQuantization by layer name, input layers left out.
    """
    return {
        layer.name: LayerQuantization(*_kernel(layer), _output(layer, model))
        for layer in model.layers
        if not isinstance(layer, layers.InputLayer)
    }


def folds_into_next(layer: layers.Layer, model: keras.Model) -> bool:
    """Whether TFLite fuses a layer with the one that reads it, so that nothing is rounded between.

    Args:
      layer: a layer of `model`.
      model: functional model.
    """
    readers = consumers(layer, model)
    if len(readers) != 1 or layer.name in model.output_names:
        return False
    (reader,) = readers
    if type(reader) is layers.Concatenate:
        return type(layer) in FREE_RANGE  # its inputs must share one range, which is the output's
    if activation_name(layer) not in (None, "linear"):
        return False
    if type(reader) in (layers.BatchNormalization, activations.HardSigmoidShift):
        return type(layer) in KERNELS
    is_clamp = type(reader) is layers.ReLU or (
        type(reader) is layers.Activation and activation_name(reader) in CLAMPS
    )
    return is_clamp and type(layer) in (*CLAMPING, *KERNELS)


def consumers(layer: layers.Layer, model: keras.Model) -> list[layers.Layer]:
    """The layers of `model` that read the output of `layer`."""
    members = {id(member) for member in model.layers}
    readers = [node.outbound_layer for node in layer.outbound_nodes]
    return [reader for reader in readers if id(reader) in members]


def activation_name(layer: layers.Layer) -> str | None:
    """Name of a layer's activation function, None where it has none."""
    activation = getattr(layer, "activation", None)
    return None if activation is None else getattr(activation, "__name__", str(activation))


def _kernel(layer: layers.Layer) -> tuple[str | None, quantizers.Quantizer | None]:
    kind = type(layer)
    if kind is layers.Conv2D:
        return KERNELS[kind], default_8bit_quantizers.Default8BitConvWeightsQuantizer()
    if kind is layers.DepthwiseConv2D:
        return KERNELS[kind], DepthwiseQuantizer()
    if kind is layers.Dense:
        return KERNELS[kind], quantizers.LastValueQuantizer(
            num_bits=8, per_axis=False, symmetric=True, narrow_range=True
        )
    if kind is operations.HeadBias:
        return "kernel", _constant_quantizer()
    if kind is operations.RelativePositions:
        return "kernel", PositionQuantizer(*layer.input_shape[1:3])
    return None, None


def _constant_quantizer() -> quantizers.Quantizer:
    return quantizers.LastValueQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


def _output(layer: layers.Layer, model: keras.Model) -> quantizers.Quantizer | None:
    if isinstance(layer, SAME_RANGE) or folds_into_next(layer, model):
        return None
    if isinstance(layer, activations.HardSigmoidScale):
        return _fixed(0.0, 1.0)
    if isinstance(layer, operations.UnitLength):
        return _fixed(*UNIT_RANGE)
    if _is_hard_sigmoid_clamp(layer):
        return _fixed(0.0, 6.0)
    name = "softmax" if isinstance(layer, layers.Softmax) else activation_name(layer)
    if name in FIXED_ACTIVATIONS:
        return _fixed(*FIXED_ACTIVATIONS[name])
    return quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )


def _is_hard_sigmoid_clamp(layer: layers.Layer) -> bool:
    # With [0, 6] the scaling by 1/6 behind it leaves every integer as it is.
    if not isinstance(layer, layers.ReLU) or layer.max_value != 6:
        return False
    return isinstance(layer.inbound_nodes[0].inbound_layers, activations.HardSigmoidShift)


def _fixed(low: float, high: float) -> quantizers.Quantizer:
    return quantizers.FixedQuantizer(num_bits=8, init_min=low, init_max=high, narrow_range=False)
