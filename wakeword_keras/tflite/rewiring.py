"""A window model's graph on other numbers of rows, with rings of state where rows are lacking.

The operators that know time are walked once (`time_rules`); then each is given the rows that it is
to have, cut from what its inputs hold. Where an input holds fewer than are read, the older ones are
kept in a ring of state from step to step.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from wakeword_keras.errors import InputError
from wakeword_keras.tflite.flatbuffer import Graph, Operator, Tensor
from wakeword_keras.tflite.time_rules import CannotStreamError, Reading, Rule, Time, rule


def walk(window: Graph, name: str) -> tuple[dict[int, Time], dict[int, Rule]]:
    """How a window model treats time.

    Args:
      window: its graph.
      name: of its file, for errors.

    Returns:
      The time axis of every tensor that has one, and, by place, the rule of every operator that
      reads one.

    Raises:
      InputError: operators cannot stream: each is named, with what to write instead.
    """
    (source,) = window.inputs
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
    if problems:
        raise InputError(f"{name}: cannot stream: {'; '.join(problems)}")
    return times, rules


def _after(op: Operator, found: Rule) -> dict[int, Time]:
    return {} if found.time is None else dict.fromkeys(op.outputs, found.time)


def rewire(
    window: Graph, times: Mapping[int, Time], rules: Mapping[int, Rule], rows: Mapping[int, int]
) -> Graph:
    """The graph of a window model on other numbers of rows.

    Args:
      window: its graph.
      times, rules: from `walk`.
      rows: new ones of each tensor that has time, the newest; the graph's input has so many.

    Returns:
      The graph: inputs are the new frames and the states, outputs the window model's and the new
      states, in the same order.
    """
    return _Rewiring(window, times, rules, rows).run()


class _Rewiring:
    """Builds the graph; tensors of the window model keep their indices."""

    def __init__(
        self,
        window: Graph,
        times: Mapping[int, Time],
        rules: Mapping[int, Rule],
        new: Mapping[int, int],
    ) -> None:
        self._window, self._times, self._rules, self._new = window, times, rules, new
        self._tensors = [
            _with_rows(tensor, times[index].axis, new[index]) if index in times else tensor
            for index, tensor in enumerate(window.tensors)
        ]
        self._operators: list[Operator] = []
        self._states: list[tuple[int, int]] = []  # before and after a step
        self._rings: dict[int, int] = {}  # tensor -> rows of state and new ones, joined
        self._same: dict[int, int] = {}  # tensor -> the one that holds its rows
        self._constants: dict[tuple[int, ...], int] = {}  # shapes, bounds: value -> its tensor

    def run(self) -> Graph:
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
        return _compact(graph)

    def _needed(self, op: Operator, reading: Reading) -> int:
        """Rows that an operator takes of its inputs."""
        if reading.whole:
            return reading.kernel
        return (self._new[op.output] - 1) * reading.stride + reading.kernel

    def _history(self) -> dict[int, int]:
        """Rows of state that each tensor's readers need, the longest of them."""
        history = dict.fromkeys(self._times, 0)
        for place, found in self._rules.items():
            op = self._window.operators[place]
            needed = self._needed(op, found.reading) + found.reading.behind
            for index in set(op.inputs) & self._times.keys():
                history[index] = max(history[index], needed - self._new[index])
        return history

    def _keep(self, tensor: int, history: Mapping[int, int]) -> None:
        """Join a ring of state to a tensor's new rows, where readers need one."""
        rows = history.get(tensor, 0)
        if not rows:
            return
        axis, new = self._times[tensor].axis, self._new[tensor]
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
            self._read(index, op, found.reading) if index in self._times else index
            for index in op.inputs
        )
        if found.operator is None:
            self._same[op.output] = inputs[0]
            return
        changed, constants = found.operator(self._new.get(op.output, 0))
        replaced = list(inputs[: len(changed.inputs)])
        for place, data in constants.items():
            replaced[place] = self._constant(data)
        self._operators.append(dataclasses.replace(changed, inputs=tuple(replaced)))

    def _read(self, tensor: int, op: Operator, reading: Reading) -> int:
        """The rows that a reading takes: all that there are, or a slice of them."""
        axis = self._times[tensor].axis
        held = self._rings.get(tensor, self._same.get(tensor, tensor))
        rows = self._tensors[held].shape[axis]
        end = rows - reading.behind
        begin = end - self._needed(op, reading)
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
