"""Every argument of every layer that has a rule: known, or the layer is refused by name."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.models import activations, operations
from wakeword_keras.quantization import layer_rules
from wakeword_keras.quantization.preflight import check_quantizable

ROWS, COLUMNS = 6, 8
NEEDED = {
    layers.Conv2D: {"filters": 8, "kernel_size": 3},
    layers.DepthwiseConv2D: {"kernel_size": 3},
    layers.Dense: {"units": 8},
    layers.Permute: {"dims": (2, 1, 3)},
    layers.Reshape: {"target_shape": (COLUMNS, ROWS, 4)},
    layers.Dropout: {"rate": 0.1},
    layers.SpatialDropout1D: {"rate": 0.1},
    layers.SpatialDropout2D: {"rate": 0.1},
}
OF_TWO = (layers.Add, layers.Subtract, layers.Multiply, layers.Concatenate, operations.MatMul)
TAKEN = {
    "filters": 3,
    "kernel_size": (2, 1),
    "strides": (2, 2),
    "padding": "same",
    "dilation_rate": (2, 1),
    "use_bias": False,
    "depth_multiplier": 2,
    "units": 3,
    "momentum": 0.5,
    "epsilon": 1e-7,
    "center": False,
    "scale": False,
    "max_value": 6.0,
    "transpose_b": True,
    "keepdims": True,
    "pool_size": (1, 3),
    "cropping": ((1, 0), (0, 2)),
    "dims": (3, 1, 2),
    "target_shape": (-1, 4),
    "axis": 3,
    "rate": 0.4,
    "noise_shape": (None, 1, 1, None),
    "seed": 3,
    "activation": "relu",
    "trainable": False,
}
"""A value of each argument that the int8 kernels compute."""
TAKEN_OF = {
    (layers.ZeroPadding2D, "padding"): ((0, 1), (2, 0)),
    (layers.Cropping1D, "cropping"): (1, 2),
}
REFUSED = {
    "data_format": ["channels_first"],
    "groups": [2, 4],
    "axis": [1, 2],
    "activation": ["sigmoid", "swish", tf.nn.leaky_relu],
    "dtype": ["mixed_float16", "float64"],
    "max_value": [3.0],
    "negative_slope": [0.1],
    "threshold": [1.0],
    "epsilon": [1e-2],
}
"""Values of each argument that they do not."""
REFUSED_OF = {
    (layers.Concatenate, "axis"): [],
    (layers.BatchNormalization, "epsilon"): [],
}
KINDS = [kind for kind in layer_rules.RULES if isinstance(kind, type)]


def model_with(kind, **arguments):
    """A model that the layer stands in where its rule lets it."""
    inputs = layers.Input((ROWS, 4 * COLUMNS), name="features")
    x = layers.Reshape((ROWS, COLUMNS, 4), name="image")(inputs)
    if kind in (layers.Cropping1D, layers.SpatialDropout1D):
        x = layers.Reshape((ROWS, COLUMNS * 4), name="sequence")(inputs)
    if kind is operations.RelativeShift:
        x = layers.Reshape((ROWS, COLUMNS // 2, COLUMNS), name="scores")(inputs)
    x = layers.Conv2D(4, 1, name="before")(x) if x.shape[-1] == 4 else x
    if kind is activations.HardSigmoidScale:
        x = layers.ReLU(6.0, name="clamp")(x)
    layer = kind(**NEEDED.get(kind, {}) | arguments, name="odd")
    x = layer([x, x] if kind in OF_TWO else x)
    x = layers.Dense(1, name="logit")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, x)


def arguments_of(kind):
    config = kind(**NEEDED.get(kind, {})).get_config()
    return [name for name in config if not name.endswith(layer_rules.FREE_ENDINGS)]


NOT_GIVEN = {
    (layers.DepthwiseConv2D, "groups"),
    (layers.SpatialDropout1D, "noise_shape"),
    (layers.SpatialDropout2D, "noise_shape"),
}
"""In the configuration, but the layer's own constructor does not take them."""
CASES = [
    (kind, name)
    for kind in KINDS
    for name in arguments_of(kind)
    if name != "name" and (kind, name) not in NOT_GIVEN
]


# Two equal tensors are multiplied with transpose_b alone.
TAKEN_BARE = [kind for kind in KINDS if kind is not operations.MatMul]


@pytest.mark.parametrize("kind", TAKEN_BARE, ids=lambda kind: kind.__name__)
def test_a_layer_is_taken_as_it_is_by_default(kind):
    assert check_quantizable(model_with(kind)) == []


@pytest.mark.parametrize(("kind", "name"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_an_argument_is_taken_or_refused_by_its_name(kind, name):
    taken = TAKEN_OF.get((kind, name), TAKEN.get(name))
    refused = REFUSED_OF.get((kind, name), REFUSED.get(name, []))
    assert taken is not None or refused, "an argument that nobody has thought of"
    rest = {"transpose_b": True} if kind is operations.MatMul else {}
    if taken is not None:
        assert check_quantizable(model_with(kind, **rest | {name: taken})) == []
    for value in refused:
        (problem,) = check_quantizable(model_with(kind, **rest | {name: value}))
        assert problem.layer == "odd"
        assert f"has {name}=" in problem.reason
        assert problem.mend


def test_an_argument_that_no_row_names_is_refused(monkeypatch):
    config = layers.MaxPooling2D.get_config
    monkeypatch.setattr(layers.MaxPooling2D, "get_config", lambda self: config(self) | {"new": 1})
    (problem,) = check_quantizable(model_with(layers.MaxPooling2D))
    assert "new=1" in problem.reason


def of(build, **options):
    inputs = layers.Input((ROWS, COLUMNS), name="features", **options)
    return keras.Model(inputs, build(inputs))


def relu(x):
    """As leaky as it likes: only its name is known."""
    return tf.nn.leaky_relu(x)


def dense(x):
    return layers.Dense(COLUMNS)(x)


CALLS = {
    "a function of the user's that is called as one that we know": lambda x: layers.Activation(
        relu, name="odd"
    )(x),
    "dropout that stays on": lambda x: layers.Dropout(0.5, name="odd")(x, training=True),
    "a masked softmax": lambda x: layers.Softmax(name="odd")(
        dense(x), mask=np.ones((1, ROWS, COLUMNS), bool)
    ),
    "a sum of three": lambda x: layers.Add(name="odd")([dense(x), dense(x), dense(x)]),
    "a product of three": lambda x: layers.Multiply(name="odd")([dense(x), dense(x), dense(x)]),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_the_kernel_does_not_compute_is_refused(case):
    (problem,) = check_quantizable(of(CALLS[case]))
    assert problem.layer == "odd"
    assert problem.mend


@pytest.mark.parametrize("options", [{"dtype": "int32"}, {"sparse": True}, {"ragged": True}])
def test_an_input_that_is_no_dense_float32_is_refused(options):
    (problem,) = check_quantizable(of(layers.Dropout(0.1), **options))
    assert problem.layer == "features"


def test_an_input_of_any_length_is_refused():
    inputs = layers.Input((None, COLUMNS), name="features")
    (problem,) = check_quantizable(keras.Model(inputs, layers.Dropout(0.1)(inputs)))
    assert problem.layer == "features"


def test_an_output_in_a_dict_is_refused():
    (problem,) = check_quantizable(of(lambda x: {"logit": dense(x)}))
    assert "output" in problem.reason


def test_a_layer_that_another_model_uses_too_is_used_once_here():
    shared = layers.Dense(COLUMNS, name="shared")
    of(lambda x: shared(layers.Dropout(0.1)(x)))
    model = of(lambda x: layers.ReLU()(shared(x)))
    assert check_quantizable(model) == []
    assert layer_rules.producers(shared, model) == [model.get_layer("features")]


def test_a_sequential_model_is_taken_once_its_input_is_known():
    built = keras.Sequential([layers.Input((ROWS, COLUMNS)), layers.Dense(1)])
    assert check_quantizable(built) == []
    (problem,) = check_quantizable(keras.Sequential([layers.Dense(1)]))
    assert "layers.Input" in problem.mend
