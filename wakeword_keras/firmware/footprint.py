"""What one model file costs a device, read from the file: ours and released ones alike."""

import math
from dataclasses import dataclass

from wakeword_keras.firmware import arena, macs
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.flatbuffer import DTYPES
from wakeword_keras.tflite.interpreter import Source, content_of, micro_installed


@dataclass(frozen=True)
class Footprint:
    """Of one model file.

    Attributes:
      bytes: of the file.
      arena_bytes: the smallest arena in which TFLite Micro runs it on this machine, states
        included; None without the extra `firmware`.
      frames: that one run takes: a step's, or a clip's.
      variables: states.
      state_bytes: that they hold together.
      operators: that one run executes, and `kinds` of them.
      kinds: their names, sorted.
      macs: multiply-accumulates of one run.
      parameters: weights and biases.
    """

    bytes: int
    arena_bytes: int | None
    frames: int
    variables: int
    state_bytes: int
    operators: int
    kinds: tuple[str, ...]
    macs: int
    parameters: int


def measure(model: Source) -> Footprint:
    """Read a model file, and run it in smaller and smaller arenas.

    Args:
      model: .tflite file with one input [1, frames, channels], or its content.

    Raises:
      InputError: the file is missing, no TFLite model, or TFLite Micro cannot run it.
    """
    content = content_of(model)
    main, *others = flatbuffer.read(model)
    states = [
        graph.tensors[op.inputs[1]]
        for graph in others
        for op in graph.operators
        if op.kind == "ASSIGN_VARIABLE"
    ]
    return Footprint(
        len(content),
        arena.measure(content).smallest_bytes if micro_installed() else None,
        main.tensors[main.inputs[0]].shape[1],
        sum(op.kind == "VAR_HANDLE" for op in main.operators),
        sum(math.prod(state.shape) * DTYPES[state.type]().itemsize for state in states),
        len(main.operators),
        tuple(sorted({op.kind for op in main.operators})),
        sum(macs.macs_by_operator(main).values()),
        macs.parameters(main),
    )


def table(found: dict[str, Footprint]) -> str:
    """A row for each file.

    Args:
      found: by name.

    Returns:
      Lines without a newline at the end.
    """
    heads = ("model", "bytes", "arena", "frames", "states", "bytes", "operators", "kMAC", "weights")
    rows = [heads] + [
        (
            name,
            f"{one.bytes:,}",
            "-" if one.arena_bytes is None else f"{one.arena_bytes:,}",
            str(one.frames),
            str(one.variables),
            f"{one.state_bytes:,}",
            str(one.operators),
            f"{one.macs / 1000:,.1f}",
            f"{one.parameters:,}",
        )
        for name, one in found.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )
