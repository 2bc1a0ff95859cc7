"""Whether a streaming file gives, step by step, what the window file gives on the same frames.

int8 outputs are compared bit for bit, those of float32 in their own units. Every stretch of audio
begins with a cold state; from its first full window on each step is compared with the window file
on the last frames. The runtime is LiteRT's reference kernels or TFLite Micro, both files on the
same.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import quantize
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import (
    Source,
    micro_installed,
    micro_interpreter,
    open_interpreter,
)

REFERENCE, MICRO = "reference kernels", "TFLite Micro"
Runner = Callable[[NDArray], NDArray]


@dataclass(frozen=True)
class StepEquality:
    """Of one streaming file on one runtime.

    Attributes:
      runtime: REFERENCE or MICRO.
      stretches: of audio, each from a cold state.
      steps: compared.
      equal: of them, to the bit.
      largest_difference: LSB of int8 outputs; else of the logits, over the larger of 1 and the
        largest logit.
    """

    runtime: str
    stretches: int
    steps: int
    equal: int
    largest_difference: float


def runtimes() -> tuple[str, ...]:
    """Those that are installed."""
    return (REFERENCE, MICRO) if micro_installed() else (REFERENCE,)


def measure(
    window: Source, streaming: Source, stretches: Iterable[NDArray[np.float32]], runtime: str
) -> StepEquality:
    """Compare two files.

    Args:
      window, streaming: .tflite files, int8 or float32, the second rewired from the first.
      stretches: float32 features [frames, channels] each.
      runtime: of `runtimes`.

    Raises:
      InputError: a file is missing or no such model, or the extra `firmware` is not installed.
    """
    graph = flatbuffer.read_graph(window)
    frames = graph.tensors[graph.inputs[0]].shape[1]
    main = flatbuffer.read(streaming)[0]
    step = main.tensors[main.inputs[0]].shape[1]
    affine, run = flatbuffer.input_affine(window), _runner(window, runtime)
    count = steps = equal = 0
    largest = highest = 0.0
    for features in stretches:
        values = features if affine is None else quantize(features, affine)
        pairs = list(_pairs(run, _runner(streaming, runtime), values, frames, step))
        count += 1
        steps += len(pairs)
        for expected, given in pairs:
            apart = float(np.abs(given.astype(np.float64) - expected).max())
            equal += np.array_equal(expected, given)
            largest = max(largest, apart)
            highest = max(highest, float(np.abs(expected).max()))
    scale = 1.0 if affine is not None else max(1.0, highest)
    return StepEquality(runtime, count, steps, equal, largest / scale)


def _pairs(
    window: Runner, streaming: Runner, values: NDArray, frames: int, step: int
) -> Iterator[tuple[NDArray, NDArray]]:
    for end in range(step, len(values) + 1, step):
        given = streaming(values[np.newaxis, end - step : end])
        if end >= frames:
            yield window(values[np.newaxis, end - frames : end]), given


def _runner(model: Source, runtime: str) -> Runner:
    """A new interpreter: the states are cold."""
    if runtime == MICRO:
        micro = micro_interpreter(model, _MICRO_ARENA_BYTES)

        def on_micro(values: NDArray) -> NDArray:
            micro.set_input(values, 0)
            micro.invoke()
            return np.array(micro.get_output(0))

        return on_micro
    opened = open_interpreter(model, "reference")
    (source,), (target,) = opened.get_input_details(), opened.get_output_details()

    def on_reference(values: NDArray) -> NDArray:
        opened.set_tensor(source["index"], values)
        opened.invoke()
        return opened.get_tensor(target["index"])

    return on_reference


# Thousands of interpreters are opened one after the other: the default's 32 MiB would be cleared
# each time.
_MICRO_ARENA_BYTES = 2**20


def table(found: Iterable[StepEquality], name: str = "step by step") -> str:
    """A line for each.

    Args:
      found: of one file.
      name: what was compared.
    """
    return "\n".join(
        f"{name}, {one.runtime}: {one.equal:,} of {one.steps:,} steps equal to the bit "
        f"({one.stretches:,} from a cold state), at most {one.largest_difference:.3g} apart"
        for one in found
    )
