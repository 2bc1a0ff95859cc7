"""What quantization knows of each layer type, one row each, and what follows for a whole model.

TFLite fuses layers: batch norm and the clamp of a ReLU into the convolution before them, a constant
into its bias. Inside such a chain nothing is rounded, so only its last layer writes a tensor of the
int8 graph. Tensors that a kernel only moves keep their scale, so all that are joined by such
kernels share one range:
https://ai.google.dev/edge/litert/models/quantization_spec

A layer type is added by a row of RULES, and a function of `layer_kernels` where it needs a new one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
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
    """What a layer's argument may be, and what to write instead.

    Attributes:
      allows: whether it may have a value (an activation: its name), given the layer too.
      mend: what to write instead of others.
    """

    allows: Callable[[Any, layers.Layer], bool]
    mend: str


def one_of(*values: Any) -> Callable[[Any, layers.Layer], bool]:
    """An argument that may have these values."""
    return lambda value, layer: value in values


def _is_last(axis: Any, layer: layers.Layer) -> bool:
    (axis,) = axis if isinstance(axis, Sequence) else (axis,)
    return axis in (-1, len(layer.input_shape) - 1)


def _is_small(epsilon: float, layer: layers.Layer) -> bool:
    return epsilon <= 1e-6


@dataclass(frozen=True)
class LayerRule:
    """What quantization knows of a layer type.

    Attributes:
      range: of the output: FREE, SAME, or (low, high) where the kernel demands it.
      kernel: what the device computes; None: fake quantization, which rounds once, stands for it.
      weight: None where there is none.
      fuses: kinds of layers behind it that the same kernel computes.
      reads: range that the kernel demands of its input, None where any will do.
      free: arguments of the layer that may have every value.
      options: arguments of the layer that may not.
      inputs: tensors that the kernel reads, None where any number will do.
      alone: what to write where no kernel before it takes the layer in, "" where it is its own.
    """

    range: str | tfmot_access.Range
    kernel: kernels.Kernel | None = None
    weight: Weight | None = None
    fuses: tuple[Kind, ...] = ()
    reads: tfmot_access.Range | None = None
    free: tuple[str, ...] = ()
    options: Mapping[str, Option] = field(default_factory=dict)
    inputs: int | None = 1
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
_BEHIND_SUMS: tuple[Kind, ...] = (activations.HardSigmoidShift, *CLAMPS)
# Not behind a Dense layer: the converter scales its folded bias by what the representative clips
# show of the layer's input and not by that tensor's range, so each set of clips gives another file.
_BEHIND_CONVOLUTIONS = (layers.BatchNormalization, *_BEHIND_SUMS)
_CHANNELS_LAST = {
    "data_format": Option(
        one_of("channels_last"), 'use "channels_last": int8 kernels read no other format'
    )
}
_SUMS = _CHANNELS_LAST | {
    "activation": Option(
        one_of("linear", "relu", "relu6"),
        "give the activation a layer of its own, with its own range",
    ),
    "groups": Option(one_of(1), "use a Conv2D for each group and layers.Concatenate"),
}
_LAST_AXIS = {"axis": Option(_is_last, "move the axis to the end with layers.Permute")}
_RELU = "use layers.ReLU() or layers.ReLU(6.0)"
_CONVOLUTION = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias")
_POOL = ("pool_size", "strides", "padding")
_DROPOUT = ("rate", "noise_shape", "seed")
EVERYWHERE: Mapping[str, Option] = {
    "dtype": Option(one_of("float32"), "build the model in float32, without mixed precision")
}
"""Options of every layer."""
FREE_EVERYWHERE = ("name", "trainable", "batch_input_shape")
"""Arguments of every layer that may have every value; so may those that end as below."""
FREE_ENDINGS = ("_initializer", "_regularizer", "_constraint")

RULES: dict[Kind, LayerRule] = {
    layers.Conv2D: LayerRule(
        FREE,
        kernels.conv_2d,
        _weight("kernel", tfmot_access.per_channel),
        _BEHIND_CONVOLUTIONS,
        free=("filters", *_CONVOLUTION),
        options=_SUMS,
    ),
    layers.DepthwiseConv2D: LayerRule(
        FREE,
        kernels.depthwise_conv_2d,
        _weight("depthwise_kernel", tfmot_access.per_depthwise_channel),
        _BEHIND_CONVOLUTIONS,
        free=("depth_multiplier", *_CONVOLUTION),
        options=_SUMS,
    ),
    layers.Dense: LayerRule(
        FREE,
        kernels.fully_connected,
        _weight("kernel", tfmot_access.per_tensor),
        _BEHIND_SUMS,
        free=("units", "use_bias"),
        options=_SUMS,
    ),
    layers.BatchNormalization: LayerRule(
        FREE,
        fuses=CLAMPS,
        free=("momentum", "epsilon", "center", "scale"),
        options=_LAST_AXIS,
        alone="put it directly behind a convolution without activation that nothing else reads; in "
        "place of a Dense layer use layers.Conv2D with a kernel of 1",
    ),
    activations.HardSigmoidShift: LayerRule(FREE, kernels.shift, fuses=CLAMPS),
    layers.ReLU: LayerRule(
        FREE,
        kernels.clamp,
        options={
            "max_value": Option(one_of(None, 6), _RELU),
            "negative_slope": Option(one_of(0), _RELU),
            "threshold": Option(one_of(0), _RELU),
        },
    ),
    "relu": LayerRule(FREE, kernels.clamp),
    "relu6": LayerRule(FREE, kernels.clamp),
    "linear": LayerRule(SAME, kernels.unchanged),
    "sigmoid": LayerRule(PROBABILITY, kernels.logistic),
    "tanh": LayerRule(UNIT, kernels.tanh),
    "softmax": LayerRule(PROBABILITY, kernels.softmax),
    layers.Softmax: LayerRule(PROBABILITY, kernels.softmax, options=_LAST_AXIS),
    activations.HardSwish: LayerRule(FREE, kernels.hard_swish),
    # With [0, 6] in, scaling by 1/6 leaves every integer as it is.
    activations.HardSigmoidScale: LayerRule((0.0, 1.0), kernels.unchanged, reads=(0.0, 6.0)),
    layers.Add: LayerRule(FREE, kernels.add, fuses=CLAMPS, inputs=2),
    layers.Subtract: LayerRule(FREE, kernels.subtract, fuses=CLAMPS, inputs=2),
    layers.Multiply: LayerRule(FREE, kernels.multiply, fuses=CLAMPS, inputs=2),
    operations.MatMul: LayerRule(FREE, kernels.matmul, free=("transpose_b",), inputs=2),
    operations.HeadBias: LayerRule(
        FREE, kernels.add_constant, _weight("kernel", tfmot_access.constant)
    ),
    operations.RelativePositions: LayerRule(
        FREE, kernels.matmul_constant, Weight("kernel", _projected_positions, held_as="projected")
    ),
    layers.GlobalAveragePooling2D: LayerRule(
        FREE, kernels.mean_of_image, free=("keepdims",), options=_CHANNELS_LAST
    ),
    operations.ChannelMean: LayerRule(FREE, kernels.mean_of_channels),
    operations.UnitLength: LayerRule(
        UNIT,
        kernels.unit_length,
        options={"epsilon": Option(_is_small, "use at most 1e-6: the int8 kernel adds none")},
    ),
    layers.AveragePooling2D: LayerRule(
        SAME, kernels.average_pool_2d, free=_POOL, options=_CHANNELS_LAST
    ),
    layers.MaxPooling2D: LayerRule(SAME, kernels.moved, free=_POOL, options=_CHANNELS_LAST),
    layers.GlobalMaxPooling2D: LayerRule(
        SAME, kernels.moved, free=("keepdims",), options=_CHANNELS_LAST
    ),
    layers.ZeroPadding2D: LayerRule(SAME, kernels.moved, free=("padding",), options=_CHANNELS_LAST),
    layers.Cropping1D: LayerRule(SAME, kernels.moved, free=("cropping",)),
    layers.Cropping2D: LayerRule(SAME, kernels.moved, free=("cropping",), options=_CHANNELS_LAST),
    layers.Flatten: LayerRule(SAME, kernels.moved, options=_CHANNELS_LAST),
    layers.Permute: LayerRule(SAME, kernels.moved, free=("dims",)),
    layers.Reshape: LayerRule(SAME, kernels.moved, free=("target_shape",)),
    operations.RelativeShift: LayerRule(SAME, kernels.moved),
    layers.Concatenate: LayerRule(SAME, kernels.joined, free=("axis",), inputs=None),
    layers.Dropout: LayerRule(SAME, kernels.unchanged, free=_DROPOUT),
    layers.SpatialDropout1D: LayerRule(SAME, kernels.unchanged, free=_DROPOUT),
    layers.SpatialDropout2D: LayerRule(
        SAME, kernels.unchanged, free=_DROPOUT, options=_CHANNELS_LAST
    ),
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


_FUNCTIONS = {
    function: name
    for name, functions in {
        "linear": (keras.activations.linear,),
        "relu": (keras.activations.relu, tf.nn.relu),
        "relu6": (tf.nn.relu6,),
        "sigmoid": (keras.activations.sigmoid, tf.nn.sigmoid),
        "tanh": (keras.activations.tanh, tf.nn.tanh),
        "softmax": (keras.activations.softmax, tf.nn.softmax),
    }.items()
    for function in functions
}


def activation_name(layer: layers.Layer) -> str | None:
    """Name of a layer's activation function, None where it has none."""
    activation = getattr(layer, "activation", None)
    if activation is None or activation in _FUNCTIONS:
        return activation and _FUNCTIONS[activation]
    name = getattr(activation, "__name__", str(activation))
    # A function of the user's own may be called as one that we know.
    return f"own function {name}" if name in _FUNCTIONS.values() else name


def clamp(layer: layers.Layer) -> tfmot_access.Range:
    """Lowest and highest value that a layer's clamp leaves, infinite where it has none."""
    name = activation_name(layer)
    if isinstance(layer, layers.ReLU):
        name = "relu" if layer.max_value is None else "relu6"
    return {"relu": (0.0, math.inf), "relu6": (0.0, 6.0)}.get(str(name), (-math.inf, math.inf))


def functional(model: keras.Model) -> keras.Model:
    """The model, or a functional one of the same layers: a Sequential one hides its input layer."""
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs, model.outputs, name=model.name)
    return model


def calls(layer: layers.Layer, model: keras.Model) -> list:
    """The nodes at which `model` calls a layer; other models that share it have their own."""
    return [
        node for nodes in model._nodes_by_depth.values() for node in nodes if node.layer is layer
    ]


def output_of(name: str, model: keras.Model):
    """The tensor that a layer of `model`, called once, writes."""
    return calls(model.get_layer(name), model)[0].outputs


def producers(layer: layers.Layer, model: keras.Model) -> list[layers.Layer]:
    """The layers whose outputs a layer of `model` reads, in the order of its inputs."""
    return _list(calls(layer, model)[0].inbound_layers)


def consumers(layer: layers.Layer, model: keras.Model) -> list[layers.Layer]:
    """The layers of `model` that read the output of `layer`, one for each time they do."""
    nodes = (node for nodes in model._nodes_by_depth.values() for node in nodes)
    return [
        node.layer
        for node in nodes
        if not node.is_input
        for before in _list(node.inbound_layers)
        if before is layer
    ]


def kernel_chains(model: keras.Model) -> list[list[layers.Layer]]:
    """The layers of each int8 kernel of a functional model, in the model's order.

    An input layer is a chain of its own, that no kernel computes.
    """
    last = [layer for layer in model.layers if not folds_into_next(layer, model)]
    return [fused_chain(layer, model) for layer in last]


def _list(layers_or_one) -> list[layers.Layer]:
    return layers_or_one if isinstance(layers_or_one, list) else [layers_or_one]


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
    while len(before := producers(chain[0], model)) == 1 and folds_into_next(before[0], model):
        chain.insert(0, before[0])
    return chain
