"""What quantization knows of each layer type, one row each, and what follows for a whole model.

TFLite fuses layers: batch norm and the clamp of a ReLU into the convolution before them, a constant
into its bias. Inside such a chain nothing is rounded, so only its last layer writes a tensor of the
int8 graph. Tensors that a kernel only moves keep their scale, so all that are joined by such
kernels share one range:
https://ai.google.dev/edge/litert/models/quantization_spec

A layer type is added by a row of RULES, and a function of `layer_kernels` where it needs a new one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import tf_keras as keras
from tf_keras import layers

from wakeword_keras.models import activations, operations
from wakeword_keras.quantization import layer_kernels as kernels
from wakeword_keras.quantization import tfmot_access

Kind = type | str
"""The type of a layer; the function's name for layers.Activation."""

FREE = "free"
"""The range of an output that is measured."""
SAME = "same"
"""The range of an output that keeps the scale and zero point of what is read."""


@dataclass(frozen=True)
class Weight:
    """A layer's quantized weight; biases are int32 on the device.

    Attributes:
      attribute: of the layer.
      quantizer: of it, given the layer.
      held_as: attribute that takes the quantized weight, "" where it is the weight's own.
    """

    attribute: str
    quantizer: Callable[[layers.Layer], tfmot_access.Quantizer]
    held_as: str = ""


@dataclass(frozen=True)
class Option:
    """What a layer's argument may be (an activation: its name), and what to write instead."""

    allowed: tuple[Any, ...]
    mend: str


@dataclass(frozen=True)
class LayerRule:
    """What quantization knows of a layer type.

    Attributes:
      range: of the output: FREE, SAME, or (low, high) where the kernel demands it.
      kernel: what the device computes; None: fake quantization, which rounds once, stands for it.
      weight: None where there is none.
      fuses: kinds of layers behind it that the same kernel computes.
      reads: range that the kernel demands of its input, None where any will do.
      options: arguments of the layer that may not have every value.
      alone: what to write where no kernel before it takes the layer in, "" where it is its own.
    """

    range: str | tfmot_access.Range
    kernel: kernels.Kernel | None = None
    weight: Weight | None = None
    fuses: tuple[Kind, ...] = ()
    reads: tfmot_access.Range | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    alone: str = ""


def _weight(attribute: str, quantizer: Callable[[], tfmot_access.Quantizer]) -> Weight:
    return Weight(attribute, lambda layer: quantizer())


def _projected_positions(layer: operations.RelativePositions) -> tfmot_access.Quantizer:
    """What the device holds of RelativePositions: not its kernel but the projected sinusoids."""
    heads, steps = layer.input_shape[1:3]
    return tfmot_access.constant(lambda kernel: operations.project(kernel, heads, steps))


# The highest value that int8 holds at the scale the kernel demands: 1/256, or 1/128 for tanh.
PROBABILITY = (0.0, 255 / 256)
UNIT = (-1.0, 127 / 128)
CLAMPS: tuple[Kind, ...] = (layers.ReLU, "relu", "relu6")
"""Layers that a kernel clamps its output for."""
_BEHIND_SUMS = (layers.BatchNormalization, activations.HardSigmoidShift, *CLAMPS)
_ACTIVATION = {
    "activation": Option(
        ("linear", "relu", "relu6"), "give the activation a layer of its own, with its own range"
    )
}
_RELU = "use layers.ReLU() or layers.ReLU(6.0)"

RULES: dict[Kind, LayerRule] = {
    layers.Conv2D: LayerRule(
        FREE,
        kernels.conv_2d,
        _weight("kernel", tfmot_access.per_channel),
        _BEHIND_SUMS,
        options=_ACTIVATION,
    ),
    layers.DepthwiseConv2D: LayerRule(
        FREE,
        kernels.depthwise_conv_2d,
        _weight("depthwise_kernel", tfmot_access.per_depthwise_channel),
        _BEHIND_SUMS,
        options=_ACTIVATION,
    ),
    layers.Dense: LayerRule(
        FREE,
        kernels.fully_connected,
        _weight("kernel", tfmot_access.per_tensor),
        _BEHIND_SUMS,
        options=_ACTIVATION,
    ),
    layers.BatchNormalization: LayerRule(
        FREE,
        fuses=CLAMPS,
        alone="put it directly behind a convolution or Dense layer without activation that "
        "nothing else reads",
    ),
    activations.HardSigmoidShift: LayerRule(FREE, fuses=CLAMPS),
    layers.ReLU: LayerRule(
        FREE,
        options={
            "max_value": Option((None, 6), _RELU),
            "negative_slope": Option((0,), _RELU),
            "threshold": Option((0,), _RELU),
        },
    ),
    "relu": LayerRule(FREE),
    "relu6": LayerRule(FREE),
    "linear": LayerRule(SAME, kernels.unchanged),
    "sigmoid": LayerRule(PROBABILITY, kernels.logistic),
    "tanh": LayerRule(UNIT, kernels.tanh),
    "softmax": LayerRule(PROBABILITY, kernels.softmax),
    layers.Softmax: LayerRule(PROBABILITY, kernels.softmax),
    activations.HardSwish: LayerRule(FREE, kernels.hard_swish),
    # With [0, 6] in, scaling by 1/6 leaves every integer as it is.
    activations.HardSigmoidScale: LayerRule((0.0, 1.0), kernels.unchanged, reads=(0.0, 6.0)),
    layers.Add: LayerRule(FREE, kernels.add, fuses=CLAMPS),
    layers.Subtract: LayerRule(FREE, kernels.subtract, fuses=CLAMPS),
    layers.Multiply: LayerRule(FREE, kernels.multiply, fuses=CLAMPS),
    operations.MatMul: LayerRule(FREE, kernels.matmul),
    operations.HeadBias: LayerRule(
        FREE, kernels.add_constant, _weight("kernel", tfmot_access.constant)
    ),
    operations.RelativePositions: LayerRule(
        FREE, kernels.matmul_constant, Weight("kernel", _projected_positions, held_as="projected")
    ),
    layers.GlobalAveragePooling2D: LayerRule(FREE, kernels.mean_of_image),
    operations.ChannelMean: LayerRule(FREE, kernels.mean_of_channels),
    operations.UnitLength: LayerRule(UNIT, kernels.unit_length),
    layers.AveragePooling2D: LayerRule(SAME, kernels.average_pool_2d),
    layers.MaxPooling2D: LayerRule(SAME, kernels.moved),
    layers.GlobalMaxPooling2D: LayerRule(SAME, kernels.moved),
    layers.ZeroPadding2D: LayerRule(SAME, kernels.moved),
    layers.Cropping1D: LayerRule(SAME, kernels.moved),
    layers.Cropping2D: LayerRule(SAME, kernels.moved),
    layers.Flatten: LayerRule(SAME, kernels.moved),
    layers.Permute: LayerRule(SAME, kernels.moved),
    layers.Reshape: LayerRule(SAME, kernels.moved),
    operations.RelativeShift: LayerRule(SAME, kernels.moved),
    layers.Concatenate: LayerRule(SAME, kernels.joined),
    layers.Dropout: LayerRule(SAME, kernels.unchanged),
    layers.SpatialDropout1D: LayerRule(SAME, kernels.unchanged),
    layers.SpatialDropout2D: LayerRule(SAME, kernels.unchanged),
}

INSTEAD: dict[str, str] = {
    "swish": "multiply the input by a sigmoid layer of it with layers.Multiply, or use HardSwish",
    "silu": "multiply the input by a sigmoid layer of it with layers.Multiply, or use HardSwish",
    "gelu": "use ReLU or HardSwish: TFLite Micro has no GELU",
    "hard_sigmoid": "use wakeword_keras.models.activations.hard_sigmoid",
    "LayerNormalization": "use wakeword_keras.models.conformer.layer_norm",
    "MultiHeadAttention": "use wakeword_keras.models.conformer.self_attention",
    "Attention": "use wakeword_keras.models.operations.MatMul, layers.Softmax and MatMul again",
    "Conv1D": "reshape to an image and use Conv2D with a kernel of (width, 1)",
    "DepthwiseConv1D": "reshape to an image and use DepthwiseConv2D with a kernel of (width, 1)",
    "SeparableConv2D": "write it as DepthwiseConv2D and Conv2D",
    "MaxPooling1D": "reshape to an image and use MaxPooling2D",
    "AveragePooling1D": "reshape to an image and use AveragePooling2D",
    "GlobalAveragePooling1D": "reshape to an image and use GlobalAveragePooling2D",
    "Rescaling": "scale the features where they are computed, or let batch norm do it",
    "TFOpLambda": "write the operation as a layer, such as layers.Add or layers.Multiply",
    "SlicingOpLambda": "take the part you need where the features are computed",
    "Lambda": "write the operation as a layer of its own class",
}
"""What to write for a layer type or an activation that has no row."""


def kind(layer: layers.Layer) -> Kind:
    """The key of a layer in RULES, whether it has a row or not."""
    return str(activation_name(layer)) if type(layer) is layers.Activation else type(layer)


def title(kind: Kind) -> str:
    """How messages call a kind of layer."""
    return kind if isinstance(kind, str) else kind.__name__


def activation_name(layer: layers.Layer) -> str | None:
    """Name of a layer's activation function, None where it has none."""
    activation = getattr(layer, "activation", None)
    return None if activation is None else getattr(activation, "__name__", str(activation))


def clamp(layer: layers.Layer) -> tfmot_access.Range:
    """Lowest and highest value that a layer's clamp leaves, infinite where it has none."""
    name = activation_name(layer)
    if isinstance(layer, layers.ReLU):
        name = "relu" if layer.max_value is None else "relu6"
    return {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}.get(str(name), (-math.inf, math.inf))


def producers(layer: layers.Layer) -> list[layers.Layer]:
    """The layers whose outputs a layer reads, in the order of its inputs."""
    before = layer.inbound_nodes[0].inbound_layers
    return before if isinstance(before, list) else [before]


def consumers(layer: layers.Layer, model: keras.Model) -> list[layers.Layer]:
    """The layers of `model` that read the output of `layer`."""
    members = {id(member) for member in model.layers}
    readers = [node.outbound_layer for node in layer.outbound_nodes]
    return [reader for reader in readers if id(reader) in members]


def folds_into_next(layer: layers.Layer, model: keras.Model) -> bool:
    """Whether one kernel computes a layer and the one that reads it: nothing is rounded between.

    Args:
      layer: a layer of `model`.
      model: functional model.
    """
    readers = consumers(layer, model)
    rule = RULES.get(kind(layer))
    if rule is None or len(readers) != 1 or layer.name in model.output_names:
        return False
    return kind(readers[0]) in rule.fuses and activation_name(layer) in (None, "linear")


def fused_chain(layer: layers.Layer, model: keras.Model) -> list[layers.Layer]:
    """The layers of `model` that one int8 kernel computes, the last of which is `layer`."""
    chain = [layer]
    while len(before := producers(chain[0])) == 1 and folds_into_next(before[0], model):
        chain.insert(0, before[0])
    return chain
