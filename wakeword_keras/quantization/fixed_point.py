"""Functions of whole numbers as gemmlowp computes them: 32-bit fixed point, by Taylor and Newton.

A fraction x is int64 here: x * 2^31. TFLite's SOFTMAX and L2_NORMALIZATION are made of these. Their
last bits matter: one in 700,000 values of a softmax computed in float is on the other side of a
rounding, which is one clip in a hundred.
Sources: gemmlowp, fixedpoint/fixedpoint.h; tensorflow/lite/kernels/internal/common.h.
"""

import math

import tensorflow as tf

ONE = 2**31 - 1
"""The fraction nearest to 1."""

EXP_BITS = 26
"""Bits below the point in what `exp` is given."""


def exponent_of(x):
    """The exponent e, int64, of positive float64 numbers x = m * 2^e with m in [1/2, 1)."""
    return tf.bitwise.right_shift(tf.bitcast(x, tf.int64), _int64(52)) - 1022


def power_of_two(exponent):
    """2^exponent, float64, of int64: many times faster than a power."""
    return tf.bitcast(tf.bitwise.left_shift(exponent + 1023, _int64(52)), tf.float64)


def times(a, b):
    """The product a * b / 2^31, rounded."""
    return halved(a * b, 31)


def halved(x, bits=1):
    """x / 2^bits, rounded to nearest, ties up."""
    bits = _int64(bits)
    return tf.bitwise.right_shift(x + tf.bitwise.left_shift(_int64(1), bits - 1), bits)


def exp(x):
    """e^x for x in (-32, 0]: a Taylor series within a quarter, then a factor for each bit of -x.

    Args:
      x: int64, with EXP_BITS bits below the point.

    Returns:
      A fraction.
    """
    quarter = 2 ** (EXP_BITS - 2)
    in_quarter = tf.bitwise.bitwise_and(x, _int64(quarter - 1)) - quarter  # [-1/4, 0)
    rest = in_quarter - x
    y = _exp_of_quarter(in_quarter * 2 ** (31 - EXP_BITS))
    for power in range(-2, 31 - EXP_BITS):
        bit = tf.bitwise.bitwise_and(rest, _int64(2 ** (EXP_BITS + power)))
        y = tf.where(bit > 0, times(y, _fraction(math.exp(-(2.0**power)))), y)
    return tf.where(tf.equal(x, 0), _int64(ONE), y)


def _exp_of_quarter(x):
    """e^x for a fraction in [-1/4, 0): the series around -1/8, to the fourth power."""
    middle = _fraction(math.exp(-1 / 8))
    x = x + 2**28
    square = times(x, x)
    cube, fourth = times(square, x), times(square, square)
    tail = halved(times(halved(fourth, 2) + cube, _fraction(1 / 3)) + square)
    return middle + times(middle, x + tail)


def reciprocal(x):
    """1 / x by three steps of Newton's.

    Args:
      x: int64 with 19 bits below the point, at least 1.

    Returns:
      A fraction in [1/2, 1] and a shift: 1 / x ~ fraction / 2^shift; both int64.
    """
    bits = exponent_of(tf.cast(x, tf.float64))
    above_one = tf.bitwise.left_shift(x, 32 - bits) - 2**31
    half_denominator = halved(above_one + ONE)
    # Beside fractions, numbers with 29 bits below the point.
    y = _fraction(48 / 17 / 4) + times(half_denominator, _fraction(-32 / 17 / 4))
    for _ in range(3):
        y += times(y, 2**29 - times(half_denominator, y)) * 4
    return tf.minimum(y * 2, ONE), bits - 20


def inverse_square_root(x):
    """1 / sqrt(x) by five steps of Newton's, which leave an error of up to 3e-6.

    Args:
      x: int64 in [1, 2^29).

    Returns:
      A fraction, float64, and an exponent, int64: 1 / sqrt(x) ~ fraction / 2^31 * 2^exponent.
    """
    pairs = tf.bitwise.right_shift(31 - exponent_of(tf.cast(x, tf.float64)), _int64(1)) - 1
    half = halved(tf.bitwise.left_shift(x, 2 * pairs), 2)
    # Numbers with 28 bits below the point, half of one in [1/4, 1) among them.
    y = _int64(2**28)
    for _ in range(5):
        cube = times(times(y, y), y) * 2**6
        y = (times(y, _int64(3 * 2**27)) - times(half, cube)) * 2**3
    y = times(y, _fraction(math.sqrt(0.5)))
    return tf.cast(y, tf.float64), pairs - 11


def _fraction(value: float):
    return _int64(round(value * 2**31))


def _int64(value):
    return tf.convert_to_tensor(value, tf.int64)
