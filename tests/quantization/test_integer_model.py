"""The device model against the exported file on the reference kernels, in LSBs."""

import numpy as np
import pytest
import tensorflow as tf
import test_conformer
import test_layer_rules
import tf_keras as keras
from test_convert import dataset_of, run_int8
from test_layer_rules import (
    CHANNELS,
    FRAMES,
    INPUT,
    model_of,
    through_the_door,
    trained,
)
from tf_keras import layers

from wakeword_keras.models import mobilenet_v3
from wakeword_keras.quantization import (
    calibration,
    fake_quantize,
    integer_model,
    layer_kernels,
    tfmot_access,
)
from wakeword_keras.tflite import convert

EXACT = [*test_layer_rules.BLOCKS, test_conformer.whole_block]


def calibrated(block):
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 26, (64, FRAMES, CHANNELS)).astype(np.float32)
    model = trained(model_of(block), features, 2)
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    return model, qat, features


def assert_exact(qat, model, content, features):
    logits, scale = run_int8(content, features)
    exact = integer_model.device_model(qat, model).predict(features, verbose=0)
    assert np.abs(logits - exact).max() / scale < 0.01
    assert np.ptp(logits) > 20 * scale, "the comparison would not notice a constant output"
    return np.abs(logits - qat.predict(features, verbose=0)) / scale


@pytest.mark.parametrize("block", EXACT, ids=lambda block: block.__name__)
def test_a_block_is_what_the_reference_kernels_compute(block):
    model, qat, features = calibrated(block)
    assert_exact(qat, model, convert.int8_model(qat, dataset_of(features[:2])), features)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_dense_layer_on_images_multiplies_exactly_every_time(rows):
    """TensorFlow's own product of four axes by two is wrong, or crashes, where the second is 1."""
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 26, (16, rows, 12, 8)).astype(np.float32)
    inputs = layers.Input(features.shape[1:], name="features")
    model = keras.Model(inputs, layers.Dense(5, use_bias=False, name="dense")(inputs))
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    steps = integer_model.layer_steps(qat, model, features)
    kernel = tfmot_access.wrapper_of(qat, "dense")
    integers, _, _ = layer_kernels.integer_weights([kernel], INPUT.scale)
    sums = np.einsum("brcd,de->brce", steps["features"].astype(np.int64), integers.numpy())
    low, high = tfmot_access.output_range(kernel)
    real = sums * INPUT.scale * float(tfmot_access.quantized_weight(kernel)[2]) / 127
    expected = np.round(real / ((high - low) / 255))
    for _ in range(20):
        again = integer_model.layer_steps(qat, model, features)["dense"]
        np.testing.assert_array_equal(again, steps["dense"])
    assert np.abs(steps["dense"] - expected).max() <= 1


@pytest.mark.slow
def test_a_whole_mobilenet_is_the_file_where_fake_quantization_is_not():
    keras.utils.set_random_seed(0)
    model = mobilenet_v3.mobilenet_v3_small(64, 32, 1, width=0.25)
    fake = assert_exact(*reordered(model, through_the_door(model, 4, 0)))
    assert np.mean(fake > 0.5) > 0.1


@pytest.mark.slow
def test_a_whole_conformer_is_the_file_where_fake_quantization_is_not():
    model = test_conformer.small_conformer(blocks=2)
    fake = assert_exact(*reordered(model, through_the_door(model, 8, 1)))
    assert np.mean(fake > 0.5) > 0.1


def reordered(model, made):
    qat, content, features = made
    return qat, model, content, features


def test_a_constant_of_zeros_has_the_scale_that_the_converter_gives_it():
    """A HeadBias begins with zeros."""
    keras.utils.set_random_seed(0)
    model = model_of(test_conformer.attention)
    qat = fake_quantize.quantize(model, INPUT)
    features = np.random.default_rng(0).uniform(0, 26, (16, FRAMES, CHANNELS)).astype(np.float32)
    calibration.calibrate(qat, model, features)
    assert_exact(qat, model, convert.int8_model(qat, dataset_of(features[:2])), features)


def test_nothing_is_dropped_while_the_device_model_trains():
    model, qat, features = calibrated(test_conformer.whole_block)
    exact = integer_model.device_model(qat, model)
    np.testing.assert_array_equal(
        exact(features[:8], training=True), exact(features[:8], training=False)
    )


@pytest.mark.parametrize(
    "block",
    [test_layer_rules.inverted_residual, test_conformer.whole_block],
    ids=lambda block: block.__name__,
)
def test_gradients_are_those_of_fake_quantization_and_reach_every_weight(block):
    model = model_of(block)
    # Of frames whose channels are equal, layer norms would make zeros, and gradients without bound.
    features = np.random.default_rng(0).uniform(0, 26, (64, FRAMES, CHANNELS)).astype(np.float32)
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    exact = integer_model.device_model(qat, model)
    assert [w.ref() for w in exact.trainable_weights] == [w.ref() for w in qat.trainable_weights]
    gradients = []
    for judged in (exact, qat):
        with tf.GradientTape() as tape:
            logits = judged(features, training=False)
        gradients.append(tape.gradient(logits, qat.trainable_weights))
    for ours, fake in zip(*gradients, strict=True):
        # Both are linearised at activations that differ by a step here and there.
        length, other = np.linalg.norm(ours), np.linalg.norm(fake)
        assert np.vdot(ours, fake) > 0.98 * length * other > 0
        assert length == pytest.approx(other, rel=0.06)
