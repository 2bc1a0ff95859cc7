"""The arithmetic of TFLite's int8 reference kernels, bit for bit, in TensorFlow.

A kernel does not round once: it multiplies by a 31-bit mantissa, rounds, shifts and rounds again,
rounds its bias before, and evaluates hard-swish in 16 bits. Each of these moves a few values in a
thousand by one step, and depth amplifies: a value on the other side of a rounding moves others
behind it. TFLite Micro computes the same, but rounds FULLY_CONNECTED twice, multiplies scales of
MUL and BATCH_MATMUL in float64, and LOGISTIC and TANH are no tables there: single values differ.

Values are *steps*: int8 minus zero point, whole numbers in float32. float32 holds the sums of a
convolution exactly (below 2^24), float64 the products with a mantissa.
Source: tensorflow/lite/kernels/internal/common.h, reference/ and reference/integer_ops/.
"""

import tensorflow as tf

from wakeword_keras.quantization import fixed_point

_MANTISSA_BITS = 31


def half_away(x):
    """Round to the nearest whole number, ties away from zero."""
    return tf.sign(x) * tf.floor(tf.abs(x) + 0.5)


def half_up(x):
    """Round to the nearest whole number, ties up."""
    return tf.floor(x + 0.5)


def multiplier(factor):
    """A positive factor as mantissa and exponent: factor ~ mantissa / 2^31 * 2^exponent.

    TFLite's `QuantizeMultiplier`.

    Args:
      factor: float64, > 0.

    Returns:
      Mantissa, a whole number in [2^30, 2^31), float64, and exponent, int64.
    """
    exponent = fixed_point.exponent_of(factor)
    mantissa = half_up(factor * fixed_point.power_of_two(_MANTISSA_BITS - exponent))
    overflow = tf.cast(mantissa >= 2**_MANTISSA_BITS, tf.int64)
    return mantissa * fixed_point.power_of_two(-overflow), exponent + overflow


def scaled(x, mantissa, exponent):
    """x times a fixed-point factor, rounded twice; TFLite's `MultiplyByQuantizedMultiplier`.

    Args:
      x: whole numbers, any float type.
      mantissa, exponent: from `multiplier`, broadcast against x.

    Returns:
      Whole numbers, float64, of x's shape.
    """
    left = fixed_point.power_of_two(tf.maximum(exponent, 0) - _MANTISSA_BITS)
    right = fixed_point.power_of_two(tf.minimum(exponent, 0))
    once = half_up(tf.cast(x, tf.float64) * (left * mantissa))
    # Rounding is to even; a factor just above 1 first moves ties, and only these, away from zero.
    return tf.round(once * (right * (1 + 2.0**-50)))


def rescaled(x, factor):
    """x times a positive float64 factor, as kernels do it."""
    return scaled(x, *multiplier(factor))


def rescaled_once(x, factor):
    """x times a positive float64 factor, rounded once.

    FULLY_CONNECTED does so in TFLite; TFLite Micro's rounds twice, as all other kernels do.
    """
    mantissa, exponent = multiplier(factor)
    factor = mantissa * fixed_point.power_of_two(exponent - _MANTISSA_BITS)
    return half_up(tf.cast(x, tf.float64) * factor)


def product_factor(scale_a, scale_b, scale_out):
    """Factor of a BATCH_MATMUL, which multiplies the scales in float32; float64 scalars."""
    unit = tf.cast(scale_a, tf.float32) * tf.cast(scale_b, tf.float32)
    return tf.cast(unit, tf.float64) / scale_out


def product(a, b, scale_a, scale_b, scale_out):
    """MUL of two tensors of steps, by a factor computed in float32; scales are float64 scalars."""
    unit = tf.cast(scale_a, tf.float32) * tf.cast(scale_b, tf.float32)
    return rescaled(a * b, tf.cast(unit / tf.cast(scale_out, tf.float32), tf.float64))


# Compiled, its dozen passes over a large tensor become one.
@tf.function(jit_compile=True, reduce_retracing=True)
def convolved(sums, bias, unit, factor):
    """CONV_2D and DEPTHWISE_CONV_2D, from their sums on: add the rounded bias, then rescale.

    Args:
      sums: of products of steps, whole numbers in float32.
      bias: real values, float32 [channels].
      unit: what a step of the sums is worth, float64 [channels].
      factor: `unit` over the output's scale.

    Returns:
      Whole numbers, float32, of the sums' shape.
    """
    steps = tf.cast(sums, tf.float64) + half_away(tf.cast(bias, tf.float64) / unit)
    return tf.cast(rescaled(steps, factor), tf.float32)


def mean(x, axes, keepdims: bool, factor):
    """MEAN: the sum, times `factor` with the count divided out of its mantissa.

    Args:
      x: steps.
      axes: reduced axes.
      keepdims: whether they stay, with size 1.
      factor: input scale over output scale, float64.
    """
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    mantissa, exponent = multiplier(factor)
    shift = count.bit_length() - 1
    mantissa = tf.floor(mantissa * 2**shift / count)
    return scaled(tf.reduce_sum(x, axes, keepdims), mantissa, exponent - shift)


def total(a, b, scale_a, scale_b, scale_out, sign: int = 1):
    """ADD, and with sign -1 SUB, of two tensors of steps; scales are float64 scalars."""
    common = 2 * tf.maximum(scale_a, scale_b)
    fine = 2.0**20

    def in_common(x, scale):
        mantissa, exponent = multiplier(scale / common)
        return scaled(x, fine * mantissa, exponent)

    left, right = in_common(a, scale_a), in_common(b, scale_b)
    return rescaled(left + sign * right, common / (fine * scale_out))


def hard_swish(x, scale_in, scale_out):
    """HARD_SWISH: x * ReLU6(x + 3) / 6 in 16-bit fixed point.

    Args:
      x: steps, within +-255.
      scale_in, scale_out: float64 scalars.
    """
    steps = tf.range(-255, 256, dtype=tf.float64)
    fine = 128 * steps
    fine_scale = tf.cast(scale_in, tf.float32) / 128
    gate_mantissa, gate_exponent = _short_factor(fine_scale / tf.constant(3 / 32768, tf.float32))
    out_mantissa, out_exponent = _short_factor(fine_scale / tf.cast(scale_out, tf.float32))
    gate = _saturated(fine * fixed_point.power_of_two(tf.maximum(gate_exponent - 1, 0)))
    gate = _saturated(half_up(gate * gate_mantissa / 2**15))
    gate = _saturated(gate * (1 + tf.cast(gate_exponent > 0, tf.float64)))
    gate = half_away(gate * fixed_point.power_of_two(tf.minimum(gate_exponent, 0)))
    gate = tf.floor((gate + 2**15) / 2)
    value = _saturated(half_up(fine * out_mantissa / 2**15))
    gated = gate * value / 2**15
    truncated = tf.sign(gated) * tf.floor(tf.abs(gated))
    table = half_away(truncated * fixed_point.power_of_two(out_exponent))
    return tf.gather(table, tf.cast(x, tf.int32) + 255)


def tabulated(x, function, scale_in, scale_out: float):
    """LOGISTIC and TANH: a table of a float function.

    TFLite Micro computes them in fixed point: where a value is near a tie, or beyond what that
    holds, it may be a step off (60 of 384,000 LOGISTIC values, all at powers of two or large).

    Args:
      x: steps, within +-255.
      function: of a float64 tensor.
      scale_in: float64 scalar.
      scale_out: of the output.
    """
    table = half_away(function(tf.range(-255, 256, dtype=tf.float64) * scale_in) / scale_out)
    return tf.gather(table, tf.cast(x, tf.int32) + 255)


def softmax(x, scale_in):
    """SOFTMAX over the last axis, to steps of 1/256.

    Args:
      x: steps, within +-255.
      scale_in: float64 scalar.
    """
    mantissa, exponent = multiplier(scale_in * 2.0**fixed_point.EXP_BITS)
    # So far below the highest value the kernel takes e^x for 0.
    reach = tf.floor(31 * fixed_point.power_of_two(fixed_point.EXP_BITS - exponent))
    below = tf.range(0, 256, dtype=tf.float64)
    real = tf.cast(scaled(-tf.minimum(below, reach), mantissa, exponent), tf.int64)
    table = tf.where(below <= reach, fixed_point.exp(real), 0)
    powers = tf.gather(table, tf.cast(tf.reduce_max(x, -1, keepdims=True) - x, tf.int32))
    inverse, shift = fixed_point.reciprocal(
        tf.reduce_sum(fixed_point.halved(powers, 12), -1, keepdims=True)
    )
    return tf.cast(
        fixed_point.halved(fixed_point.times(inverse, powers), 31 - 8 + shift), tf.float64
    )


def unit_length(x):
    """L2_NORMALIZATION over the last axis, to steps of 1/128.

    Args:
      x: steps, within +-255, at most 8000 in a vector.
    """
    wide = tf.cast(x, tf.float64)
    # Below 1 only a vector of zeros is, and it stays one.
    squared = tf.maximum(tf.reduce_sum(wide * wide, -1, keepdims=True), 1)
    fraction, shift = fixed_point.inverse_square_root(tf.cast(squared, tf.int64))
    return scaled(wide, fraction, shift + 7)


def _short_factor(factor):
    """A float32 factor as a mantissa of 15 bits and an exponent, float64."""
    mantissa, exponent = multiplier(tf.cast(factor, tf.float64))
    return tf.minimum(tf.floor((mantissa + 2**15) / 2**16), 2.0**15 - 1), exponent


def _saturated(x):
    return tf.clip_by_value(x, -(2.0**15), 2.0**15 - 1)
