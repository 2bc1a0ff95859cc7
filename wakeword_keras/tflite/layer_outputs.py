"""What the operators of a TFLite file write, by Keras layer, and how two files' outputs pair.

Two files made from one architecture hold the same operators in the same order, up to fusing.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wakeword_keras.tflite.flatbuffer import Graph, Operator

_CLAMPS = {"RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3}  # operator: fused activation of the same sense


@dataclass(frozen=True)
class LayerOutput:
    """One tensor that an operator writes.

    Attributes:
      key: what a partner has to share: kind, fused activation, which output, its shape.
      kind: of the operator, such as "CONV_2D".
      layers: Keras layers in the names of the tensor and its weights, that with the weights first.
      reads: tensors that are not constants.
      tensor: index of the one written.
      type: of it, such as "INT8".
      label: kind and tensor name, for messages.
    """

    key: tuple
    kind: str
    layers: tuple[str, ...]
    reads: tuple[int, ...]
    tensor: int
    type: str
    label: str


def layer_outputs(graph: Graph) -> tuple[LayerOutput, ...]:
    """Of every operator in order; a ReLU that could fuse counts to the layer before it."""
    return _fold_clamps(
        [_output(graph, op, which) for op in graph.operators for which in range(len(op.outputs))]
    )


def _output(graph: Graph, op: Operator, which: int) -> LayerOutput:
    index = op.outputs[which]
    tensor = graph.tensors[index]
    activation = getattr(op.options, "fusedActivationFunction", 0)
    inputs = [i for i in op.inputs if i >= 0]
    constants = [graph.tensors[i] for i in inputs if graph.tensors[i].data is not None]
    names = dict.fromkeys(n for named in (tensor, *constants) for n in _layer_names(named.name))
    return LayerOutput(
        (op.kind, activation, which, *tensor.shape),
        op.kind,
        tuple(names),
        tuple(i for i in inputs if graph.tensors[i].data is None),
        index,
        tensor.type,
        f"{op.kind} {tensor.name.split(';')[0]}",
    )


def _layer_names(tensor: str) -> Iterator[str]:
    """Layers in "model/layer/Op;model/layer/Op1", the one with the weights first.

    TFLite cuts long names at their front, so a part of fewer than three pieces tells nothing.
    """
    for part in reversed(tensor.split(";")):
        pieces = part.split("/")
        if len(pieces) > 2:
            yield pieces[1].removeprefix("quant_")


def _fold_clamps(outputs: Sequence[LayerOutput]) -> tuple[LayerOutput, ...]:
    """A ReLU that is an operator of its own becomes that of the layer before, as fusing does."""
    readers: dict[int, int] = {}
    for output in outputs:
        for tensor in output.reads:
            readers[tensor] = readers.get(tensor, 0) + 1
    folded: dict[int, LayerOutput] = {}
    for output in outputs:
        before = folded.get(output.reads[0]) if output.reads else None
        clamps = output.kind in _CLAMPS and before and before.key[1] == 0
        if before and clamps and readers[output.reads[0]] == 1:
            del folded[output.reads[0]]
            output = dataclasses.replace(
                before,
                key=(before.kind, _CLAMPS[output.kind], *before.key[2:]),
                tensor=output.tensor,
                label=output.label,
            )
        folded[output.tensor] = output
    return tuple(folded.values())


def align(
    left: Sequence[LayerOutput], right: Sequence[LayerOutput]
) -> list[tuple[LayerOutput, LayerOutput]]:
    """Pair the outputs of a float and an int8 graph, order kept.

    Args:
      left: of the float model.
      right: of the int8 model.

    Returns:
      The pairs of the best alignment: 1 for each pair of equal keys and types, 1 more where both
      name a common layer (Needleman and Wunsch 1970).
    """

    def worth(a: LayerOutput, b: LayerOutput) -> int:
        same = a.key == b.key and (a.type, b.type) == ("FLOAT32", "INT8")
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
