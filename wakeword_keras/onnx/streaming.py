"""Streaming models as ONNX: a step's frames and the states in, the logits and new states out.

Inputs are `features` and `state_0`, `state_1`, ...; outputs `logits` and `next_state_0`, ...: what
a step gives as `next_state_i` is the next step's `state_i`. An INT8 model's states are int8. What a
cold state holds stands in the file's metadata, a number for each `state_i`.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.onnx import translate
from wakeword_keras.tflite import flatbuffer, streaming
from wakeword_keras.tflite.interpreter import Source, name_of
from wakeword_keras.tflite.scorers import onnx_scorer, onnx_session

ALLOWED_FP32 = 1e-5
"""Of the larger of 1 and the largest logit: what float32 rounds."""
ALLOWED_INT8_STEPS = 3.01
"""onnxruntime adds up floats, in another order for other shapes: a value halfway between two
integers may become either, and what follows carries it on. Measured: 1 step on 0.8 % of steps."""


def from_tflite(window: Source) -> bytes:
    """Rewire a window model and translate it.

    Args:
      window: .tflite file that can stream, or its content.

    Raises:
      InputError: it cannot stream, an operator has no translation, or the extra `onnx` is not
        installed.
    """
    return translate.translate(streaming.stream(window).graph)


def step_logits(model: str | os.PathLike, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run a streaming file over a recording, from cold states.

    Args:
      model: .onnx file from `from_tflite`.
      features: float32 [frames, channels]; an incomplete last step is left out.

    Returns:
      float32 logits [steps, wake_words].

    Raises:
      InputError: the extra `onnx` is not installed, or the file is missing or no ONNX model.
    """
    session = onnx_session(model)
    frames, *states = session.get_inputs()
    begin = session.get_modelmeta().custom_metadata_map
    kinds = {"tensor(int8)": np.int8, "tensor(float)": np.float32}
    held = {
        state.name: np.full((1, *state.shape[1:]), int(begin[state.name]), kinds[state.type])
        for state in states
    }
    step, found = frames.shape[1], []
    for at in range(0, len(features) - step + 1, step):
        given = {frames.name: features[np.newaxis, at : at + step]} | held
        logits, *after = session.run(None, given)
        held = dict(zip(held, after, strict=True))
        found.append(logits)
    return np.concatenate(found)


def verify(
    window: Path, window_onnx: Path, streaming_onnx: Path, features: NDArray[np.float32]
) -> None:
    """Prove that a streaming file gives the window file's logits on onnxruntime.

    Args:
      window: .tflite file that both come from.
      window_onnx, streaming_onnx: .onnx files.
      features: float32 [clips, frames, channels]; the last step of each clip is compared.

    Raises:
      ValueError: a clip's logits differ by more than ALLOWED_FP32 or ALLOWED_INT8_STEPS.
    """
    output = flatbuffer.output_affine(window)
    expected = onnx_scorer(window_onnx)(features)
    step = streaming.stream(window).step_frames
    # Whole steps that end with the newest frame; what is put before the oldest is not seen then.
    clips = np.pad(features, ((0, 0), (-features.shape[1] % step, 0), (0, 0)))
    given = np.stack([step_logits(streaming_onnx, clip)[-1] for clip in clips])
    unit = max(1.0, float(np.abs(expected).max())) if output is None else output.scale
    apart = np.abs(given - expected).max(axis=1) / unit
    worst = int(apart.argmax())
    if not apart[worst] <= (ALLOWED_FP32 if output is None else ALLOWED_INT8_STEPS):
        raise ValueError(
            f"{name_of(streaming_onnx)}: clip {worst} differs from the window model by "
            f"{apart[worst]:g}: this is a fault of wakeword_keras, please report it"
        )
