"""Tensors that a kernel only moves share one range, forward and back; what cannot is refused."""

import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import Affine
from wakeword_keras.models import activations
from wakeword_keras.quantization import calibration, fake_quantize, shared_ranges
from wakeword_keras.quantization.preflight import check_quantizable

INPUT = Affine(26 / 256, -128)


def dense(x, name):
    return layers.Dense(4, name=name)(x)


def model_of(build):
    inputs = layers.Input((4,), name="features")
    return keras.Model(inputs, build(inputs))


def joined_behind_dropout(x):
    dropped = layers.Dropout(0.5, name="dropped")(dense(x, "a"))
    joined = layers.Concatenate(name="joined")([dropped, dense(x, "b")])
    return dense(joined, "logit")


def test_a_concatenation_gives_one_range_to_all_that_it_reads_through_what_moves_values():
    groups = shared_ranges.range_groups(model_of(joined_behind_dropout))
    writers = [[layer.name for layer in group.writers] for group in groups]
    assert writers == [["features"], ["a", "b"], ["logit"]]


def test_a_shared_range_holds_the_values_of_all():
    model = model_of(joined_behind_dropout)
    features = np.random.default_rng(0).uniform(0, 26, (32, 4)).astype(np.float32)
    qat = fake_quantize.quantize(model, INPUT)
    ranges = {r.layer: r.after for r in calibration.calibrate(qat, model, features)}
    joined = keras.Model(model.inputs, model.get_layer("joined").output)(features).numpy()
    assert ranges["a"] == ranges["b"] == (min(0, joined.min()), max(0, joined.max()))
    assert calibration.read_ranges(qat) == ranges


def sigmoid(x):
    return layers.Activation("sigmoid", name="sigmoid")(x)


TORN = {
    "a fixed range and a measured one": lambda x: layers.Concatenate()(
        [sigmoid(dense(x, "a")), dense(x, "torn")]
    ),
    "two fixed ranges": lambda x: layers.Concatenate()(
        [sigmoid(dense(x, "a")), layers.Activation("tanh", name="torn")(dense(x, "b"))]
    ),
    "the input and a measured one": lambda x: layers.Concatenate()([x, dense(x, "torn")]),
    "hard-sigmoid's scale behind no clamp at 6": lambda x: activations.HardSigmoidScale()(
        dense(x, "torn")
    ),
}


@pytest.mark.parametrize("case", TORN)
def test_layers_that_cannot_share_a_range_are_refused(case):
    (problem,) = check_quantizable(model_of(TORN[case]))
    assert problem.layer == "torn"
    assert "range" in problem.reason


def test_a_layer_that_computes_between_them_has_a_range_of_its_own():
    def mended(x):
        gate = layers.ReLU(6.0, name="between")(sigmoid(dense(x, "a")))
        return layers.Concatenate()([gate, dense(x, "b"), dense(x, "of_input")])

    assert check_quantizable(model_of(mended)) == []


def test_a_clamp_within_the_demanded_range_shares_it():
    model = model_of(lambda x: activations.hard_sigmoid(dense(x, "gate"), "gate_sigmoid"))
    assert check_quantizable(model) == []
