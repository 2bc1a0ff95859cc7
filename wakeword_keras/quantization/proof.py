"""The INT8 file, proven: it computes what the device model computes, or nothing is given.

What preflight promises holds for the layers and arguments that it knows. A converter of another
version, or a graph that nobody thought of, may fuse otherwise; so the file itself runs on some
clips and is compared.
"""

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.affine import quantize
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, integer_model, kernel_limits, layer_rules
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite.flatbuffer import Graph
from wakeword_keras.tflite.interpreter import device_kernels, open_interpreter
from wakeword_keras.tflite.layer_outputs import LayerOutput, layer_outputs

MOST_STEPS = 1
"""Steps of a logit that the file may differ by. The kernels are exact: 0 is what is seen."""
CLIPS = 16


def int8_model(qat: keras.Model, fp32: keras.Model, features: NDArray[np.float32]) -> bytes:
    """Convert a QAT model to a fully INT8 TFLite file and prove it on some of the clips.

    Args:
      qat: model from `fake_quantize.quantize(fp32, ...)`, calibrated, fine-tuned or not.
      fp32: the float model that was quantized.
      features: float32 [clips, frames, channels], such as the calibration clips.

    Returns:
      The flatbuffer.

    Raises:
      InputError: the model has values that no int8 kernel computes, or the file computes something
        else than the device model; the message names the first layer that differs.
    """
    kernel_limits.check_sums(qat, fp32)
    kernel_limits.check_biases(qat, fp32)
    content = convert.int8_model(qat, calibration.representative_dataset(features))
    verify(content, qat, fp32, features)
    return content


def verify(
    content: bytes, qat: keras.Model, fp32: keras.Model, features: NDArray[np.float32]
) -> None:
    """Compare an INT8 file with the device model on the reference kernels.

    Args:
      content: of the file.
      qat, fp32, features: as for `int8_model`; CLIPS clips are compared, spread evenly.

    Raises:
      InputError: the logits differ by more than MOST_STEPS; the message names the first layer that
        does.
    """
    fp32 = layer_rules.functional(fp32)
    chosen = features[np.unique(np.linspace(0, len(features) - 1, CLIPS).round().astype(int))]
    expected = integer_model.layer_steps(qat, fp32, chosen)
    graph = flatbuffer.read_graph(content)
    written = _run(content, graph, chosen)
    logits = fp32.output_names[0]
    apart = _difference(written[graph.outputs[0]], expected[logits])
    if apart <= MOST_STEPS:
        return
    last_of = {
        part.name: chain[-1].name for chain in layer_rules.kernel_chains(fp32) for part in chain
    }
    for output in layer_outputs(graph):
        name = logits if output.tensor in graph.outputs else _layer_of(output, last_of)
        if name and not _difference(written[output.tensor], expected[name]) == 0:
            raise InputError(
                f"layer {name!r} ({output.label}) is the first that differs from its QAT model in "
                f"the INT8 file, whose logits are {apart:.0f} steps apart: write it with others"
            )


def _run(
    content: bytes, graph: Graph, features: NDArray[np.float32]
) -> dict[int, NDArray[np.float32]]:
    """The steps [clips, values] of every int8 tensor that an operator writes, by its index."""
    kernels = device_kernels(op.kind for op in graph.operators)
    interpreter = open_interpreter(content, kernels, keep_tensors=True)
    affine = flatbuffer.int8_affine(graph.tensors[graph.inputs[0]], content)
    zero_points = {
        output.tensor: graph.tensors[output.tensor].zero_point
        for output in layer_outputs(graph)
        if output.type == "INT8"
    }
    seen: dict[int, list[NDArray]] = {tensor: [] for tensor in zero_points}
    for clip in features[:, np.newaxis]:
        interpreter.set_tensor(graph.inputs[0], quantize(clip, affine))
        interpreter.invoke()
        for tensor, zero_point in zero_points.items():
            steps = interpreter.get_tensor(tensor).astype(np.float32) - zero_point
            seen[tensor].append(steps.ravel())
    return {tensor: np.stack(clips) for tensor, clips in seen.items()}


def _layer_of(output: LayerOutput, last_of: dict[str, str]) -> str:
    """The layer that writes an operator's tensor; "" if its name does not say.

    Args:
      output: of the operator.
      last_of: by each layer of the model, in order, the last that the same kernel computes.
    """
    named = [last for name, last in last_of.items() if name in output.layers]
    return named[-1] if named else ""


def _difference(written: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Steps that two tensors are apart at most; infinite where they are not comparable."""
    flat = expected.reshape(len(expected), -1)
    return float(np.abs(written - flat).max()) if written.shape == flat.shape else np.inf
