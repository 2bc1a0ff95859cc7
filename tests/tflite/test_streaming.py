import dataclasses

import numpy as np
import pytest
import tf_keras as keras
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tf_keras import layers

from wakeword_keras import InputError
from wakeword_keras.tflite import convert, flatbuffer, scorers, streaming, stretched
from wakeword_keras.tflite.interpreter import (
    micro_installed,
    micro_interpreter,
    open_interpreter,
)

CHANNELS = 8


def features_of(rng, frames, count=1):
    return rng.uniform(0, 26, (count, frames, CHANNELS)).astype(np.float32)


def int8_of(model, rng):
    clips = features_of(rng, model.input_shape[1], 8)
    return convert.int8_model(model, lambda: ([clip[np.newaxis]] for clip in clips))


class LiteRt:
    """A file on the reference kernels."""

    def __init__(self, content):
        self._opened = open_interpreter(content, "reference")
        (self._source,) = self._opened.get_input_details()
        (self._target,) = self._opened.get_output_details()

    def __call__(self, values):
        self._opened.set_tensor(self._source["index"], values)
        self._opened.invoke()
        return self._opened.get_tensor(self._target["index"]).copy()


class Micro:
    """A file on TFLite Micro."""

    def __init__(self, content):
        self._opened = micro_interpreter(content)

    def __call__(self, values):
        self._opened.set_input(values, 0)
        self._opened.invoke()
        return self._opened.get_output(0).copy()


RUNTIMES = [
    LiteRt,
    pytest.param(
        Micro,
        marks=pytest.mark.skipif(
            not micro_installed(), reason="pip install 'wakeword_keras[firmware]'"
        ),
    ),
]


def quantized(values, content):
    affine = flatbuffer.input_affine(content)
    if affine is None:
        return values
    return np.clip(np.round(values / affine.scale) + affine.zero_point, -128, 127).astype(np.int8)


def both_ways(content, runtime, rng, steps=7, step_frames=None):
    """Outputs of the window model on the last frames, and of the streaming one, step by step."""
    made = streaming.stream(content, step_frames)
    frames, step = made.window_frames, made.step_frames
    first = -(-frames // step) * step  # the first whole step with a full window
    sound = quantized(features_of(rng, first + steps * step), content)
    stepwise, window = runtime(streaming.to_bytes(made)), runtime(content)
    given = [stepwise(sound[:, at : at + step]) for at in range(0, sound.shape[1], step)]
    ends = range(first, sound.shape[1] + 1, step)
    wanted = [window(sound[:, end - frames : end]) for end in ends]
    return np.concatenate(wanted), np.concatenate(given[first // step - 1 :])


def convolution(x, filters=4, kernel=3, stride=1, dilation=1, activation="relu"):
    return layers.Conv2D(
        filters,
        (kernel, 1),
        (stride, 1),
        dilation_rate=(dilation, 1),
        activation=activation,
    )(x)


def a_model(frames=26, body=lambda x: x, end=layers.Flatten, stride=3):
    """Features, a strided convolution, the body, the end, two logits."""
    keras.utils.set_random_seed(1)
    inputs = layers.Input((frames, CHANNELS))
    x = layers.Reshape((frames, 1, CHANNELS))(inputs)
    x = body(convolution(x, 4, 5, stride))
    return keras.Model(inputs, layers.Dense(2)(end()(x)))


def crop(x, begin, end=0):
    return layers.Cropping2D(((begin, end), (0, 0)))(x)


def branches(x):
    """Mixed kernels: the longer branch sees more of the past, both end with the same row."""
    short = crop(layers.DepthwiseConv2D((3, 1))(x), 2)
    return layers.Concatenate()([short, layers.DepthwiseConv2D((5, 1))(x)])


def residual(x):
    return layers.Add()([crop(x, 4), convolution(x, kernel=5)])


BODIES = {
    "plain": lambda x: convolution(x, 6, 3),
    "mixed kernels": branches,
    "residual": residual,
    "dilated": lambda x: convolution(x, kernel=3, dilation=2),
    "max pool": layers.MaxPooling2D((2, 1), (1, 1)),
    "average pool": layers.AveragePooling2D((3, 1), (1, 1)),
    "a row two steps old": lambda x: crop(convolution(x), 0, 2),
    "rows of two ages": lambda x: layers.Add()([crop(x, 2), convolution(crop(x, 0))]),
    "the last rows alone": lambda x: crop(convolution(x), 3),
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("body", BODIES)
def test_every_step_gives_the_very_integers_of_the_window_model(body, runtime):
    rng = np.random.default_rng(0)
    content = int8_of(a_model(body=BODIES[body]), rng)
    wanted, given = both_ways(content, runtime, rng)
    np.testing.assert_array_equal(given, wanted)
    assert len(np.unique(wanted)) > 1


@pytest.mark.parametrize("body", BODIES)
def test_float_steps_equal_the_window_model(body):
    rng = np.random.default_rng(1)
    content = convert.float_model(a_model(body=BODIES[body]))
    wanted, given = both_ways(content, LiteRt, rng)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("end", [layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])
def test_a_mean_or_maximum_of_the_last_rows_is_a_ring(end):
    rng = np.random.default_rng(2)
    content = int8_of(a_model(body=lambda x: crop(convolution(x), 2), end=end), rng)
    np.testing.assert_array_equal(*both_ways(content, LiteRt, rng))


def test_steps_may_be_longer_than_the_strides():
    rng = np.random.default_rng(3)
    content = int8_of(a_model(body=branches), rng)
    np.testing.assert_array_equal(*both_ways(content, LiteRt, rng, step_frames=6))
    with pytest.raises(InputError, match="step of 4 frames"):
        streaming.stream(content, 4)


def test_two_strides_in_time_make_one_step():
    rng = np.random.default_rng(4)
    content = int8_of(a_model(41, lambda x: convolution(x, 4, 3, 2)), rng)
    assert streaming.stream(content).step_frames == 6
    np.testing.assert_array_equal(*both_ways(content, LiteRt, rng))


def test_a_kernel_shorter_than_its_stride_skips_rows():
    rng = np.random.default_rng(5)
    content = int8_of(a_model(36, lambda x: convolution(x, 4, 1, 2), stride=1), rng)
    with pytest.raises(InputError, match="leaves the newest 1 of 32 rows out: give 1 frames less"):
        streaming.stream(content)
    content = int8_of(a_model(35, lambda x: convolution(x, 4, 1, 2), stride=1), rng)
    np.testing.assert_array_equal(*both_ways(content, LiteRt, rng))


def test_frequencies_may_be_padded_and_strided():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(6)
    inputs = layers.Input((20, CHANNELS))
    x = layers.Reshape((20, CHANNELS, 1))(inputs)
    x = layers.Conv2D(4, (3, 3), (2, 2), activation="relu")(
        layers.ZeroPadding2D(((0, 0), (1, 1)))(x)
    )
    x = layers.DepthwiseConv2D((1, 3), padding="same")(x)
    x = layers.Conv2D(4, (3, 1))(x)
    content = int8_of(keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x))), rng)
    with pytest.raises(InputError, match="give 1 frames less"):
        streaming.stream(content)
    inputs = layers.Input((19, CHANNELS))
    x = layers.Reshape((19, CHANNELS, 1))(inputs)
    x = layers.Conv2D(4, (3, 3), (2, 2), activation="relu")(
        layers.ZeroPadding2D(((0, 0), (1, 1)))(x)
    )
    x = layers.DepthwiseConv2D((1, 3), padding="same")(x)
    x = layers.Conv2D(4, (3, 1))(x)
    content = int8_of(keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x))), rng)
    np.testing.assert_array_equal(*both_ways(content, LiteRt, rng))


def test_one_dimensional_convolutions_stream():
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(7)
    inputs = layers.Input((20, CHANNELS))
    x = layers.Conv1D(6, 3, activation="relu")(inputs)
    x = layers.Dense(5, activation="relu")(x)
    x = layers.Conv1D(4, 5, dilation_rate=2)(x)
    content = convert.float_model(
        keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(x)))
    )
    wanted, given = both_ways(content, LiteRt, rng)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@st.composite
def networks(draw):
    """A random network that is valid in time, and how many frames it takes."""
    layers_drawn = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["conv", "depthwise", "pool", "mixed", "residual", "crop"]),
                st.integers(1, 5),  # kernel
                st.integers(1, 2),  # dilation
                st.integers(1, 6),  # filters
            ),
            min_size=1,
            max_size=4,
        )
    )
    stride, last = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return stride, layers_drawn, last


def network(stride, drawn, last):
    rows = last
    for kind, kernel, dilation, _ in reversed(drawn):
        rows += (
            kernel
            if kind == "crop"
            else 2 * kernel
            if kind == "mixed"
            else ((kernel - 1) * (dilation if kind in ("conv", "residual") else 1))
        )
    frames = (rows - 1) * stride + 4

    def body(x):
        for kind, kernel, dilation, filters in drawn:
            if kind == "conv":
                x = convolution(x, filters, kernel, 1, dilation)
            elif kind == "depthwise":
                x = layers.DepthwiseConv2D((kernel, 1))(x)
            elif kind == "pool":
                x = layers.AveragePooling2D((kernel, 1), (1, 1))(x)
            elif kind == "crop":
                x = crop(x, kernel)
            elif kind == "residual":
                past = (kernel - 1) * dilation
                y = convolution(x, x.shape[-1], kernel, 1, dilation)
                x = layers.Add()([crop(x, past) if past else x, y])
            else:
                short = crop(convolution(x, filters, kernel + 1), kernel)
                x = layers.Concatenate()([short, convolution(x, filters, 2 * kernel + 1)])
        return x

    keras.utils.set_random_seed(1)
    inputs = layers.Input((frames, CHANNELS))
    x = layers.Reshape((frames, 1, CHANNELS))(inputs)
    x = body(layers.Conv2D(4, (4, 1), (stride, 1), activation="relu")(x))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@given(networks(), st.integers(0, 1000))
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # to shrink takes minutes
)
def test_random_networks_stream_bit_for_bit(drawn, seed):
    rng = np.random.default_rng(seed)
    content = int8_of(network(*drawn), rng)
    for runtime in (LiteRt, Micro) if micro_installed() else (LiteRt,):
        np.testing.assert_array_equal(*both_ways(content, runtime, rng, steps=4))


def test_states_begin_with_their_zero_points_and_hold_their_producers_scale():
    content = int8_of(a_model(body=branches), np.random.default_rng(8))
    made = streaming.stream(content)
    _, begin = flatbuffer.read(streaming.to_bytes(made))
    held = [tensor for tensor in begin.tensors if tensor.type == "INT8"]
    assert len(held) == len(made.states) > 1
    for tensor, state in zip(held, made.states, strict=True):
        assert (tensor.data == state.zero_point[0]).all()
        assert flatbuffer.int8_affine(tensor, content) == flatbuffer.int8_affine(state, content)
    scales = {
        flatbuffer.int8_affine(t, content)
        for t in flatbuffer.read_graph(content).tensors
        if t.type == "INT8" and t.scale.size == 1
    }
    assert {flatbuffer.int8_affine(state, content) for state in made.states} <= scales


def test_a_new_interpreter_is_a_cold_one():
    rng = np.random.default_rng(9)
    content = streaming.to_bytes(streaming.stream(int8_of(a_model(body=branches), rng)))
    sound = rng.integers(-128, 128, (1, 30, CHANNELS)).astype(np.int8)
    runs = []
    for _ in range(2):
        opened = LiteRt(content)
        runs.append([opened(sound[:, at : at + 3]).tolist() for at in range(0, 30, 3)])
    assert runs[0] == runs[1]


def refused(model, *named):
    content = convert.float_model(model)
    with pytest.raises(InputError) as error:
        streaming.stream(content)
    for name in named:
        assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_what_cannot_stream_is_named_operator_by_operator_with_the_mend():
    def same(x):
        return layers.Conv2D(4, (3, 1), padding="same", name="padded")(x)

    def excited(x):
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        return layers.Multiply(name="gated")([x, layers.Conv2D(4, 1)(gate)])

    def apart(x):
        return layers.Add(name="apart")([crop(x, 0, 2), convolution(x)])

    refused(a_model(body=same), "CONV_2D", "padded", "padding='valid'")
    refused(
        a_model(body=layers.ZeroPadding2D(((1, 1), (0, 0)), name="zeros")), "zeros", "pads in time"
    )
    refused(a_model(body=excited), "gated", "squeeze-and-excite")
    refused(a_model(body=apart), "apart", "crop the longer input at its beginning")
    refused(a_model(body=lambda x: apart(same(x))), "padded")


def test_attention_and_an_output_that_keeps_time_are_refused():
    inputs = layers.Input((12, CHANNELS))
    attended = layers.Attention(name="attention")([inputs, inputs])
    refused(keras.Model(inputs, layers.Dense(1)(layers.Flatten()(attended))), "attention")
    refused(keras.Model(inputs, layers.Conv1D(1, 3)(inputs)), "the output keeps time")


def test_our_window_architectures_are_refused_with_the_mend():
    from wakeword_keras import models

    for name in ("ds_cnn", "conformer_tiny"):
        refused(models.build(name, 98, 40, 1), "cannot stream")


def test_a_streaming_file_is_not_rewired_again():
    content = int8_of(a_model(body=branches), np.random.default_rng(10))
    with pytest.raises(InputError, match="has states"):
        streaming.stream(streaming.to_bytes(streaming.stream(content)))


def test_a_model_without_history_has_no_state():
    inputs = layers.Input((1, CHANNELS))
    content = convert.float_model(keras.Model(inputs, layers.Dense(1)(layers.Flatten()(inputs))))
    made = streaming.stream(content)
    assert made.states == ()
    assert len(flatbuffer.read(streaming.to_bytes(made))) == 1
    assert dataclasses.replace(made).step_frames == 1


def test_a_streaming_file_that_differs_is_found():
    rng = np.random.default_rng(11)
    content = int8_of(a_model(body=branches), rng)
    stepwise = streaming.to_bytes(streaming.stream(content))
    clips = features_of(rng, 26, 3)
    streaming.verify(content, stepwise, clips)
    main, *others = flatbuffer.read(stepwise)
    weights = next(
        i
        for i, tensor in enumerate(main.tensors)
        if tensor.data is not None and tensor.type == "INT8" and tensor.data.ndim == 4
    )
    tensors = list(main.tensors)
    tensors[weights] = dataclasses.replace(tensors[weights], data=-tensors[weights].data)
    broken = flatbuffer.write([dataclasses.replace(main, tensors=tuple(tensors)), *others])
    with pytest.raises(ValueError, match="clip 0 differs from the window model"):
        streaming.verify(content, broken, clips)


@pytest.mark.parametrize("kernels", ["reference", "xnnpack"])
@pytest.mark.parametrize("body", BODIES)
def test_a_stretch_gives_each_window_in_it_within_one_lsb(body, kernels, tmp_path):
    rng = np.random.default_rng(12)
    path = tmp_path / "model.tflite"
    path.write_bytes(int8_of(a_model(body=BODIES[body]), rng))
    lsb = flatbuffer.output_affine(path).scale
    sound = features_of(rng, 26 + 3 * 150)[0]
    windows = np.lib.stride_tricks.sliding_window_view(sound, 26, axis=0)[::3].transpose(0, 2, 1)
    wanted = scorers.tflite_scorer(path, kernels)(windows)
    score = scorers.stretch_scorer(path, kernels)
    np.testing.assert_allclose(score(windows), wanted, rtol=0, atol=1.01 * lsb)
    older = np.concatenate([np.zeros((151, 1, CHANNELS), np.float32), windows], axis=1)
    np.testing.assert_array_equal(score(older[:130]), score(windows)[:130])


def test_a_float_stretch_equals_each_window_in_it(tmp_path):
    rng = np.random.default_rng(13)
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.float_model(a_model(body=branches)))
    sound = features_of(rng, 26 + 3 * 9)[0]
    windows = np.lib.stride_tricks.sliding_window_view(sound, 26, axis=0)[::3].transpose(0, 2, 1)
    wanted = scorers.tflite_scorer(path, "xnnpack")(windows)
    given = scorers.stretch_scorer(path, "xnnpack")(windows)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_a_model_without_a_dense_of_its_last_rows_is_not_stretched():
    mean = int8_of(a_model(end=layers.GlobalAveragePooling2D), np.random.default_rng(14))
    with pytest.raises(InputError, match="cannot be stretched: end with a Flatten"):
        stretched.stretch(mean, 8)
