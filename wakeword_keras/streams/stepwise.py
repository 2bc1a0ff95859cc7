"""A streaming model over audio, step by step as the device runs it: each frame is computed once."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import quantize
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.errors import InputError
from wakeword_keras.tflite.interpreter import Source, name_of, open_interpreter


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
        for at in range(0, len(pending) - step + 1, step):
            opened.set_tensor(source["index"], pending[np.newaxis, at : at + step])
            opened.invoke()
            found.append(opened.get_tensor(target["index"]))
        pending = pending[len(pending) // step * step :]
    return np.concatenate(found)


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
