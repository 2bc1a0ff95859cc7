import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras import models
from wakeword_keras.firmware import macs
from wakeword_keras.models.ds_cnn import ds_cnn
from wakeword_keras.tflite import convert, flatbuffer


def _graph(model):
    return flatbuffer.read_graph(convert.float_model(model))


def _int8_graph(model):
    frames, channels = model.inputs[0].shape[1:]
    clip = np.linspace(0, 26, frames * channels, dtype=np.float32).reshape(1, frames, channels)
    return flatbuffer.read_graph(convert.int8_model(model, lambda: ([clip],)))


def test_ds_cnn_at_the_mlperf_tiny_shape_costs_what_was_published():
    # Hello Edge (arXiv:1711.07128), table of DS-CNN-S, the network of MLPerf Tiny: 38.6 KB of
    # memory (weights, and two layers' activations of 25 x 5 x 64 bytes) and 5.4 million operations,
    # two to a multiply-accumulate, softmax and pooling included.
    keras.utils.set_random_seed(0)
    model = ds_cnn(49, 10, 12, filters=64, first_stride=(2, 2))
    model.get_layer("logit").bias.assign(np.ones(12))  # the converter drops zeros
    graph = _int8_graph(model)
    by_operator = macs.macs_by_operator(graph)
    assert by_operator == {
        "CONV_2D": 25 * 5 * 64 * (10 * 4 + 4 * 64),
        "DEPTHWISE_CONV_2D": 4 * 25 * 5 * 64 * 9,
        "FULLY_CONNECTED": 64 * 12,
    }
    total = sum(by_operator.values())
    assert total == 2_656_768
    assert 2 * total / 5.4e6 == pytest.approx(1, abs=0.02)
    assert macs.parameters(graph) == 22_604
    assert macs.parameters(graph) + 2 * 25 * 5 * 64 == pytest.approx(38.6e3, abs=50)
    # Before batch norms are folded into the convolutions, without biases beside them.
    assert model.count_params() == 22_604 + 3 * 64 * 9


@pytest.mark.parametrize("name", ["ds_cnn", "mobilenet_v3_small", "conformer_tiny"])
def test_macs_are_those_that_keras_layers_do(name):
    model = models.build(name, 98, 40, 1)
    by_operator = macs.macs_by_operator(_graph(model))
    dense = sum(
        int(np.prod(layer.output_shape[1:])) * layer.kernel.shape[0]
        for layer in model.layers
        if isinstance(layer, keras.layers.Dense)
    )
    convolutions = sum(
        int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.kernel.shape[:-1]))
        for layer in model.layers
        if type(layer) in (keras.layers.Conv2D, keras.layers.Conv1D)
    )
    depthwise = sum(
        int(np.prod(layer.output_shape[1:])) * int(np.prod(layer.depthwise_kernel.shape[:2]))
        for layer in model.layers
        if isinstance(layer, keras.layers.DepthwiseConv2D)
    )
    counted = dict(by_operator)
    assert counted.pop("DEPTHWISE_CONV_2D", 0) == depthwise
    counted.pop("BATCH_MATMUL", 0)
    assert sum(counted.values()) == dense + convolutions


def test_estimates_grow_with_macs_and_name_their_source():
    small = macs.cost(_graph(models.build("ds_cnn", 98, 40, 1)), 1, 50, 10)
    large = macs.cost(_graph(models.build("ds_cnn", 196, 40, 1)), 1, 50, 10)
    assert small["macs_per_s"] == 20 * small["macs"]
    for name, row in small["estimates"].items():
        ratio = large["estimates"][name]["ms"] / row["ms"]
        assert ratio == pytest.approx(large["macs"] / small["macs"], rel=0.01)
        assert row["least_stride_ms"] % 10 == 0
        assert 0 <= row["least_stride_ms"] - row["ms"] < 10
        assert "github.com" in row["source"]
