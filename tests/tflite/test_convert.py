"""Block tests in the style of tfmot's numerical test: build, train, quantize, convert, compare."""

import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras import models
from wakeword_keras.affine import Affine, dequantize, quantize
from wakeword_keras.quantization import calibration, fake_quantize
from wakeword_keras.tflite import convert
from wakeword_keras.tflite.interpreter import open_interpreter

INPUT = Affine(26 / 256, -128)
FRAMES, CHANNELS = 20, 12


def conv_block(x):
    x = layers.Reshape((FRAMES, CHANNELS, 1), name="image")(x)
    x = layers.Conv2D(8, (5, 3), 2, padding="same", use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(momentum=0.5, name="norm")(x)
    return layers.ReLU(name="relu")(x)


def depthwise_block(x):
    x = conv_block(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(momentum=0.5, name="depthwise_norm")(x)
    return layers.ReLU(name="depthwise_relu")(x)


def pooled(block):
    def build(x):
        return layers.GlobalAveragePooling2D(name="pool")(block(x))

    return build


BLOCKS = {
    "1_dense": lambda x: layers.Flatten(name="flat")(x),
    "2_convolution": lambda x: layers.Flatten(name="flat")(conv_block(x)),
    "3_depthwise": lambda x: layers.Flatten(name="flat")(depthwise_block(x)),
    "4_pooling": pooled(conv_block),
}


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return rng.uniform(0, 26, (96, FRAMES, CHANNELS)).astype(np.float32)


def trained(model, features):
    rng = np.random.default_rng(1)
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(features, rng.normal(0, 3, (len(features), 1)), epochs=3, verbose=0)
    return model


def quantized(model, features):
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    return trained(qat, features)


def interpreter(content):
    return open_interpreter(content, "reference")


def run_int8(content, features):
    """Logits on reference kernels, and the scale of the output."""
    model = interpreter(content)
    given, taken = model.get_input_details()[0], model.get_output_details()[0]
    logits = []
    for clip in features:
        model.set_tensor(given["index"], quantize(clip[None], Affine(*given["quantization"])))
        model.invoke()
        logits.append(
            dequantize(model.get_tensor(taken["index"]), Affine(*taken["quantization"]))[0]
        )
    return np.asarray(logits), taken["quantization"][0]


def dataset_of(features):
    return lambda: ([clip[None]] for clip in features)


@pytest.mark.parametrize("name", BLOCKS)
def test_the_int8_file_computes_what_the_qat_model_computes(name, features):
    keras.utils.set_random_seed(0)
    inputs = layers.Input((FRAMES, CHANNELS), name="features")
    model = keras.Model(inputs, layers.Dense(1, name="logit")(BLOCKS[name](inputs)))
    qat = quantized(trained(model, features), features)
    logits, scale = run_int8(convert.int8_model(qat, dataset_of(features)), features)
    lsb = np.abs(logits - qat.predict(features, verbose=0)) / scale
    assert np.percentile(lsb, 99) <= 2
    assert np.ptp(logits) > 20 * scale, "the comparison would not notice a constant output"


def test_int8_holds_no_float_tensor_and_no_conversion_inside(features):
    model = models.build("ds_cnn", FRAMES, CHANNELS, 2)
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    for source in (qat, model):
        made = interpreter(convert.int8_model(source, dataset_of(features)))
        kinds = {np.dtype(tensor["dtype"]).name for tensor in made.get_tensor_details()}
        assert kinds <= {"int8", "int32"}
        operators = {op["op_name"] for op in made._get_ops_details()}
        assert operators == {
            "RESHAPE",
            "CONV_2D",
            "DEPTHWISE_CONV_2D",
            "MEAN",
            "FULLY_CONNECTED",
        }
        assert made.get_input_details()[0]["shape"].tolist() == [1, FRAMES, CHANNELS]
        assert made.get_output_details()[0]["shape"].tolist() == [1, 2]


def test_the_input_quantization_is_pinned(features):
    model = models.build("ds_cnn", FRAMES, CHANNELS, 1)
    qat = fake_quantize.quantize(model, INPUT)
    calibration.calibrate(qat, model, features)
    made = interpreter(convert.int8_model(qat, dataset_of(features)))
    scale, zero_point = made.get_input_details()[0]["quantization"]
    assert (scale, zero_point) == (pytest.approx(INPUT.scale, rel=1e-6), INPUT.zero_point)


def test_the_file_is_the_trained_qat_model_and_not_its_float_parent(features):
    """Peers fine-tuned one model and shipped the other."""
    keras.utils.set_random_seed(0)
    inputs = layers.Input((FRAMES, CHANNELS), name="features")
    fp32 = trained(keras.Model(inputs, layers.Dense(1, name="logit")(conv_flat(inputs))), features)
    qat = quantized(fp32, features)
    qat.get_layer("quant_logit").layer.bias.assign_add([2.0])
    calibration.calibrate(qat, shifted(fp32, 2.0), features)
    logits, scale = run_int8(convert.int8_model(qat, dataset_of(features)), features)
    to_qat = np.abs(logits - qat.predict(features, verbose=0)).mean()
    to_fp32 = np.abs(logits - fp32.predict(features, verbose=0)).mean()
    assert to_qat < scale
    assert to_fp32 > 10 * scale


def conv_flat(x):
    return layers.Flatten(name="flat")(conv_block(x))


def shifted(model, by):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin.get_layer("logit").bias.assign_add([by])
    return twin


def test_the_float_file_is_float_and_equals_keras(features):
    model = trained(models.build("ds_cnn", FRAMES, CHANNELS, 1), features)
    made = interpreter(convert.float_model(model))
    kinds = {np.dtype(tensor["dtype"]).name for tensor in made.get_tensor_details()}
    assert kinds == {"float32", "int32"}
    given, taken = made.get_input_details()[0], made.get_output_details()[0]
    logits = []
    for clip in features[:16]:
        made.set_tensor(given["index"], clip[None])
        made.invoke()
        logits.append(made.get_tensor(taken["index"])[0])
    expected = model.predict(features[:16], verbose=0)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
