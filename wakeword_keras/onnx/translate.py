"""ONNX files out of TFLite files: the same weights and scales, operator by operator.

Both kinds come from the file that ships, so an INT8 ONNX model holds the very integers of the
TFLite one (QDQ form, see `onnx.graph`), and the float one its folded batch norms.
"""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from wakeword_keras.errors import InputError
from wakeword_keras.onnx.graph import CHANNELS_FIRST, Layout, OnnxGraph
from wakeword_keras.tflite.flatbuffer import Graph, Operator, read_graph
from wakeword_keras.tflite.interpreter import Source, name_of


def installed() -> bool:
    """Whether the extra `onnx` is there."""
    return all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))


def from_tflite(source: Source) -> bytes:
    """Translate a TFLite model, float32 or INT8, to ONNX (opset 17).

    Args:
      source: .tflite file, or its content, with one input [1, frames, channels], such as
        `convert.float_model` and `convert.int8_model` return.

    Returns:
      ONNX model: float32 `features` [clips, frames, channels] to float32 `logits`
      [clips, wake_words]; an INT8 one quantizes its input and dequantizes its output itself.

    Raises:
      InputError: no TFLite model, an operator or tensor type without translation (named), or the
        extra `onnx` is not installed.
    """
    graph = read_graph(source)
    try:
        return translate(graph)
    except InputError as error:
        raise InputError(f"{name_of(source)}: {error}") from error


def translate(source: Graph) -> bytes:
    """Translate a TFLite graph, see `from_tflite`."""
    graph = OnnxGraph(source)
    for operator in source.operators:
        if operator.kind not in _TRANSLATIONS:
            raise InputError(f"operator {operator.kind} has no ONNX translation")
        given = tuple(index for index in operator.inputs if index >= 0)
        _TRANSLATIONS[operator.kind](graph, dataclasses.replace(operator, inputs=given))
    return graph.serialize()


def _activated(graph: OnnxGraph, name: str, options: Any) -> str:
    """The activation that TFLite fuses into an operator."""
    kind = schema.ActivationFunctionType
    code = options.fusedActivationFunction
    if code == kind.NONE:
        return name
    if code == kind.RELU:
        return graph.node("Relu", name)
    bounds = {kind.RELU6: (0, 6), kind.RELU_N1_TO_1: (-1, 1)}
    if code not in bounds:
        raise InputError(f"fused activation {code} has no ONNX translation")
    return graph.node("Clip", name, *(graph.constant(np.float32(b)) for b in bounds[code]))


def _window(
    graph: OnnxGraph, op: Operator, kernel: tuple[int, int], dilations: tuple[int, int]
) -> dict:
    """Strides and explicit padding as TFLite has them: the odd one of SAME goes to the end."""
    strides = (op.options.strideH, op.options.strideW)
    sizes = graph.tensors[op.inputs[0]].shape[1:3]
    begins, ends = [], []
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        missing = (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size
        total = max(missing, 0) if op.options.padding == schema.Padding.SAME else 0
        begins.append(total // 2)
        ends.append(total - total // 2)
    return {"strides": strides, "pads": [*begins, *ends], "kernel_shape": kernel}


def _convolution(graph: OnnxGraph, op: Operator) -> None:
    source, weights, *bias = op.inputs
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    _, height, width, last = graph.tensors[weights].shape
    channels = graph.tensors[source].shape[3]
    dilations = (op.options.dilationHFactor, op.options.dilationWFactor)
    result = graph.node(
        "Conv",
        graph.value(source, CHANNELS_FIRST),
        # ONNX: [out, in, height, width]; TFLite's depthwise: [1, height, width, out].
        graph.value(weights, (3, 0, 1, 2) if depthwise else CHANNELS_FIRST),
        *(graph.value(index) for index in bias),
        group=channels if depthwise else channels // last,
        dilations=dilations,
        **_window(graph, op, (height, width), dilations),
    )
    graph.put(op.output, _activated(graph, result, op.options), CHANNELS_FIRST)


def _average_pool(graph: OnnxGraph, op: Operator) -> None:
    kernel = (op.options.filterHeight, op.options.filterWidth)
    source = graph.value(op.inputs[0], CHANNELS_FIRST)
    result = graph.node("AveragePool", source, **_window(graph, op, kernel, (1, 1)))
    graph.put(op.output, _activated(graph, result, op.options), CHANNELS_FIRST)


def _fully_connected(graph: OnnxGraph, op: Operator) -> None:
    source, weights, *bias = op.inputs
    value, taken = graph.value(source), graph.tensors[weights].shape[1]
    given, wanted = graph.tensors[source].shape, graph.tensors[op.output].shape
    if given[-1] != taken or len(given) != len(wanted):
        value = graph.node("Reshape", value, graph.integers(-1, taken))
    if len(wanted) == 2:
        inputs = (value, graph.value(weights), *(graph.value(index) for index in bias))
        result = graph.node("Gemm", *inputs, transB=1)
    else:
        result = graph.node("MatMul", value, graph.value(weights, (1, 0)))
        for index in bias:
            result = graph.node("Add", result, graph.value(index))
    graph.put(op.output, _activated(graph, result, op.options))


def _binary(kind: str) -> Callable[[OnnxGraph, Operator], None]:
    def translate(graph: OnnxGraph, op: Operator) -> None:
        layout = graph.layout(*op.inputs)
        result = graph.node(kind, *(graph.value(index, layout) for index in op.inputs))
        graph.put(op.output, _activated(graph, result, op.options), layout)

    return translate


def _squared_difference(graph: OnnxGraph, op: Operator) -> None:
    layout = graph.layout(*op.inputs)
    difference = graph.node("Sub", *(graph.value(index, layout) for index in op.inputs))
    graph.put(op.output, graph.node("Mul", difference, difference), layout)


def _unary(*kinds: str, **attributes: Any) -> Callable[[OnnxGraph, Operator], None]:
    """ONNX operators one after another, attributes to the first; none of them: the value itself."""

    def translate(graph: OnnxGraph, op: Operator) -> None:
        layout = graph.layout(op.inputs[0])
        result = graph.value(op.inputs[0], layout)
        for number, kind in enumerate(kinds):
            result = graph.node(kind, result, **(attributes if number == 0 else {}))
        graph.put(op.output, result, layout)

    return translate


def _hard_swish(graph: OnnxGraph, op: Operator) -> None:
    layout = graph.layout(op.inputs[0])
    value = graph.value(op.inputs[0], layout)
    gate = graph.node("HardSigmoid", value, alpha=1 / 6, beta=0.5)
    graph.put(op.output, graph.node("Mul", value, gate), layout)


def _l2_normalization(graph: OnnxGraph, op: Operator) -> None:
    layout = graph.layout(op.inputs[0])
    axis = _place(len(graph.tensors[op.output].shape) - 1, layout)
    value = graph.value(op.inputs[0], layout)
    result = graph.node("LpNormalization", value, axis=axis, p=2)
    graph.put(op.output, _activated(graph, result, op.options), layout)


def _softmax(graph: OnnxGraph, op: Operator) -> None:
    value = graph.value(op.inputs[0])
    if op.options.beta != 1:
        value = graph.node("Mul", value, graph.constant(np.float32(op.options.beta)))
    graph.put(op.output, graph.node("Softmax", value, axis=-1))


def _reduction(kind: str) -> Callable[[OnnxGraph, Operator], None]:
    def translate(graph: OnnxGraph, op: Operator) -> None:
        source = op.inputs[0]
        rank = len(graph.tensors[source].shape)
        axes = {int(axis) % rank for axis in graph.data(op.inputs[1], op).ravel()}
        kept = bool(op.options.keepDims)
        # Without height and width nothing is left of a layout, so both orders give the same.
        layout = graph.layout(source) if kept or axes == {1, 2} else None
        value = graph.value(source, layout)
        places = sorted(_place(axis, layout) for axis in axes)
        if kind == "ReduceSum":  # the one whose axes are an input since opset 13
            result = graph.node(kind, value, graph.integers(*places), keepdims=int(kept))
        else:
            result = graph.node(kind, value, axes=places, keepdims=int(kept))
        graph.put(op.output, result, layout if kept else None)

    return translate


def _place(axis: int, layout: Layout) -> int:
    return axis if layout is None else layout.index(axis)


def _reshape(graph: OnnxGraph, op: Operator) -> None:
    # The first axis holds the clips, alone or with more: -1 leaves their number open.
    shape = graph.integers(-1, *graph.tensors[op.output].shape[1:])
    graph.put(op.output, graph.node("Reshape", graph.value(op.inputs[0]), shape))


def _transpose(graph: OnnxGraph, op: Operator) -> None:
    perm = graph.data(op.inputs[1], op).tolist()
    graph.put(op.output, graph.node("Transpose", graph.value(op.inputs[0]), perm=perm))


def _batch_matmul(graph: OnnxGraph, op: Operator) -> None:
    def operand(index: int, transposed: bool) -> str:
        rank = len(graph.tensors[index].shape)
        swapped = (*range(rank - 2), rank - 1, rank - 2)
        return graph.value(index, swapped if transposed else None)

    left = operand(op.inputs[0], op.options.adjX)
    right = operand(op.inputs[1], op.options.adjY)
    graph.put(op.output, graph.node("MatMul", left, right))


def _pad(graph: OnnxGraph, op: Operator) -> None:
    layout = graph.layout(op.inputs[0])
    pads = graph.data(op.inputs[1], op)
    pads = pads if layout is None else pads[list(layout)]
    widths = graph.integers(*pads.T.ravel().tolist())
    graph.put(op.output, graph.node("Pad", graph.value(op.inputs[0], layout), widths), layout)


def _concatenation(graph: OnnxGraph, op: Operator) -> None:
    layout = graph.layout(*op.inputs)
    axis = _place(op.options.axis % len(graph.tensors[op.output].shape), layout)
    result = graph.node("Concat", *(graph.value(i, layout) for i in op.inputs), axis=axis)
    graph.put(op.output, _activated(graph, result, op.options), layout)


def _strided_slice(graph: OnnxGraph, op: Operator) -> None:
    options, shape = op.options, graph.tensors[op.inputs[0]].shape
    if options.ellipsisMask or options.newAxisMask:
        raise InputError("operator STRIDED_SLICE with an ellipsis or a new axis has no translation")
    begins, ends, strides = (graph.data(index, op).tolist() for index in op.inputs[1:])
    gone = [axis for axis in range(len(shape)) if options.shrinkAxisMask >> axis & 1]
    cuts = []  # axis, begin, end, stride of the axes that lose something
    for axis, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        if axis in gone:
            end = begin + 1 or None  # the element -1 ends where the axis does
        # slice().indices reads negative and too large bounds as TFLite does.
        bounds = slice(
            None if options.beginMask >> axis & 1 else begin,
            None if options.endMask >> axis & 1 else end,
            stride,
        )
        start, stop, _ = bounds.indices(shape[axis])
        if len(range(start, stop, stride)) < shape[axis] or stride < 0:
            cuts.append((axis, start, stop if stop >= 0 else -shape[axis] - 1, stride))
    value = graph.value(op.inputs[0])
    if cuts:
        axes, starts, stops, steps = (graph.integers(*part) for part in zip(*cuts, strict=True))
        value = graph.node("Slice", value, starts, stops, axes, steps)
    if gone:
        value = graph.node("Squeeze", value, graph.integers(*gone))
    graph.put(op.output, value)


def _gather(graph: OnnxGraph, op: Operator) -> None:
    if op.options.batchDims:
        raise InputError("operator GATHER with batch dimensions has no ONNX translation")
    rank = len(graph.tensors[op.inputs[0]].shape)
    values = (graph.value(index) for index in op.inputs)
    graph.put(op.output, graph.node("Gather", *values, axis=op.options.axis % rank))


_TRANSLATIONS: dict[str, Callable[[OnnxGraph, Operator], None]] = {
    "ADD": _binary("Add"),
    "AVERAGE_POOL_2D": _average_pool,
    "BATCH_MATMUL": _batch_matmul,
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "HARD_SWISH": _hard_swish,
    "L2_NORMALIZATION": _l2_normalization,
    "LOGISTIC": _unary("Sigmoid"),
    "MEAN": _reduction("ReduceMean"),
    "MUL": _binary("Mul"),
    "PAD": _pad,
    "QUANTIZE": _unary(),  # to other scales: what `put` does
    "RELU": _unary("Relu"),
    "RESHAPE": _reshape,
    "RSQRT": _unary("Sqrt", "Reciprocal"),
    "SOFTMAX": _softmax,
    "SQUARED_DIFFERENCE": _squared_difference,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _binary("Sub"),
    "SUM": _reduction("ReduceSum"),
    "TRANSPOSE": _transpose,
}
