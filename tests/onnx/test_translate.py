import dataclasses
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras import InputError, models
from wakeword_keras.affine import Affine, quantize
from wakeword_keras.onnx import translate as export
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite.flatbuffer import Graph, Operator, Tensor, read_graph
from wakeword_keras.tflite.interpreter import open_interpreter
from wakeword_keras.tflite.scorers import onnx_scorer, tflite_scorer

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")

FRAMES, CHANNELS = 12, 8


def weights(*shape):
    # Channels of uneven size: one scale for all of them would show.
    spread = np.geomspace(0.3, 3, shape[-1]) / np.sqrt(np.prod(shape[:-1]))
    values = np.random.default_rng(shape).normal(size=shape)
    return tf.constant(values * spread, tf.float32)


def convolutions(x):
    x = tf.reshape(x, (-1, FRAMES, CHANNELS, 1)) / 10
    x = tf.nn.relu(tf.nn.conv2d(x, weights(5, 4, 1, 6), 2, "SAME") + weights(6))
    x = tf.nn.depthwise_conv2d(x, weights(3, 3, 6, 2), (1, 1, 1, 1), "SAME", dilations=(2, 2))
    x = tf.nn.relu6(x + weights(12))
    x = tf.nn.conv2d(x, weights(1, 1, 12, 8), 1, "VALID")
    return tf.reduce_mean(x, (1, 2))


def image_arithmetic(x):
    x = tf.reshape(x, (-1, FRAMES, CHANNELS, 1)) / 10
    x = tf.nn.conv2d(x, weights(3, 3, 1, 6), (2, 1), "SAME") + weights(6)
    x = x * tf.nn.relu6(x + 3) / 6
    squeezed = tf.reduce_mean(x, (1, 2), keepdims=True)
    gate = tf.nn.sigmoid(tf.nn.conv2d(squeezed, weights(1, 1, 6, 6), 1, "SAME"))
    x = tf.concat([x * gate, x + tf.constant([[0.5, -0.5, 1, -1, 0, 2.0]])], axis=-1)
    x = tf.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)))
    x = tf.nn.avg_pool2d(x, (3, 2), (2, 3), "SAME")
    return tf.reshape(x[:, 1:, ::2, :4], (-1, 24))


def attention(x):
    x = tf.reshape(x / 10, (-1, FRAMES, CHANNELS))
    query, key = (tf.matmul(x, weights(CHANNELS, 8)) + weights(8) for _ in range(2))
    query, key = (tf.reshape(y, (-1, FRAMES, 2, 4)) for y in (query, key))
    query, key = (tf.transpose(y, (0, 2, 1, 3)) for y in (query, key))
    weight = tf.nn.softmax(tf.matmul(query, key, transpose_b=True))
    y = tf.nn.relu(tf.transpose(tf.matmul(weight, key), (0, 2, 1, 3)))
    y = tf.reshape(y, (-1, FRAMES, 8))
    return tf.gather(y - x, [3, 0], axis=1)[:, 0]


def normalization(x):
    x = tf.matmul(x / 10, weights(CHANNELS, 8)) + weights(8)
    mean = tf.reduce_mean(x, -1, keepdims=True)
    x = tf.nn.relu(x + tf.reduce_sum(x, -1, keepdims=True))
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), -1, keepdims=True)
    y = (x - mean) * tf.math.rsqrt(variance + 0.05)
    return y[:, -1] + tf.nn.l2_normalize(x, -1)[:, 0]


BLOCKS = (convolutions, image_arithmetic, attention, normalization)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(1)
    shape = rng.uniform(0, 26, (48, FRAMES, 1)) * rng.uniform(0, 1, (48, 1, CHANNELS))
    return shape.astype(np.float32)


def model_of(block):
    inputs = layers.Input((FRAMES, CHANNELS))
    return keras.Model(inputs, layers.Lambda(block)(inputs))


def converted(model, kind, features):
    if kind == "fp32":
        return convert.float_model(model)
    return convert.int8_model(model, lambda: ([clip[None]] for clip in features))


def both(content, folder):
    """The TFLite file and the ONNX file made of it."""
    paths = folder / "model.tflite", folder / "model.onnx"
    paths[0].write_bytes(content)
    paths[1].write_bytes(export.from_tflite(content))
    return paths


@pytest.fixture(scope="module")
def ds_cnn(features):
    """Trained a little: an untrained network's logits tell clips apart by its last bits alone."""
    keras.utils.set_random_seed(1)
    model = models.build("ds_cnn", FRAMES, CHANNELS, 2)
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(features, 4 * np.sign(targets(features)), batch_size=16, epochs=20, verbose=0)
    return model


def targets(features):
    means = features.mean(axis=1)
    return np.stack([means[:, 0] - means[:, 1], means[:, 2] - means[:, 3]], axis=1)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def ds_cnn_files(kind, ds_cnn, features, tmp_path_factory):
    return both(converted(ds_cnn, kind, features), tmp_path_factory.mktemp(kind))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_a_float_block_computes_what_keras_computes(block, features, tmp_path):
    model = model_of(block)
    _, path = both(convert.float_model(model), tmp_path)
    expected = model.predict(features, verbose=0)
    np.testing.assert_allclose(onnx_scorer(path)(features), expected, atol=1e-5)
    assert expected.std(axis=0).max() > 0.05, "a constant would pass"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_int8_operator_gives_the_reference_kernels_value_to_one_lsb(block, features):
    content = converted(model_of(block), "int8", features)
    network = read_graph(content)
    for clip in features[:3]:
        held = tensors_of(content, clip)
        for operator in network.operators:
            target = network.tensors[operator.output]
            expected = held[operator.output].astype(np.int32).reshape(target.shape)
            real = run(alone(network, operator, held)).reshape(target.shape)
            steps = real / target.scale + target.zero_point - expected
            # LiteRT 2.3's reference kernel of SUM gives a constant.
            assert operator.kind == "SUM" or np.abs(steps).max() < 1.01, operator


def tensors_of(content, clip):
    """The tensors of a TFLite model that has seen a clip, on reference kernels."""
    interpreter = open_interpreter(content, "reference", keep_tensors=True)
    given = interpreter.get_input_details()[0]
    affine = Affine(*given["quantization"])
    interpreter.set_tensor(given["index"], quantize(clip[None], affine))
    interpreter.invoke()
    network = read_graph(content)
    # Not all that the interpreter lists: its scratch buffers cannot be read.
    used = {i for operator in network.operators for i in (*operator.inputs, operator.output)}
    return {index: interpreter.get_tensor(index).copy() for index in used}


def alone(network, operator, held):
    """One operator between constants; the input is not used."""
    tensors = list(network.tensors)
    for index in operator.inputs:
        data = held[index].reshape(tensors[index].shape)
        tensors[index] = dataclasses.replace(tensors[index], data=data)
    unused = Tensor("unused", "FLOAT32", (1, 1))
    return Graph((*tensors, unused), (operator,), (len(tensors),), operator.outputs)


def run(network, features=((0.0,),)):
    options = onnxruntime.SessionOptions()
    # What the file says: the optimizer drops the first of two roundings.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(export.translate(network), options)
    return session.run(None, {"features": np.asarray(features, np.float32)})[0]


def test_between_scales_values_are_rounded_anew():
    coarse, fine = (
        Tensor("x", "INT8", (1, 2), None, np.array([scale], np.float32), np.array([zero_point]))
        for scale, zero_point in ((0.5, -3), (0.125, 10))
    )
    network = Graph((fine, coarse), (Operator("QUANTIZE", (0,), (1,)),), (0,), (1,))
    # 1.1 is 9 fine steps, 1.125, and 2 coarse ones; 100 exceeds what 117 fine steps reach, 14.625.
    np.testing.assert_array_equal(run(network, [[1.1, 100]]), [[1.0, 14.5]])


def test_the_blocks_hold_every_operator_that_has_a_translation(features):
    seen = {
        operator.kind
        for block in BLOCKS
        for operator in read_graph(converted(model_of(block), "fp32", features)).operators
    }
    assert export._TRANSLATIONS.keys() - seen == {"QUANTIZE"}


def test_float_onnx_equals_keras_and_int8_decides_as_the_reference_kernels(
    ds_cnn, kind, ds_cnn_files, features
):
    logits = onnx_scorer(ds_cnn_files[1])(features)
    if kind == "fp32":
        expected = ds_cnn.predict(features, verbose=0)
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    else:
        expected = tflite_scorer(ds_cnn_files[0])(features)
        lsb = flatbuffer.output_affine(ds_cnn_files[0]).scale
        assert np.abs(logits - expected).max() <= 3.01 * lsb
        assert expected.std() > 20 * lsb
    np.testing.assert_array_equal(logits > 0.1, expected > 0.1)


def test_clips_score_alone_as_they_do_in_a_batch(ds_cnn_files, features):
    scorer = onnx_scorer(ds_cnn_files[1])
    together = scorer(features)
    np.testing.assert_array_equal(together, np.concatenate([scorer(c[None]) for c in features]))
    assert scorer(features[:0]).shape == (0, 2)


def test_int8_weights_are_tflites_own_with_a_scale_for_each_channel(kind, ds_cnn_files):
    if kind == "fp32":
        return
    model = onnx.load(ds_cnn_files[1])
    held = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    dequantized = {
        node.output[0]: [held.get(name) for name in node.input] + [node.attribute]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    network = read_graph(ds_cnn_files[0].read_bytes())
    convolutions = [op for op in network.operators if op.kind.endswith("CONV_2D")]
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(nodes) == len(convolutions) == 9
    for node, operator in zip(nodes, convolutions, strict=True):
        source = network.tensors[operator.inputs[1]]
        kernel, scale, zero_point, attributes = dequantized[node.input[1]]
        assert kernel.dtype == zero_point.dtype == np.int8
        assert sorted(kernel.ravel()) == sorted(source.data.ravel())
        assert [(a.name, a.i) for a in attributes] == [("axis", 0)]
        np.testing.assert_array_equal(scale, source.scale)
        bias = dequantized[node.input[2]][0]
        np.testing.assert_array_equal(bias, network.tensors[operator.inputs[2]].data)
        assert bias.dtype == np.int32
    assert model.opset_import[0].version >= 13
    # Of float numbers there are scales only, at most one for a channel.
    assert max(array.size for array in held.values() if array.dtype == np.float32) <= 96


def test_the_file_is_at_most_1_3_times_the_tflite_file(kind):
    model = models.build("ds_cnn", 98, 40, 1)
    clips = np.random.default_rng(2).uniform(0, 26, (4, 98, 40)).astype(np.float32)
    content = converted(model, kind, clips)
    assert len(export.from_tflite(content)) <= 1.3 * len(content)


def test_an_operator_without_translation_is_named(features):
    content = convert.float_model(model_of(lambda x: tf.cos(x)[:, 0]))
    with pytest.raises(InputError, match=r"^the model: operator COS "):
        export.from_tflite(content)


def test_what_is_no_tflite_model_is_refused():
    with pytest.raises(InputError, match="not a TFLite model"):
        export.from_tflite(b"nothing of the kind")


def test_a_missing_extra_is_named_with_the_mend(ds_cnn_files, monkeypatch):
    content = ds_cnn_files[0].read_bytes()
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"pip install 'wakeword_keras\[onnx\]'"):
        export.from_tflite(content)
    with pytest.raises(InputError, match=r"pip install 'wakeword_keras\[onnx\]'"):
        onnx_scorer(ds_cnn_files[1])


def test_bad_files_and_features_are_refused_in_one_line(ds_cnn_files, features, tmp_path):
    with pytest.raises(InputError, match=r"none\.onnx: onnxruntime cannot"):
        onnx_scorer(tmp_path / "none.onnx")
    with pytest.raises(InputError, match=r"^[^\n]*onnxruntime cannot run[^\n]*$"):
        onnx_scorer(ds_cnn_files[0])
    scorer = onnx_scorer(ds_cnn_files[1])
    with pytest.raises(InputError, match="front ends differ"):
        scorer(features[:, 1:])
    with pytest.raises(ValueError, match="NaN"):
        scorer(np.full_like(features, np.nan))
