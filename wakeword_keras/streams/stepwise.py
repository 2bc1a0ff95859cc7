"""A streaming model over audio, step by step as the device runs it: each frame is computed once."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import dequantize, quantize
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import Source, content_of, name_of, open_interpreter
from wakeword_keras.tflite.scorers import Scorer


def step_frames(model: Source) -> int:
    """New frames that a streaming model takes a step.

    Raises:
      InputError: the file is missing or no TFLite model, or its input is no int8 [1, frames, n].
    """
    (source,) = open_interpreter(model, "reference").get_input_details()
    if source["dtype"] != np.int8 or len(source["shape"]) != 3:
        raise InputError(f"{name_of(model)}: takes no int8 [1, frames, channels]")
    return int(source["shape"][1])


def outputs(
    model: Source,
    blocks: Iterable[NDArray[np.int16]],
    frontend: FrontendConfig,
    kernels: str = "reference",
) -> NDArray:
    """The output of every step over a recording, from a cold state.

    Args:
      model: streaming .tflite file, int8 features [1, frames, channels] in.
      blocks: int16 [samples] each, of any lengths.
      frontend: runs through without a reset.
      kernels: of `interpreter.KERNELS`.

    Returns:
      [steps, outputs], the type that the model gives; step k ends with frame
      `(k + 1) * step_frames(model) - 1`.

    Raises:
      InputError: the file is missing or no such model.
    """
    step = step_frames(model)
    # LiteRT's reset does not put states back to their beginning: a new interpreter does.
    opened = open_interpreter(model, kernels)
    (source,), (target,) = opened.get_input_details(), opened.get_output_details()
    stream = StreamingFrontend(frontend)
    pending = np.empty((0, frontend.channels), np.int8)
    found = [np.empty((0, target["shape"][-1]), target["dtype"])]
    for block in blocks:
        frames = quantize(stream.process(block), frontend.input_affine)
        pending = np.concatenate([pending, frames])
        whole = len(pending) // step * step
        steps = _steps(pending[:whole], step)
        found += [_run(opened, source, target, frames) for frames in steps]
        pending = pending[whole:]
    return np.concatenate(found)


def _run(opened: Any, source: dict, target: dict, frames: NDArray) -> NDArray:
    opened.set_tensor(source["index"], frames[np.newaxis])
    opened.invoke()
    return opened.get_tensor(target["index"])


def starter(model: Source, kernels: str) -> Callable[[], Scorer]:
    """Opens scorers of single recordings, each from a cold state.

    Args:
      model: streaming .tflite file, int8 or float32, logits out.
      kernels: of `interpreter.KERNELS`.

    Returns:
      A function that gives a scorer of one recording: of its consecutive windows, a step apart and
      whole steps long, to logits [windows, wake_words]. The first window warms the states, of
      each other one its newest frames alone are computed.

    Raises:
      InputError: the file is missing or no such model.
    """
    content = content_of(model)
    taken, given = flatbuffer.input_affine(model), flatbuffer.output_affine(model)

    def start() -> Scorer:
        # LiteRT's reset does not put states back to their beginning: a new interpreter does.
        opened = open_interpreter(content, kernels)
        (source,), (target,) = opened.get_input_details(), opened.get_output_details()
        step = int(source["shape"][1])
        begun = False

        def score(windows: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal begun
            newest = windows[:, -step:]
            old = windows[:0, :step] if begun else _steps(windows[0], step)[:-1]
            begun = True
            frames = np.concatenate([old, newest])
            values = frames if taken is None else quantize(frames, taken)
            outputs = np.concatenate([_run(opened, source, target, value) for value in values])
            logits = outputs if given is None else dequantize(outputs, given)
            return logits[len(old) :]

        return score

    return start


def _steps(frames: NDArray, step: int) -> NDArray:
    """[frames, channels] -> [steps, step, channels]."""
    return frames.reshape(-1, step, frames.shape[-1])


def step_end_s(step: int, frames: int, frontend: FrontendConfig) -> float:
    """When the audio under a step ends, in s from the recording's start.

    Args:
      step: index.
      frames: of a step.
      frontend: the front end.
    """
    newest = (step + 1) * frames - 1
    return (newest * frontend.step_ms + frontend.window_ms) / 1000


def first_step_after(seconds: float, frames: int, frontend: FrontendConfig) -> int:
    """The first step that ends at this time or later; arguments as `step_end_s`."""
    step_s = frames * frontend.step_ms / 1000
    return max(0, math.ceil((seconds - step_end_s(0, frames, frontend)) / step_s - 1e-9))
