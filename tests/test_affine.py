import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeword_keras.affine import Affine, dequantize, from_range, quantize

ESPHOME = Affine(666 / 25.6 / 256, -128)
affines = st.builds(Affine, st.floats(1e-6, 1e3), st.integers(-128, 127))
reals = st.floats(-1e6, 1e6, width=32)


def test_equals_the_integer_formula_of_esphome_on_every_front_end_value():
    value = np.arange(1001)
    integer = np.clip((value * 256 + 333) // 666 - 128, -128, 127)
    np.testing.assert_array_equal(quantize(value / np.float32(25.6), ESPHOME), integer)


def test_every_int8_survives_dequantize_and_quantize():
    numbers = np.arange(-128, 128, dtype=np.int8)
    for affine in (Affine(0.1, 0), Affine(1 / 256, -128), Affine(3.7, 5), ESPHOME):
        np.testing.assert_array_equal(quantize(dequantize(numbers, affine), affine), numbers)


def test_hand_values():
    affine = Affine(scale=0.5, zero_point=-10)
    assert quantize([0.0, 1.0, -2.0, 1.2, 1.3], affine).tolist() == [-10, -8, -14, -8, -7]
    assert dequantize(np.array([-10, -8, 90], np.int8), affine).tolist() == [0.0, 1.0, 50.0]


def test_ties_round_away_from_zero():
    ties = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5], np.float32)
    assert quantize(ties, Affine(1.0, 0)).tolist() == [1, 2, 3, -1, -2, -3]


def test_the_float_just_below_a_tie_rounds_down():
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert quantize([below, -below], Affine(1.0, 0)).tolist() == [0, 0]


def test_values_outside_the_range_saturate():
    affine = Affine(0.1, 7)
    outside = [1e30, -1e30, np.inf, -np.inf, affine.high + 1, affine.low - 1]
    assert quantize(outside, affine).tolist() == [127, -128] * 3


def test_shape_is_kept_and_types_are_int8_and_float32():
    real = np.zeros((2, 3, 4), np.float64)
    quantized = quantize(real, ESPHOME)
    assert (quantized.shape, quantized.dtype) == ((2, 3, 4), np.int8)
    assert dequantize(quantized, ESPHOME).dtype == np.float32


@given(affine=affines, real=reals)
def test_quantization_error_inside_the_range_is_at_most_half_a_step(affine, real):
    real = float(np.clip(real, affine.low, affine.high))
    error = abs(float(dequantize(quantize(real, affine), affine)) - real)
    assert error <= affine.scale * (0.5 + 1e-4)


@given(affine=affines, one=reals, other=reals)
def test_quantization_is_monotonic(affine, one, other):
    low, high = quantize(sorted((one, other)), affine)
    assert low <= high


@given(low=st.floats(-1e3, 0), high=st.floats(1e-3, 1e3))
def test_from_range_covers_the_range_and_holds_zero_exactly(low, high):
    affine = from_range(low, high)
    half_step = affine.scale * (0.5 + 1e-6)
    assert affine.low == pytest.approx(low, abs=half_step)
    assert affine.high == pytest.approx(high, abs=half_step)
    assert dequantize(quantize(0.0, affine), affine) == 0.0


def test_from_range_widens_to_zero_and_refuses_an_empty_range():
    assert from_range(2.0, 5.1) == Affine(5.1 / 255, -128)
    assert from_range(-5.1, -2.0) == Affine(5.1 / 255, 127)
    with pytest.raises(ValueError, match="empty range"):
        from_range(0.0, 0.0)


@pytest.mark.parametrize(
    ("scale", "zero_point"), [(0, 0), (-1, 0), (np.nan, 0), (1, 128), (1, -129)]
)
def test_impossible_parameters_are_refused(scale, zero_point):
    with pytest.raises(ValueError, match="must"):
        Affine(scale, zero_point)
