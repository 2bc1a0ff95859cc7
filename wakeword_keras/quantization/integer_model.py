"""The QAT model as the device computes it: forward in the kernels' arithmetic, gradients straight.

Fake quantization rounds every tensor once, in float32; kernels round several times
(`int8_kernels`). In a deep network two such arithmetics drift apart by several steps of the output,
although no layer differs by more than one. So what is trained and judged is this model, and what is
exported has no other arithmetic: nothing is left to go wrong between QAT and INT8.

A kernel that is not known here keeps its fake quantization: a Dense layer with a batch norm behind
it, and a batch norm behind no layer with weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import INT8_MAX, INT8_MIN
from wakeword_keras.models import activations, operations
from wakeword_keras.quantization import int8_kernels, layer_rules

WEIGHT_STEPS = 254  # from -127 to 127

TABULATED = {"sigmoid": tf.sigmoid, "tanh": tf.tanh}
"""Activations whose kernel is a table of the float function."""


@dataclass(frozen=True)
class _Affine:
    """Scale and zero point of a tensor, float64 scalars, and the range of its steps."""

    scale: tf.Tensor
    zero_point: tf.Tensor

    @property
    def low(self) -> tf.Tensor:
        return INT8_MIN - self.zero_point

    @property
    def high(self) -> tf.Tensor:
        return INT8_MAX - self.zero_point


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the int8 graph: real values with a gradient, steps without, both float32."""

    real: tf.Tensor
    steps: tf.Tensor
    affine: _Affine


def device_model(qat: keras.Model, fp32: keras.Model) -> keras.Model:
    """The QAT model in the arithmetic of the int8 kernels, on the same variables.

    Batch norm and ranges stand still, as they do in the exported file. Training it trains `qat`.

    Args:
      qat: model from `fake_quantize.quantize(fp32, ...)`.
      fp32: the float model it was made from: its layers say what TFLite fuses.

    Returns:
      Functional model of the same input and output.
    """
    features = layers.Input(qat.inputs[0].shape[1:], name="features")
    return keras.Model(features, _Device(qat, fp32)(features), name=f"device_{fp32.name}")


class _Device(layers.Layer):
    """The whole graph as one layer: it needs every tensor's scale beside its values."""

    def __init__(self, qat: keras.Model, fp32: keras.Model):
        super().__init__(name="device")
        self.qat = qat
        # In a function Keras does not find it: the float model has weights of its own.
        self._structure = lambda: fp32

    def call(self, inputs):
        """Logits [batch, wake_words] of features [batch, frames, channels]."""
        # No branch here depends on a tensor's value; converting them all would take minutes.
        return tf.autograph.experimental.do_not_convert(self._logits)(inputs)

    def _logits(self, inputs):
        fp32 = self._structure()
        tensors: dict[str, _Tensor] = {}
        for layer in fp32.layers:
            if isinstance(layer, layers.InputLayer):
                tensors[layer.name] = self._input(inputs)
            elif not layer_rules.folds_into_next(layer, fp32) or _concatenation(layer, fp32):
                chain = fused_chain(layer, fp32)
                before = chain[0].inbound_nodes[0].inbound_layers
                before = before if isinstance(before, list) else [before]
                tensors[layer.name] = self._layer(chain, [tensors[b.name] for b in before])
        return tensors[fp32.output_names[0]].real

    def _input(self, inputs) -> _Tensor:
        quantizer = next(
            layer.quantizer for layer in self.qat.layers if hasattr(layer, "quantizer")
        )
        affine = _affine_of(quantizer.init_min, quantizer.init_max)
        scale = tf.cast(affine.scale, tf.float32)
        steps = int8_kernels.half_away(tf.cast(inputs / scale, tf.float64))
        steps = tf.cast(tf.clip_by_value(steps, affine.low, affine.high), tf.float32)
        return _Tensor(steps * scale, steps, affine)

    def _output_affine(self, layer: layers.Layer) -> _Affine | None:
        """The affine that a layer's output quantizer sets; None if it keeps its input's."""
        fp32 = self._structure()
        while layer_rules.folds_into_next(layer, fp32):  # its output is a part of a concatenation's
            (layer,) = layer_rules.consumers(layer, fp32)
        wrapper = self.qat.get_layer(f"quant_{layer.name}")
        quantizer = wrapper.quantize_config.get_output_quantizers(wrapper.layer)
        if not quantizer:
            return None
        held: Mapping = wrapper._output_quantizer_vars
        if not held:
            return _affine_of(quantizer[0].init_min, quantizer[0].init_max)
        return _affine_of(held["min_var"], held["max_var"])

    def _layer(self, chain: Sequence[layers.Layer], read: Sequence[_Tensor]) -> _Tensor:
        wrapped = [self.qat.get_layer(f"quant_{layer.name}") for layer in chain]
        real = read[0].real if len(read) == 1 else [tensor.real for tensor in read]
        for wrapper in wrapped:
            real = wrapper(real, training=False)
        shape = (-1, *real.shape[1:])  # type: ignore[union-attr]
        affine = self._output_affine(chain[-1]) or read[0].affine
        scale = tf.cast(affine.scale, tf.float32)
        steps = _exact([w.layer for w in wrapped], wrapped[0], read, affine)
        if steps is None:
            return _Tensor(real, tf.stop_gradient(tf.round(real / scale)), affine)
        # Steps beyond what float32 holds are clipped anyway.
        steps = tf.reshape(tf.cast(steps, tf.float32), shape)
        steps = tf.clip_by_value(steps, *_range(chain[-1], affine))
        return _Tensor(_straight_through(steps * scale, real), steps, affine)


@tf.custom_gradient
def _straight_through(exact, real):
    """The device's value forward, backward the gradient of fake quantization."""
    return tf.identity(exact), lambda gradient: (None, gradient)


def fused_chain(layer: layers.Layer, fp32: keras.Model) -> list[layers.Layer]:
    """The float layers that one int8 kernel computes, the last of which is `layer`."""
    chain = [layer]
    while not isinstance(before := chain[0].inbound_nodes[0].inbound_layers, list) and (
        layer_rules.folds_into_next(before, fp32) and type(chain[0]) is not layers.Concatenate
    ):
        chain.insert(0, before)
    return chain


def _concatenation(layer: layers.Layer, fp32: keras.Model) -> bool:
    """Whether a concatenation reads a layer: they share a range, but not a kernel."""
    return any(type(reader) is layers.Concatenate for reader in layer_rules.consumers(layer, fp32))


def _exact(chain, wrapper, read: Sequence[_Tensor], out: _Affine):
    """Steps that the kernel of a chain writes, before clamping; None where it is not known."""
    head, x = chain[0], read[0]
    if type(head) in layer_rules.KERNELS:
        return _convolution(chain, wrapper, x, out)
    if isinstance(head, layers.AveragePooling2D):
        pooled = head(x.steps)
        zero_point = tf.cast(out.zero_point, tf.float32)
        return int8_kernels.half_away(pooled + zero_point) - zero_point
    if isinstance(head, layer_rules.SAME_RANGE):
        return x.steps if isinstance(head, layers.Dropout) else head(x.steps)
    if isinstance(head, activations.HardSwish):
        return int8_kernels.hard_swish(x.steps, x.affine.scale, out.scale)
    if isinstance(head, activations.HardSigmoidScale):
        return x.steps  # from steps of 6/255 to steps of 1/255
    if isinstance(head, layers.GlobalAveragePooling2D):
        return int8_kernels.mean(x.steps, (1, 2), head.keepdims, x.affine.scale / out.scale)
    if isinstance(head, operations.ChannelMean):
        axis = len(x.real.shape) - 1
        return int8_kernels.mean(x.steps, (axis,), True, x.affine.scale / out.scale)
    if isinstance(head, operations.UnitLength):
        return int8_kernels.unit_length(x.steps)
    if type(head) in (layers.Softmax, layers.Activation):
        return _activation(head, x, out)
    if type(head) in (operations.HeadBias, operations.RelativePositions):
        return _of_two(head, x, _constant(wrapper), out)
    return _of_two(head, x, read[1], out) if len(read) == 2 else None


def _of_two(head: layers.Layer, a: _Tensor, b: _Tensor, out: _Affine):
    scales = a.affine.scale, b.affine.scale, out.scale
    if type(head) is layers.Multiply:
        return int8_kernels.product(a.steps, b.steps, *scales)
    if type(head) in (operations.MatMul, operations.RelativePositions):
        sums = tf.matmul(a.steps, b.steps, transpose_b=getattr(head, "transpose_b", False))
        return int8_kernels.rescaled(sums, int8_kernels.product_factor(*scales))
    if type(head) in (layers.Add, layers.Subtract, operations.HeadBias):
        sign = -1 if type(head) is layers.Subtract else 1
        return int8_kernels.total(a.steps, b.steps, *scales, sign)
    return None


def _activation(head: layers.Layer, x: _Tensor, out: _Affine):
    name = "softmax" if type(head) is layers.Softmax else layer_rules.activation_name(head)
    if name == "softmax":
        return int8_kernels.softmax(x.steps, x.affine.scale)
    if name in TABULATED:
        return int8_kernels.tabulated(x.steps, TABULATED[name], x.affine.scale, out.scale)
    return None


def _constant(wrapper) -> _Tensor:
    """What a kernel adds or multiplies with that the file holds."""
    ((weight, quantizer, variables),) = wrapper._weight_vars
    quantized = quantizer(weight, False, weights=variables)
    affine = _affine_of(variables["min_var"], variables["max_var"])
    return _Tensor(quantized, tf.round(quantized / tf.cast(affine.scale, tf.float32)), affine)


def _convolution(chain, wrapper, x: _Tensor, out: _Affine):
    head = chain[0]
    if type(head) is layers.Dense and any(
        isinstance(layer, layers.BatchNormalization) for layer in chain
    ):
        return None  # per-tensor weights with a factor for every channel: the converter's choice
    ((weight, quantizer, variables),) = wrapper._weight_vars
    width = tf.cast(variables["max_var"], tf.float64) - tf.cast(variables["min_var"], tf.float64)
    scale = width / WEIGHT_STEPS
    quantized = tf.cast(quantizer(weight, False, weights=variables), tf.float64)
    factor, bias = _folded(chain)
    by_channel = tf.where(factor < 0, -scale, scale)  # a negative scale turns the sums' sign
    if type(head) is layers.DepthwiseConv2D:  # [height, width, channels, multiplier]
        by_channel = tf.reshape(by_channel, (-1, head.depth_multiplier))
    integers = tf.round(quantized / by_channel)
    # Scales are float32 in the file, products of them double in the kernel.
    scale = tf.cast(tf.cast(scale * tf.cast(tf.abs(factor), tf.float64), tf.float32), tf.float64)
    unit = x.affine.scale * scale
    sums = _sums(head, x.steps, tf.cast(integers, tf.float32))
    if type(head) is layers.Dense:
        sums = tf.cast(sums, tf.float64) + int8_kernels.half_away(tf.cast(bias, tf.float64) / unit)
        return int8_kernels.rescaled_once(sums, unit / out.scale)
    # Without a gradient, or the compiled function would keep every step between for one.
    return int8_kernels.convolved(*map(tf.stop_gradient, (sums, bias, unit, unit / out.scale)))


def _sums(head: layers.Layer, steps, integers):
    """The integer sums of a layer with weights, before its bias."""
    if type(head) is layers.Dense:
        return tf.linalg.matmul(steps, integers)
    options = {"padding": head.padding.upper(), "dilations": head.dilation_rate}
    if type(head) is layers.Conv2D:
        return tf.nn.conv2d(steps, integers, head.strides, **options)
    return tf.nn.depthwise_conv2d(steps, integers, (1, *head.strides, 1), **options)


def _folded(chain: Sequence[layers.Layer]):
    """Factor and bias, float32 [channels], that a chain leaves behind its first layer's sums."""
    head = chain[0]
    factor, bias = tf.ones(()), head.bias if head.use_bias else tf.zeros(())
    for layer in chain[1:]:
        if isinstance(layer, layers.BatchNormalization):
            factor = tf.math.rsqrt(layer.moving_variance + layer.epsilon)
            factor = factor * layer.gamma if layer.scale else factor
            bias = (layer.beta if layer.center else 0.0) + (bias - layer.moving_mean) * factor
        elif isinstance(layer, activations.HardSigmoidShift):
            bias = bias + 3.0
    return factor, bias


def _affine_of(low, high) -> _Affine:
    """The affine that the converter makes of a range; the scale is float32 in the file."""
    low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
    # A constant of zeros has an empty range; the converter gives it a scale of 1.
    scale = tf.where(high > low, (high - low) / (INT8_MAX - INT8_MIN), 1.0)
    zero_point = tf.clip_by_value(int8_kernels.half_up(INT8_MIN - low / scale), INT8_MIN, INT8_MAX)
    return _Affine(tf.cast(tf.cast(scale, tf.float32), tf.float64), zero_point)


def _range(layer: layers.Layer, affine: _Affine):
    """The lowest and the highest step that a kernel writes, float32, by the clamp it ends with."""
    name, high = layer_rules.activation_name(layer), affine.high
    if name == "relu6" or getattr(layer, "max_value", None) == 6:
        high = tf.minimum(high, int8_kernels.half_away(6 / affine.scale))
    is_rectified = isinstance(layer, layers.ReLU) or name in layer_rules.CLAMPS
    low = tf.maximum(affine.low, 0) if is_rectified else affine.low
    return tf.cast(low, tf.float32), tf.cast(high, tf.float32)
