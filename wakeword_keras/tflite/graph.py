"""The operators of a TFLite file as a walk: read, pair with those of another file, cut apart.

Two files made from one architecture hold the same operators in the same order, up to fusing.
"""

import copy
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer

_TYPES = {schema.TensorType.FLOAT32: "float", schema.TensorType.INT8: "int8"}
_CLAMPS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}  # operator: fused activation of the same sense


@dataclass(frozen=True)
class Operator:
    """One tensor that an operator writes, and how.

    Attributes:
      key: what a partner has to share: kind, fused activation, which output, its shape.
      kind: of TFLite, such as "CONV_2D".
      layers: Keras layers in the names of the tensor and its weights, that with the weights first.
      reads: tensors that are not constants.
      writes: the tensor.
      type: "float", "int8" or "other".
      label: kind and tensor name, for messages.
    """

    key: tuple
    kind: str
    layers: tuple[str, ...]
    reads: tuple[int, ...]
    writes: int
    type: str
    label: str


@dataclass(frozen=True)
class Graph:
    """The parsed file, its operators in order, its input tensor and that one's shape."""

    model: Any
    operators: tuple[Operator, ...]
    input: int
    input_shape: tuple[int, ...]


def read(path: str | os.PathLike) -> Graph:
    """Read a model of one subgraph and one input.

    Raises:
      InputError: the file is missing, no TFLite model, or one with states.
    """
    kinds = flatbuffer.operators(path)  # verifies the file, too
    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    if len(model.subgraphs) != 1 or len(model.subgraphs[0].inputs) != 1:
        raise InputError(f"{path}: has states or several inputs: give the model that takes a clip")
    (graph,) = model.subgraphs
    source = int(graph.inputs[0])
    changing = {source} | {int(t) for op in graph.operators for t in op.outputs}
    operators = [
        _operator(graph, op, kind, changing, which)
        for op, kind in zip(graph.operators, kinds, strict=True)
        for which in range(len(op.outputs))
    ]
    shape = tuple(int(size) for size in graph.tensors[source].shape)
    return Graph(model, _fold_clamps(operators), source, shape)


def _operator(graph: Any, op: Any, kind: str, changing: set[int], which: int) -> Operator:
    output = graph.tensors[op.outputs[which]]
    activation = getattr(op.builtinOptions, "fusedActivationFunction", 0)
    inputs = [int(t) for t in op.inputs if t >= 0]
    tensors = [output, *(graph.tensors[t] for t in inputs if t not in changing)]
    names = dict.fromkeys(n for tensor in tensors for n in _layer_names(tensor.name.decode()))
    return Operator(
        (kind, activation, which, *(int(size) for size in output.shape)),
        kind,
        tuple(names),
        tuple(t for t in inputs if t in changing),
        int(op.outputs[which]),
        _TYPES.get(output.type, "other"),
        f"{kind} {output.name.decode().split(';')[0]}",
    )


def _layer_names(tensor: str) -> Iterator[str]:
    """Layers in "model/layer/Op;model/layer/Op1", the one with the weights first.

    TFLite cuts long names at their front, so a part of fewer than three pieces tells nothing.
    """
    for part in reversed(tensor.split(";")):
        pieces = part.split("/")
        if len(pieces) > 2:
            yield pieces[1].removeprefix("quant_")


def _fold_clamps(operators: Sequence[Operator]) -> tuple[Operator, ...]:
    """A ReLU that is an operator of its own becomes that of the layer before, as fusing does."""
    readers: dict[int, int] = {}
    for op in operators:
        for tensor in op.reads:
            readers[tensor] = readers.get(tensor, 0) + 1
    folded: dict[int, Operator] = {}
    for op in operators:
        before = folded.get(op.reads[0]) if op.reads else None
        if op.kind in _CLAMPS and before and before.key[1] == 0 and readers[op.reads[0]] == 1:
            del folded[op.reads[0]]
            op = dataclasses.replace(
                before,
                key=(before.kind, _CLAMPS[op.kind], *before.key[2:]),
                writes=op.writes,
                label=op.label,
            )
        folded[op.writes] = op
    return tuple(folded.values())


def align(left: Sequence[Operator], right: Sequence[Operator]) -> list[tuple[Operator, Operator]]:
    """Pair the operators of a float and an int8 graph, order kept.

    Args:
      left: of the float model.
      right: of the int8 model.

    Returns:
      The pairs of the best alignment: 1 for each pair of equal keys and types, 1 more where both
      name a common layer (Needleman and Wunsch 1970).
    """

    def worth(a: Operator, b: Operator) -> int:
        same = a.key == b.key and (a.type, b.type) == ("float", "int8")
        return same * (1 + bool(set(a.layers) & set(b.layers)))

    best = np.zeros((len(left) + 1, len(right) + 1), np.int64)
    for i in range(len(left) - 1, -1, -1):
        for j in range(len(right) - 1, -1, -1):
            paired = best[i + 1, j + 1] + worth(left[i], right[j])
            best[i, j] = max(paired, best[i + 1, j], best[i, j + 1])
    pairs, i, j = [], 0, 0
    while i < len(left) and j < len(right):
        value = worth(left[i], right[j])
        if value and best[i, j] == best[i + 1, j + 1] + value:
            pairs.append((left[i], right[j]))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    return pairs


def cut(graph: Graph, tensors: Sequence[int]) -> tuple[bytes, dict[int, int]]:
    """The float model with every reader of the given tensors reading an input of its own instead.

    Args:
      graph: of the float model.
      tensors: written by its operators; they become the outputs, in this order.

    Returns:
      The flatbuffer, and the index of the new input that stands for each tensor.
    """
    model = copy.deepcopy(graph.model)
    (subgraph,) = model.subgraphs
    inputs = {graph.input: graph.input}
    for tensor in tensors:
        clone = copy.copy(subgraph.tensors[tensor])
        clone.name, clone.buffer = clone.name + b"/given", 0
        inputs[tensor] = len(subgraph.tensors)
        subgraph.tensors.append(clone)
    for op in subgraph.operators:
        op.inputs = np.array([inputs.get(int(t), int(t)) for t in op.inputs], np.int32)
    subgraph.inputs = np.array(list(inputs.values()), np.int32)
    subgraph.outputs = np.array(tensors, np.int32)
    model.signatureDefs = []
    return pack(model), inputs


def pack(model: Any) -> bytes:
    """The flatbuffer of a parsed model."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
