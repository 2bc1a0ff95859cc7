import numpy as np
import pytest
from test_streaming import CHANNELS, a_model, branches, features_of, int8_of

from wakeword_keras import InputError, models
from wakeword_keras.onnx import streaming, translate
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite import streaming as rewiring
from wakeword_keras.tflite.scorers import onnx_scorer

pytest.importorskip("onnxruntime")
FRAMES = 26


@pytest.fixture(scope="module", params=["fp32", "int8"])
def files(request, tmp_path_factory):
    folder, model = tmp_path_factory.mktemp(request.param), a_model(FRAMES, branches)
    rng = np.random.default_rng(1)
    content = convert.float_model(model) if request.param == "fp32" else int8_of(model, rng)
    window, window_onnx, streaming_onnx = (folder / name for name in ("w", "w.onnx", "s.onnx"))
    window.write_bytes(content)
    window_onnx.write_bytes(translate.from_tflite(window))
    streaming_onnx.write_bytes(streaming.from_tflite(window))
    return window, window_onnx, streaming_onnx


def test_every_step_gives_the_window_files_logits(files):
    window, window_onnx, streaming_onnx = files
    (sound,) = features_of(np.random.default_rng(2), 27 + 40 * 3)
    given = streaming.step_logits(streaming_onnx, sound)[27 // 3 - 1 :]
    ends = range(27, len(sound) + 1, 3)
    expected = onnx_scorer(window_onnx)(np.stack([sound[end - FRAMES : end] for end in ends]))
    output = flatbuffer.output_affine(window)
    if output is None:
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    else:
        steps = np.abs(given - expected) / output.scale
        assert steps.max() <= 1.01
        assert (steps < 0.01).mean() > 0.9
    clips = features_of(np.random.default_rng(3), FRAMES, 4)
    streaming.verify(window, window_onnx, streaming_onnx, clips)


def test_states_are_inputs_and_outputs_and_the_file_says_how_they_begin(files):
    onnx = pytest.importorskip("onnx")
    window, _, streaming_onnx = files
    model, made = onnx.load(streaming_onnx), rewiring.stream(window)
    names = [f"state_{number}" for number in range(len(made.states))]
    assert [value.name for value in model.graph.input] == ["features", *names]
    assert [value.name for value in model.graph.output] == [
        "logits",
        *(f"next_{name}" for name in names),
    ]
    begin = {prop.key: int(prop.value) for prop in model.metadata_props}
    assert begin == {
        name: int(rewiring.initial(state).flat[0])
        for name, state in zip(names, made.states, strict=True)
    }


def test_a_file_that_differs_is_found(files, tmp_path):
    window, window_onnx, _ = files
    other = tmp_path / "other.onnx"
    model = a_model(FRAMES, branches)
    model.set_weights([-weights for weights in model.get_weights()])
    other.write_bytes(streaming.from_tflite(convert.float_model(model)))
    clips = features_of(np.random.default_rng(4), FRAMES, 2)
    with pytest.raises(ValueError, match="differs from the window model"):
        streaming.verify(window, window_onnx, other, clips)


def test_what_cannot_stream_is_refused():
    with pytest.raises(InputError, match="cannot stream"):
        streaming.from_tflite(convert.float_model(models.build("ds_cnn", 20, CHANNELS, 1)))
