"""The hand-off bundle: everything that a firmware build needs, and nothing that is not true.

    firmware/
      model_int8.tflite   the exported model, byte for byte; where the architecture streams
                          model_int8_streaming.tflite instead, which takes new frames alone
      model_data.h .c     the same bytes as a C array
      model_settings.h    every number: shapes, scales, thresholds, the front end's tables
      op_resolver.h       TFLite Micro's operators that the model uses
      front_end.h .c      audio to features (LICENCES.txt: whose arithmetic that is)
      detector.h          outputs to detections
      golden/             clips, what TFLite Micro makes of them; golden_test.c  compares
      manifest.json       all of it for programs, with hashes and a schema; written last
      README.md           the same for people

A bundle holds one model, the one that the device runs: of a run that streams all of the above is
the streaming file's, and its window file, which gives the same integers, stays with the export.

What the manifest says about the model is read from the flatbuffer, never passed in. A bundle
without a manifest is an unfinished one. The same run gives the same bytes.
"""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.errors import InputError
from wakeword_keras.files import write_bytes
from wakeword_keras.firmware import (
    arena,
    c_source,
    decision,
    footprint,
    front_end_tables,
    golden,
    macs,
    manifest,
    readme,
)
from wakeword_keras.firmware.golden_clips import GoldenClip
from wakeword_keras.firmware.model_data import model_header, model_source
from wakeword_keras.firmware.model_description import (
    STREAMING_FILE,
    WINDOW_FILE,
    affine_of,
    check_fits,
    describe_model,
)
from wakeword_keras.firmware.op_resolver import resolver_header
from wakeword_keras.firmware.settings_header import settings_header
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import micro_installed

_VERSIONS_OF = (
    "tensorflow",
    "tf-keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "pymicro-features",
)
RESET = (
    "after a gap in the audio, reset front end and detector and begin a step anew: the detector "
    "passes over the first warm_up_steps outputs, and after them nothing is left of what the "
    "states held before. The states themselves begin anew in a new interpreter, and with "
    "MicroInterpreter::Reset() where that fills them with their zero points, as the tflite-micro "
    "of `versions` does (older ones fill 0); LiteRT's reset does not put them back"
)
LICENCE = {
    "model": "as the recordings that it was trained on allow, which this program cannot know",
    "golden": "recordings of the run's test split: theirs",
    "front_end.c": (
        "after TensorFlow's microfrontend (Apache-2.0) and kissfft (BSD-3-Clause): their texts are "
        "in LICENCES.txt and stay with it"
    ),
}


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
    golden_clips: Sequence[GoldenClip] = (),
) -> list[str]:
    """Write the bundle of an INT8 model; a file that was there before is replaced whole.

    Args:
      model_path: int8 .tflite, [1, frames, channels] -> logits [1, wake_words]: of a window, or a
        streaming model.
      out_dir: folder to write, made if missing.
      wake_words: name of each logit, in order.
      frontend: what the model was trained on.
      clip_ms: length of the audio that one output speaks of.
      threshold_logit: of one clip: the decision is `logit >= threshold_logit`, for every wake word.
      hashes: sha256 of what the model came from (corpus, configuration), by name; copied as is.
      stream_sum: threshold in a stream, of `stream_rule.probability_sums`; that of a clip if None.
      listening: stride, average and refractory time; the defaults if None. The stride of a
        streaming model is its step.
      golden_clips: of `clip_ms` each, to run on TFLite Micro.

    Returns:
      What the bundle lacks, a line each.

    Raises:
      InputError: the model does not fit the other arguments, cannot reach the threshold, or does
        not run on TFLite Micro.
    """
    config = listening or StreamConfig()
    model = describe_model(model_path)
    frames = frontend.num_frames(clip_ms * SAMPLE_RATE_HZ // 1000)
    streaming = _streaming(model, model_path, frames, config.stride_ms, frontend.step_ms)
    given = model["input"]["shape"][1] if streaming else frames
    check_fits(model, given, wake_words, frontend, model_path)
    output = affine_of(model["output"])
    clip = decision.clip_threshold(threshold_logit, output, str(model_path))
    warm_up = streaming["window_frames"] // given - 1 if streaming else 0
    threshold, rule = decision.listening(clip, stream_sum, config, warm_up, output, str(model_path))
    blob = Path(model_path).read_bytes()
    measured = _measured(blob, model, frontend, config)
    vectors = None
    if golden_clips and micro_installed():
        vectors = golden.measure(blob, golden_clips, frontend, model, config, rule)
    said = {
        "manifest_version": manifest.MANIFEST_VERSION,
        "wake_words": list(wake_words),
        "model": model,
        "streaming": streaming,
        "threshold": threshold,
        "clip_threshold": clip,
        "listening": rule,
        "clip_ms": clip_ms,
        "front_end": _front_end(frontend),
        **measured,
        "golden": golden.describe(vectors, wake_words, clip["int8"]) if vectors else None,
        "missing": _missing(golden_clips),
        "licence": LICENCE,
        "hashes": dict(hashes),
        "versions": {name: importlib.metadata.version(name) for name in _versions()},
    }
    files = _files(said, blob, frontend)
    if vectors:
        files |= golden.files(vectors, frontend) | _as_they_are("golden_test.c")
    _write(Path(out_dir), files, said)
    return said["missing"]


def _streaming(
    model: Mapping[str, Any], path: str | Path, frames: int, stride_ms: int, step_ms: int
) -> dict[str, Any] | None:
    """The manifest's "streaming"; None of a model that takes a window."""
    if model["file"] == WINDOW_FILE:
        return None
    cost = footprint.measure(path)
    if cost.frames * step_ms != stride_ms:
        raise InputError(
            f"{path} takes {cost.frames} frames a step, `listening.stride_ms`={stride_ms} is "
            f"another: give {cost.frames * step_ms}"
        )
    return {
        "window_frames": -(-frames // cost.frames) * cost.frames,
        "variables": cost.variables,
        "state_bytes": cost.state_bytes,
        "reset": RESET,
    }


def _measured(
    blob: bytes, model: Mapping[str, Any], frontend: FrontendConfig, config: StreamConfig
) -> dict[str, Any]:
    """The manifest's "cost" and "arena"."""
    graph = flatbuffer.read(blob)[0]
    cost = macs.cost(graph, model["bytes"], config.stride_ms, frontend.step_ms)
    if not micro_installed():
        return {"cost": cost, "arena": None}
    measured = arena.measure(blob)
    scratch = macs.cmsis_nn_scratch_bytes(graph)
    return {
        "cost": cost,
        "arena": dataclasses.asdict(measured)
        | {
            "cmsis_nn_scratch_bytes": scratch,
            "recommended_bytes": measured.recommended_bytes(scratch),
            "margin": arena.MARGIN,
            "esp_nn_scratch_bytes": macs.esp_nn_scratch_bytes(graph),
        },
    }


def _files(said: dict[str, Any], blob: bytes, frontend: FrontendConfig) -> dict[str, bytes]:
    texts = {
        "model_data.h": model_header(said["model"]["file"], said["model"]["sha256"]),
        "model_data.c": model_source(blob),
        "model_settings.h": settings_header(said, frontend),
        "op_resolver.h": resolver_header(said["model"]["operators"]),
        "README.md": readme.readme(said),
        manifest.SCHEMA_FILE: manifest.SCHEMA.read_text(),
    }
    files = {said["model"]["file"]: blob} | {name: text.encode() for name, text in texts.items()}
    micro = frontend.kind == "micro"
    front_end = ("front_end.h", "front_end.c", "LICENCES.txt") if micro else ()
    return files | _as_they_are("detector.h", *front_end)


def _as_they_are(*names: str) -> dict[str, bytes]:
    return {name: (c_source.SOURCES / name).read_bytes() for name in names}


def _write(out: Path, files: Mapping[str, bytes], said: Mapping[str, Any]) -> None:
    """Write the manifest last, and only after what an earlier bundle had besides is gone."""
    (out / "golden").mkdir(parents=True, exist_ok=True)
    (out / manifest.FILE).unlink(missing_ok=True)
    for stale in (*(out / "golden").iterdir(), out / WINDOW_FILE, out / STREAMING_FILE):
        stale.unlink(missing_ok=True)
    for name, content in files.items():
        write_bytes(out / name, content)
    if not any((out / "golden").iterdir()):
        (out / "golden").rmdir()
        (out / "golden_test.c").unlink(missing_ok=True)
    write_bytes(out / manifest.FILE, manifest.seal(said, files))


def _missing(golden_clips: Sequence[GoldenClip]) -> list[str]:
    if not micro_installed():
        return [
            "no arena, no golden vectors: TFLite Micro is not installed: "
            "pip install 'wakeword_keras[firmware]', then export again"
        ]
    return [] if golden_clips else ["no golden vectors: no clips were given"]


def _versions() -> tuple[str, ...]:
    return (*_VERSIONS_OF, "tflite-micro") if micro_installed() else _VERSIONS_OF


def _front_end(frontend: FrontendConfig) -> dict[str, Any]:
    said = {"sample_rate_hz": SAMPLE_RATE_HZ, **dataclasses.asdict(frontend)}
    return said | (front_end_tables.CONSTANTS if frontend.kind == "micro" else {})
