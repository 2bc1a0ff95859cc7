"""How much audio does a minute judge? A model that streams, in each of its forms, and ds_cnn.

python -m tools.benchmark_streaming --run_dir=runs/happy --ambient_dir=DIR [--json FILE]
The run's INT8 model on stretches, as evaluation listens with it, step by step, as the device runs
it, and window by window, and an untrained ds_cnn: each a score every step, on XNNPACK and on the
reference kernels. They take turns on features that lie ready: the front end, which all share, is
timed by itself.
"""

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from numpy.typing import NDArray

from flags import run_flags
from tools import command
from wakeword_keras import models
from wakeword_keras.audio import audio_file
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.data.recordings import list_ambient
from wakeword_keras.errors import InputError
from wakeword_keras.names import INT8, STREAMING_FILES, TFLITE_FILES
from wakeword_keras.run.config import RunConfig
from wakeword_keras.streams import stepwise
from wakeword_keras.tflite import convert
from wakeword_keras.tflite.scorers import Scorer, stretch_scorer, tflite_scorer

# Of the run's flags, those that --helpshort is to list here, too.
flags.declare_key_flag("run_dir")
flags.declare_key_flag("ambient_dir")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "times each is measured", lower_bound=1)
_AUDIO_MS = flags.DEFINE_integer(
    "audio_ms", 60_000, "milliseconds of audio a round", lower_bound=10_000
)
_JSON = flags.DEFINE_string("json", None, "file to write the figures to, as JSON, if given")


def main(arguments: Sequence[str]) -> None:
    """Print hours of audio per minute of each way, and what stretches gain."""
    command.refuse_arguments(arguments)
    given = tuple(flags.FLAGS.ambient_dir)
    config = run_flags.of_run(apart=("ambient_dir",))
    samples = _samples(given or config.ambient_dir, _AUDIO_MS.value * 16)
    exports = Path(config.run_dir, "export")
    streaming = exports / STREAMING_FILES[INT8]
    step = stepwise.step_frames(streaming)
    ways = _ways(streaming, exports / TFLITE_FILES[INT8], step, samples, config)
    rates = measure(ways, _AUDIO_MS.value / 3_600_000, _ROUNDS.value)
    medians = {name: float(np.median(values)) for name, values in rates.items()}
    print(f"{'hours of audio per minute':32}{'':>10}{'stretched is':>16}")
    for name, rate in medians.items():
        kernels = name.rpartition(", ")[2]
        ours = medians.get(f"stretched, {kernels}")
        gain = "" if ours is None else f"{ours / rate:.1f} times"
        print(f"{name:32}{rate:10.2f}{gain:>16}")
    print(f"{os.cpu_count()} cores, medians of {_ROUNDS.value} rounds, {step} frames a step")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(rates | {"medians": medians}, indent=1) + "\n")


def _samples(folders: Sequence[str], wanted: int) -> NDArray[np.int16]:
    recordings = list_ambient(folders) if folders else []
    parts: list[NDArray[np.int16]] = []
    for recording in recordings:
        parts.append(audio_file.read(recording.path))
        if sum(map(len, parts)) >= wanted:
            return np.concatenate(parts)[:wanted]
    raise InputError(f"--ambient_dir: less than --audio_ms={wanted // 16} of audio")


def _ways(
    streaming: Path, window: Path, step: int, samples: NDArray[np.int16], config: RunConfig
) -> dict[str, Callable[[], object]]:
    frontend = config.frontend
    features = StreamingFrontend(frontend).process(samples)
    frames = frontend.num_frames(config.corpus.clip_ms * 16)
    files = {"window": window, "ds_cnn": window.with_name("ds_cnn_untrained.tflite")}
    files["ds_cnn"].write_bytes(_untrained(frames, frontend.channels))
    ways: dict[str, Callable[[], object]] = {
        "front end": functools.partial(_front_end, frontend, samples)
    }
    whole = -(-frames // step) * step
    for kernels in ("xnnpack", "reference"):
        stretches = functools.partial(_same, stretch_scorer(window, kernels))
        ways[f"stretched, {kernels}"] = functools.partial(_score, stretches, features, whole, step)
        start = stepwise.starter(streaming, kernels)
        ways[f"streaming, {kernels}"] = functools.partial(_score, start, features, whole, step)
        for name, path in files.items():
            scorer = tflite_scorer(path, kernels)
            ways[f"{name}, {kernels}"] = functools.partial(
                _score, functools.partial(_same, scorer), features, frames, step
            )
    return ways


def _untrained(frames: int, channels: int) -> bytes:
    """An INT8 ds_cnn: its weights do not change how long it takes."""
    clips = np.random.default_rng(0).uniform(0, 26, (4, 1, frames, channels)).astype(np.float32)
    model = models.build("ds_cnn", frames, channels, 1)
    return convert.int8_model(model, lambda: ([clip] for clip in clips))


def _front_end(frontend: FrontendConfig, samples: NDArray[np.int16]) -> None:
    StreamingFrontend(frontend).process(samples)


def _same(scorer: Scorer) -> Scorer:
    return scorer


def _score(
    start: Callable[[], Scorer], features: NDArray[np.float32], frames: int, step: int
) -> None:
    scorer = start()
    windows = np.lib.stride_tricks.sliding_window_view(features, frames, axis=0)[::step]
    for at in range(0, len(windows), 256):
        scorer(windows[at : at + 256].transpose(0, 2, 1))


def measure(
    ways: Mapping[str, Callable[[], object]], hours: float, rounds: int
) -> dict[str, list[float]]:
    """Hours of audio per minute of each way, round by round.

    Args:
      ways: each judges `hours` of audio.
      hours: of audio.
      rounds: how often; the ways take turns.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            rates[name].append(hours * 60 / (time.perf_counter() - start))
    return rates


if __name__ == "__main__":
    command.run(main)
