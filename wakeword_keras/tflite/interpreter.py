"""The interpreters of a TFLite file: LiteRT on the desktop, TFLite Micro as on the device.

Kernels that LiteRT may run it with: "reference" (BUILTIN_REF, the arithmetic nearest to a
microcontroller's), "optimized" (builtin kernels without a delegate) and "xnnpack" (what a phone or
PC runs by default). int8 results of the three differ by some LSBs.
"""

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from wakeword_keras.errors import InputError
from wakeword_keras.quiet import quiet

Source = str | os.PathLike | bytes
"""A .tflite file, or what one holds."""

KERNELS = {
    "reference": OpResolverType.BUILTIN_REF,
    "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "xnnpack": OpResolverType.AUTO,
}
FILE_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of a TFLite flatbuffer
# Ample for every architecture: what a device needs is less, its pointers are half as long.
MICRO_ARENA_BYTES = 32 * 2**20


def device_kernels(kinds: Iterable[str]) -> str:
    """The kernels that come nearest to a microcontroller's on an INT8 model of these operators.

    The reference kernels equal TFLite Micro's bit for bit, but for SUM: LiteRT 2.3's reference SUM
    is off by up to 128 steps, its optimized one right. Nothing that is fine-tuned here has a SUM,
    post-training quantization of a Conformer has.
    """
    return "optimized" if "SUM" in kinds else "reference"


def open_interpreter(source: Source, kernels: str, keep_tensors: bool = False) -> Interpreter:
    """An interpreter of one thread, its tensors allocated.

    Args:
      source: .tflite file, or its content.
      kernels: key of KERNELS.
      keep_tensors: keep every tensor to be read after a run, not inputs and outputs alone.

    Raises:
      InputError: the file is missing or no TFLite model, or the kernels are unknown.
    """
    if kernels not in KERNELS:
        raise InputError(f"unknown kernels {kernels!r}: choose one of {', '.join(KERNELS)}")
    content = content_of(source)
    try:
        with quiet():  # says once that it has XNNPACK
            opened = Interpreter(
                model_content=content,
                num_threads=1,
                experimental_op_resolver_type=KERNELS[kernels],
                experimental_preserve_all_tensors=keep_tensors,
            )
            opened.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name_of(source)}: TFLite cannot run this model: {reason}") from error
    return opened


def micro_installed() -> bool:
    """Whether the extra `firmware` is there."""
    return importlib.util.find_spec("tflite_micro") is not None


def micro_interpreter(source: Source, arena_bytes: int = MICRO_ARENA_BYTES) -> Any:
    """TFLite Micro: `set_input(values, 0)`, `invoke()`, `get_output(0)`.

    Args:
      source: .tflite file, or its content.
      arena_bytes: memory for its tensors.

    Raises:
      InputError: the file is missing or no TFLite model, or the extra `firmware` is not installed.
      RuntimeError: TFLite Micro cannot run the model, or not in this memory.
    """
    try:
        from tflite_micro import runtime
    except ImportError as error:
        raise InputError(
            f"{name_of(source)}: needs: pip install 'wakeword_keras[firmware]'"
        ) from error
    return runtime.Interpreter.from_bytes(content_of(source), arena_size=arena_bytes)


def content_of(source: Source) -> bytes:
    """The bytes of a TFLite file.

    Raises:
      InputError: the file is missing or no TFLite model.
    """
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"{source!s}: cannot read the model: {error.strerror}") from error
    if content[4:8] != FILE_IDENTIFIER:
        raise InputError(f"{name_of(source)}: not a TFLite model: export it again")
    return content


def name_of(source: Source) -> str:
    """What messages call it."""
    return "the model" if isinstance(source, bytes) else str(source)
