"""Window models rewired into streaming ones: only what is new is computed, bit for bit the same.

A window model computes everything again at every step. Where it is valid in time, what it computes
of old frames is what it computed before, so the streaming model keeps these rows in a ring of state
behind each tensor and joins the new rows to them. A ring holds exactly what its tensor holds, with
the same scale and zero point: nothing is quantized again, and from the first full window on each
step's output equals the window model's on the last frames.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from wakeword_keras.affine import quantize
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.flatbuffer import DTYPES, Graph, Operator, Tensor
from wakeword_keras.tflite.interpreter import Source, name_of, open_interpreter
from wakeword_keras.tflite.rewiring import rewire, walk


@dataclass(frozen=True)
class Streaming:
    """A streaming model whose states are inputs and outputs of its graph.

    Attributes:
      graph: inputs are the new frames [1, step_frames, channels] and the states; outputs are the
        logits and the new states, in the same order.
      step_frames: new frames a step.
      window_frames: frames behind an output.
    """

    graph: Graph
    step_frames: int
    window_frames: int

    @property
    def states(self) -> tuple[Tensor, ...]:
        """The rings, in the order of the inputs."""
        return tuple(self.graph.tensors[index] for index in self.graph.inputs[1:])


def stream(source: Source, step_frames: int | None = None) -> Streaming:
    """Rewire a window model.

    Args:
      source: .tflite file of a model without state, or its content; int8 or float32, input
        [1, frames, ...], one output without a time axis.
      step_frames: new frames a step, a multiple of the model's strides in time; as many as these
        by default.

    Returns:
      Streaming.

    Raises:
      InputError: the file is no such model, or operators cannot stream: each is named, with what
        to write instead.
    """
    window = flatbuffer.read_graph(source)
    times, rules = walk(window, name_of(source))
    if window.outputs[0] in times:
        raise InputError(
            f"{name_of(source)}: cannot stream: the output keeps time: end with the mean, or a "
            "Dense, of the last rows"
        )
    hop = math.lcm(*(time.hop for time in times.values()))
    step = step_frames or hop
    if step < 1 or step % hop:
        raise InputError(f"a step of {step} frames: must be a multiple of the strides, {hop}")
    new_rows = {tensor: step // time.hop for tensor, time in times.items()}
    frames = window.tensors[window.inputs[0]].shape[1]
    return Streaming(rewire(window, times, rules, new_rows), step, frames)


def to_bytes(streaming: Streaming) -> bytes:
    """The .tflite file of a streaming model, its states resource variables.

    Every state begins with its zero point: a subgraph that CALL_ONCE runs at the first step assigns
    it. LiteRT's reset does not run CALL_ONCE again: a new stream takes a new interpreter. Tensors
    within have no names: the converter's would take a seventh of the file.
    """
    graph = streaming.graph
    tensors = list(graph.tensors)

    def add(tensor: Tensor) -> int:
        tensors.append(tensor)
        return len(tensors) - 1

    before: list[Operator] = []
    assigned: dict[int, Operator] = {}
    names = [f"state_{number}" for number in range(len(graph.inputs) - 1)]
    for name, old, new in zip(names, graph.inputs[1:], graph.outputs[1:], strict=True):
        handle = add(Tensor(name, "RESOURCE", ()))
        before += [_handle(name, handle), Operator("READ_VARIABLE", (handle,), (old,))]
        assigned[new] = Operator("ASSIGN_VARIABLE", (handle, new), ())
    if names:
        once = schema.CallOnceOptionsT(initSubgraphIndex=1)
        before.insert(0, Operator("CALL_ONCE", (), (), once))
    operators = before
    for op in graph.operators:
        operators.append(op)
        operators += [assigned[index] for index in op.outputs if index in assigned]
    ends = {graph.inputs[0]: "features", graph.outputs[0]: "output"}
    named = [
        tensor if tensor.type == "RESOURCE" else dataclasses.replace(tensor, name=ends.get(i, ""))
        for i, tensor in enumerate(tensors)
    ]
    main = Graph(tuple(named), tuple(operators), graph.inputs[:1], graph.outputs[:1])
    return flatbuffer.write([main, _initialisation(names, streaming.states)] if names else [main])


def verify(window: Source, streaming_model: Source, features: np.ndarray) -> None:
    """Prove that a streaming model gives the window model's output: int8 to the bit.

    Every clip is given step by step to a cold state; the last step has seen the clip's newest
    frames, as many as the window model takes.

    Args:
      window, streaming_model: files, on the reference kernels.
      features: float32 [clips, frames, channels].

    Raises:
      ValueError: a clip's outputs differ by more than float32 rounds.
    """
    affine = flatbuffer.input_affine(window)
    for number, clip in enumerate(features):
        values = clip[np.newaxis] if affine is None else quantize(clip[np.newaxis], affine)
        expected, given = _last_output(window, values), _last_output(streaming_model, values)
        allowed = 0 if affine is not None else 1e-5 * max(1.0, float(np.abs(expected).max()))
        apart = np.abs(expected.astype(np.float64) - given).max()
        if not apart <= allowed:
            raise ValueError(
                f"{name_of(streaming_model)}: clip {number} differs from the window model by "
                f"{apart:g}: this is a fault of wakeword_keras, please report it"
            )


def _last_output(model: Source, clip: np.ndarray) -> np.ndarray:
    opened = open_interpreter(model, "reference")
    (source,), (target,) = opened.get_input_details(), opened.get_output_details()
    frames = source["shape"][1]
    # Whole steps that end with the newest frame; what is put before the oldest is not seen then.
    whole = np.pad(clip, ((0, 0), (-clip.shape[1] % frames, 0), (0, 0)))
    for at in range(0, whole.shape[1], frames):
        opened.set_tensor(source["index"], whole[:, at : at + frames])
        opened.invoke()
    return opened.get_tensor(target["index"])


def _handle(name: str, tensor: int) -> Operator:
    options = schema.VarHandleOptionsT(container="", sharedName=name)
    return Operator("VAR_HANDLE", (), (tensor,), options)


def _initialisation(names: Sequence[str], states: Sequence[Tensor]) -> Graph:
    tensors: list[Tensor] = []
    operators: list[Operator] = []
    for name, state in zip(names, states, strict=True):
        handle = len(tensors)
        begin = dataclasses.replace(state, name="", data=initial(state))
        tensors += [Tensor(name, "RESOURCE", ()), begin]
        operators += [
            _handle(name, handle),
            Operator("ASSIGN_VARIABLE", (handle, handle + 1), ()),
        ]
    return Graph(tuple(tensors), tuple(operators), (), (), "initialise")


def initial(state: Tensor) -> np.ndarray:
    """What a state begins with: what stands for zero."""
    zero = 0 if state.zero_point is None else int(state.zero_point[0])
    return np.full(state.shape, zero, DTYPES[state.type])
