"""Window models rewired into streaming ones: only what is new is computed, bit for bit the same.

A window model computes everything again at every step. Where it is valid in time, what it computes
of old frames is what it computed before, so the streaming model keeps these rows in a ring of state
behind each tensor and joins the new rows to them. A ring holds exactly what its tensor holds, with
the same scale and zero point: nothing is quantized again, and from the first full window on each
step's output equals the window model's on the last frames.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from wakeword_keras.affine import quantize
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.flatbuffer import DTYPES, Graph, Operator, Tensor
from wakeword_keras.tflite.interpreter import Source, name_of, open_interpreter
from wakeword_keras.tflite.time_rules import CannotStreamError, Reading, Rule, Time, rule


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
    times, rules = _walk(window, name_of(source))
    hop = math.lcm(*(time.hop for time in times.values()))
    step = step_frames or hop
    if step < 1 or step % hop:
        raise InputError(f"a step of {step} frames: must be a multiple of the strides, {hop}")
    return _Rewiring(window, times, rules, step).run()


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


def _walk(window: Graph, name: str) -> tuple[dict[int, Time], dict[int, Rule]]:
    """The time axis of every tensor that has one, and the rule of every operator that reads one."""
    (source,), (target,) = window.inputs, window.outputs
    times = {source: Time(1, window.tensors[source].shape[1], 1, 0)}
    rules: dict[int, Rule] = {}
    problems: list[str] = []
    unknown: set[int] = set()
    for place, op in enumerate(window.operators):
        if unknown & set(op.inputs):
            unknown |= set(op.outputs)
        elif any(index in times for index in op.inputs):
            try:
                rules[place] = rule(window, op, times)
            except CannotStreamError as error:
                problems.append(f"{op.kind} {window.tensors[op.output].name!r} {error}")
                unknown |= set(op.outputs)
            else:
                times |= _after(op, rules[place])
    if target in times:
        problems.append("the output keeps time: end with the mean, or a Dense, of the last rows")
    if problems:
        raise InputError(f"{name}: cannot stream: {'; '.join(problems)}")
    return times, rules


def _after(op: Operator, found: Rule) -> dict[int, Time]:
    return {} if found.time is None else dict.fromkeys(op.outputs, found.time)


class _Rewiring:
    """Builds the graph of a step; tensors of the window model keep their indices."""

    def __init__(
        self, window: Graph, times: Mapping[int, Time], rules: Mapping[int, Rule], step: int
    ) -> None:
        self._window, self._times, self._rules, self._step = window, times, rules, step
        self._tensors = [
            _with_rows(tensor, times[index].axis, step // times[index].hop)
            if index in times
            else tensor
            for index, tensor in enumerate(window.tensors)
        ]
        self._operators: list[Operator] = []
        self._states: list[tuple[int, int]] = []  # before and after a step
        self._rings: dict[int, int] = {}  # tensor -> rows of state and new ones, joined
        self._same: dict[int, int] = {}  # tensor -> the one that holds its rows
        self._constants: dict[tuple[int, ...], int] = {}  # shapes, bounds: value -> its tensor

    def run(self) -> Streaming:
        history = self._history()
        self._keep(self._window.inputs[0], history)
        for place, op in enumerate(self._window.operators):
            found = self._rules.get(place)
            if found is None:
                self._operators.append(op)
                continue
            self._step_of(op, found)
            for output in op.outputs:
                self._keep(output, history)
        before, after = zip(*self._states, strict=True) if self._states else ((), ())
        graph = Graph(
            tuple(self._tensors),
            tuple(self._operators),
            (*self._window.inputs, *before),
            (*self._window.outputs, *after),
        )
        frames = self._window.tensors[self._window.inputs[0]].shape[1]
        return Streaming(_compact(graph), self._step, frames)

    def _new_rows(self, tensor: int) -> int:
        return self._step // self._times[tensor].hop

    def _needed(self, tensor: int, reading: Reading) -> int:
        """Rows that a reading takes of a tensor."""
        if reading.whole:
            return reading.kernel
        outputs = self._new_rows(tensor) // reading.stride
        return (outputs - 1) * reading.stride + reading.kernel

    def _history(self) -> dict[int, int]:
        """Rows of state that each tensor's readers need, the longest of them."""
        history = dict.fromkeys(self._times, 0)
        for place, found in self._rules.items():
            for index in self._window.operators[place].inputs:
                if index in self._times:
                    needed = self._needed(index, found.reading) + found.reading.behind
                    history[index] = max(history[index], needed - self._new_rows(index))
        return history

    def _keep(self, tensor: int, history: Mapping[int, int]) -> None:
        """Join a ring of state to a tensor's new rows, where readers need one."""
        rows = history.get(tensor, 0)
        if not rows:
            return
        axis, new = self._times[tensor].axis, self._new_rows(tensor)
        held = self._same.get(tensor, tensor)
        state = self._add(_with_rows(self._tensors[tensor], axis, rows), "state")
        joined = self._add(_with_rows(self._tensors[tensor], axis, rows + new), "rows")
        options = schema.ConcatenationOptionsT(axis=axis)
        # Version 2 is the first with int8.
        self._operators.append(
            Operator("CONCATENATION", (state, held), (joined,), options, version=2)
        )
        self._states.append((state, self._rows(joined, axis, new, new + rows)))
        self._rings[tensor] = joined

    def _step_of(self, op: Operator, found: Rule) -> None:
        inputs = tuple(
            self._read(index, found.reading) if index in self._times else index
            for index in op.inputs
        )
        if found.operator is None:
            self._same[op.output] = inputs[0]
            return
        rows = 0 if found.time is None else self._step // found.time.hop
        changed, constants = found.operator(rows)
        replaced = list(inputs[: len(changed.inputs)])
        for place, data in constants.items():
            replaced[place] = self._constant(data)
        self._operators.append(dataclasses.replace(changed, inputs=tuple(replaced)))

    def _read(self, tensor: int, reading: Reading) -> int:
        """The rows that a reading takes: all that there are, or a slice of them."""
        axis = self._times[tensor].axis
        held = self._rings.get(tensor, self._same.get(tensor, tensor))
        rows = self._tensors[held].shape[axis]
        end = rows - reading.behind
        begin = end - self._needed(tensor, reading)
        return held if (begin, end) == (0, rows) else self._rows(held, axis, begin, end)

    def _rows(self, tensor: int, axis: int, begin: int, end: int) -> int:
        """A slice along one axis."""
        whole = self._tensors[tensor]
        begins, ends = np.zeros(len(whole.shape), np.int32), np.array(whole.shape, np.int32)
        begins[axis], ends[axis] = begin, end
        constants = map(self._constant, (begins, ends, np.ones_like(begins)))
        sliced = self._add(_with_rows(whole, axis, end - begin), "slice")
        options = schema.StridedSliceOptionsT()
        self._operators.append(
            Operator("STRIDED_SLICE", (tensor, *constants), (sliced,), options, version=2)
        )
        return sliced

    def _constant(self, values: np.ndarray) -> int:
        """An int32 vector; equal ones are one tensor."""
        key = tuple(values.tolist())
        if key not in self._constants:
            self._constants[key] = self._add(Tensor("constant", "INT32", values.shape, values))
        return self._constants[key]

    def _add(self, tensor: Tensor, suffix: str = "") -> int:
        name = f"{tensor.name}/{suffix}" if suffix else tensor.name
        self._tensors.append(dataclasses.replace(tensor, name=name))
        return len(self._tensors) - 1


def _with_rows(tensor: Tensor, axis: int, rows: int) -> Tensor:
    shape = (*tensor.shape[:axis], rows, *tensor.shape[axis + 1 :])
    return dataclasses.replace(tensor, shape=shape)


def _compact(graph: Graph) -> Graph:
    """The graph without tensors that nothing reads or writes."""
    used = {*graph.inputs, *graph.outputs}
    for op in graph.operators:
        used |= {*op.inputs, *op.outputs} - {-1}
    places = {index: place for place, index in enumerate(sorted(used))} | {-1: -1}

    def moved(indices: Sequence[int]) -> tuple[int, ...]:
        return tuple(places[index] for index in indices)

    return Graph(
        tuple(graph.tensors[index] for index in sorted(used)),
        tuple(
            dataclasses.replace(op, inputs=moved(op.inputs), outputs=moved(op.outputs))
            for op in graph.operators
        ),
        moved(graph.inputs),
        moved(graph.outputs),
        graph.name,
    )
