"""The INT8 model on TFLite Micro, the interpreter that runs on the device.

The reference kernels of the desktop's interpreter stand for the device's everywhere else in the
report; here both run on the same clips, so that this is measured, not believed.
"""

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from tqdm import tqdm

from wakeword_keras.affine import quantize
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer, graph
from wakeword_keras.tflite.scorers import tflite_int8_scores

CLIPS = 200
"""As many test clips are compared."""
# Ample for every architecture: what a device needs is less, its pointers are half as long.
_ARENA_BYTES = 32 * 2**20


@dataclass(frozen=True)
class MicroCheck:
    """One INT8 file on TFLite Micro against `flatbuffer.device_kernels` (BUILTIN_REF but for SUM).

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


def installed() -> bool:
    """Whether the extra `firmware` is there."""
    return importlib.util.find_spec("tflite_micro") is not None


def check(name: str, path: str | os.PathLike, features: NDArray[np.float32]) -> MicroCheck:
    """Run an INT8 model on TFLite Micro and compare it with the reference kernels.

    Args:
      name: of the model.
      path: .tflite file, int8 in and out.
      features: float32 [clips, frames, channels].

    Raises:
      InputError: the file is missing or not int8, or the extra `firmware` is not installed.
    """
    kernels = flatbuffer.device_kernels(flatbuffer.operators(path))
    expected = tflite_int8_scores(path, features, kernels).astype(int)
    affine = flatbuffer.input_affine(path)
    assert affine is not None, "int8, as tflite_int8_scores has checked"
    clips = quantize(features, affine)
    try:
        interpreter = _open(path, Path(path).read_bytes())
    except RuntimeError as error:
        return MicroCheck(name, 0, 0, 0.0, None, refused=str(error))
    progress = tqdm(clips, desc=f"{name} on TFLite Micro", unit="clip", disable=None, leave=False)
    outputs = np.concatenate([_run(interpreter, clip) for clip in progress]).astype(int)
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
        f"bit for bit as the desktop's kernels, at most {check.max_lsb} LSB off"
        f"{'' if check.first_layer is None else f', first in {check.first_layer}'}"
    )


def _open(path: str | os.PathLike, content: bytes) -> Any:
    try:
        from tflite_micro import runtime
    except ImportError as error:
        raise InputError(f"{path}: needs: pip install 'wakeword_keras[firmware]'") from error
    return runtime.Interpreter.from_bytes(content, arena_size=_ARENA_BYTES)


def _run(interpreter: Any, clip: NDArray[np.int8]) -> NDArray[np.int8]:
    interpreter.set_input(clip[np.newaxis], 0)
    interpreter.invoke()
    return np.array(interpreter.get_output(0))


def _first_difference(path: str | os.PathLike, clip: NDArray[np.int8], kernels: str) -> str:
    """The first operator, in the order of the graph, whose output differs."""
    parsed = graph.read(path)
    # As outputs, all tensors are kept: TFLite Micro's own way to keep them holds at most 1,024.
    parsed.model.subgraphs[0].outputs = [operator.writes for operator in parsed.operators]
    parsed.model.signatureDefs = []
    content = graph.pack(parsed.model)
    micro = _open(path, content)
    _run(micro, clip)
    desktop = Interpreter(
        model_content=content, experimental_op_resolver_type=flatbuffer.KERNELS[kernels]
    )
    desktop.allocate_tensors()
    desktop.set_tensor(desktop.get_input_details()[0]["index"], clip[np.newaxis])
    desktop.invoke()
    for index, operator in enumerate(parsed.operators):
        if not np.array_equal(micro.get_output(index), desktop.get_tensor(operator.writes)):
            return f"{operator.layers[0] if operator.layers else operator.label} ({operator.kind})"
    raise AssertionError(f"{path}: outputs differ, but no tensor does")
