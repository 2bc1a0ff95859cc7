"""What a layer hands to its int8 kernel, one function each: steps that it reads, weights, scales.

The arithmetic itself is `int8_kernels`; which layer has which kernel, `layer_rules`. Every function
takes the wrapped layers that one kernel computes (a convolution, its batch norm, its clamp), the
tensors that the first of them reads and the scaling of the tensor that the last of them writes. It
returns the steps that the kernel writes, before they are clamped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf
from tf_keras import layers

from wakeword_keras.affine import INT8_MAX, INT8_MIN
from wakeword_keras.models import activations
from wakeword_keras.quantization import int8_kernels, tfmot_access

WEIGHT_STEPS = 254  # from -127 to 127


@dataclass(frozen=True)
class Scaling:
    """Scale and zero point of a tensor, float64 scalars, and the range of its steps."""

    scale: tf.Tensor
    zero_point: tf.Tensor

    @property
    def low(self) -> tf.Tensor:
        """The lowest step."""
        return INT8_MIN - self.zero_point

    @property
    def high(self) -> tf.Tensor:
        """The highest step."""
        return INT8_MAX - self.zero_point


@dataclass(frozen=True)
class Tensor:
    """A tensor of the int8 graph: real values with a gradient, steps without, both float32."""

    real: tf.Tensor
    steps: tf.Tensor
    scaling: Scaling


Chain = Sequence[layers.Wrapper]
Kernel = Callable[[Chain, Sequence[Tensor], Scaling], tf.Tensor]


def scaling_of(low, high) -> Scaling:
    """The scaling that the converter gives a range; the scale is float32 in the file."""
    low, high = tf.cast(low, tf.float64), tf.cast(high, tf.float64)
    constant, narrow = low == high, high - low < tfmot_access.NARROWEST
    low = tf.where(narrow, tf.minimum(low, -tfmot_access.NARROWEST / 2), low)
    high = tf.where(narrow, tf.maximum(high, tfmot_access.NARROWEST / 2), high)
    # A constant of zeros has an empty range; the converter gives it a scale of 1.
    scale = tf.where(constant, tf.ones_like(low), (high - low) / (INT8_MAX - INT8_MIN))
    exact = INT8_MIN - tf.where(constant, tf.zeros_like(low), low / scale)
    rounded = tf.where(narrow, tf.math.ceil(exact - 0.5), int8_kernels.half_up(exact))
    zero_point = tf.clip_by_value(rounded, INT8_MIN, INT8_MAX)
    return Scaling(tf.cast(tf.cast(scale, tf.float32), tf.float64), zero_point)


def conv_2d(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """CONV_2D."""
    (x,), head = read, chain[0].layer
    integers, bias, unit = integer_weights(chain, x.scaling.scale)
    sums = tf.nn.conv2d(
        x.steps, integers, head.strides, head.padding.upper(), dilations=head.dilation_rate
    )
    return _convolved(sums, bias, unit, out)


def depthwise_conv_2d(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """DEPTHWISE_CONV_2D; its kernel is [height, width, channels, multiplier]."""
    (x,), head = read, chain[0].layer
    integers, bias, unit = integer_weights(chain, x.scaling.scale)
    strides = (1, *head.strides, 1)
    sums = tf.nn.depthwise_conv2d(
        x.steps, integers, strides, head.padding.upper(), dilations=head.dilation_rate
    )
    return _convolved(sums, bias, unit, out)


def fully_connected(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """FULLY_CONNECTED."""
    (x,) = read
    integers, bias, unit = integer_weights(chain, x.scaling.scale)
    # As one matrix: TensorFlow 2.21's oneDNN kernel is wrong, and writes beyond its memory, where
    # [clips, 1, rows, channels] is multiplied by a matrix.
    sums = tf.cast(tf.tensordot(x.steps, integers, 1), tf.float64)
    sums = sums + int8_kernels.half_away(tf.cast(bias, tf.float64) / unit)
    return int8_kernels.rescaled_once(sums, unit / out.scale)


def average_pool_2d(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """AVERAGE_POOL_2D, which rounds int8 and not steps."""
    zero_point = tf.cast(out.zero_point, tf.float32)
    return int8_kernels.half_away(chain[0].layer(read[0].steps) + zero_point) - zero_point


def moved(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """The layer's own values: it moves them, or takes the highest."""
    return chain[0].layer(read[0].steps)


def joined(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """CONCATENATION, of tensors of one scale."""
    return chain[0].layer([tensor.steps for tensor in read])


def unchanged(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """No kernel at all (Dropout), or one that changes the scale alone: 6/255 to 1/255."""
    return read[0].steps


def mean_of_image(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """MEAN over height and width."""
    (x,), keepdims = read, chain[0].layer.keepdims
    return int8_kernels.mean(x.steps, (1, 2), keepdims, x.scaling.scale / out.scale)


def mean_of_channels(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """MEAN over the last axis."""
    (x,) = read
    axis = len(x.real.shape) - 1
    return int8_kernels.mean(x.steps, (axis,), True, x.scaling.scale / out.scale)


def hard_swish(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """HARD_SWISH."""
    return int8_kernels.hard_swish(read[0].steps, read[0].scaling.scale, out.scale)


def unit_length(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """L2_NORMALIZATION."""
    return int8_kernels.unit_length(read[0].steps)


def softmax(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """SOFTMAX."""
    return int8_kernels.softmax(read[0].steps, read[0].scaling.scale)


def logistic(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """LOGISTIC."""
    return int8_kernels.tabulated(read[0].steps, tf.sigmoid, read[0].scaling.scale, out.scale)


def tanh(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """TANH."""
    return int8_kernels.tabulated(read[0].steps, tf.tanh, read[0].scaling.scale, out.scale)


def add(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """ADD of two tensors."""
    a, b = _of_one_rank(read)
    return _total(a, b, out)


def subtract(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """SUB."""
    a, b = _of_one_rank(read)
    return _total(a, b, out, sign=-1)


def add_constant(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """ADD of a weight."""
    (x,) = read
    return _total(x, _constant(chain[0]), out)


def multiply(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """MUL of two tensors."""
    a, b = _of_one_rank(read)
    scales = a.scaling.scale, b.scaling.scale, out.scale
    return int8_kernels.product(a.steps, b.steps, *scales)


def matmul(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """BATCH_MATMUL of two tensors."""
    a, b = read
    return _matmul(a, b, out, transpose_b=chain[0].layer.transpose_b)


def shift(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """ADD of 3."""
    (x,) = read
    three = tf.constant(activations.SHIFT, tf.float32)
    scaling = scaling_of(0.0, three)
    return _total(x, Tensor(three, tf.constant(255.0), scaling), out)


def clamp(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """RELU or RELU6, which give what they let through another scale."""
    (x,) = read
    return int8_kernels.rescaled(x.steps, x.scaling.scale / out.scale)


def matmul_constant(chain: Chain, read: Sequence[Tensor], out: Scaling):
    """BATCH_MATMUL with a weight."""
    (x,) = read
    return _matmul(x, _constant(chain[0]), out)


def _total(a: Tensor, b: Tensor, out: Scaling, sign: int = 1):
    scales = a.scaling.scale, b.scaling.scale, out.scale
    return int8_kernels.total(a.steps, b.steps, *scales, sign)


def _of_one_rank(read: Sequence[Tensor]) -> list[Tensor]:
    """Operands as Keras broadcasts them: one of lower rank gets axes of 1 behind the batch."""
    rank = max(x.steps.shape.rank for x in read)
    shapes = [(-1, *(rank - len(x.steps.shape)) * (1,), *x.steps.shape[1:]) for x in read]
    return [
        replace(x, steps=tf.reshape(x.steps, shape)) for x, shape in zip(read, shapes, strict=True)
    ]


def _matmul(a: Tensor, b: Tensor, out: Scaling, transpose_b: bool = False):
    sums = tf.matmul(a.steps, b.steps, transpose_b=transpose_b)
    factor = int8_kernels.product_factor(a.scaling.scale, b.scaling.scale, out.scale)
    return int8_kernels.rescaled(sums, factor)


def _constant(wrapper: layers.Wrapper) -> Tensor:
    """What a kernel adds or multiplies with that the file holds."""
    quantized, low, high = tfmot_access.quantized_weight(wrapper)
    scaling = scaling_of(low, high)
    steps = tf.round(quantized / tf.cast(scaling.scale, tf.float32))
    return Tensor(quantized, steps, scaling)


def _convolved(sums, bias, unit, out: Scaling):
    # Without a gradient, or the compiled function would keep every step between for one.
    return int8_kernels.convolved(*map(tf.stop_gradient, (sums, bias, unit, unit / out.scale)))


def integer_weights(chain: Chain, read_scale):
    """What the file holds of a layer with weights and of the batch norm folded into it.

    Args:
      chain: the layer and those that fold into it.
      read_scale: of the tensor that it reads, float64.

    Returns:
      Integers of the weight's shape, float32; the bias, real, float32 [channels]; what a step of
      the sums is worth, float64 [channels].
    """
    folded = [wrapper.layer for wrapper in chain]
    quantized, low, high = tfmot_access.quantized_weight(chain[0])
    scale = (tf.cast(high, tf.float64) - tf.cast(low, tf.float64)) / WEIGHT_STEPS
    factor, bias = _folded(folded)
    factor = factor * tf.ones_like(low)
    is_depthwise = isinstance(folded[0], layers.DepthwiseConv2D)
    by_channel = (-1, folded[0].depth_multiplier) if is_depthwise else (-1,)
    held = tf.cast(quantized * tf.reshape(factor, by_channel), tf.float64)
    scale = scale * tf.cast(tf.abs(factor), tf.float64)
    scale = tf.maximum(scale, tf.constant(tfmot_access.NARROWEST / WEIGHT_STEPS, tf.float64))
    integers = int8_kernels.half_away(held / tf.reshape(scale, by_channel))
    # Scales are float32 in the file, products of them double in the kernel.
    scale = tf.cast(tf.cast(scale, tf.float32), tf.float64)
    return tf.cast(integers, tf.float32), bias, read_scale * scale


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
            bias = bias + activations.SHIFT
    return factor, bias


SUMS = (conv_2d, depthwise_conv_2d, fully_connected)
"""Kernels that sum products with weights, and add a bias."""
