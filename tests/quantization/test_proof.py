"""What preflight cannot promise is proven on the file."""

import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import Affine
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, fake_quantize, proof, tfmot_access
from wakeword_keras.tflite import convert

INPUT = Affine(26 / 256, -128)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).uniform(0, 26, (32, 8, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def models(features):
    keras.utils.set_random_seed(0)
    inputs = layers.Input((8, 6), name="features")
    x = layers.Reshape((8, 6, 1), name="image")(inputs)
    x = layers.Conv2D(4, 3, name="first")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.DepthwiseConv2D(3, name="second")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    fp32 = keras.Model(inputs, layers.Dense(2, name="logit")(x))
    qat = fake_quantize.quantize(fp32, INPUT)
    calibration.calibrate(qat, fp32, features)
    return qat, fp32


@pytest.fixture(scope="module")
def content(models, features):
    return proof.int8_model(*models, features)


def test_a_proven_file_is_the_converters(models, features, content):
    dataset = calibration.representative_dataset(features)
    assert content == convert.int8_model(models[0], dataset)


@pytest.mark.parametrize(
    ("weight", "layer"), [("first", "relu"), ("second", "second"), ("logit", "logit")]
)
def test_the_first_layer_that_differs_is_named(models, features, content, weight, layer):
    """The file is of other weights than the model that it is held against."""
    variable = tfmot_access.wrapper_of(models[0], weight).layer.bias
    variable.assign_add(np.full(variable.shape, 2.0))
    try:
        with pytest.raises(InputError, match=f"layer '{layer}' .*is the first that differs"):
            proof.verify(content, *models, features)
    finally:
        variable.assign_sub(np.full(variable.shape, 2.0))


def test_operands_too_far_apart_for_a_sum_are_refused_where_tflite_ends_the_process(features):
    inputs = layers.Input((8, 6), name="features")
    x = layers.Flatten(name="flat")(inputs)
    loud = layers.Dense(4, name="loud")(x)
    total = layers.Add(name="total")([loud, layers.Dense(4, name="other")(x)])
    fp32 = keras.Model(inputs, layers.ReLU(6.0, name="clamp")(total))
    fp32.get_layer("loud").kernel.assign(np.full((48, 4), 1e6, np.float32))
    qat = fake_quantize.quantize(fp32, INPUT)
    with pytest.raises(InputError, match=r"'total' reads .* coarser .*scale down"):
        calibration.calibrate(qat, fp32, features)


def test_a_bias_beyond_32_bits_is_refused(features):
    inputs = layers.Input((8, 6), name="features")
    x = layers.Dense(4, name="faint", use_bias=False)(layers.Flatten(name="flat")(inputs))
    fp32 = keras.Model(inputs, layers.Dense(1, name="logit", bias_initializer="ones")(x))
    fp32.get_layer("faint").kernel.assign(np.full((48, 4), 1e-6, np.float32))
    fp32.get_layer("logit").kernel.assign(np.full((4, 1), 1e-6, np.float32))
    qat = fake_quantize.quantize(fp32, INPUT)
    calibration.calibrate(qat, fp32, features)
    with pytest.raises(InputError, match=r"'logit' has a bias .* 32 bits"):
        proof.int8_model(qat, fp32, features)
