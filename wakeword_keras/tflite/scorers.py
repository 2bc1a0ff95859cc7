"""Every interpreter behind one call: features in, logits out.

A scorer maps float32 features [clips, frames, channels] to float32 logits [clips, wake_words].
int8 models get their input rounded and saturated by their own input scale and zero point and their
output dequantized by their own output scale; float models get and give float32 untouched.

What is claimed of int8 is measured with TFLite's "reference" kernels (`interpreter`). Scoring
spreads over threads, each with its own interpreter of batch 1; an interpreter leaves Python's lock
while it runs, and every bit is the same as with one thread.

This module does not import TensorFlow unless a Keras model is scored.
"""

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import Affine, dequantize, quantize
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import stretched
from wakeword_keras.tflite.flatbuffer import (
    DTYPES,
    input_affine,
    operators,
    output_affine,
    read_graph,
    tensor_types,
)
from wakeword_keras.tflite.interpreter import device_kernels, open_interpreter

_STRETCH = 128  # windows at once: rows that the first of them does not share are a fifth or less
Scorer = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_EXPORTED = ("fp32_tflite", "int8_ptq", "int8")
_NOT_IN_INT8 = {"FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16"}
_NOT_IN_FLOAT = {"INT4", "INT8", "UINT8", "INT16", "FLOAT16", "BFLOAT16"}


@dataclass(frozen=True)
class ModelFacts:
    """Size and speed of a model, and which arithmetic stands behind its scores and its latency."""

    bytes: int
    latency_us: float | None
    kernels: str
    latency_kernels: str | None = None


def keras_scorer(model: Any, batch_size: int = 256) -> Scorer:
    """Score with a Keras model in inference mode, traced once.

    Args:
      model: Keras 2 model, float32 [batch, frames, channels] -> logits [batch, wake_words].
      batch_size: clips per call.

    Returns:
      Scorer; raises InputError for features of another shape and for logits that are not finite,
      ValueError for features that are not.
    """
    import tensorflow as tf

    shape = tuple(model.inputs[0].shape[1:])
    name = f"Keras model {model.name!r}"
    forward = tf.function(
        lambda features: model(features, training=False),
        input_signature=[tf.TensorSpec([None, *shape], tf.float32)],
    )

    def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
        _check_features(features, shape, name)
        wake_words = int(model.outputs[0].shape[-1])
        batches = [
            forward(tf.constant(features[i : i + batch_size], tf.float32)).numpy()
            for i in range(0, len(features), batch_size)
        ]
        return _finite(np.concatenate([np.zeros((0, wake_words), np.float32), *batches]), name)

    return score


def tflite_scorer(
    path: str | os.PathLike, kernels: str = "reference", threads: int | None = None
) -> Scorer:
    """Score with a TFLite model, float32 or int8.

    Args:
      path: .tflite file with one input [1, frames, channels] and one output [1, wake_words].
      kernels: key of `interpreter.KERNELS`.
      threads: interpreters at work side by side; all cores if None.

    Returns:
      Scorer; raises InputError for features of another shape and for logits that are not finite,
      ValueError for features that are not.

    Raises:
      InputError: the file is missing or no such model.
    """
    source, target = input_affine(path), output_affine(path)
    run = _tflite_runner(path, kernels, threads)

    def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
        raw = run(features, source)
        return _finite(raw if target is None else dequantize(raw, target), str(path))

    return score


def tflite_int8_scores(
    path: str | os.PathLike,
    features: NDArray[np.float32],
    kernels: str = "reference",
    threads: int | None = None,
) -> NDArray[np.int8]:
    """The int8 outputs of an int8 model as they are, for comparisons in LSBs.

    Args:
      path: .tflite file, int8 in and out.
      features: float32 [clips, frames, channels].
      kernels, threads: as in `tflite_scorer`.

    Returns:
      int8 [clips, wake_words].

    Raises:
      InputError: the file is missing or not int8, or the features have another shape.
    """
    source = input_affine(path)
    if source is None or output_affine(path) is None:
        raise InputError(f"{path}: not int8 in and out: give the quantized model")
    return _tflite_runner(path, kernels, threads)(features, source)


def onnx_scorer(path: str | os.PathLike) -> Scorer:
    """Score with an ONNX model on onnxruntime's CPU kernels, on all cores.

    Args:
      path: .onnx file, float32 `features` [clips, frames, channels] to `logits`.

    Returns:
      Scorer; raises as that of `tflite_scorer`.

    Raises:
      InputError: as `onnx_session`.
    """
    session = onnx_session(path)
    shape, wake_words = session.get_inputs()[0].shape[1:], session.get_outputs()[0].shape[1]

    def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
        _check_features(features, tuple(shape), str(path))
        batches = (features[i : i + 64] for i in range(0, len(features), 64))
        logits = [session.run(None, {"features": batch})[0] for batch in batches]
        return _finite(np.concatenate([np.zeros((0, wake_words), np.float32), *logits]), str(path))

    return score


def onnx_session(path: str | os.PathLike) -> Any:
    """An onnxruntime session that runs the graph as the file says it.

    Without onnxruntime's optimizer: that one puts integer kernels in the place of INT8 (QDQ), which
    saturate on x86 without VNNI, and drops roundings.

    Args:
      path: .onnx file.

    Raises:
      InputError: the extra `onnx` is not installed, or the file is missing or no ONNX model.
    """
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Threads that wait busily starve each other on a loaded machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(path, options)
    except ImportError as error:
        raise InputError(f"{path}: needs: pip install 'wakeword_keras[onnx]'") from error
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise InputError(f"{path}: onnxruntime cannot run this model: {error}") from error


def stretch_scorer(path: str | os.PathLike, kernels: str = "xnnpack") -> Scorer:
    """Score consecutive windows of a stream, within one LSB, what they share computed once.

    Args:
      path: .tflite file of a window model that is valid in time.
      kernels: of `interpreter.KERNELS`.

    Returns:
      Scorer of windows, a hop of the model apart (`stretched`), that are as long as the model's or
      longer: their newest frames count.

    Raises:
      InputError: the file is missing, or no such model.
    """
    graph = read_graph(path)
    _, frames, channels = graph.tensors[graph.inputs[0]].shape
    opened = open_interpreter(stretched.stretch(path, _STRETCH), kernels)
    (source,), (target,) = opened.get_input_details(), opened.get_output_details()
    length = int(source["shape"][1])
    hop = (length - frames) // (_STRETCH - 1)
    taken, given = input_affine(path), output_affine(path)

    def run(piece: NDArray) -> NDArray:
        # No window that counts reaches what is put behind a shorter stretch.
        whole = np.pad(piece, ((0, length - len(piece)), (0, 0)))
        opened.set_tensor(source["index"], whole[np.newaxis])
        opened.invoke()
        return opened.get_tensor(target["index"])[0, :, 0]

    def score(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        newest = windows[:, -frames:]
        _check_features(newest, (frames, channels), str(path))
        stretch = np.concatenate([newest[0], newest[1:, -hop:].reshape(-1, channels)])
        values = stretch if taken is None else quantize(stretch, taken)
        starts = range(0, len(windows), _STRETCH)
        pieces = [run(values[start * hop : start * hop + length]) for start in starts]
        outputs = np.concatenate(pieces)[: len(windows)]
        logits = outputs if given is None else dequantize(outputs, given)
        return _finite(logits, str(path))

    return score


def tflite_facts(
    path: str | os.PathLike, kernels: str = "reference", latency_kernels: str = "xnnpack"
) -> ModelFacts:
    """Size of a TFLite file and its median latency on one thread of this machine.

    Args:
      path: .tflite file.
      kernels: which kernels its scores are made with; only noted down.
      latency_kernels: which kernels are timed.

    Returns:
      ModelFacts: latency of one inference in us, median of at least 20 and about 0.3 s.

    Raises:
      InputError: the file is missing or no TFLite model.
    """
    timed = open_interpreter(path, latency_kernels)
    detail = timed.get_input_details()[0]
    timed.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    for _ in range(5):  # caches and lazily packed weights
        timed.invoke()
    seconds: list[float] = []
    while len(seconds) < 20 or (sum(seconds) < 0.3 and len(seconds) < 2000):
        start = time.perf_counter()
        timed.invoke()
        seconds.append(time.perf_counter() - start)
    median_us = float(np.median(seconds) * 1e6)
    return ModelFacts(Path(path).stat().st_size, median_us, kernels, latency_kernels)


def keras_facts(model: Any) -> ModelFacts:
    """Size of a Keras model: 4 bytes for each weight; no latency, a batch of one would flatter.

    Args:
      model: built Keras model; a QAT model counts its quantizers' ranges too.

    Returns:
      ModelFacts with kernels "keras".
    """
    return ModelFacts(4 * model.count_params(), None, "keras")


def onnx_facts(path: str | os.PathLike) -> ModelFacts:
    """Size of an ONNX file; no latency, it is not what ships.

    Raises:
      InputError: the file is missing.
    """
    try:
        return ModelFacts(Path(path).stat().st_size, None, "onnxruntime")
    except OSError as error:
        raise InputError(f"{path}: cannot read the model: {error.strerror}") from error


def open_tflite(
    paths: Mapping[str, str | os.PathLike],
) -> tuple[dict[str, Scorer], dict[str, ModelFacts]]:
    """Scorers and facts of the exported models, each file checked to be what its name says.

    Args:
      paths: .tflite files by model name: "fp32_tflite", "int8_ptq", "int8".

    Returns:
      Scorers and ModelFacts by model name. int8 is scored with `device_kernels`, float with
      XNNPACK; latencies are XNNPACK's.

    Raises:
      InputError: an unknown name; a file that is missing, no TFLite model or of the other kind.
    """
    scorers, facts = {}, {}
    for name, path in paths.items():
        if name not in _EXPORTED:
            raise InputError(f"unknown model {name!r}: one of {', '.join(_EXPORTED)}")
        _check_kind(name, path)
        # int8 is judged with the device's arithmetic; float kernels agree to rounding.
        kernels = device_kernels(operators(path)) if name.startswith("int8") else "xnnpack"
        scorers[name] = tflite_scorer(path, kernels)
        facts[name] = tflite_facts(path, kernels)
    return scorers, facts


def _check_kind(name: str, path: str | os.PathLike) -> None:
    tensors = tensor_types(path)
    kind, foreign = ("int8", _NOT_IN_INT8) if name.startswith("int8") else ("float", _NOT_IN_FLOAT)
    for found in sorted(foreign & tensors.keys()):
        count, example = len(tensors[found]), tensors[found][0]
        raise InputError(
            f"{path}: given as {name!r} but not fully {kind}: {count} {found} tensors "
            f"such as {example!r}: are two files swapped?"
        )
    is_int8 = [affine(path) is not None for affine in (input_affine, output_affine)]
    if is_int8 != [kind == "int8"] * 2:
        raise InputError(f"{path}: given as {name!r} but input or output is not {kind}")


def _tflite_runner(
    path: str | os.PathLike, kernels: str, threads: int | None
) -> Callable[[NDArray[np.float32], Affine | None], NDArray]:
    """Raw outputs [clips, wake_words] of features; interpreters are opened once and kept."""
    graph = read_graph(path)
    (source,), (target,) = graph.inputs, graph.outputs
    (batch, *frame_shape), logits = (graph.tensors[index].shape for index in (source, target))
    if len(logits) != 2:
        raise InputError(f"{path}: need one output [1, wake_words], not {list(logits)}")
    if batch != 1 or logits[0] != 1:
        raise InputError(f"{path}: batch is {batch}: export with batch 1")
    empty: NDArray = np.zeros((0, logits[1]), DTYPES[graph.tensors[target].type])
    interpreters = [open_interpreter(path, kernels) for _ in range(threads or os.cpu_count() or 1)]

    def run_part(worker: Any, clips: NDArray) -> list[NDArray]:
        results = []
        for clip in clips:
            worker.set_tensor(source, clip[np.newaxis])
            worker.invoke()
            results.append(worker.get_tensor(target))
        return results

    def run(features: NDArray[np.float32], affine: Affine | None) -> NDArray:
        _check_features(features, tuple(frame_shape), str(path))
        values = np.asarray(features, np.float32) if affine is None else quantize(features, affine)
        parts = np.array_split(values, len(interpreters))
        with ThreadPoolExecutor(len(interpreters)) as pool:
            results = list(pool.map(run_part, interpreters, parts))
        return np.concatenate([empty, *(clip for part in results for clip in part)])

    return run


def _check_features(features: NDArray, shape: tuple[int, ...], source: str) -> None:
    if features.shape[1:] != shape:
        wanted, got = list(shape), list(features.shape[1:])
        raise InputError(f"{source}: takes features {wanted} a clip, got {got}: front ends differ")
    # An int8 input would turn NaN into an ordinary number, and nobody would notice.
    if not np.isfinite(features).all():
        raise ValueError(f"{source}: features hold NaN or infinity")


def _finite(logits: NDArray[np.float32], source: str) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        clip = int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])
        raise InputError(
            f"{source}: logits are NaN or infinite, first at clip {clip}: "
            "the file is damaged or its training diverged"
        )
    return logits
