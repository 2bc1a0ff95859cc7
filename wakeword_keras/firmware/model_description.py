"""What an int8 .tflite says of itself, and whether it fits the run that it is said to be of.

The model of a bundle takes a whole window at each run, or, a streaming model, only the new frames.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wakeword_keras.affine import Affine
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer

WINDOW_FILE = "model_int8.tflite"
STREAMING_FILE = "model_int8_streaming.tflite"


def describe_model(path: str | Path) -> dict[str, Any]:
    """What an int8 .tflite says of itself, for the manifest.

    Args:
      path: model with one int8 input and one int8 output.

    Returns:
      file, sha256, bytes, operators (names, sorted), input and output (shape, dtype, scale,
      zero_point).

    Raises:
      InputError: the file is missing, no TFLite model, or not int8 in and out.
    """
    graphs = flatbuffer.read(path)
    streams = len(graphs) > 1
    graph = graphs[0] if streams else flatbuffer.read_graph(path)
    blob = Path(path).read_bytes()
    return {
        "file": STREAMING_FILE if streams else WINDOW_FILE,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "bytes": len(blob),
        "input": _tensor(graph.tensors[graph.inputs[0]], path),
        "output": _tensor(graph.tensors[graph.outputs[0]], path),
        "operators": sorted({op.kind for graph in graphs for op in graph.operators}),
    }


def check_fits(
    model: dict[str, Any],
    frames: int,
    wake_words: Sequence[str],
    frontend: FrontendConfig,
    path: str | Path,
) -> None:
    """Raise InputError where a model is not of this front end, clip length or wake words.

    Args:
      model: of `describe_model`.
      frames: that the model takes at each run.
      wake_words: name of each output.
      frontend: what the model was trained on.
      path: of the model, for messages.
    """
    shapes = (("input", [1, frames, frontend.channels]), ("output", [1, len(wake_words)]))
    for side, shape in shapes:
        if model[side]["shape"] != shape:
            raise InputError(
                f"{path} has {side} shape {model[side]['shape']}, not {shape}: export again"
            )
    affine = frontend.input_affine
    scale, zero_point = model["input"]["scale"], model["input"]["zero_point"]
    # The integer rule never comes nearer to a tie than 1/666 step: float32 rounding is harmless.
    if not math.isclose(affine.scale, scale, rel_tol=1e-6) or affine.zero_point != zero_point:
        raise InputError(
            f"{path} has input scale {scale:.7g} and zero point {zero_point}, its front end has "
            f"{affine.scale:.7g} and {affine.zero_point}: export with the pinned input range"
        )


def affine_of(side: Mapping[str, Any]) -> Affine:
    """Quantization of the input or output that `describe_model` speaks of."""
    return Affine(side["scale"], side["zero_point"])


def _tensor(tensor: flatbuffer.Tensor, path: str | Path) -> dict[str, Any]:
    affine = flatbuffer.int8_affine(tensor, path)
    return {"shape": list(tensor.shape), "dtype": "int8", **dataclasses.asdict(affine)}
