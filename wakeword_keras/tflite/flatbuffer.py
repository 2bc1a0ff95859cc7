"""TFLite files as plain data: read, checked, changed with `dataclasses.replace`, written.

The one place that knows the flatbuffer's schema. What a file holds beside its graphs (signatures,
metadata) is not read and not written: no interpreter of ours needs it.
Schema: https://github.com/google-ai-edge/LiteRT/blob/main/tflite/schema.fbs
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from wakeword_keras.affine import INT8_MAX, INT8_MIN, Affine
from wakeword_keras.errors import InputError
from wakeword_keras.tflite.interpreter import (
    FILE_IDENTIFIER,
    Source,
    content_of,
    name_of,
    open_interpreter,
)

DTYPES = {
    "FLOAT32": np.float32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""Types whose constants are read as arrays; those of others stay bytes, uint8."""
_DEPRECATED_CODES = 127  # operators up to this number stand in a byte of their own, too
_ALIGNMENT = 16  # of constants, as the schema demands: a device reads them where they lie


def _numbers(enum: type) -> dict[str, int]:
    return {name: value for name, value in vars(enum).items() if not name.startswith("_")}


_OPERATORS = _numbers(schema.BuiltinOperator)
_OPERATOR_NAMES = {number: name for name, number in _OPERATORS.items()}
_TYPES = _numbers(schema.TensorType)
_TYPE_NAMES = {number: name for name, number in _TYPES.items()}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a graph.

    Attributes:
      name: as the converter wrote it.
      type: such as "INT8".
      shape: sizes.
      data: of a constant; None of a tensor that is computed.
      scale, zero_point: of a quantized one, arrays [1] or [channels].
      axis: that the scales run along.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: NDArray | None = None
    scale: NDArray[np.float32] | None = None
    zero_point: NDArray[np.int64] | None = None
    axis: int = 0


@dataclass(frozen=True)
class Operator:
    """One operator of a graph.

    Attributes:
      kind: such as "CONV_2D".
      inputs: indices of tensors; -1 stands for one that is left out.
      outputs: indices of tensors.
      options: the schema's object, such as `Conv2DOptionsT`; None where the kind has none.
      version: of the kernel that the file asks for.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any = None
    version: int = 1

    @property
    def output(self) -> int:
        """The first output."""
        return self.outputs[0]


@dataclass(frozen=True)
class Graph:
    """Tensors, the operators in the order they run, and which tensors are given and taken."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str = "main"


def read(source: Source) -> tuple[Graph, ...]:
    """Read a file: its main graph, then those that it calls.

    Args:
      source: .tflite file, or its content.

    Raises:
      InputError: the file is missing, no TFLite model, or damaged.
    """
    content, name = content_of(source), name_of(source)
    # Verifies all offsets, which the Python parser does not.
    interpreter = open_interpreter(source, "reference")
    try:
        graphs = tuple(_graphs(schema.ModelT.InitFromPackedBuf(content, 0)))
        for graph in graphs:
            _check_order(graph)
        _check_shapes(graphs[0], interpreter.get_tensor_details())
    except (ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{name}: damaged ({reason}): export it again") from error
    return graphs


def read_graph(source: Source) -> Graph:
    """Read a model without state: one graph, one input, one output.

    Raises:
      InputError: as `read`; the model has states, or several inputs or outputs.
    """
    main, *others = read(source)
    if others or len(main.inputs) != 1 or len(main.outputs) != 1:
        raise InputError(
            f"{name_of(source)}: has states, or several inputs or outputs: give the model that "
            "takes a clip"
        )
    return main


def write(graphs: Sequence[Graph]) -> bytes:
    """The flatbuffer of a main graph and those that it calls.

    Raises:
      InputError: an operator whose options are not read, so that they cannot be written.
    """
    model = schema.ModelT(version=3, description="wakeword_keras", buffers=[_Buffer()])
    codes = dict.fromkeys((op.kind, op.version) for graph in graphs for op in graph.operators)
    model.operatorCodes = [_operator_code(kind, version) for kind, version in codes]
    places = {code: place for place, code in enumerate(codes)}
    held: dict[bytes, int] = {}  # equal constants are kept once
    model.subgraphs = [
        schema.SubGraphT(
            tensors=[_pack_tensor(tensor, model.buffers, held) for tensor in graph.tensors],
            inputs=np.array(graph.inputs, np.int32),
            outputs=np.array(graph.outputs, np.int32),
            operators=[_pack_operator(op, places[op.kind, op.version]) for op in graph.operators],
            name=graph.name,
        )
        for graph in graphs
    ]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def input_affine(source: Source) -> Affine | None:
    """Scale and zero point of an int8 model's input; None if the input is float32.

    Raises:
      InputError: the file is missing or no TFLite model, or the input is of another type.
    """
    graph = read(source)[0]
    return _affine(graph.tensors[graph.inputs[0]], source)


def output_affine(source: Source) -> Affine | None:
    """Scale and zero point of an int8 model's output; None if the output is float32.

    Raises:
      InputError: the file is missing or no TFLite model, or the output is of another type.
    """
    graph = read(source)[0]
    return _affine(graph.tensors[graph.outputs[0]], source)


def int8_affine(tensor: Tensor, source: Source) -> Affine:
    """Scale and zero point of an int8 tensor that has one of each.

    Args:
      tensor: of a graph.
      source: that it was read from, for the message.

    Raises:
      InputError: the tensor is of another type, or not quantized as a whole.
    """
    if tensor.type != "INT8" or tensor.scale is None or tensor.scale.size != 1:
        raise InputError(
            f"{name_of(source)}: tensor {tensor.name!r} is {tensor.type.lower()}, not int8 with "
            "one scale: give a fully INT8 model"
        )
    assert tensor.zero_point is not None, "as many as scales, read has checked"
    return Affine(float(tensor.scale[0]), int(tensor.zero_point[0]))


def operators(path: str | os.PathLike) -> list[str]:
    """Operator names in the order of the graph, all subgraphs, such as "CONV_2D".

    Raises:
      InputError: the file is missing or no TFLite model.
    """
    return [op.kind for graph in read(path) for op in graph.operators]


def tensor_types(path: str | os.PathLike) -> dict[str, tuple[str, ...]]:
    """Names of the tensors, weights included, by type: {"INT8": (...), "INT32": (...)}.

    Raises:
      InputError: the file is missing or no TFLite model.
    """
    by_type: dict[str, list[str]] = {}
    for graph in read(path):
        for tensor in graph.tensors:
            by_type.setdefault(tensor.type, []).append(tensor.name)
    return {kind: tuple(tensors) for kind, tensors in by_type.items()}


def _affine(tensor: Tensor, source: Source) -> Affine | None:
    return None if tensor.type == "FLOAT32" else int8_affine(tensor, source)


def _graphs(model: Any) -> Iterator[Graph]:
    codes = [
        # Files of schema before 3a hold the code in the deprecated byte alone.
        (_OPERATOR_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)], code.version)
        for code in model.operatorCodes
    ]
    for graph in model.subgraphs:
        operators = []
        for op in graph.operators:
            kind, version = codes[op.opcodeIndex]
            inputs, outputs = _indices(op.inputs), _indices(op.outputs)
            operators.append(Operator(kind, inputs, outputs, op.builtinOptions, version))
        yield Graph(
            tuple(_tensor(tensor, model.buffers) for tensor in graph.tensors),
            tuple(operators),
            _indices(graph.inputs),
            _indices(graph.outputs),
            (graph.name or b"").decode(),
        )


def _indices(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _tensor(tensor: Any, buffers: Sequence[Any]) -> Tensor:
    name = (tensor.name or b"").decode()
    kind, shape = _TYPE_NAMES[tensor.type], _indices(tensor.shape)
    raw, data = buffers[tensor.buffer].data, None
    if 0 in shape or (raw is not None and len(raw)):
        data = np.asarray([] if raw is None else raw, np.uint8)
        if kind in DTYPES:
            data = np.frombuffer(data.tobytes(), DTYPES[kind]).reshape(shape)
    affine = tensor.quantization
    if affine is None or affine.scale is None or not len(affine.scale):
        return Tensor(name, kind, shape, data)
    scale = np.asarray(affine.scale, np.float32)
    zero_point = np.asarray(affine.zeroPoint, np.int64)
    _check_affine(name, kind, scale, zero_point)
    return Tensor(name, kind, shape, data, scale, zero_point, int(affine.quantizedDimension))


def _check_affine(name: str, kind: str, scale: NDArray, zero_point: NDArray) -> None:
    if not (np.isfinite(scale) & (scale > 0)).all():
        raise ValueError(f"tensor {name!r} has a scale of {scale.min()}")
    if zero_point.shape != scale.shape:
        raise ValueError(f"tensor {name!r} has {zero_point.size} zero points, {scale.size} scales")
    if kind == "INT8" and not ((zero_point >= INT8_MIN) & (zero_point <= INT8_MAX)).all():
        raise ValueError(f"tensor {name!r} has zero points beyond int8")


def _check_order(graph: Graph) -> None:
    """Every tensor is a constant, given, or written before it is read."""
    known = {*graph.inputs, -1}
    known |= {index for index, tensor in enumerate(graph.tensors) if tensor.data is not None}
    for op in graph.operators:
        if missing := set(op.inputs) - known:
            raise ValueError(f"{op.kind} reads tensor {min(missing)}, which nothing writes")
        known |= set(op.outputs)
    if missing := set(graph.outputs) - known:
        raise ValueError(f"output {min(missing)} is written by nothing")


def _check_shapes(graph: Graph, details: Sequence[Mapping[str, Any]]) -> None:
    """Shapes are those that the interpreter infers: it does not look at what the file says."""
    inferred = {detail["index"]: tuple(map(int, detail["shape"])) for detail in details}
    for index, tensor in enumerate(graph.tensors):
        if tensor.shape != inferred.get(index, tensor.shape):
            raise ValueError(
                f"tensor {tensor.name!r} has shape {list(tensor.shape)}, "
                f"its operator writes {list(inferred[index])}"
            )


class _Buffer(schema.BufferT):
    """A constant, aligned: the schema's own class packs it anywhere."""

    def Pack(self, builder):
        if self.data is None:
            return super().Pack(builder)
        builder.StartVector(1, len(self.data), _ALIGNMENT)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)


def _operator_code(kind: str, version: int) -> schema.OperatorCodeT:
    if kind == "CUSTOM" or kind.startswith("STABLEHLO"):
        raise InputError(f"operator {kind} cannot be written: its options are not read")
    number = _OPERATORS[kind]
    return schema.OperatorCodeT(min(number, _DEPRECATED_CODES), None, version, number)


def _pack_operator(op: Operator, code: int) -> schema.OperatorT:
    packed = schema.OperatorT(code, np.array(op.inputs, np.int32), np.array(op.outputs, np.int32))
    if op.options is not None:
        kind = type(op.options).__name__.removesuffix("T")
        packed.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        packed.builtinOptions = op.options
    return packed


def _pack_tensor(tensor: Tensor, buffers: list[Any], held: dict[bytes, int]) -> schema.TensorT:
    packed = schema.TensorT(
        np.array(tensor.shape, np.int32), _TYPES[tensor.type], name=tensor.name, hasRank=True
    )
    if tensor.data is not None:
        content = tensor.data.tobytes()
        packed.buffer = held.setdefault(content, len(buffers))
        if packed.buffer == len(buffers):
            buffers.append(_Buffer(content))
    if tensor.scale is not None:
        packed.quantization = schema.QuantizationParametersT(
            scale=tensor.scale,
            zeroPoint=tensor.zero_point,
            quantizedDimension=tensor.axis,
        )
    return packed
