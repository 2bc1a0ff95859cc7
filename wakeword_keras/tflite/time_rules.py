"""How each operator of a TFLite graph treats time: which rows it reads, where its time axis goes.

A model that takes a window of frames can run step by step if every operator gives the same rows
whichever window they are seen in. An operator either keeps time (a row of its output depends on
some rows of its inputs), or ends it (a mean over the last rows, a flattening), or cannot stream.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from wakeword_keras.tflite.flatbuffer import Graph, Operator


@dataclass(frozen=True)
class Time:
    """The time axis of a tensor.

    Attributes:
      axis: of its shape.
      rows: in the window model.
      hop: frames of the model's input from one row to the next.
      delay: frames of the input that are newer than the last row.
    """

    axis: int
    rows: int
    hop: int
    delay: int


@dataclass(frozen=True)
class Reading:
    """What an operator reads of its inputs for `rows` new rows of output.

    Attributes:
      kernel, stride: rows of input under a row of output, and from one to the next.
      behind: rows of input that are newer than the last one read.
      whole: read `kernel` rows however many are new: the operator ends time.
    """

    kernel: int = 1
    stride: int = 1
    behind: int = 0
    whole: bool = False


@dataclass(frozen=True)
class Rule:
    """What becomes of an operator.

    Attributes:
      reading: of every input that has a time axis.
      time: of the outputs; None where time ends.
      operator: to run instead, with constants by place among the inputs; None where nothing is to
        be run, because the output is the rows that are read.
    """

    reading: Reading
    time: Time | None
    operator: Callable[[int], tuple[Operator, Mapping[int, np.ndarray]]] | None


class CannotStreamError(Exception):
    """An operator cannot stream; the message says why and what to write instead."""


def rule(graph: Graph, op: Operator, times: Mapping[int, Time]) -> Rule:
    """The rule of an operator of which at least one input has a time axis.

    Args:
      graph: the window model's.
      op: one of its operators.
      times: time axis of each tensor that has one.

    Raises:
      CannotStreamError: the operator cannot stream.
    """
    given = [times[index] for index in op.inputs if index in times]
    if any((t.hop, t.delay) != (given[0].hop, given[0].delay) for t in given):
        raise CannotStreamError(
            "joins rows of different moments: crop the longer input at its beginning, so that "
            "both end with the same frame"
        )
    if op.kind not in _RULES:
        raise CannotStreamError("has no streaming form: use an operator that keeps time")
    return _RULES[op.kind](graph, op, given[0])


def _as_it_is(op: Operator) -> Callable:
    return lambda rows: (op, {})


def _keeps(op: Operator, time: Time) -> Rule:
    return Rule(Reading(), time, _as_it_is(op))


def _ends(op: Operator, time: Time) -> Rule:
    return Rule(Reading(time.rows, 1, 0, True), None, _as_it_is(op))


def _each_value(graph: Graph, op: Operator, time: Time) -> Rule:
    """Elementwise: constants are the same for every row, other inputs have the time axis, too."""
    rank = len(graph.tensors[op.output].shape)
    for index in op.inputs:
        tensor = graph.tensors[index]
        axis = time.axis - rank + len(tensor.shape)
        if tensor.data is not None and axis >= 0 and tensor.shape[axis] != 1:
            raise CannotStreamError("has another constant for each row: use one for all")
        shape = graph.tensors[op.output].shape
        if tensor.data is None and tensor.shape[axis : axis + 1] != (shape[time.axis],):
            raise CannotStreamError(
                "weighs every row by what is computed from all of them (as squeeze-and-excite "
                "does): leave it out, or gate each row by itself"
            )
    return _keeps(op, time)


def _last_axis(graph: Graph, op: Operator, time: Time) -> Rule:
    if time.axis == len(graph.tensors[op.inputs[0]].shape) - 1:
        raise CannotStreamError("runs along time: run it along channels")
    return _keeps(op, time)


def _join(graph: Graph, op: Operator, time: Time) -> Rule:
    rank = len(graph.tensors[op.output].shape)
    if op.options.axis % rank == time.axis:
        raise CannotStreamError("joins along time: join along channels")
    if any(graph.tensors[index].data is not None for index in op.inputs):
        raise CannotStreamError("joins a constant: add its channels another way")
    return _keeps(op, time)


def _split(graph: Graph, op: Operator, time: Time) -> Rule:
    place = 0 if op.kind == "SPLIT" else 2
    axis = int(_constant(graph, op, place).item())
    if axis % len(graph.tensors[op.output].shape) == time.axis:
        raise CannotStreamError("splits along time: split along channels")
    return _keeps(op, time)


def _window(graph: Graph, op: Operator, time: Time) -> Rule:
    """Convolutions and pools: valid in time."""
    along = _along(graph, op, time.axis)
    if along is None:
        raise CannotStreamError("has time where it has batch or channels")
    kernel, stride, padded = along
    options = op.options
    if options.padding == schema.Padding.SAME:
        others = [_along(graph, op, axis) for axis in (1, 2) if axis != time.axis]
        if padded or ((kernel, stride) != (1, 1) and any(other and other[2] for other in others)):
            raise CannotStreamError(
                "pads in time: use padding='valid' (pad the frequencies by ZeroPadding2D)"
            )
        if (kernel, stride) != (1, 1):
            options = _changed(options, padding=schema.Padding.VALID)
    rows = (time.rows - kernel) // stride + 1
    left = time.rows - (rows - 1) * stride - kernel
    if left:
        raise CannotStreamError(
            f"leaves the newest {left} of {time.rows} rows out: give {left * time.hop} frames less"
        )
    after = dataclasses.replace(time, rows=rows, hop=time.hop * stride)
    return Rule(Reading(kernel, stride), after, _as_it_is(dataclasses.replace(op, options=options)))


def _along(graph: Graph, op: Operator, axis: int) -> tuple[int, int, bool] | None:
    """Kernel (dilated), stride and whether SAME would pad, along axis 1 or 2."""
    if axis not in (1, 2):
        return None
    side, options = "HW"[axis - 1], op.options
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        size = graph.tensors[op.inputs[1]].shape[axis]
        kernel = (size - 1) * getattr(options, f"dilation{side}Factor") + 1
    else:
        kernel = options.filterHeight if side == "H" else options.filterWidth
    stride = getattr(options, f"stride{side}")
    length = graph.tensors[op.inputs[0]].shape[axis]
    padded = (math.ceil(length / stride) - 1) * stride + kernel > length
    return kernel, stride, padded


def _reduce(graph: Graph, op: Operator, time: Time) -> Rule:
    rank = len(graph.tensors[op.inputs[0]].shape)
    axes = {int(axis) % rank for axis in _constant(graph, op, 1).reshape(-1)}
    if time.axis in axes:
        return _ends(op, time)
    gone = 0 if op.options.keepDims else sum(axis < time.axis for axis in axes)
    return _keeps(op, dataclasses.replace(time, axis=time.axis - gone))


def _reshape(graph: Graph, op: Operator, time: Time) -> Rule:
    before, after = (graph.tensors[index].shape for index in (op.inputs[0], op.output))
    kept = [
        axis
        for axis, size in enumerate(after)
        if size == time.rows and math.prod(after[:axis]) == math.prod(before[: time.axis])
    ]
    if not kept:
        return _ends(op, time)
    axis = time.axis if time.axis in kept else kept[0]

    def operator(rows: int) -> tuple[Operator, dict[int, np.ndarray]]:
        shape = np.array([*after[:axis], rows, *after[axis + 1 :]], np.int32)
        return Operator("RESHAPE", op.inputs[:2], op.outputs, None, op.version), {1: shape}

    if op.kind != "RESHAPE":  # its shape stands in its options, or follows from its input
        return _keeps(op, dataclasses.replace(time, axis=axis))
    return Rule(Reading(), dataclasses.replace(time, axis=axis), operator)


def _transpose(graph: Graph, op: Operator, time: Time) -> Rule:
    order = _constant(graph, op, 1).tolist()
    return _keeps(op, dataclasses.replace(time, axis=order.index(time.axis)))


def _fully_connected(graph: Graph, op: Operator, time: Time) -> Rule:
    before, after = (graph.tensors[index].shape for index in (op.inputs[0], op.output))
    depth = graph.tensors[op.inputs[1]].shape[-1]
    if depth == math.prod(before[time.axis :]):  # all rows at once
        return _ends(op, time)
    if len(before) != len(after):  # [1, rows, channels] -> [rows, units]
        time = dataclasses.replace(time, axis=0)
        if after[0] != time.rows:
            raise CannotStreamError("merges rows with other axes: keep the dimensions")
    return _keeps(op, time)


def _pad(graph: Graph, op: Operator, time: Time) -> Rule:
    if _constant(graph, op, 1)[time.axis].any():
        raise CannotStreamError("pads in time: leave it out and use padding='valid'")
    return _keeps(op, time)


def _slice(graph: Graph, op: Operator, time: Time) -> Rule:
    """Cropping: rows that end some rows ago; other axes are cut as before."""
    shape = graph.tensors[op.inputs[0]].shape
    begins, ends, drops = _bounds(graph, op, shape)
    begin, end = begins[time.axis], ends[time.axis]
    behind = time.rows - end
    others = [axis for axis in range(len(shape)) if axis != time.axis]
    whole = all((begins[axis], ends[axis]) == (0, shape[axis]) for axis in others)
    after = Time(
        time.axis - sum(drop < time.axis for drop in drops),
        end - begin,
        time.hop,
        time.delay + behind * time.hop,
    )
    if time.axis in drops:
        return Rule(
            Reading(1, 1, behind, True), None, lambda rows: _cut(op, begins, ends, time.axis, 1)
        )
    if whole and not drops:
        return Rule(Reading(behind=behind), after, None)
    return Rule(Reading(behind=behind), after, lambda rows: _cut(op, begins, ends, time.axis, rows))


def _bounds(
    graph: Graph, op: Operator, shape: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """First and last place (exclusive) along each axis, and the axes that are dropped."""
    begins = _constant(graph, op, 1).tolist()
    if op.kind == "SLICE":
        sizes = _constant(graph, op, 2).tolist()
        ends = [
            length if size < 0 else begin + size
            for begin, size, length in zip(begins, sizes, shape, strict=True)
        ]
        return begins, ends, []
    options = op.options
    if options.ellipsisMask or options.newAxisMask or (_constant(graph, op, 3) != 1).any():
        raise CannotStreamError("takes every other row or adds an axis: take a plain slice")
    bounds = zip(begins, _constant(graph, op, 2).tolist(), shape, strict=True)
    starts, ends = [], []
    drops = [axis for axis in range(len(shape)) if options.shrinkAxisMask >> axis & 1]
    for axis, (begin, end, length) in enumerate(bounds):
        start, stop, _ = slice(
            None if options.beginMask >> axis & 1 else begin,
            None if options.endMask >> axis & 1 else end,
        ).indices(length)
        starts.append(start)
        ends.append(start + 1 if axis in drops else stop)
    return starts, ends, drops


def _cut(
    op: Operator, begins: list[int], ends: list[int], axis: int, rows: int
) -> tuple[Operator, dict[int, np.ndarray]]:
    begin, end = np.array(begins, np.int32), np.array(ends, np.int32)
    begin[axis], end[axis] = 0, rows
    if op.kind == "SLICE":
        return op, {1: begin, 2: end - begin}
    options = _changed(op.options, beginMask=0, endMask=0)
    return dataclasses.replace(op, options=options), {1: begin, 2: end}


def _constant(graph: Graph, op: Operator, place: int) -> np.ndarray:
    data = graph.tensors[op.inputs[place]].data
    if data is None:
        raise CannotStreamError("computes its shape or axis: make it a constant")
    return data


def _changed(options: Any, **values: int) -> Any:
    changed = type(options)()
    vars(changed).update(vars(options) | values)
    return changed


_ELEMENTWISE = (
    "ABS",
    "ADD",
    "DEQUANTIZE",
    "DIV",
    "ELU",
    "EXP",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOGISTIC",
    "MAXIMUM",
    "MINIMUM",
    "MUL",
    "NEG",
    "PRELU",
    "QUANTIZE",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RSQRT",
    "SQRT",
    "SQUARE",
    "SQUARED_DIFFERENCE",
    "SUB",
    "TANH",
)
_RULES: dict[str, Callable[[Graph, Operator, Time], Rule]] = {
    **dict.fromkeys(_ELEMENTWISE, _each_value),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D"), _window),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _reduce),
    **dict.fromkeys(("RESHAPE", "EXPAND_DIMS", "SQUEEZE"), _reshape),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE"), _slice),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), _split),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX", "L2_NORMALIZATION"), _last_axis),
    "CONCATENATION": _join,
    "TRANSPOSE": _transpose,
    "FULLY_CONNECTED": _fully_connected,
}
