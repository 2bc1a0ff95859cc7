"""Reading and writing TFLite files, whole and damaged ones."""

import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from wakeword_keras import InputError, models
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite.interpreter import open_interpreter
from wakeword_keras.tflite.scorers import tflite_scorer

FRAMES, CHANNELS = 20, 8


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).uniform(0, 26, (4, FRAMES, CHANNELS)).astype(np.float32)


@pytest.fixture(scope="module", params=["float", "int8"])
def content(request, clips):
    keras.utils.set_random_seed(1)
    model = models.build("ds_cnn", FRAMES, CHANNELS, 2)
    if request.param == "float":
        return convert.float_model(model)
    return convert.int8_model(model, lambda: ([clip[None]] for clip in clips))


def assert_same(left, right):
    """Graphs of the same tensors, arrays by value, and operators, options by their fields."""
    for a, b in zip(left.tensors, right.tensors, strict=True):
        for field in dataclasses.fields(a):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    for a, b in zip(left.operators, right.operators, strict=True):
        assert dataclasses.replace(a, options=None) == dataclasses.replace(b, options=None)
        assert type(a.options) is type(b.options)
        if a.options is not None:
            for name, value in vars(a.options).items():
                np.testing.assert_array_equal(value, getattr(b.options, name))
    assert (left.inputs, left.outputs, left.name) == (right.inputs, right.outputs, right.name)


def run(content, clip):
    opened = open_interpreter(content, "reference")
    given = opened.get_input_details()[0]
    opened.set_tensor(given["index"], clip.astype(given["dtype"])[None])
    opened.invoke()
    return opened.get_tensor(opened.get_output_details()[0]["index"])


def test_what_is_written_reads_back_the_same_and_computes_the_same(content, clips):
    graph = flatbuffer.read_graph(content)
    written = flatbuffer.write([graph])
    assert_same(flatbuffer.read_graph(written), graph)
    assert flatbuffer.write([flatbuffer.read_graph(written)]) == written
    for clip in clips:
        np.testing.assert_array_equal(run(written, clip), run(content, clip))
    assert len(written) < 1.05 * len(content)


def test_constants_lie_where_a_device_can_read_them_in_place(content):
    written = flatbuffer.write([flatbuffer.read_graph(content)])
    start = np.frombuffer(written, np.uint8).ctypes.data
    model = flatbuffer.schema.Model.GetRootAs(written)
    constants = [model.Buffers(index) for index in range(model.BuffersLength())]
    places = [held.DataAsNumpy().ctypes.data - start for held in constants if held.DataLength()]
    assert len(places) > 5
    assert not np.mod(places, 16).any()


def test_what_tensors_and_operators_hold_is_what_the_interpreter_says(content):
    graph = flatbuffer.read_graph(content)
    details = open_interpreter(content, "reference").get_tensor_details()
    for index, tensor in enumerate(graph.tensors):
        detail = details[index]
        assert (detail["name"], tuple(detail["shape"])) == (tensor.name, tensor.shape)
        assert detail["dtype"] == flatbuffer.DTYPES[tensor.type]
        scales = () if tensor.scale is None else tensor.scale
        np.testing.assert_array_equal(detail["quantization_parameters"]["scales"], scales)
    assert [op.kind for op in graph.operators[-2:]] == ["MEAN", "FULLY_CONNECTED"]
    assert graph.operators[-1].output == graph.outputs[0]


def test_a_file_of_several_graphs_reads_back(clips):
    class Counter(tf.Module):
        def __init__(self):
            super().__init__()
            self.count = tf.Variable(tf.zeros([1, 2]))

        @tf.function(input_signature=[tf.TensorSpec([1, 2])])
        def add(self, x):
            return self.count.assign_add(x)

    held = Counter()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [held.add.get_concrete_function()], held
    )
    converter.experimental_enable_resource_variables = True
    graphs = flatbuffer.read(converter.convert())
    assert len(graphs) == 2
    written = flatbuffer.write(graphs)
    for one, other in zip(flatbuffer.read(written), graphs, strict=True):
        assert_same(one, other)
    with pytest.raises(InputError, match="has states"):
        flatbuffer.read_graph(written)


def test_an_operator_whose_options_are_not_read_is_not_written(content):
    graph = flatbuffer.read_graph(content)
    custom = dataclasses.replace(graph.operators[0], kind="CUSTOM")
    changed = dataclasses.replace(graph, operators=(custom, *graph.operators[1:]))
    with pytest.raises(InputError, match="CUSTOM cannot be written"):
        flatbuffer.write([changed])


def change(graph, **fields):
    return flatbuffer.write([dataclasses.replace(graph, **fields)])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scale", np.float32([np.nan]), "scale of nan"),
        ("scale", np.float32([0]), "scale of 0"),
        ("zero_point", np.array([300]), "beyond int8"),
    ],
)
def test_a_broken_quantization_is_named(clips, field, value, message):
    keras.utils.set_random_seed(1)
    model = models.build("ds_cnn", FRAMES, CHANNELS, 2)
    graph = flatbuffer.read_graph(
        convert.int8_model(model, lambda: ([clip[None]] for clip in clips))
    )
    (given,) = graph.inputs
    tensors = list(graph.tensors)
    tensors[given] = dataclasses.replace(tensors[given], **{field: value})
    with pytest.raises(InputError, match=message):
        flatbuffer.read(change(graph, tensors=tuple(tensors)))


def test_a_tensor_that_nothing_writes_is_named(content):
    graph = flatbuffer.read_graph(content)
    without_first = graph.operators[1:]
    with pytest.raises(InputError, match="which nothing writes"):
        flatbuffer.read(change(graph, operators=without_first))


def test_a_shape_that_no_operator_writes_is_named(content):
    """The interpreter would overlook it: it infers the shapes of what is computed."""
    graph = flatbuffer.read_graph(content)
    tensors = list(graph.tensors)
    place = graph.operators[0].output
    shape = (*tensors[place].shape, 1)
    tensors[place] = dataclasses.replace(tensors[place], shape=shape)
    with pytest.raises(InputError, match=rf"has shape {re.escape(str(list(shape)))}, its operator"):
        flatbuffer.read(change(graph, tensors=tuple(tensors)))


def test_a_name_that_is_no_utf_8_is_damage(content, clips, tmp_path):
    name = flatbuffer.read_graph(content).tensors[-1].name.encode()
    damaged = content.replace(name, b"\xff" + name[1:])
    assert damaged != content
    path = tmp_path / "model.tflite"
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"model\.tflite: damaged \('utf-8'"):
        tflite_scorer(path)
