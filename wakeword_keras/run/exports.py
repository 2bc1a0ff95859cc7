"""The export stage: a trained run as TFLite and ONNX files, each proven before it is written."""

from collections.abc import Callable

import tf_keras as keras

from wakeword_keras import models
from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.files import sha256, write_bytes, write_json
from wakeword_keras.names import (
    FP32_ONNX,
    FP32_TFLITE,
    INT8,
    INT8_ONNX,
    INT8_PTQ,
    ONNX_FILES,
    ONNX_STREAMING_FILES,
    STREAMING_FILES,
    TFLITE_FILES,
)
from wakeword_keras.onnx import streaming as onnx_streaming
from wakeword_keras.onnx import translate
from wakeword_keras.progress import say
from wakeword_keras.quantization import calibration, proof
from wakeword_keras.run.directory import RunDirectory
from wakeword_keras.tflite import convert, flatbuffer, streaming

_TRANSLATED_FROM = {FP32_ONNX: FP32_TFLITE, INT8_ONNX: INT8}


def write(
    run: RunDirectory, fp32: keras.Model, qat: keras.Model, calibration_set: ClipFeatures
) -> None:
    """Convert a run's models and write the files of its export folder.

    Args:
      run: whose training is done.
      fp32, qat: its models.
      calibration_set: clips that PTQ calibrates on, and that files are proven on.

    Raises:
      InputError: a file cannot be made, or computes something else than its model.
    """
    dataset_fn = calibration.representative_dataset(calibration_set.features)
    converters: dict[str, Callable[[], bytes]] = {
        FP32_TFLITE: lambda: convert.float_model(fp32),
        INT8_PTQ: lambda: convert.int8_model(fp32, dataset_fn),
        INT8: lambda: proof.int8_model(qat, fp32, calibration_set.features),
    }
    for name, converted in converters.items():
        write_bytes(run.path("export", TFLITE_FILES[name]), converted())
    _write_streaming(run, calibration_set)
    _write_onnx(run, calibration_set)
    write_json(run.path("export", "export.json"), _record(run))


def _write_streaming(run: RunDirectory, calibration_set: ClipFeatures) -> None:
    """Models that can run step by step, too, proven on calibration clips."""
    if run.record["config"]["model"] not in models.STREAMING:
        return
    for name, file in STREAMING_FILES.items():
        window = run.path("export", TFLITE_FILES[name])
        content = streaming.to_bytes(streaming.stream(window))
        streaming.verify(window, content, calibration_set.features[:16])
        write_bytes(run.path("export", file), content)


def _write_onnx(run: RunDirectory, calibration_set: ClipFeatures) -> None:
    if not translate.installed():
        say("ONNX: not exported: pip install 'wakeword_keras[onnx]', then export again")
        return
    for name, source in _TRANSLATED_FROM.items():
        content = translate.from_tflite(run.path("export", TFLITE_FILES[source]))
        write_bytes(run.path("export", ONNX_FILES[name]), content)
        if run.record["config"]["model"] in models.STREAMING:
            _write_streaming_onnx(run, name, calibration_set)


def _write_streaming_onnx(run: RunDirectory, name: str, calibration_set: ClipFeatures) -> None:
    """With states as inputs and outputs, proven on calibration clips."""
    window = run.path("export", TFLITE_FILES[_TRANSLATED_FROM[name]])
    path = run.path("export", ONNX_STREAMING_FILES[name])
    write_bytes(path, onnx_streaming.from_tflite(window))
    features = calibration_set.features[:16]
    onnx_streaming.verify(window, run.path("export", ONNX_FILES[name]), path, features)


def _record(run: RunDirectory) -> dict:
    """What each exported file is made of, and the weights that the INT8 one came from."""
    files = {}
    for name, file in TFLITE_FILES.items():
        path = run.path("export", file)
        files[file] = {
            "model": name,
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "operators": flatbuffer.operators(path),
            "tensors": {kind: len(names) for kind, names in flatbuffer.tensor_types(path).items()},
        }
    return {"files": files, "qat_weights_sha256": sha256(run.path("qat", "weights.npz"))}
