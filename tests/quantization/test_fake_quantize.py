import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras import models
from wakeword_keras.affine import Affine, dequantize, quantize
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import fake_quantize

INPUT = Affine(26 / 256, -128)


def test_quantizing_leaves_the_float_model_as_it_was():
    model = models.build("ds_cnn", 20, 10, 1)
    before = [w.copy() for w in model.get_weights()]
    qat = fake_quantize.quantize(model, INPUT)
    qat.compile("sgd", "mse")
    qat.fit(np.ones((8, 20, 10), np.float32), np.ones((8, 1)), verbose=0)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_weights_are_copied():
    model = models.build("ds_cnn", 20, 10, 2)
    qat = fake_quantize.quantize(model, INPUT)
    (copied,) = (v for v in qat.trainable_weights if v.name == "first/kernel:0")
    np.testing.assert_array_equal(copied, model.get_layer("first").kernel)


def test_the_input_is_quantized_as_the_device_does_and_stays_so_in_training():
    inputs = layers.Input((4, 3))
    model = keras.Model(inputs, layers.Dense(1, name="logit")(layers.Flatten()(inputs)))
    qat = fake_quantize.quantize(model, INPUT)
    features = np.random.default_rng(0).uniform(-5, 40, (64, 4, 3)).astype(np.float32)
    qat.compile("sgd", "mse")
    qat.fit(features * 100, np.zeros((64, 1)), verbose=0)
    seen = qat.layers[1](features, training=True).numpy()
    expected = dequantize(quantize(features, INPUT), INPUT)
    # The fake quantization rounds in float32: at a tie it may land on the neighbouring step.
    assert np.abs(seen - expected).max() <= INPUT.scale * 1.001
    assert np.mean(np.abs(seen - expected) > INPUT.scale * 0.01) < 0.002


def test_a_layer_without_quantization_is_named():
    inputs = layers.Input((4, 3))
    model = keras.Model(inputs, layers.LayerNormalization(name="odd_one")(inputs))
    with pytest.raises(InputError, match=r"LayerNormalization|odd_one"):
        fake_quantize.quantize(model, INPUT)
