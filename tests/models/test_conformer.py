"""Conformer against the papers' equations in numpy, and block by block through quantization."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_convert import dataset_of
from test_layer_rules import (
    CHANNELS,
    FRAMES,
    assert_all_int8,
    assert_every_kernel_is_its_qat_layer,
    assert_int8_computes_what_qat_computes,
    model_of,
    quantized,
    trained,
)
from tf_keras import layers

from wakeword_keras import models
from wakeword_keras.models import conformer, operations
from wakeword_keras.tflite import convert

STEPS, WIDTH, HEADS, KERNEL = 7, 12, 3, 4
NORM_GAIN = math.sqrt(WIDTH)


# The papers' equations, one sequence [steps, width] at a time.


def norm(x, gamma=1.0, beta=0.0):
    """Ba et al. 2016, equation 4; its gain and bias folded into what follows unless given."""
    return gamma * (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) + beta


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def swish(x):
    return x * sigmoid(x)


def feed_forward(x, w):
    """Gulati et al. 2020, figure 4, times the half of equation 1."""
    return 0.5 * (
        swish(norm(x) @ w["expand"] + w["expand_bias"]) @ w["project"] + w["project_bias"]
    )


def sinusoid(distance, width):
    """Dai et al. 2019's R of one distance."""
    angles = distance / 10000 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)])


def self_attention(x, w):
    """Dai et al. 2019, section 3.3: the four terms of A_ij, one pair of steps at a time."""
    per_head, y = WIDTH // HEADS, norm(x)
    joined = np.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * per_head, (head + 1) * per_head)
        q, k, v = (y @ w[name][:, part] for name in ("query", "key", "value"))
        scores = np.zeros((len(x), len(x)))
        for i in range(len(x)):
            for j in range(len(x)):
                r = sinusoid(i - j, WIDTH) @ w["position"][:, part]
                root = math.sqrt(per_head)  # u and v stand behind the division
                scores[i, j] = (q[i] / root + w["u"][head, 0]) @ k[j]
                scores[i, j] += (q[i] / root + w["v"][head, 0]) @ r
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        joined[:, part] = weights @ v
    return joined @ w["project"] + w["project_bias"]


def convolution(x, w):
    """Gulati et al. 2020, figure 2; an even kernel sees one more step after than before."""
    y = norm(x)
    y = (y @ w["value"] + w["value_bias"]) * sigmoid(y @ w["gate"] + w["gate_bias"])
    before = (KERNEL - 1) // 2
    padded = np.pad(y, ((before, KERNEL - 1 - before), (0, 0)))
    y = np.stack([(padded[i : i + KERNEL] * w["depthwise"]).sum(0) for i in range(len(x))])
    y = w["gamma"] * (y - w["mean"]) / np.sqrt(w["variance"] + 1e-3) + w["beta"]
    return swish(y) @ w["project"] + w["project_bias"]


def dense(model, name, factor=1.0):
    """Kernel as the paper has it: ours includes a factor that stands beside it in the paper."""
    return model.get_layer(name).kernel.numpy()[0, 0] / factor


def bias(model, name):
    return model.get_layer(name).bias.numpy()


def feed_forward_weights(model):
    return {
        "expand": dense(model, "m_expand", NORM_GAIN),
        "expand_bias": bias(model, "m_expand"),
        "project": dense(model, "m_project", 0.5),
        "project_bias": bias(model, "m_project") / 0.5,
    }


def attention_weights(model):
    return {
        "query": dense(model, "m_query", NORM_GAIN / math.sqrt(WIDTH // HEADS)),
        "key": dense(model, "m_key", NORM_GAIN),
        "value": dense(model, "m_value", NORM_GAIN),
        "u": model.get_layer("m_content_bias").kernel.numpy(),
        "v": model.get_layer("m_position_bias").kernel.numpy(),
        "position": model.get_layer("m_position").kernel.numpy(),
        "project": dense(model, "m_project"),
        "project_bias": bias(model, "m_project"),
    }


def convolution_weights(model):
    batch_norm = model.get_layer("m_depthwise_norm")
    return {
        "value": dense(model, "m_value", NORM_GAIN),
        "value_bias": bias(model, "m_value"),
        "gate": dense(model, "m_gate", NORM_GAIN),
        "gate_bias": bias(model, "m_gate"),
        "depthwise": model.get_layer("m_depthwise").depthwise_kernel.numpy()[:, 0, :, 0],
        "gamma": batch_norm.gamma.numpy(),
        "beta": batch_norm.beta.numpy(),
        "mean": batch_norm.moving_mean.numpy(),
        "variance": batch_norm.moving_variance.numpy(),
        "project": dense(model, "m_project"),
        "project_bias": bias(model, "m_project"),
    }


MODULES = {
    "feed_forward": (
        lambda x: conformer.feed_forward(x, "m", 4), feed_forward, feed_forward_weights
    ),
    "self_attention": (
        lambda x: conformer.self_attention(x, "m", HEADS), self_attention, attention_weights
    ),
    "convolution": (
        lambda x: conformer.convolution(x, "m", KERNEL), convolution, convolution_weights
    ),
    "layer_norm": (
        lambda x: conformer.layer_norm(x, "m"),
        lambda x, w: norm(x, w["gamma"], w["beta"]),
        lambda model: {
            "gamma": model.get_layer("m_affine").depthwise_kernel.numpy()[0, 0, :, 0]
            / math.sqrt(WIDTH),
            "beta": bias(model, "m_affine"),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_every_module_computes_the_papers_equations(module):
    build, reference, weights_of = MODULES[module]
    inputs = layers.Input((STEPS, 1, WIDTH))
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(0)
    model.set_weights([w + rng.uniform(0.1, 0.5, w.shape) for w in model.get_weights()])
    sequences = rng.normal(1, 2, (3, STEPS, 1, WIDTH)).astype(np.float32)
    expected = [reference(x[:, 0].astype(np.float64), weights_of(model)) for x in sequences]
    got = model(sequences, training=False).numpy()[:, :, 0]
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_a_block_is_the_modules_in_the_papers_order_each_added_to_its_input():
    """Gulati et al. 2020, equation 1."""
    keras.utils.set_random_seed(0)
    inputs = layers.Input((STEPS, 1, WIDTH))
    outputs = conformer.conformer_block(inputs, "b", HEADS, KERNEL, 4, 0.1)
    model = keras.Model(inputs, outputs)
    probe = keras.Model(
        inputs,
        [
            model.get_layer(f"b_{name}").output
            for name in ("in_project", "attend_project", "convolve_project", "out_project")
        ]
        + [model.get_layer(f"b_{name}_add").output for name in ("in", "attend", "convolve", "out")],
    )
    x = np.random.default_rng(0).normal(size=(2, STEPS, 1, WIDTH)).astype(np.float32)
    *added, first, second, third, fourth = (y.numpy() for y in probe(x, training=False))
    sums = [x, first, second, third]
    for before, module, after in zip(sums, added, (first, second, third, fourth), strict=True):
        np.testing.assert_allclose(after, before + module, atol=1e-6)
    expected = norm(fourth)
    np.testing.assert_allclose(model(x, training=False), expected, atol=1e-5)


def test_one_head_alone_is_refused():
    with pytest.raises(ValueError, match="give two or more"):
        operations.RelativePositions()(layers.Input((1, 6, 4)))


def test_the_relative_shift_takes_the_score_of_every_pairs_distance():
    steps = 5
    distance = np.arange(steps - 1, -steps, -1.0)
    row = np.concatenate([[99.0], distance])  # the first is never taken
    scores = np.tile(row, (1, 2, steps, 1)).astype(np.float32)
    shifted = operations.RelativeShift()(scores).numpy()
    i, j = np.indices((steps, steps))
    np.testing.assert_array_equal(shifted[0, 1], i - j)


def test_layer_norm_ignores_scale_and_offset_of_its_input():
    inputs = layers.Input((STEPS, 1, WIDTH))
    model = keras.Model(inputs, conformer.layer_norm(inputs, "m"))
    x = np.random.default_rng(0).normal(size=(2, STEPS, 1, WIDTH)).astype(np.float32)
    for other in (1000 * x, 0.1 * x, x + 5):
        np.testing.assert_allclose(model(other), model(x), atol=1e-3)
    y = model(x).numpy()
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-5)
    assert not model(np.ones((1, STEPS, 1, WIDTH))).numpy().any(), "and no NaN where nothing varies"


def test_unit_length_has_finite_gradients_at_zero():
    x = keras.backend.constant(np.zeros((1, 4)))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = operations.UnitLength()(x)
    assert np.isfinite(tape.gradient(y, x)).all()


def parameters(channels, blocks, width, heads, kernel, subsampling):
    """By hand, layer for layer, as the paper's figures have them, batch norm with 4 a channel."""
    columns = math.ceil(math.ceil(channels / 2) / 2)
    first = 9 * subsampling + 4 * subsampling
    second = 9 * subsampling**2 + 4 * subsampling
    embed = columns * subsampling * width + width
    feed = width * 4 * width + 4 * width + 4 * width * width + width
    attend = 5 * width**2 + width + 2 * width  # q k v out and W_R; out's bias; u and v
    convolve = 3 * width**2 + 3 * width + (kernel + 4) * width
    block = 2 * feed + attend + convolve + 2 * width  # gamma and beta at the end
    return first + second + embed + blocks * block + width + 1


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("conformer_s", dict(blocks=16, width=144, heads=4, kernel=32, subsampling=144)),
        ("conformer_tiny", dict(blocks=3, width=40, heads=4, kernel=9, subsampling=16)),
    ],
)
def test_the_parameters_are_those_counted_by_hand(name, sizes):
    model = models.build(name, 98, 40, 1)
    assert model.count_params() == parameters(40, **sizes)
    assert sum(layer.name.endswith("_softmax") for layer in model.layers) == sizes["blocks"]


def test_a_saved_model_loads_without_being_told_of_its_layers(tmp_path):
    model = small_conformer()
    model.save(tmp_path / "model.keras")
    features = np.random.default_rng(0).uniform(0, 26, (2, 64, 32)).astype(np.float32)
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(loaded(features), model(features))


# Through quantization.


def small_conformer(blocks=1):
    keras.utils.set_random_seed(0)
    return conformer.conformer(64, 32, 1, blocks=blocks, width=16, heads=2, kernel=5, subsampling=8)


def as_sequence(x):
    return layers.Reshape((FRAMES, 1, CHANNELS), name="sequence")(x)


def layer_norm(x):
    return conformer.layer_norm(as_sequence(x), "m")


def half_step(x):
    x = as_sequence(x)
    return layers.Add(name="add")([x, conformer.feed_forward(x, "m", 2)])


def attention(x):
    x = as_sequence(x)
    return layers.Add(name="add")([x, conformer.self_attention(x, "m", 2)])


def gated_convolution(x):
    x = as_sequence(x)
    return layers.Add(name="add")([x, conformer.convolution(x, "m", 4)])


def whole_block(x):
    return conformer.conformer_block(as_sequence(x), "m", 2, 5, 2, 0.1)


def slow(block):
    return pytest.param(block, marks=pytest.mark.slow)


BLOCKS = [layer_norm, slow(half_step), slow(attention), slow(gated_convolution), whole_block]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_the_int8_block_computes_what_the_qat_block_computes(block):
    rng = np.random.default_rng(0)
    features = rng.uniform(0, 26, (64, FRAMES, CHANNELS)).astype(np.float32)
    assert_int8_computes_what_qat_computes(trained(model_of(block), features, 3), features)


def test_a_layer_norm_is_four_kernels_and_a_linear_map_one():
    features = np.random.default_rng(0).uniform(0, 26, (8, FRAMES, CHANNELS)).astype(np.float32)

    def operators(block):
        qat = quantized(model_of(block), features, epochs=0)
        kinds = assert_all_int8(convert.int8_model(qat, dataset_of(features)))
        return [kind for kind in kinds if kind not in ("RESHAPE", "ADD")][:-1]

    normalize = ["MEAN", "SUB", "L2_NORMALIZATION"]
    swish = ["LOGISTIC", "MUL"]
    assert operators(layer_norm) == [*normalize, "DEPTHWISE_CONV_2D"]
    linear = "CONV_2D"
    assert operators(half_step) == [*normalize, linear, *swish, linear]


def test_every_kernel_of_a_whole_conformer_computes_what_its_qat_layers_compute():
    assert_every_kernel_is_its_qat_layer(small_conformer(), 8, 0)
