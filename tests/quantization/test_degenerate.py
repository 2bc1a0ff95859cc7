"""Weights and activations without any spread: finite, right, and still so after an epoch."""

import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import Affine
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, fake_quantize, integer_model, proof

INPUT = Affine(26 / 256, -128)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).uniform(0, 26, (32, 10, 6)).astype(np.float32)


def network():
    keras.utils.set_random_seed(0)
    inputs = layers.Input((10, 6), name="features")
    x = layers.Reshape((10, 6, 1), name="image")(inputs)
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(1, 1, name="narrow")(x)
    x = layers.Dense(3, name="dense")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, layers.Dense(2, name="logit")(x))


def scale_weight(layer, attribute, channel, factor):
    def change(model):
        variable = getattr(model.get_layer(layer), attribute)
        value = variable.numpy()
        value[channel] *= factor
        variable.assign(value)

    return change


def constant_biases(model):
    """The converter quantizes biases that are all equal by the first channel's scale."""
    for name in ("conv", "depthwise", "logit"):
        bias = model.get_layer(name).bias
        bias.assign(np.full(bias.shape, 0.5))


ALL = ...
CHANGES = {
    "a pruned filter": scale_weight("conv", "kernel", (ALL, 3), 0),
    "a pruned depthwise filter": scale_weight("depthwise", "depthwise_kernel", (ALL, 1, 0), 0),
    "a pruned convolution": scale_weight("conv", "kernel", ALL, 0),
    "a pruned dense layer": scale_weight("dense", "kernel", ALL, 0),
    "a dead unit": scale_weight("dense", "kernel", (ALL, 1), 0),
    "a batch norm that starts at zero": scale_weight("norm", "gamma", ALL, 0),
    "a batch norm that turns one channel off": scale_weight("norm", "gamma", (1,), 0),
    "a faint filter": scale_weight("conv", "kernel", (ALL, 3), 1e-9),
    "a faint layer": scale_weight("conv", "kernel", ALL, 1e-4),
    "a loud layer": scale_weight("conv", "kernel", ALL, 1e6),
    "logits of zero": scale_weight("logit", "kernel", ALL, 0),
}
REFUSED = {
    "equal biases": (constant_biases, "'conv' has the bias 0.5 in every channel"),
    "a batch norm that turns a channel off but for its offset": (
        lambda model: [
            scale_weight("norm", "gamma", (1,), 0)(model),
            model.get_layer("norm").beta.assign([0.0, 30.0, 0.0, 0.0]),
        ],
        "'conv' has a bias of .* beyond the 32 bits",
    ),
    "weights that are not finite": (
        scale_weight("dense", "kernel", ALL, np.nan),
        "'dense' has weights of NaN",
    ),
    "weights that overflow": (
        scale_weight("dense", "kernel", ALL, 1e38),
        "'dense' gives NaN or infinity",
    ),
    "a layer too faint for int8": (
        scale_weight("dense", "kernel", ALL, 1e-9),
        "'dense' has weights of at most .* too small",
    ),
}


DEFAULT = ("a pruned filter", "a pruned dense layer", "a faint filter", "logits of zero")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in DEFAULT else pytest.mark.slow) for case in CHANGES],
)
def test_int8_is_finite_and_near_the_float_model_and_an_epoch_leaves_it_so(case, features):
    model = network()
    CHANGES[case](model)
    qat = fake_quantize.quantize(model, INPUT)
    ranges = {r.layer: r.after for r in calibration.calibrate(qat, model, features)}
    low, high = ranges["logit"]
    assert np.isfinite([low, high]).all()
    assert low < high
    device = integer_model.device_model(qat, model)
    proof.int8_model(qat, model, features)
    logits = model.predict(features, verbose=0)
    apart = np.abs(device.predict(features, verbose=0) - logits).max()
    assert apart < 8 * (high - low) / 255
    device.compile(keras.optimizers.Adam(1e-3), "mse")
    device.fit(features, logits, verbose=0)
    assert all(np.isfinite(weight).all() for weight in qat.get_weights())
    assert np.isfinite(device.predict(features, verbose=0)).all()


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_int8_kernel_computes_is_refused_by_name(case, features):
    change, message = REFUSED[case]
    model = network()
    change(model)
    with pytest.raises(InputError, match=message):
        to_int8(model, features)


def to_int8(model, features):
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    return proof.int8_model(qat, model, features)
