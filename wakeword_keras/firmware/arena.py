"""TFLite Micro's tensor arena, measured: how much it takes, and the least that it runs in.

A run in too little memory can end the process (TFLite Micro writes beyond it), so each size is
tried in a process of its own.
"""

import functools
import re
import subprocess
import sys
from dataclasses import dataclass

from wakeword_keras.errors import InputError
from wakeword_keras.tflite.interpreter import MICRO_ARENA_BYTES

_STEP = 16  # TFLite Micro aligns its buffers to so many bytes
_MARGIN = 0.1
MARGIN = (
    "smallest_bytes, the largest buffer that a CMSIS-NN kernel asks for, a tenth more, "
    "up to a whole KiB"
)
_TRY = """
import sys
from tflite_micro import runtime
model = sys.stdin.buffer.read()
interpreter = runtime.Interpreter.from_bytes(model, arena_size=int(sys.argv[1]))
interpreter.invoke()
interpreter.print_allocations()
"""
_TOTAL = re.compile(r"Arena allocation (total|head|tail) (\d+) bytes")
_PART = re.compile(r"'(.+)' used (\d+) bytes")


@dataclass(frozen=True)
class Arena:
    """Bytes on this machine, whose pointers are 8 bytes long: a device with 4 needs less.

    Attributes:
      used_bytes: what TFLite Micro says it has taken.
      tensors_bytes: of it, for tensors that come and go ("head"); the rest stays.
      parts: what stays, by name, as TFLite Micro prints it.
      smallest_bytes: the smallest arena in which the model runs.
    """

    used_bytes: int
    tensors_bytes: int
    parts: dict[str, int]
    smallest_bytes: int

    def recommended_bytes(self, kernel_scratch_bytes: int) -> int:
        """With the margin that MARGIN says.

        Args:
          kernel_scratch_bytes: the largest buffer of an optimized kernel.
        """
        wanted = (self.smallest_bytes + kernel_scratch_bytes) * (1 + _MARGIN)
        return -int(-wanted // 1024) * 1024


@functools.lru_cache(maxsize=8)
def measure(model: bytes) -> Arena:
    """Run a model in smaller and smaller arenas.

    Args:
      model: content of a .tflite file.

    Returns:
      Arena; the smallest is found to 16 bytes.

    Raises:
      InputError: the extra `firmware` is not installed, or TFLite Micro cannot run the model.
    """
    ample = _run(model, MICRO_ARENA_BYTES)
    if ample.returncode:
        reason = (ample.stderr.decode(errors="replace").strip().splitlines() or ["no reason"])[-1]
        raise InputError(f"TFLite Micro cannot run this model: {reason}")
    printed = ample.stderr.decode(errors="replace") + ample.stdout.decode(errors="replace")
    totals = {name: int(size) for name, size in _TOTAL.findall(printed)}
    smallest = _STEP * _smallest(model, -(-totals["total"] // _STEP))
    parts = {name: int(size) for name, size in _PART.findall(printed)}
    return Arena(totals["total"], totals["head"], parts, smallest)


def _smallest(model: bytes, guess: int) -> int:
    """The fewest steps of memory that suffice; a good guess takes three runs."""
    stride = 1
    while not _suffices(model, guess):
        guess, stride = guess + stride, 2 * stride
    stride = 1
    while _suffices(model, guess - stride):
        guess, stride = guess - stride, 2 * stride
    failing = guess - stride
    while guess - failing > 1:
        middle = (failing + guess) // 2
        if _suffices(model, middle):
            guess = middle
        else:
            failing = middle
    return guess


def _suffices(model: bytes, steps: int) -> bool:
    return steps > 0 and _run(model, steps * _STEP).returncode == 0


def _run(model: bytes, arena_bytes: int) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", _TRY, str(arena_bytes)], input=model, capture_output=True
    )
