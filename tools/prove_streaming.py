"""Does a run's streaming model give, at every step, what its window model gives? On real audio.

python -m tools.prove_streaming --run_dir=runs/happy --data_dir=DIR --ambient_dir=DIR [--json FILE]
Clips of --data_dir, each between a second of silence and half a one, and an hour of --ambient_dir
in one stretch: every step of the INT8 and the FP32 file, on the reference kernels and on TFLite
Micro. Exit code 1 if an INT8 step differs at all, or an FP32 one by more than 1e-5.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from absl import flags
from numpy.typing import NDArray

from flags import run_flags
from tools import command
from wakeword_keras.audio import audio_file
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.data.recordings import is_audio, list_files
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import step_equality
from wakeword_keras.evaluation.step_equality import StepEquality
from wakeword_keras.names import FP32_TFLITE, INT8, STREAMING_FILES, TFLITE_FILES

# Of the run's flags, those that --helpshort is to list here, too.
flags.declare_key_flag("run_dir")
flags.declare_key_flag("data_dir")
flags.declare_key_flag("ambient_dir")
_CLIPS = flags.DEFINE_integer("clips", 1000, "clips of --data_dir, at most")
_STREAM_MINUTES = flags.DEFINE_integer("stream_minutes", 60, "minutes of --ambient_dir, at most")
_JSON = flags.DEFINE_string("json", None, "file to write the figures to, as JSON, if given")
_MOST_FP32 = 1e-5
_BEFORE, _AFTER = 16000, 8000  # samples of silence around a clip


def main(arguments: Sequence[str]) -> None:
    """Print a line for each file, runtime and kind of audio."""
    command.refuse_arguments(arguments)
    values = flags.FLAGS
    data, ambient = tuple(values.data_dir), tuple(values.ambient_dir)
    config = run_flags.of_run(apart=("data_dir", "ambient_dir"))
    clips = _spread(_audio_in(data or config.data_dir), _CLIPS.value)
    hour = _audio_in(ambient or config.ambient_dir)
    exports = str(Path(config.run_dir, "export"))
    jobs = [
        (exports, name, runtime, kind, clips if kind == "clips" else hour, config.frontend)
        for kind in ("clips", "stream")
        for name in (INT8, FP32_TFLITE)
        for runtime in step_equality.runtimes()
    ]
    found = {}
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        minutes = [_STREAM_MINUTES.value] * len(jobs)
        for job, one in zip(jobs, pool.map(_measure, jobs, minutes), strict=True):
            found[f"{job[1]} {job[3]} {job[2]}"] = one
            print(step_equality.table([one], f"{job[1]}, {job[3]}"), flush=True)
    if _JSON.value:
        figures = {name: dataclasses.asdict(one) for name, one in found.items()}
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")
    for name, one in found.items():
        if one.largest_difference > (0 if name.startswith(INT8) else _MOST_FP32):
            raise InputError(f"{name}: the streaming file differs from the window file")


def _audio_in(folders: Sequence[str]) -> list[str]:
    found = [str(path) for folder in folders for path in list_files(Path(folder)) if is_audio(path)]
    if not found:
        raise InputError(f"no audio in {', '.join(folders) or '--data_dir and --ambient_dir'}")
    return sorted(found)


def _spread(files: list[str], count: int) -> list[str]:
    return [files[i] for i in np.linspace(0, len(files) - 1, min(count, len(files)), dtype=int)]


def _measure(job: tuple, minutes: int) -> StepEquality:
    exports, name, runtime, kind, files, frontend = job
    stretches = _clips(files, frontend) if kind == "clips" else _stream(files, frontend, minutes)
    window, streaming = (Path(exports, names[name]) for names in (TFLITE_FILES, STREAMING_FILES))
    return step_equality.measure(window, streaming, stretches, runtime)


def _clips(files: list[str], frontend: FrontendConfig) -> Iterator[NDArray[np.float32]]:
    for file in files:
        samples = np.pad(audio_file.read(file)[: 2 * _BEFORE], (_BEFORE, _AFTER))
        yield StreamingFrontend(frontend).process(samples)


def _stream(
    files: list[str], frontend: FrontendConfig, minutes: int
) -> Iterator[NDArray[np.float32]]:
    stream, parts, left = StreamingFrontend(frontend), [], minutes * 60 * 16000
    for file in files:
        samples = audio_file.read(file)[:left]
        left -= len(samples)
        parts.append(stream.process(samples))
        if not left:
            break
    yield np.concatenate(parts)


if __name__ == "__main__":
    command.run(main)
