"""The hand-off bundle: everything that a firmware build needs, and nothing that is not true.

    firmware/
      model_int8.tflite   the exported model, byte for byte
      model_data.h .c     the same bytes as a C array
      manifest.json       what the bytes are and how to feed them; written last
      README.md           the same for people

What the manifest says about the model is read from the flatbuffer, never passed in. A bundle
without a manifest is an unfinished one.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from wakeword_keras.affine import INT8_MAX, INT8_MIN, Affine, dequantize
from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.errors import InputError
from wakeword_keras.files import write_bytes
from wakeword_keras.metrics import stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.tflite import flatbuffer

MANIFEST_VERSION = 1
MODEL_FILE = "model_int8.tflite"
# Compiled into pymicro-features and ESPHome (TFLite Micro's frontend_util.h, FrontendConfig).
MICRO_CONSTANTS = {
    "noise_reduction": {
        "smoothing_bits": 10,
        "even_smoothing": 0.025,
        "odd_smoothing": 0.06,
        "min_signal_remaining": 0.05,
    },
    "pcan_gain_control": {"strength": 0.95, "offset": 80.0, "gain_bits": 21},
    "log_scale": {"scale_shift": 6},
    "feature_to_int8": "min(127, (feature * 256 + 333) / 666 - 128)",
}
_VERSIONS_OF = (
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "pymicro-features",
)


def write_bundle(
    model_path: str | Path,
    out_dir: str | Path,
    *,
    wake_words: Sequence[str],
    frontend: FrontendConfig,
    clip_ms: int,
    threshold_logit: float,
    hashes: Mapping[str, str],
    stream_sum: int | None = None,
    listening: StreamConfig | None = None,
) -> None:
    """Write the bundle of an INT8 model; a file that was there before is replaced whole.

    Args:
      model_path: int8 .tflite, [1, frames, channels] -> logits [1, wake_words].
      out_dir: folder to write, made if missing.
      wake_words: name of each logit, in order.
      frontend: what the model was trained on.
      clip_ms: length of the audio that one input covers.
      threshold_logit: of one clip: the decision is `logit >= threshold_logit`, for every wake word.
      hashes: sha256 of what the model came from (corpus, configuration), by name; copied as is.
      stream_sum: threshold in a stream, of `stream_rule.probability_sums`; that of a clip if None.
      listening: stride, average and refractory time; the defaults if None.

    Raises:
      InputError: the model does not fit the other arguments, or cannot reach the threshold.
    """
    model = describe_model(model_path)
    frames = frontend.num_frames(clip_ms * SAMPLE_RATE_HZ // 1000)
    _check(model, frames, wake_words, frontend, model_path)
    clip_threshold = _threshold(threshold_logit, model["output"], model_path)
    config = listening or StreamConfig()
    threshold, rule = _listening(clip_threshold, stream_sum, config, model["output"], model_path)
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "wake_words": list(wake_words),
        "model": model,
        "threshold": threshold,
        "clip_threshold": clip_threshold,
        "listening": rule,
        "clip_ms": clip_ms,
        "front_end": _front_end(frontend),
        "hashes": dict(hashes),
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS_OF},
    }
    blob = Path(model_path).read_bytes()
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").unlink(missing_ok=True)
    write_bytes(out / MODEL_FILE, blob)
    write_bytes(out / "model_data.h", _c_header(model["sha256"]).encode())
    write_bytes(out / "model_data.c", _c_source(blob).encode())
    write_bytes(out / "README.md", _readme(manifest).encode())
    write_bytes(out / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def read_manifest(bundle_dir: str | Path) -> dict[str, Any]:
    """Read a bundle's manifest and check that the model beside it is the one it speaks of.

    Args:
      bundle_dir: folder that `write_bundle` wrote.

    Returns:
      The manifest as written.

    Raises:
      InputError: no bundle, of another version, or its model is missing or another one.
    """
    path = Path(bundle_dir) / "manifest.json"
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} not found: give the firmware folder of a finished run") from None
    except ValueError:
        raise InputError(f"{path} is not JSON: export the bundle again") from None
    version = manifest.get("manifest_version") if isinstance(manifest, dict) else None
    if version != MANIFEST_VERSION:
        raise InputError(f"{path} has version {version}, not {MANIFEST_VERSION}: export again")
    model_path = Path(bundle_dir) / manifest["model"]["file"]
    if not model_path.is_file():
        raise InputError(f"{model_path} not found: export the bundle again")
    if hashlib.sha256(model_path.read_bytes()).hexdigest() != manifest["model"]["sha256"]:
        raise InputError(f"{model_path} is not the model of manifest.json: export again")
    return manifest


def frontend_of(manifest: Mapping[str, Any]) -> FrontendConfig:
    """The front end that a manifest asks for."""
    names = [field.name for field in dataclasses.fields(FrontendConfig)]
    return FrontendConfig(**{name: manifest["front_end"][name] for name in names})


def describe_model(path: str | Path) -> dict[str, Any]:
    """What an int8 .tflite says of itself, for the manifest.

    Args:
      path: model with one int8 input and one int8 output.

    Returns:
      file, sha256, bytes, operators (names, sorted), input and output (shape, dtype, scale,
      zero_point).

    Raises:
      InputError: the file is missing, no TFLite model, or not int8 in and out.
    """
    operators = sorted(set(flatbuffer.operators(path)))
    blob = Path(path).read_bytes()
    interpreter = Interpreter(model_content=blob)
    return {
        "file": MODEL_FILE,
        "sha256": hashlib.sha256(blob).hexdigest(),
        "bytes": len(blob),
        "input": _tensor(interpreter.get_input_details(), path),
        "output": _tensor(interpreter.get_output_details(), path),
        "operators": operators,
    }


def int8_threshold(threshold_logit: float, output: Affine) -> int | None:
    """The int8 that decides as the logit does: `q >= int8` exactly when `logit >= threshold`.

    Args:
      threshold_logit: threshold on the dequantized logit.
      output: the model's output quantization.

    Returns:
      Smallest q in [-128, 127] whose logit reaches the threshold; None if not even 127 does.
    """
    logits = dequantize(np.arange(INT8_MIN, INT8_MAX + 1), output)
    reaching = np.flatnonzero(logits >= threshold_logit)
    return INT8_MIN + int(reaching[0]) if reaching.size else None


def _threshold(logit: float, output: dict[str, Any], model_path: str | Path) -> dict[str, Any]:
    affine = Affine(output["scale"], output["zero_point"])
    quantized = int8_threshold(logit, affine)
    if quantized is None:
        raise InputError(
            f"{model_path}: threshold {logit:.4g} is above its largest logit {affine.high:.4g}: "
            "it would never fire; train longer or on more negatives"
        )
    # Written so that exp() cannot overflow.
    tail = math.exp(-abs(logit))
    probability = (1.0 if logit >= 0 else tail) / (1.0 + tail)
    return {"logit": float(logit), "probability": probability, "int8": quantized}


def _listening(
    clip_threshold: dict[str, Any],
    stream_sum: int | None,
    config: StreamConfig,
    output: dict[str, Any],
    model_path: str | Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The operating threshold, and all that a device needs to decide in a stream as we do."""
    affine = Affine(output["scale"], output["zero_point"])
    table = stream_rule.probability_units(dequantize(np.arange(INT8_MIN, INT8_MAX + 1), affine))
    if stream_sum is None:
        threshold = clip_threshold | {"chosen_on": "clips"}
        stream_sum = math.ceil(clip_threshold["probability"] * config.one)
    else:
        probability = stream_sum / config.one
        steady = np.flatnonzero(config.windows * table >= stream_sum)
        if not 0 < probability < 1 or not steady.size:
            raise InputError(
                f"{model_path}: threshold {probability:.6g} is above its largest probability "
                f"{table[-1] / stream_rule.PROBABILITY_ONE:.6g}: it would never fire; train longer"
            )
        threshold = {
            "logit": math.log(probability) - math.log1p(-probability),
            "probability": probability,
            "int8": INT8_MIN + int(steady[0]),
            "chosen_on": "streams",
        }
    rule = dataclasses.asdict(config) | {
        "windows": config.windows,
        "rule": (
            "every stride_ms, for each output, add up probability_table[value + 128] of the last "
            "`windows` values, 0 for those before the first; the output with the largest sum is "
            "detected if that sum is at least threshold_sum; then none is for refractory_ms"
        ),
        "threshold_sum": stream_sum,
        "probability_one": stream_rule.PROBABILITY_ONE,
        "probability_table": table.tolist(),
    }
    return threshold, rule


def _front_end(frontend: FrontendConfig) -> dict[str, Any]:
    description = {"sample_rate_hz": SAMPLE_RATE_HZ, **dataclasses.asdict(frontend)}
    return description | (MICRO_CONSTANTS if frontend.kind == "micro" else {})


def _tensor(details: list[dict[str, Any]], path: str | Path) -> dict[str, Any]:
    if len(details) != 1 or details[0]["dtype"] != np.int8:
        raise InputError(f"{path}: need one input and one output, both int8: give the int8 model")
    scale, zero_point = details[0]["quantization"]
    shape = [int(size) for size in details[0]["shape"]]
    return {"shape": shape, "dtype": "int8", "scale": float(scale), "zero_point": int(zero_point)}


def _check(
    model: dict[str, Any],
    frames: int,
    wake_words: Sequence[str],
    frontend: FrontendConfig,
    path: str | Path,
) -> None:
    shapes = (("input", [1, frames, frontend.channels]), ("output", [1, len(wake_words)]))
    for side, shape in shapes:
        if model[side]["shape"] != shape:
            raise InputError(
                f"{path} has {side} shape {model[side]['shape']}, not {shape}: export again"
            )
    affine = frontend.input_affine
    scale, zero_point = model["input"]["scale"], model["input"]["zero_point"]
    # The integer rule never comes nearer to a tie than 1/666 step: float32 rounding is harmless.
    if not math.isclose(affine.scale, scale, rel_tol=1e-6) or affine.zero_point != zero_point:
        raise InputError(
            f"{path} has input scale {scale:.7g} and zero point {zero_point}, its front end has "
            f"{affine.scale:.7g} and {affine.zero_point}: export with the pinned input range"
        )


def _c_header(sha256: str) -> str:
    return f"""\
/* Generated by wakeword_keras. {MODEL_FILE}, sha256 {sha256} */
#ifndef WAKEWORD_MODEL_DATA_H_
#define WAKEWORD_MODEL_DATA_H_

#ifdef __cplusplus
extern "C" {{
#endif

/* Aligned to 16 bytes, as TFLite Micro asks of a model. */
extern const unsigned char wakeword_model[];
extern const unsigned int wakeword_model_len;

#ifdef __cplusplus
}}
#endif

#endif /* WAKEWORD_MODEL_DATA_H_ */
"""


def _c_source(blob: bytes) -> str:
    rows = (blob[start : start + 16] for start in range(0, len(blob), 16))
    array = "\n".join("  " + " ".join(f"0x{byte:02x}," for byte in row) for row in rows)
    return f"""\
/* Generated by wakeword_keras: C11 or C++11. */
#include "model_data.h"

#ifndef __cplusplus
#include <stdalign.h>
#endif

alignas(16) const unsigned char wakeword_model[] = {{
{array}
}};
const unsigned int wakeword_model_len = {len(blob)};
"""


def _readme(manifest: dict[str, Any]) -> str:
    model, threshold, front_end = (manifest[key] for key in ("model", "threshold", "front_end"))
    clip, listening = manifest["clip_threshold"], manifest["listening"]
    one = listening["probability_one"]
    _, frames, channels = model["input"]["shape"]
    to_int8 = front_end.get("feature_to_int8")
    quantized = (
        f"as int8: `{to_int8}`, all integers, from the front end's uint16"
        if to_int8
        else "as int8: `round(feature / scale) + zero_point`, saturating"
    )
    words = "\n".join(f"- output {i}: {word}" for i, word in enumerate(manifest["wake_words"]))
    return f"""\
# Wake word model

`manifest.json` holds every number below for programs.

## Feed it
1. Audio: {front_end["sample_rate_hz"]} Hz, mono, int16.
2. Front end `{front_end["kind"]}`: one row of {channels} features every \
{front_end["step_ms"]} ms; keep its state between rows.
3. Keep the last {frames} rows ({manifest["clip_ms"]} ms of audio), oldest first, \
{quantized}.
4. Invoke: input int8 {model["input"]["shape"]}, output int8 {model["output"]["shape"]}.

## Read it
{words}

A logit is `scale * (value - zero_point)` with scale {model["output"]["scale"]:.9g} and zero point \
{model["output"]["zero_point"]}; the model has no sigmoid inside. `probability_table` in \
`manifest.json` is the sigmoid of each of the 256 values, in units of 1/{one}.

- In a stream: invoke every {listening["stride_ms"]} ms and keep, for each output, the sum of \
`probability_table[value + 128]` over the last {listening["windows"]} values (0 before the first). \
The largest sum is a detection if it is at least **{listening["threshold_sum"]}** (average \
{threshold["probability"]:.6g}, chosen on {threshold["chosen_on"]}); then nothing is for \
{listening["refractory_ms"]} ms. Sums fit 32 bits, unsigned.
- On a clip alone: the largest value is a detection if it is at least **{clip["int8"]}** \
(logit {clip["logit"]:.4f}, probability {clip["probability"]:.4g}).

## Build it
`model_data.c` and `model_data.h` hold `{model["file"]}` ({model["bytes"]} bytes), aligned to 16.
The interpreter's resolver needs: {", ".join(model["operators"])}.
"""
