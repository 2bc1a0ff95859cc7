"""A TFLite flatbuffer as plain data, and the ONNX graph that grows out of it.

A quantized TFLite tensor becomes QuantizeLinear and DequantizeLinear with the tensor's own scale
and zero point (QDQ form); weights stay the int8 they are, each behind a DequantizeLinear along its
channel axis. What lies between two of them is written in float and a runtime may fuse it.
Specification: https://onnx.ai/onnx/operators/, quantization of TFLite:
https://ai.google.dev/edge/litert/models/quantization_spec

Images in TFLite hold their channels last, ONNX convolutions want them first. Every computed tensor
is kept in the layout it was made in and transposed, as int8, where another one is wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from wakeword_keras.errors import InputError

OPSET, IR_VERSION = 17, 8  # of 2022: what onnxruntime 1.12 and later read
# A layout is a permutation of TFLite's axes; None is TFLite's own order.
Layout = tuple[int, ...] | None
CHANNELS_FIRST: Layout = (0, 3, 1, 2)
_DTYPES = {
    "FLOAT32": np.float32,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_FILE_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of a TFLite flatbuffer


@dataclass(frozen=True)
class Tensor:
    """One tensor of a TFLite graph; `scale` and `zero_point` are arrays [1] or [channels]."""

    shape: tuple[int, ...]
    data: NDArray | None  # of a constant
    scale: NDArray[np.float32] | None
    zero_point: NDArray[np.int64] | None
    axis: int  # that the scales run along


@dataclass(frozen=True)
class Operator:
    """One operator of a TFLite graph: name such as "CONV_2D", tensor indices, its options."""

    kind: str
    inputs: tuple[int, ...]
    output: int
    options: Any


@dataclass(frozen=True)
class Network:
    """A TFLite graph with one input and one output."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    input: int
    output: int


def parse(content: bytes) -> Network:
    """Read a TFLite flatbuffer.

    Raises:
      InputError: no TFLite flatbuffer, several inputs or outputs, or a tensor type without ONNX
        translation.
    """
    if content[4:8] != _FILE_IDENTIFIER:
        raise InputError("not a TFLite model: give what the export wrote")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(f"{len(graph.inputs)} inputs, {len(graph.outputs)} outputs: need one each")
    kinds = _names(schema.BuiltinOperator)
    codes = [kinds[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    return Network(
        tuple(_tensor(tensor, model.buffers) for tensor in graph.tensors),
        tuple(
            Operator(
                codes[op.opcodeIndex],
                tuple(int(index) for index in op.inputs if index >= 0),
                int(op.outputs[0]),
                op.builtinOptions,
            )
            for op in graph.operators
        ),
        int(graph.inputs[0]),
        int(graph.outputs[0]),
    )


def _names(enum: type) -> dict[int, str]:
    return {value: name for name, value in vars(enum).items() if not name.startswith("_")}


def _tensor(tensor: Any, buffers: Sequence[Any]) -> Tensor:
    kind = _names(schema.TensorType)[tensor.type]
    if kind not in _DTYPES:
        raise InputError(f"tensor {tensor.name.decode()!r} is {kind}: no ONNX translation")
    shape = () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
    raw = buffers[tensor.buffer].data
    data: NDArray | None = None
    if raw is not None and len(raw):
        data = np.frombuffer(np.asarray(raw, np.uint8).tobytes(), _DTYPES[kind]).reshape(shape)
    affine = tensor.quantization
    if affine is None or affine.scale is None or not len(affine.scale):
        return Tensor(shape, data, None, None, 0)
    scale = np.asarray(affine.scale, np.float32)
    zero_point = np.asarray(affine.zeroPoint, np.int64)
    return Tensor(shape, data, scale, zero_point, int(affine.quantizedDimension))


class Graph:
    """An ONNX graph under construction; operators translate themselves into it.

    Values are names of float32 tensors, addressed by the index of the TFLite tensor they stand for.
    """

    def __init__(self, network: Network) -> None:
        self.tensors = network.tensors
        self._network = network
        self._nodes: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = []
        self._constants: dict[tuple, tuple[str, NDArray]] = {}
        self._stored: dict[int, dict[Layout, str]] = {}  # int8 where quantized
        self._values: dict[tuple[int, Layout], str] = {}
        self.put(network.input, "features")

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an ONNX node of one output; returns that output's name."""
        return self._append(f"{kind.lower()}_{len(self._nodes)}", kind, inputs, attributes)

    def _append(self, output: str, kind: str, inputs: tuple[str, ...], attributes: dict) -> str:
        self._nodes.append((kind, inputs, output, attributes))
        return output

    def constant(self, array: NDArray) -> str:
        """Name of an initializer; equal ones are kept once."""
        array = np.ascontiguousarray(array)
        key = (array.tobytes(), array.dtype.str, array.shape)
        return self._constants.setdefault(key, (f"constant_{len(self._constants)}", array))[0]

    def integers(self, *values: int) -> str:
        """Name of an int64 vector, ONNX's type of shapes and axes."""
        return self.constant(np.array(values, np.int64))

    def data(self, index: int, operator: Operator) -> NDArray:
        """What a constant tensor holds.

        Raises:
          InputError: the tensor is computed.
        """
        held = self.tensors[index].data
        if held is None:
            raise InputError(f"{operator.kind}: input {index} must be constant for ONNX")
        return held

    def layout(self, *indices: int) -> Layout:
        """In which layout to compute from these tensors: channels first if one of them is so.

        Never so if another computed one has not four axes.
        """
        computed = [self._stored[index] for index in indices if self.tensors[index].data is None]
        ranks = {len(self.tensors[i].shape) for i in indices if self.tensors[i].data is None}
        return CHANNELS_FIRST if ranks == {4} and any(None not in s for s in computed) else None

    def value(self, index: int, layout: Layout = None) -> str:
        """Name of the float32 value of a tensor, its axes in the given order.

        Constants of fewer axes than the layout get leading axes of size 1, as broadcasting does.
        """
        key = (index, layout)
        if key not in self._values:
            tensor = self.tensors[index]
            stored = self._in_layout(index, layout)
            name = stored if tensor.scale is None else self._dequantized(tensor, stored, layout)
            self._values[key] = name
        return self._values[key]

    def put(self, index: int, value: str, layout: Layout = None) -> None:
        """Say which float32 value a tensor has; it is quantized if the tensor is."""
        tensor = self.tensors[index]
        if tensor.scale is not None:
            value = self.node("QuantizeLinear", value, *self._affine(tensor, np.dtype(np.int8)))
        self._stored[index] = {layout: value}

    def _in_layout(self, index: int, layout: Layout) -> str:
        tensor = self.tensors[index]
        if tensor.data is not None:
            data = tensor.data
            if layout is not None and data.ndim:
                wide = data.reshape((1,) * (len(layout) - data.ndim) + data.shape)
                data = wide.transpose(layout)
            return self.constant(data)
        layouts = self._stored[index]
        if layout not in layouts:
            (made, name), *_ = layouts.items()
            there = made or range(len(tensor.shape))
            wanted = layout or range(len(tensor.shape))
            perm = [tuple(there).index(axis) for axis in wanted]
            layouts[layout] = self.node("Transpose", name, perm=perm)
        return layouts[layout]

    def _dequantized(self, tensor: Tensor, stored: str, layout: Layout) -> str:
        assert tensor.scale is not None
        kind = np.dtype(np.int8) if tensor.data is None else tensor.data.dtype
        inputs = (stored, *self._affine(tensor, kind))
        if len(tensor.scale) == 1:
            return self.node("DequantizeLinear", *inputs)
        axis = tensor.axis if layout is None else layout.index(tensor.axis)
        return self.node("DequantizeLinear", *inputs, axis=axis)

    def _affine(self, tensor: Tensor, kind: np.dtype) -> tuple[str, ...]:
        """Names of scale and zero point: scalars, or vectors along the channels."""
        assert tensor.scale is not None
        assert tensor.zero_point is not None
        shape = () if len(tensor.scale) == 1 else (-1,)
        zero_point = tensor.zero_point.astype(kind).reshape(shape)
        return self.constant(tensor.scale.reshape(shape)), self.constant(zero_point)

    def serialize(self) -> bytes:
        """The finished ONNX model: float32 `features` in, float32 `logits` out, any batch.

        Raises:
          InputError: the extra `onnx` is not installed.
        """
        try:
            import onnx
        except ImportError as error:
            raise InputError("writing ONNX needs: pip install 'wakeword_keras[onnx]'") from error
        result = self.value(self._network.output)
        self._append("logits", "Identity", (result,), {})
        ends = [
            onnx.helper.make_tensor_value_info(
                name, onnx.TensorProto.FLOAT, ["clips", *self.tensors[index].shape[1:]]
            )
            for name, index in (
                ("features", self._network.input),
                ("logits", self._network.output),
            )
        ]
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(k, i, [o], **attributes) for k, i, o, attributes in self._nodes],
            "wake_word",
            ends[:1],
            ends[1:],
            [onnx.numpy_helper.from_array(array, n) for n, array in self._constants.values()],
        )
        model = onnx.helper.make_model(
            graph,
            producer_name="wakeword_keras",
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString()
