"""What a TFLite file holds: its operators, its tensors, how input and output are quantized.

Kernels that an interpreter may run it with: "reference" (BUILTIN_REF, the arithmetic nearest to a
microcontroller's), "optimized" (builtin kernels without a delegate) and "xnnpack" (what a phone or
PC runs by default). int8 results of the three differ by some LSBs.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from wakeword_keras.affine import Affine
from wakeword_keras.errors import InputError

KERNELS = {
    "reference": OpResolverType.BUILTIN_REF,
    "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "xnnpack": OpResolverType.AUTO,
}
_FILE_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of a TFLite flatbuffer


def device_kernels(kinds: Iterable[str]) -> str:
    """The kernels that come nearest to a microcontroller's on an INT8 model of these operators.

    The reference kernels equal TFLite Micro's bit for bit, but for SUM: LiteRT 2.3's reference SUM
    is off by up to 128 steps, its optimized one right. Nothing that is fine-tuned here has a SUM,
    post-training quantization of a Conformer has.
    """
    return "optimized" if "SUM" in kinds else "reference"


def interpreter(path: str | os.PathLike, kernels: str) -> Interpreter:
    """An interpreter of one thread, its tensors allocated.

    Args:
      path: .tflite file.
      kernels: key of KERNELS.

    Raises:
      InputError: the file is missing or no TFLite model, or the kernels are unknown.
    """
    if kernels not in KERNELS:
        raise InputError(f"unknown kernels {kernels!r}: choose one of {', '.join(KERNELS)}")
    try:
        opened = Interpreter(
            model_content=_read(path),
            num_threads=1,
            experimental_op_resolver_type=KERNELS[kernels],
        )
        opened.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: TFLite cannot run this model: {reason}") from error
    return opened


def input_affine(path: str | os.PathLike) -> Affine | None:
    """Scale and zero point of an int8 model's input; None if the input is float32.

    Raises:
      InputError: the file is missing or no TFLite model, or the input is of another type.
    """
    return _affine(interpreter(path, "reference").get_input_details()[0], path)


def output_affine(path: str | os.PathLike) -> Affine | None:
    """Scale and zero point of an int8 model's output; None if the output is float32.

    Raises:
      InputError: the file is missing or no TFLite model, or the output is of another type.
    """
    return _affine(interpreter(path, "reference").get_output_details()[0], path)


def operators(path: str | os.PathLike) -> list[str]:
    """Operator names in the order of the graph, all subgraphs, such as "CONV_2D".

    Raises:
      InputError: the file is missing or no TFLite model.
    """
    model = _parse(path)
    names = _names(schema.BuiltinOperator)
    kinds = [
        # Files of schema before 3a hold the code in the deprecated byte alone.
        names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        for code in model.operatorCodes
    ]
    return [kinds[op.opcodeIndex] for graph in model.subgraphs for op in graph.operators]


def tensor_types(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
    """Names of the tensors, weights included, by type: {"INT8": (...), "INT32": (...)}.

    Raises:
      InputError: the file is missing or no TFLite model.
    """
    names = _names(schema.TensorType)
    by_type: dict[str, list[str]] = {}
    for graph in _parse(path).subgraphs:
        for tensor in graph.tensors:
            by_type.setdefault(names[tensor.type], []).append(tensor.name.decode())
    return {kind: tuple(tensors) for kind, tensors in by_type.items()}


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if not name.startswith("_")}


def _read(path: str | os.PathLike) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read the model: {error.strerror}") from error
    if content[4:8] != _FILE_IDENTIFIER:
        raise InputError(f"{path}: not a TFLite model: export it again")
    return content


def _parse(path: str | os.PathLike) -> Any:
    content = _read(path)
    interpreter(path, "reference")  # verifies the flatbuffer, which the Python parser does not
    return schema.ModelT.InitFromPackedBuf(content, 0)


def _affine(detail: dict[str, Any], path: str | os.PathLike) -> Affine | None:
    if detail["dtype"] == np.float32:
        return None
    if detail["dtype"] != np.int8:
        kind = np.dtype(detail["dtype"]).name
        raise InputError(f"{path}: tensor {detail['name']!r} is {kind}, not float32 or int8")
    scale, zero_point = detail["quantization"]
    return Affine(float(scale), int(zero_point))
