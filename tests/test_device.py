"""The device model against the exported file on the reference kernels, in LSBs."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_ranges import BLOCKS, INPUT, model_of, smooth_features, through_the_door, trained
from test_tflite import dataset_of, run_int8

from wakeword_keras.export import tflite
from wakeword_keras.models import mobilenet_v3
from wakeword_keras.quantization import calibration, device, kernels, scheme

EXACT = (
    "hard_swish",
    "convolution_with_bias_and_batch_norm",
    "inverted_residual",
    "add_relu",
    "depthwise_multiplier",
)


@pytest.mark.parametrize("name", EXACT)
def test_a_block_is_what_the_reference_kernels_compute_but_for_one_clip_in_twenty(name):
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 26, (64, 12, 8)).astype(np.float32)
    block = next(block for block in BLOCKS if block.__name__ == name)
    model = trained(model_of(block), features, 2)
    qat = scheme.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    logits, scale = run_int8(tflite.int8_model(qat, dataset_of(features[:2])), features)
    exact = device.device_model(qat, model).predict(features, verbose=0)
    lsb = np.abs(logits - exact) / scale
    assert lsb.max() < 1.01
    assert np.mean(lsb > 0.01) < 0.05
    assert np.ptp(logits) > 20 * scale, "the comparison would not notice a constant output"


@pytest.mark.slow
def test_a_whole_mobilenet_is_within_two_steps_of_the_file_where_fake_quantization_is_not():
    keras.utils.set_random_seed(0)
    model = mobilenet_v3.mobilenet_v3_small(64, 32, 1, width=0.25)
    qat, content, features = through_the_door(model, 4, 0)
    logits, scale = run_int8(content, features)
    exact = device.device_model(qat, model).predict(features, verbose=0)
    lsb = np.abs(logits - exact) / scale
    fake = np.abs(logits - qat.predict(features, verbose=0)) / scale
    assert np.percentile(lsb, 99) <= 2.01, lsb.max()
    assert np.mean(lsb > 0.5) < 0.1 < np.mean(fake > 0.5)


def test_gradients_are_those_of_fake_quantization_and_reach_every_weight():
    keras.utils.set_random_seed(0)
    model = model_of(next(block for block in BLOCKS if block.__name__ == "inverted_residual"))
    features, _ = smooth_features(4)
    features = features[:, :12, :8]
    qat = scheme.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    exact = device.device_model(qat, model)
    assert [w.ref() for w in exact.trainable_weights] == [w.ref() for w in qat.trainable_weights]
    gradients = []
    for judged in (exact, qat):
        with tf.GradientTape() as tape:
            logits = judged(features, training=False)
        gradients.append(tape.gradient(logits, qat.trainable_weights))
    for ours, fake in zip(*gradients, strict=True):
        # Both are linearised at activations that differ by a step here and there.
        np.testing.assert_allclose(ours, fake, rtol=0, atol=0.01 * np.abs(fake).max() + 1e-6)


@pytest.mark.parametrize("factor", [0.25, 0.3, 0.5, 0.9999999999, 1.0, 1 / 3000, 6.5])
def test_a_fixed_point_factor_has_31_bits(factor):
    mantissa, exponent = (float(x) for x in kernels.fixed_point(tf.constant(factor, tf.float64)))
    assert 2**30 <= mantissa < 2**31
    assert mantissa == round(mantissa)
    assert mantissa / 2**31 * 2**exponent == pytest.approx(factor, rel=2**-31)


def test_a_value_is_rounded_twice():
    """Factor 1/4 = 0.5 / 2: 5 * 0.5 becomes 3, and 3 / 2 becomes 2, where 5 / 4 is near 1."""
    quarter = tf.constant(0.25, tf.float64)
    steps = kernels.rescaled(tf.constant([5.0, 4.0, 6.0, -6.0, 7.0]), quarter)
    np.testing.assert_array_equal(steps, [2, 1, 2, -2, 2])
    # 0.4 = 0.8 / 2: 6 * 0.8 = 4.8 becomes 5, and 5 / 2 becomes 3, where 6 * 0.4 = 2.4 is near 2.
    twice = kernels.rescaled(tf.constant([6.0]), tf.constant(0.4, tf.float64))
    np.testing.assert_array_equal(twice, [3])


@pytest.mark.parametrize(("total", "expected"), [(8, 1), (9, 2), (10, 2), (-9, -2), (14, 2)])
def test_the_mean_of_few_values_is_up_to_three_quarters_of_a_step_off(total, expected):
    """9 / 7 = 1.29: with one bit below the point, ties up, it becomes 1.5, and then 2."""
    x = tf.reshape(tf.constant([float(total)] + [0.0] * 6), (1, 7, 1, 1))
    mean = kernels.mean(x, (1, 2), False, tf.constant(1.0, tf.float64))
    np.testing.assert_array_equal(mean, [[expected]])


def test_hard_swish_is_within_a_step_of_the_formula():
    scale_in, scale_out = (tf.constant(s, tf.float64) for s in (0.05, 0.03))
    steps = np.arange(-128, 120, dtype=np.float32)
    x = steps * 0.05
    expected = x * np.clip(x + 3, 0, 6) / 6 / 0.03
    got = kernels.hard_swish(tf.constant(steps), scale_in, scale_out).numpy()
    assert np.abs(got - expected).max() < 1.01
