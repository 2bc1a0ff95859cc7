"""Window models that judge every window of a longer stretch at once, for listening to hours.

A model that is valid in time does on a stretch what it does on each window in it: only the head,
a Dense of a window's last rows, becomes a convolution over them, which rounds otherwise: an int8
output may be a step off. Rows that windows share are computed once, and many of them in one go.
"""

import math
from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.flatbuffer import Graph, Operator, Tensor
from wakeword_keras.tflite.interpreter import Source, name_of
from wakeword_keras.tflite.rewiring import rewire, walk


def stretch(source: Source, windows: int) -> bytes:
    """A window model on a stretch of frames.

    Args:
      source: .tflite file of a model without state, or its content; int8 or float32, input
        [1, frames, ...], output [1, units] by a Dense of rows that are flattened.
      windows: of the stretch, a hop apart, at least 1; the hop is what the strides in time make.

    Returns:
      A .tflite file, input [1, frames + (windows - 1) * hop, ...], output [1, windows, 1, units].

    Raises:
      InputError: the file is no such model, or operators cannot stream.
    """
    window = _with_convolution(flatbuffer.read_graph(source), name_of(source))
    times, rules = walk(window, name_of(source))
    longer = (windows - 1) * math.lcm(*(time.hop for time in times.values()))
    rows = {tensor: time.rows + longer // time.hop for tensor, time in times.items()}
    return flatbuffer.write([rewire(window, times, rules, rows)])


def _with_convolution(window: Graph, name: str) -> Graph:
    """The graph with its last two operators, RESHAPE and FULLY_CONNECTED, as one CONV_2D."""
    flatten, dense = window.operators[-2:]
    rows = window.tensors[flatten.inputs[0]].shape
    kernel, output = window.tensors[dense.inputs[1]], window.tensors[dense.output]
    flattened = (flatten.kind, dense.kind) == ("RESHAPE", "FULLY_CONNECTED") and len(rows) == 4
    if not flattened or rows[2] != 1 or kernel.data is None:
        raise InputError(
            f"{name}: cannot be stretched: end with a Flatten of [1, rows, 1, channels] and a Dense"
        )
    shape = (kernel.shape[0], *rows[1:])
    tensors = list(window.tensors)
    tensors[dense.inputs[1]] = replace(kernel, shape=shape, data=kernel.data.reshape(shape))
    tensors[dense.output] = replace(output, shape=(1, 1, 1, output.shape[-1]))
    inputs = (flatten.inputs[0], *dense.inputs[1:])
    if len(inputs) < 3 or inputs[2] < 0:  # of int8 a convolution must have what a Dense may lack
        kind = "INT32" if kernel.type == "INT8" else "FLOAT32"
        zeros: NDArray = np.zeros(shape[0], flatbuffer.DTYPES[kind])
        inputs = (*inputs[:2], len(tensors))
        tensors.append(Tensor("bias", kind, zeros.shape, zeros))
    options = schema.Conv2DOptionsT(
        padding=schema.Padding.VALID,
        strideH=1,
        strideW=1,
        fusedActivationFunction=dense.options.fusedActivationFunction,
    )
    convolution = Operator("CONV_2D", inputs, dense.outputs, options, version=3)
    operators = (*window.operators[:-2], convolution)
    return replace(window, tensors=tuple(tensors), operators=operators)
