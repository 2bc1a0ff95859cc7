import dataclasses

import numpy as np
import pytest
from test_streaming import a_model, branches, features_of, int8_of

from wakeword_keras.evaluation import step_equality
from wakeword_keras.tflite import convert, flatbuffer, streaming

FRAMES = 26


@pytest.fixture(scope="module", params=["int8", "fp32"])
def window(request):
    model, rng = a_model(FRAMES, branches), np.random.default_rng(1)
    return int8_of(model, rng) if request.param == "int8" else convert.float_model(model)


def stretches(count=2, frames=FRAMES + 10):
    return features_of(np.random.default_rng(2), frames, count)


@pytest.mark.parametrize("runtime", step_equality.runtimes())
def test_a_rewired_file_is_equal_at_every_step_with_a_full_window(window, runtime):
    content = streaming.to_bytes(streaming.stream(window))
    found = step_equality.measure(window, content, stretches(), runtime)
    # 36 frames are 12 steps; the first of them with 26 frames behind it is the ninth.
    assert (found.stretches, found.steps) == (2, 2 * 4)
    assert found.largest_difference <= (0 if flatbuffer.input_affine(window) else 1e-5)
    assert found.equal == found.steps or flatbuffer.input_affine(window) is None
    assert f"{found.equal:,} of 8 steps equal" in step_equality.table([found], "int8")


def test_a_file_with_other_weights_is_not(window):
    main, *others = flatbuffer.read(streaming.to_bytes(streaming.stream(window)))
    changed = [
        dataclasses.replace(tensor, data=-tensor.data)
        if tensor.data is not None and tensor.data.ndim == 4
        else tensor
        for tensor in main.tensors
    ]
    broken = flatbuffer.write([dataclasses.replace(main, tensors=tuple(changed)), *others])
    found = step_equality.measure(window, broken, stretches(), step_equality.REFERENCE)
    assert found.equal < found.steps
    assert found.largest_difference > 1e-3


def test_a_stretch_shorter_than_a_window_has_no_step(window):
    content = streaming.to_bytes(streaming.stream(window))
    short = stretches(1, FRAMES - 1)
    found = step_equality.measure(window, content, short, step_equality.REFERENCE)
    assert (found.steps, found.equal, found.largest_difference) == (0, 0, 0.0)
