"""The INT8 model on TFLite Micro, the interpreter that runs on the device.

The reference kernels of the desktop's interpreter stand for the device's everywhere else in the
report; here both run on the same clips, so that this is measured, not believed.
"""

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import quantize
from wakeword_keras.progress import track
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import device_kernels, micro_interpreter, open_interpreter
from wakeword_keras.tflite.layer_outputs import layer_outputs
from wakeword_keras.tflite.scorers import tflite_int8_scores

CLIPS = 200
"""As many test clips are compared."""


@dataclass(frozen=True)
class MicroCheck:
    """One INT8 file on TFLite Micro against `interpreter.device_kernels` (BUILTIN_REF but for SUM).

    Attributes:
      model: name.
      clips: compared.
      max_lsb: largest difference, in steps of the output.
      equal: share of clips with the same bits.
      first_layer: where the clip with the largest difference first differs; None if none does.
      refused: why TFLite Micro cannot run the model at all; None if it can.
    """

    model: str
    clips: int
    max_lsb: int
    equal: float
    first_layer: str | None
    refused: str | None = None


def check(name: str, path: str | os.PathLike, features: NDArray[np.float32]) -> MicroCheck:
    """Run an INT8 model on TFLite Micro and compare it with the reference kernels.

    Args:
      name: of the model.
      path: .tflite file, int8 in and out.
      features: float32 [clips, frames, channels].

    Raises:
      InputError: the file is missing or not int8, or the extra `firmware` is not installed.
    """
    kernels = device_kernels(flatbuffer.operators(path))
    expected = tflite_int8_scores(path, features, kernels).astype(int)
    affine = flatbuffer.input_affine(path)
    assert affine is not None, "int8, as tflite_int8_scores has checked"
    clips = quantize(features, affine)
    try:
        interpreter = micro_interpreter(path)
    except RuntimeError as error:
        return MicroCheck(name, 0, 0, 0.0, None, refused=str(error))
    tracked = track(clips, f"{name} on TFLite Micro", len(clips), "clips")
    outputs = np.concatenate([_run(interpreter, clip) for clip in tracked]).astype(int)
    off = np.abs(outputs - expected).max(axis=1)
    worst = int(off.argmax())
    return MicroCheck(
        name,
        len(clips),
        int(off.max()),
        float((off == 0).mean()),
        _first_difference(path, clips[worst], kernels) if off.any() else None,
    )


def table(checks: Sequence[MicroCheck]) -> str:
    """A line for each file, for the console."""
    return "\n".join(map(_line, checks))


def _line(check: MicroCheck) -> str:
    if check.refused:
        return f"{check.model:<12}does not run on TFLite Micro: {check.refused}"
    return (
        f"{check.model:<12}on TFLite Micro: {100 * check.equal:.2f} % of {check.clips} clips "
        f"equal, up to {check.max_lsb} LSB off"
        f"{'' if check.first_layer is None else f', first in {check.first_layer}'}"
    )


def _run(interpreter: Any, clip: NDArray[np.int8]) -> NDArray[np.int8]:
    interpreter.set_input(clip[np.newaxis], 0)
    interpreter.invoke()
    return np.array(interpreter.get_output(0))


def _first_difference(path: str | os.PathLike, clip: NDArray[np.int8], kernels: str) -> str:
    """The first operator, in the order of the graph, whose output differs."""
    graph = flatbuffer.read_graph(path)
    outputs = layer_outputs(graph)
    # As outputs, all tensors are kept: TFLite Micro's own way to keep them holds at most 1,024.
    kept = dataclasses.replace(graph, outputs=tuple(output.tensor for output in outputs))
    content = flatbuffer.write([kept])
    micro, desktop = micro_interpreter(content), open_interpreter(content, kernels)
    _run(micro, clip)
    desktop.set_tensor(graph.inputs[0], clip[np.newaxis])
    desktop.invoke()
    for index, output in enumerate(outputs):
        if not np.array_equal(micro.get_output(index), desktop.get_tensor(output.tensor)):
            return f"{output.layers[0] if output.layers else output.label} ({output.kind})"
    raise AssertionError(f"{path}: outputs differ, but no tensor does")
