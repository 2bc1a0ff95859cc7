"""What one run of the model costs: multiply-accumulates, parameters, flash, estimated time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wakeword_keras.tflite.flatbuffer import Graph, Operator


@dataclass(frozen=True)
class Device:
    """A microcontroller on which a network of known size was timed.

    Attributes:
      clock_hz: of its processor.
      inferences_per_s: of the network that was timed.
      macs: multiply-accumulates of that network.
      source: who measured it, and with which kernels.
    """

    clock_hz: float
    inferences_per_s: float
    macs: int
    source: str

    @property
    def cycles_per_mac(self) -> float:
        """Clock cycles that a multiply-accumulate took, all else included."""
        return self.clock_hz / self.inferences_per_s / self.macs


# The keyword-spotting network of MLPerf Tiny, and person detection (MobileNetV1 0.25, 96x96x1).
_KEYWORD_MACS, _PERSON_MACS = 2_656_768, 7_157_888
DEVICES = {
    "cortex_m4": Device(
        120e6,
        13.323,
        _KEYWORD_MACS,
        "MLPerf Tiny v1.0, keyword spotting, NUCLEO-L4R5ZI at 120 MHz, X-CUBE-AI 7.3 "
        "(github.com/mlcommons/tiny_results_v1.0, closed/STMicroelectronics); TVM with CMSIS-NN "
        "took 1.33 times as long on the same board (closed/OctoML)",
    ),
    "cortex_m7": Device(
        280e6,
        59.667,
        _KEYWORD_MACS,
        "MLPerf Tiny v1.0, keyword spotting, NUCLEO-H7A3ZI-Q at 280 MHz, X-CUBE-AI 7.3 "
        "(github.com/mlcommons/tiny_results_v1.0, closed/STMicroelectronics)",
    ),
    "esp32_s3": Device(
        240e6,
        1 / 0.054,
        _PERSON_MACS,
        "person detection in 54 ms at 240 MHz with ESP-NN "
        "(github.com/espressif/esp-tflite-micro, README)",
    ),
}
FORMULA = (
    "ms = 1000 * macs * cycles_per_mac / clock_hz, where cycles_per_mac is clock_hz / "
    "inferences_per_s / macs of a network that was timed on such a device with optimized kernels; "
    "operators that have none take longer: measure on the board"
)


def macs_by_operator(graph: Graph) -> dict[str, int]:
    """Multiply-accumulates of one run, by kind of operator; kinds without any are left out."""
    totals: dict[str, int] = {}
    for op in graph.operators:
        if count := _macs(graph, op):
            totals[op.kind] = totals.get(op.kind, 0) + count
    return totals


def parameters(graph: Graph) -> int:
    """Weights and biases: elements of the quantized constants that operators read."""
    read = {index for op in graph.operators for index in op.inputs if index >= 0}
    constants = (graph.tensors[index] for index in read)
    return sum(
        math.prod(tensor.shape)
        for tensor in constants
        if tensor.data is not None and tensor.scale is not None
    )


def cost(graph: Graph, model_bytes: int, stride_ms: int, step_ms: int) -> dict[str, Any]:
    """The manifest's "cost".

    Args:
      graph: of the model.
      model_bytes: of its file.
      stride_ms: from one run to the next.
      step_ms: of the front end; a stride is whole steps.
    """
    by_operator = macs_by_operator(graph)
    macs = sum(by_operator.values())
    estimates = {}
    for name, device in DEVICES.items():
        ms = 1000 * macs * device.cycles_per_mac / device.clock_hz
        estimates[name] = {
            "clock_mhz": device.clock_hz / 1e6,
            "cycles_per_mac": round(device.cycles_per_mac, 3),
            "ms": round(ms, 2),
            "share_of_time": round(ms / stride_ms, 4),
            "least_stride_ms": math.ceil(ms / step_ms) * step_ms,
            "source": device.source,
        }
    return {
        "parameters": parameters(graph),
        "macs": macs,
        "macs_by_operator": by_operator,
        "macs_per_s": round(macs * 1000 / stride_ms),
        "flash_bytes": model_bytes,
        "formula": FORMULA,
        "estimates": estimates,
    }


def cmsis_nn_scratch_bytes(graph: Graph) -> int:
    """The largest buffer that an optimized Arm kernel asks for, on any Cortex-M.

    Source: CMSIS-NN, arm_convolve_get_buffer_sizes_s8.c and
    arm_depthwise_conv_get_buffer_sizes_s8.c; the larger of its forms for DSP and MVE.
    """
    return max(_scratch(graph), default=0)


def esp_nn_scratch_bytes(graph: Graph) -> int:
    """About what ESP-NN asks for on an ESP32-S3: a depthwise layer's padded input, as int16.

    Source: esp-nn, src/convolution/esp_nn_depthwise_conv_s8_esp32s3.c; it differs by version.
    """
    most = 0
    for op in graph.operators:
        if op.kind == "DEPTHWISE_CONV_2D":
            _, height, width, channels = graph.tensors[op.inputs[0]].shape
            _, kernel_height, kernel_width, _ = graph.tensors[op.inputs[1]].shape
            padded = (height + kernel_height - 1) * (width + kernel_width - 1) * channels
            most = max(most, 2 * (padded + kernel_height * kernel_width * channels))
    return most


def _macs(graph: Graph, op: Operator) -> int:
    if not op.outputs:
        return 0  # such as ASSIGN_VARIABLE
    elements = math.prod(graph.tensors[op.output].shape)
    if op.kind == "BATCH_MATMUL":
        shape = graph.tensors[op.inputs[0]].shape
        return elements * shape[-2 if op.options.adjX else -1]
    if op.kind in ("CONV_2D", "FULLY_CONNECTED"):
        return elements * math.prod(graph.tensors[op.inputs[1]].shape[1:])
    if op.kind == "DEPTHWISE_CONV_2D":
        return elements * math.prod(graph.tensors[op.inputs[1]].shape[1:3])
    return 0


def _scratch(graph: Graph) -> Iterator[int]:
    for op in graph.operators:
        if op.kind == "CONV_2D":
            _, height, width, channels = graph.tensors[op.inputs[1]].shape
            column = height * width * channels
            if height * width == 1:
                yield 4 * channels
            else:
                yield max(4 * (-(-column // 4) * 4), 64 * -(-column // 16))
        elif op.kind == "DEPTHWISE_CONV_2D":
            _, height, width, channels = graph.tensors[op.inputs[1]].shape
            yield max(2 * height * width * channels, 4 * 124 * height * width)
        elif op.kind == "FULLY_CONNECTED":
            yield 4 * graph.tensors[op.inputs[1]].shape[0]
