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
    model.get_layer("norm").trainable = False  # so that a call changes nothing
    return outputs_of(model, seed, step)


def outputs_of(model, seed=1, step=0):
    with dropout.by_step(model, seed, tf.Variable(step, dtype=tf.int64)):
        return [x.numpy() for x in model(tf.ones((4, 500)), training=True)]


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


def test_layers_weights_and_inference_stay_those_of_the_model(model):
    x = tf.random.stateless_uniform((4, 500), (0, 1))
    weights, plain = model.get_weights(), model(x)
    with dropout.by_step(model, 1, tf.Variable(0, dtype=tf.int64)):
        for a, b in zip(plain, model(x), strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(len(layer.inbound_nodes) == 1 for layer in model.layers)
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_models_within_a_model_drop_each_its_own():
    inputs = keras.Input((500,))
    members = []
    for number in range(2):
        x = keras.Input((500,))
        members.append(keras.Model(x, layers.Dropout(RATE)(x), name=f"member{number}"))
    first, second = outputs_of(keras.Model(inputs, [member(inputs) for member in members]))
    again, _ = outputs_of(keras.Model(inputs, [member(inputs) for member in members]))
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)


def test_behind_the_block_dropout_is_keras_own(model):
    outputs(model)
    first, again = (model(tf.ones((4, 500)), training=True)[0] for _ in range(2))
    assert (first.numpy() != again.numpy()).any()


def test_none_drops_nothing_in_training_and_gives_dropout_back(model):
    model.get_layer("norm").trainable = False
    with dropout.none(model):
        for a, b in zip(
            model(tf.ones((4, 500)), training=True), model(tf.ones((4, 500))), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert (model(tf.ones((4, 500)), training=True)[0].numpy() == 0).any()
