"""The ONNX graph that grows out of a TFLite one.

A quantized TFLite tensor becomes QuantizeLinear and DequantizeLinear with the tensor's own scale
and zero point (QDQ form); weights stay the int8 they are, each behind a DequantizeLinear along its
channel axis. What lies between two of them is written in float and a runtime may fuse it.
Specification: https://onnx.ai/onnx/operators/, quantization of TFLite:
https://ai.google.dev/edge/litert/models/quantization_spec

Images in TFLite hold their channels last, ONNX convolutions want them first. Every computed tensor
is kept in the layout it was computed in and transposed, as int8, where another one is wanted.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.errors import InputError
from wakeword_keras.tflite.flatbuffer import Graph, Operator, Tensor

OPSET, IR_VERSION = 17, 8  # of 2022: what onnxruntime 1.12 and later read
# A layout is a permutation of TFLite's axes; None is TFLite's own order.
Layout = tuple[int, ...] | None
CHANNELS_FIRST: Layout = (0, 3, 1, 2)
_TYPES = ("FLOAT32", "INT8", "INT32", "INT64", "BOOL")


class OnnxGraph:
    """An ONNX graph under construction; operators translate themselves into it.

    Values are names of float32 tensors, addressed by the index of the TFLite tensor they stand for.
    """

    def __init__(self, source: Graph) -> None:
        for tensor in source.tensors:
            if tensor.type not in _TYPES:
                raise InputError(f"tensor {tensor.name!r} is {tensor.type}: no ONNX translation")
        self.tensors = source.tensors
        self._source = source
        self._nodes: list[tuple[str, tuple[str, ...], str, dict[str, Any]]] = []
        self._constants: dict[tuple, tuple[str, NDArray]] = {}
        self._stored: dict[int, dict[Layout, str]] = {}  # int8 where quantized
        self._values: dict[tuple[int, Layout], str] = {}
        self.put(source.inputs[0], "features")
        for number, state in enumerate(source.inputs[1:]):
            self._stored[state] = {None: f"state_{number}"}

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

    def _zero(self, index: int) -> int:
        """What stands for zero in a tensor."""
        zero_point = self.tensors[index].zero_point
        return 0 if zero_point is None else int(zero_point[0])

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
            (computed, name), *_ = layouts.items()
            there = computed or range(len(tensor.shape))
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

        States are further inputs and outputs, of the types that they are stored in.

        Raises:
          InputError: the extra `onnx` is not installed, or an operator's tensors are of types or
            shapes that ONNX refuses.
        """
        try:
            import onnx
        except ImportError as error:
            raise InputError("writing ONNX needs: pip install 'wakeword_keras[onnx]'") from error
        target, *after = self._source.outputs
        self._append("logits", "Identity", (self.value(target),), {})
        for number, index in enumerate(after):
            self._append(f"next_state_{number}", "Identity", (self._in_layout(index, None),), {})

        def end(name: str, index: int, kind: int) -> Any:
            shape: list[str | int | None] = ["clips", *self.tensors[index].shape[1:]]
            return onnx.helper.make_tensor_value_info(name, kind, shape)

        kinds = {"FLOAT32": onnx.TensorProto.FLOAT, "INT8": onnx.TensorProto.INT8}
        source, *before = self._source.inputs
        inputs = [end("features", source, kinds["FLOAT32"])]
        outputs = [end("logits", target, kinds["FLOAT32"])]
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            kind = kinds[self.tensors[old].type]
            inputs.append(end(f"state_{number}", old, kind))
            outputs.append(end(f"next_state_{number}", new, kind))
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node(k, i, [o], **attributes) for k, i, o, attributes in self._nodes],
            "wake_word",
            inputs,
            outputs,
            [onnx.numpy_helper.from_array(array, n) for n, array in self._constants.values()],
        )
        model = onnx.helper.make_model(
            graph,
            producer_name="wakeword_keras",
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        begin = {f"state_{number}": str(self._zero(old)) for number, old in enumerate(before)}
        onnx.helper.set_model_props(model, begin)
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"no valid ONNX model comes of it: {reason}") from error
        return model.SerializeToString()
