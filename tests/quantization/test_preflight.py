import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras import models
from wakeword_keras.affine import Affine
from wakeword_keras.errors import InputError
from wakeword_keras.models import operations
from wakeword_keras.quantization.fake_quantize import check_quantizable, quantize


def model_of(build, shape=(8, 8, 3)):
    inputs = layers.Input(shape, name="features")
    return keras.Model(inputs, build(inputs))


def conv(x, **options):
    return layers.Conv2D(4, 3, name="conv", **options)(x)


def twice_read(x):
    x = conv(x)
    return layers.Add(name="add")([layers.BatchNormalization(name="odd")(x), x])


def used_twice(x):
    shared = layers.Dense(3, name="odd")
    return shared(shared(x))


def nested(x):
    return keras.Sequential([layers.Dense(2)], name="odd")(x)


ODD = {
    "unknown layer": lambda x: layers.LayerNormalization(name="odd")(x),
    "activation inside": lambda x: layers.Dense(2, activation="sigmoid", name="odd")(x),
    "activation of two kernels": lambda x: layers.Activation("swish", name="odd")(x),
    "batch norm of the input": lambda x: layers.BatchNormalization(name="odd")(x),
    "batch norm behind an activation": lambda x: layers.BatchNormalization(name="odd")(
        conv(x, activation="relu")
    ),
    "batch norm of what others read": twice_read,
    "batch norm behind a dense layer": lambda x: layers.BatchNormalization(name="odd")(
        layers.Dense(4)(x)
    ),
    "leaky clamp": lambda x: layers.ReLU(negative_slope=0.1, name="odd")(x),
    "clamp at 3": lambda x: layers.ReLU(3.0, name="odd")(x),
    "used twice": used_twice,
    "nested": nested,
    "lambda": lambda x: layers.Lambda(lambda y: y + 1, name="odd")(x),
}


@pytest.mark.parametrize("case", ODD)
def test_what_would_stay_float_is_listed_with_reason_and_mend(case):
    (problem,) = check_quantizable(model_of(ODD[case]))
    assert problem.layer == "odd"
    assert problem.reason
    assert problem.mend


def test_an_operation_outside_any_layer_is_listed():
    (problem,) = check_quantizable(model_of(lambda x: conv(x) + 3.0))
    assert "TFOpLambda" in problem.reason


def test_every_problem_is_in_the_one_error():
    model = model_of(lambda x: ODD["leaky clamp"](layers.LayerNormalization(name="first")(x)))
    assert [p.layer for p in check_quantizable(model)] == ["first", "odd"]
    with pytest.raises(InputError, match=r"^[^\n]*'first'[^\n]*'odd'[^\n]*$"):
        quantize(model, Affine(26 / 256, -128))


def test_a_model_of_several_outputs_or_no_graph_is_a_problem():
    inputs = layers.Input((4,))
    two = keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(1)(inputs)], name="two")
    subclassed = type("Subclassed", (keras.Model,), {})(name="subclassed")
    assert [p.layer for m in (two, subclassed) for p in check_quantizable(m)] == [
        "two",
        "subclassed",
    ]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.endswith(("_large", "_s")) else ())
        for name in models.ARCHITECTURES
    ],
)
def test_our_architectures_have_no_problem(name):
    assert check_quantizable(models.build(name, 182, 32, 2)) == []


def sum_of_one_flattened(x):
    flat = layers.Flatten()(x)
    return layers.Add(name="odd")([flat, layers.Dropout(0.1)(flat)])


def mean_of_one_channel(x):
    return operations.ChannelMean(name="odd")(layers.Reshape((96, 1))(x))


def strides_to_one_column(x):
    image = layers.Reshape((32, 3, 1))(x)
    return layers.Conv2D(3, (4, 2), (1, 3), padding="same", name="odd")(image)


MISCOMPUTED = [sum_of_one_flattened, mean_of_one_channel, strides_to_one_column]


@pytest.mark.parametrize("block", MISCOMPUTED, ids=lambda block: block.__name__)
def test_what_the_converter_or_tensorflow_gets_wrong_is_refused(block):
    """Random graphs found these: the converter failed, or left a rounding out; NaN now and then."""
    inputs = layers.Input((12, 8))
    outputs = layers.Dense(1)(layers.Flatten()(block(inputs)))
    (problem,) = check_quantizable(keras.Model(inputs, outputs))
    assert problem.layer == "odd"


def test_one_tensor_read_twice_is_no_problem_where_nothing_was_reshaped():
    inputs = layers.Input((12, 8))
    rows = layers.ReLU()(inputs)
    outputs = layers.Dense(1)(layers.Flatten()(layers.Multiply()([rows, rows])))
    assert check_quantizable(keras.Model(inputs, outputs)) == []
