"""Golden vectors: what TFLite Micro makes of some clips, and of a stream, value by value.

A device that gives the same values computes as the report does. `golden_test.c` compares. A window
model takes a clip in one run, a streaming model in many, from cold states to its first full window.
"""

import dataclasses
import io
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import quantize
from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend, compute
from wakeword_keras.firmware import c_source, decision
from wakeword_keras.firmware.golden_clips import GoldenClip
from wakeword_keras.firmware.model_description import affine_of
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.tflite.interpreter import micro_interpreter, open_interpreter

FEATURE_UNIT = 25.6
"""Steps of the device's uint16 feature in one unit of ours."""
_CRAFTED_SEED = 0


# A run of TFLite Micro's kernels takes a tenth of a second here: a clip of each kind is enough.
_STREAM_OF = 4


@dataclass(frozen=True)
class Golden:
    """Golden vectors of a model.

    Attributes:
      clips: that were run, each with front end and states that start cold; zeros were put after
        one that ends within a step.
      features: float32 [clips, runs, frames, channels], a run's one after the other.
      inputs: int8, the same shape: what the model got.
      outputs: int8 [clips, runs, wake_words], TFLite Micro's; those of the last runs are the first
        that have seen a whole window.
      stream: int8 [steps, wake_words]: TFLite Micro's outputs over every fourth clip, one after the
        other, then values that try the rule's edges.
      detected: int8 [steps], index of the wake word that is detected at a step, or -1.
      micro_steps: how many steps of the stream are TFLite Micro's.
      distances: to each of LiteRT's kernels, over clips and stream: largest in steps of the output
        ("max_lsb") and share of equal values ("equal").
    """

    clips: tuple[GoldenClip, ...]
    features: NDArray[np.float32]
    inputs: NDArray[np.int8]
    outputs: NDArray[np.int8]
    stream: NDArray[np.int8]
    detected: NDArray[np.int8]
    micro_steps: int
    distances: Mapping[str, Mapping[str, float]]


def measure(
    model: bytes,
    clips: Sequence[GoldenClip],
    frontend: FrontendConfig,
    said: Mapping[str, Any],
    config: StreamConfig,
    rule: Mapping[str, Any],
) -> Golden:
    """Run clips and a stream of them on TFLite Micro.

    Args:
      model: content of an int8 .tflite file.
      clips: of equal length.
      frontend: the model's.
      said: the manifest's "model".
      config: stride, average and refractory time.
      rule: the manifest's "listening".

    Raises:
      InputError: the extra `firmware` is not installed.
    """
    frames, runs = said["input"]["shape"][1], rule["warm_up_steps"] + 1
    source, output = affine_of(said["input"]), affine_of(said["output"])
    stretch = np.concatenate([clip.audio for clip in clips[::_STREAM_OF]])
    windows = quantize(_windows(stretch, frontend, frames, config), source)
    clips = [_whole_runs(clip, frontend, frames * runs) for clip in clips]
    features = compute(np.stack([clip.audio for clip in clips]), frontend)
    features = features.reshape(len(clips), runs, frames, -1)
    inputs = quantize(features, source)
    every = [*inputs, windows]
    scores = run_on_micro(model, every)
    stream = np.concatenate([scores[-1], _crafted(scores[-1].shape[1], config)])
    return Golden(
        tuple(clips),
        features,
        inputs,
        np.stack(scores[:-1]),
        stream,
        decision.detected(stream, output, config, rule["threshold_sum"], rule["warm_up_steps"]),
        len(windows),
        {
            "builtin_ref": _distance(scores, _run_on_desktop(model, every, "reference")),
            "xnnpack": _distance(scores, _run_on_desktop(model, every, "xnnpack")),
        },
    )


def _whole_runs(clip: GoldenClip, frontend: FrontendConfig, frames: int) -> GoldenClip:
    """A clip of at least so many frames, with zeros behind it where it has fewer."""
    samples = frontend.window_samples + (frames - 1) * frontend.step_samples
    missing = max(0, samples - len(clip.audio))
    return dataclasses.replace(clip, audio=np.pad(clip.audio, (0, missing)))


def run_on_micro(model: bytes, sequences: Sequence[NDArray[np.int8]]) -> list[NDArray[np.int8]]:
    """TFLite Micro's outputs, each sequence by an interpreter of its own, so from cold states.

    Args:
      model: content of an int8 .tflite file.
      sequences: int8 [runs, frames, channels] each.

    Returns:
      int8 [runs, wake_words] each.

    Raises:
      InputError: the extra `firmware` is not installed.
    """
    return [_run(_micro(model), runs) for runs in sequences]


def _run(
    run: Callable[[NDArray[np.int8]], NDArray[np.int8]], inputs: NDArray[np.int8]
) -> NDArray[np.int8]:
    return np.concatenate([run(row[np.newaxis]) for row in inputs])


def _micro(model: bytes) -> Callable[[NDArray[np.int8]], NDArray[np.int8]]:
    interpreter = micro_interpreter(model)

    def run(values: NDArray[np.int8]) -> NDArray[np.int8]:
        interpreter.set_input(values, 0)
        interpreter.invoke()
        return np.array(interpreter.get_output(0))

    return run


def describe(golden: Golden, wake_words: Sequence[str], clip_int8: int) -> dict[str, Any]:
    """The manifest's "golden".

    Args:
      golden: vectors.
      wake_words: name of each output.
      clip_int8: threshold of a clip alone.
    """
    rows = []
    for i, (clip, output) in enumerate(zip(golden.clips, golden.outputs[:, -1], strict=True)):
        word = wake_words[int(output.argmax())] if output.max() >= clip_int8 else None
        said = {"name": _name(i, clip), "kind": clip.kind, "source": clip.source}
        rows.append(said | {"output": output.tolist(), "detected": word})
    return {
        "runs": golden.inputs.shape[1],
        "clips": rows,
        "stream": {
            "steps": len(golden.stream),
            "micro_steps": golden.micro_steps,
            "detections": int((golden.detected >= 0).sum()),
        },
        "tflite_micro_against": {name: dict(row) for name, row in golden.distances.items()},
    }


def files(golden: Golden, frontend: FrontendConfig) -> dict[str, bytes]:
    """The vectors as files, by path in the bundle: wav, raw little-endian numbers, C arrays."""
    exact = frontend.kind == "micro"
    numbers = np.rint(golden.features * FEATURE_UNIT).astype("<u2") if exact else golden.features
    written: dict[str, bytes] = {}
    for i, clip in enumerate(golden.clips):
        stem = f"golden/{_name(i, clip)}"
        written[f"{stem}.wav"] = _wav(clip.audio)
        written[f"{stem}.features.bin"] = numbers[i].tobytes()
        written[f"{stem}.input.bin"] = golden.inputs[i].tobytes()
        written[f"{stem}.output.bin"] = golden.outputs[i].tobytes()
    written["golden/stream.outputs.bin"] = golden.stream.tobytes()
    written["golden/stream.detected.bin"] = golden.detected.tobytes()
    texts = {"golden/golden.h": _header(golden, exact), "golden/golden.c": _source(golden)}
    if exact:
        texts["golden/golden_audio.c"] = _audio_source(golden, numbers)
    return written | {name: text.encode() for name, text in texts.items()}


def _windows(
    audio: NDArray[np.int16], frontend: FrontendConfig, frames: int, config: StreamConfig
) -> NDArray[np.float32]:
    """What the model sees every stride, the front end never reset."""
    stream = StreamingFrontend(frontend).process(audio)
    starts = range(0, len(stream) - frames + 1, config.stride_ms // frontend.step_ms)
    return np.stack([stream[start : start + frames] for start in starts])


def _crafted(wake_words: int, config: StreamConfig) -> NDArray[np.int8]:
    """Outputs that try the rule: every value, one held for long, chance, high chance, ties."""
    random = np.random.default_rng(_CRAFTED_SEED)
    every = np.concatenate([np.arange(-128, 128), np.arange(127, -129, -1)])
    held = np.full(3 * config.refractory_steps + 5, 127)
    low = np.full(config.windows + 1, -128)
    tracks = np.concatenate([every, low, held, low, held[:1], low])[:, np.newaxis]
    parts = [
        np.repeat(tracks, wake_words, axis=1),  # of several wake words the first wins a tie
        random.integers(-128, 128, (200, wake_words)),
        random.integers(64, 128, (200, wake_words)),
    ]
    return np.concatenate(parts).astype(np.int8)


def _run_on_desktop(
    model: bytes, sequences: Sequence[NDArray[np.int8]], kernels: str
) -> list[NDArray[np.int8]]:
    return [_run(_desktop(model, kernels), runs) for runs in sequences]


def _desktop(model: bytes, kernels: str) -> Callable[[NDArray[np.int8]], NDArray[np.int8]]:
    interpreter = open_interpreter(model, kernels)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(values: NDArray[np.int8]) -> NDArray[np.int8]:
        interpreter.set_tensor(source["index"], values)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return run


def _distance(
    micro: Sequence[NDArray[np.int8]], other: Sequence[NDArray[np.int8]]
) -> dict[str, float]:
    off = np.abs(np.concatenate(micro).astype(int) - np.concatenate(other))
    return {"max_lsb": int(off.max()), "equal": float((off == 0).mean())}


def _name(index: int, clip: GoldenClip) -> str:
    return f"{index:02d}_{clip.kind}"


def _wav(audio: NDArray[np.int16]) -> bytes:
    memory = io.BytesIO()
    with wave.open(memory, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes(audio.astype("<i2").tobytes())
    return memory.getvalue()


def _header(golden: Golden, exact: bool) -> str:
    samples, runs = len(golden.clips[0].audio), golden.inputs.shape[1]
    audio = (
        "/* golden_audio.c: large, leave it out where flash is short. */\n"
        f"#define WAKEWORD_GOLDEN_SAMPLES {samples}\n"
        "extern const int16_t wakeword_golden_audio[][WAKEWORD_GOLDEN_SAMPLES];\n"
        "extern const uint16_t\n"
        "    wakeword_golden_features[][WAKEWORD_GOLDEN_RUNS * WAKEWORD_INPUT_BYTES];\n"
    )
    body = (
        f"#define WAKEWORD_GOLDEN_CLIPS {len(golden.clips)}\n"
        f"#define WAKEWORD_GOLDEN_RUNS {runs} /* of the model, a clip */\n"
        f"#define WAKEWORD_GOLDEN_STEPS {len(golden.stream)}\n\n"
        "/* Of each clip, run by run: the model's input and TFLite Micro's output. */\n"
        "extern const char *const wakeword_golden_names[];\n"
        "extern const int8_t wakeword_golden_inputs[][WAKEWORD_INPUT_BYTES];\n"
        "extern const int8_t wakeword_golden_outputs[][WAKEWORD_COUNT];\n\n"
        "/* Of a stream: outputs, and what detector.h returns for each, one after the other. */\n"
        "extern const int8_t wakeword_golden_stream[][WAKEWORD_COUNT];\n"
        "extern const int8_t wakeword_golden_detected[];\n\n" + (audio if exact else "")
    )
    includes = '#include <stdint.h>\n\n#include "model_settings.h"\n\n'
    about = "Generated by wakeword_keras: golden vectors."
    return c_source.header("golden.h", about, includes + c_source.c_linkage(body))


_INCLUDE = '/* Generated by wakeword_keras: golden vectors. */\n#include "golden.h"\n\n'


def _source(golden: Golden) -> str:
    names = ", ".join(f'"{_name(i, clip)}"' for i, clip in enumerate(golden.clips))
    count = golden.inputs.shape[0] * golden.inputs.shape[1]
    return _INCLUDE + "\n".join(
        [
            f"const char *const wakeword_golden_names[] = {{{names}}};\n",
            c_source.array(
                "const int8_t wakeword_golden_inputs[][WAKEWORD_INPUT_BYTES]",
                golden.inputs.reshape(count, -1),
            ),
            c_source.array(
                "const int8_t wakeword_golden_outputs[][WAKEWORD_COUNT]",
                golden.outputs.reshape(count, -1),
            ),
            c_source.array("const int8_t wakeword_golden_stream[][WAKEWORD_COUNT]", golden.stream),
            c_source.array("const int8_t wakeword_golden_detected[]", golden.detected),
        ]
    )


def _audio_source(golden: Golden, features: NDArray) -> str:
    return _INCLUDE + "\n".join(
        [
            c_source.array(
                "const int16_t wakeword_golden_audio[][WAKEWORD_GOLDEN_SAMPLES]",
                np.stack([clip.audio for clip in golden.clips]),
            ),
            c_source.array(
                "const uint16_t "
                "wakeword_golden_features[][WAKEWORD_GOLDEN_RUNS * WAKEWORD_INPUT_BYTES]",
                features.reshape(len(features), -1),
            ),
        ]
    )
