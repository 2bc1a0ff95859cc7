import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.training import dropout

RATE = 0.25


@pytest.fixture(scope="module")
def model():
    x = inputs = keras.Input((500,))
    x = layers.Dropout(RATE, name="first")(x)
    x = layers.BatchNormalization(name="norm")(x)
    both = [layers.Dropout(RATE, name="second")(x), layers.Dropout(RATE, name="third")(x)]
    return keras.Model(inputs, [x, *both])


def outputs(model, seed=1, step=0):
    dropping = dropout.by_step(model, seed, tf.Variable(step, dtype=tf.int64))
    frozen = [layer for layer in dropping.layers if layer.name == "norm"]
    frozen[0].trainable = False  # so that a call changes nothing
    return [x.numpy() for x in dropping(tf.ones((4, 500)), training=True)]


def test_draws_are_a_function_of_seed_layer_and_step(model):
    first = outputs(model)
    for same, again in zip(first, outputs(model), strict=True):
        np.testing.assert_array_equal(same, again)
    assert (first[1] != first[2]).any()
    for other in (outputs(model, seed=2), outputs(model, step=1)):
        assert all((a != b).any() for a, b in zip(first, other, strict=True))


def test_the_share_is_dropped_and_the_rest_is_scaled(model):
    values = outputs(model)[0]
    assert np.mean(values == 0) == pytest.approx(RATE, abs=0.04)
    assert values[values > 0] == pytest.approx(1 / (1 - RATE), rel=1e-2)


def test_layers_weights_and_inference_are_those_of_the_model(model):
    dropping = dropout.by_step(model, 1, tf.Variable(0, dtype=tf.int64))
    assert [id(w) for w in dropping.weights] == [id(w) for w in model.weights]
    assert [layer.name for layer in dropping.layers] == [layer.name for layer in model.layers]
    x = tf.random.stateless_uniform((4, 500), (0, 1))
    for a, b in zip(model(x), dropping(x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_without_dropout_stays_itself():
    inputs = keras.Input((4,))
    plain = keras.Model(inputs, layers.Dense(1)(inputs))
    assert dropout.by_step(plain, 1, tf.Variable(0, dtype=tf.int64)) is plain
