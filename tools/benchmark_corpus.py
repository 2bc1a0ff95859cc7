"""How much memory and time does it take to prepare a corpus of so many hours?

python -m tools.benchmark_corpus --data_dir=DIR --wake_words=happy --ambient_dir=DIR --hours=10
Half of the hours are clips of --data_dir, half recordings of --ambient_dir, each as often as it
takes: once as it is, then at another level and with noise in its last bits, so that no two are
equal. They and all that is made of them lie in --cache_dir while it runs: 0.3 GB an hour.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from absl import flags

from flags import run_flags
from tools import command
from wakeword_keras.audio import audio_file
from wakeword_keras.data import ambient, ambient_passes
from wakeword_keras.data.corpus import Corpus
from wakeword_keras.data.shards import (
    CONDITIONS,
    Shards,
    read_impulse_responses,
    split_features,
    write_shards,
)
from wakeword_keras.errors import InputError
from wakeword_keras.names import TRAIN, VALIDATION
from wakeword_keras.progress import Progress
from wakeword_keras.run import corpus as run_corpus
from wakeword_keras.run.config import RunConfig

# Of the run's flags, those that --helpshort is to list here, too.
flags.declare_key_flag("data_dir")
flags.declare_key_flag("wake_words")
flags.declare_key_flag("ambient_dir")
flags.declare_key_flag("clip_ms")
flags.declare_key_flag("cache_dir")
_HOURS = flags.DEFINE_float("hours", 1.0, "hours of audio in all", lower_bound=0.1)
_SAMPLED_EVERY_S = 0.1
Result = TypeVar("Result")


def main(arguments: Sequence[str]) -> None:
    """Print a row for each step."""
    command.refuse_arguments(arguments)
    config = run_flags.read()
    if not (config.data_dir and config.ambient_dir):
        raise InputError("--data_dir and --ambient_dir: give both, to have audio of both kinds")
    Path(config.cache_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.cache_dir) as made:
        clips, recordings, cache = f"{made}/clips", f"{made}/ambient", f"{made}/cache"
        repeat(config.data_dir, Path(clips), _HOURS.value / 2)
        repeat(config.ambient_dir, Path(recordings), _HOURS.value / 2)
        print(f"{'':20}{'minutes':>9}{'own MiB':>9}{'mapped MiB':>12}", flush=True)
        prepare(replace(config, data_dir=(clips,), ambient_dir=(recordings,), cache_dir=cache))
        size = sum(path.stat().st_size for path in Path(cache).rglob("*.*"))
        print(f"{_HOURS.value:g} h of audio, {size / 2**20:.0f} MiB in the cache")


def repeat(sources: Sequence[str], target: Path, hours: float) -> None:
    """Write so many hours of recordings, in the sources' folders; noise (`_...`) once."""
    rng = np.random.default_rng(0)
    paths = [(Path(source), path) for source in sources for path in _recordings(Path(source))]
    rng.shuffle(paths)  # so that every label is there, however few the hours
    written = 0.0
    with Progress(f"writing {target.name}", hours * 60, "minutes") as progress:
        for turn in itertools.count():
            number, (source, path) = turn // len(paths), paths[turn % len(paths)]
            if written >= hours * 3600:
                return
            first, *inner = path.relative_to(source).with_suffix("").parts
            if first.startswith("_") and number:
                continue
            # A pass over long recordings has speakers of its own; clips keep label and speaker.
            folder = first if len(inner) == 1 else f"{first}-{number}"
            samples = audio_file.read(path).astype(np.float32)
            if number:
                samples = rng.uniform(0.5, 1) * samples + rng.integers(-1, 2, len(samples))
            out = Path(target, folder, *inner[:-1], f"{inner[-1]}-{number}.wav")
            out.parent.mkdir(parents=True, exist_ok=True)
            audio_file.write(out, np.clip(samples, -32768, 32767).astype(np.int16))
            written += len(samples) / audio_file.SAMPLE_RATE_HZ
            progress.update(len(samples) / audio_file.SAMPLE_RATE_HZ / 60)


def prepare(config: RunConfig) -> None:
    """All that a run does before it trains, step by step."""
    corpus = _measured("reading", lambda: run_corpus.gather(config))
    shards = _measured(
        "shards", lambda: write_shards(corpus, config.corpus.clip_ms, config.cache_dir)
    )
    _measured("features of clips", lambda: _features(config, shards))
    _measured("ambient features", lambda: _ambient(config, corpus, shards))


def _features(config: RunConfig, shards: Shards) -> None:
    split_features(shards, TRAIN, config.frontend, "warm")
    for condition in CONDITIONS:
        split_features(shards, VALIDATION, config.frontend, condition)


def _ambient(config: RunConfig, corpus: Corpus, shards: Shards) -> None:
    background = np.load(shards.directory / "background.npy")
    rooms = read_impulse_responses(config.impulse_response_dir, config.augment.rooms, 0)
    for split in (VALIDATION, TRAIN):
        streams = ambient.of_split(corpus.streams, split)
        same = streams, f"{corpus.sha256} {split}", config.frontend, config.cache_dir
        ambient_passes.as_recorded(*same)
    ambient_passes.in_noise(*same, 1, config.augment, background, rooms)


def _recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in audio_file.SUFFIXES)


def _measured(name: str, step: Callable[[], Result]) -> Result:
    start = time.monotonic()
    with _peak_memory() as peak:
        result = step()
    minutes = (time.monotonic() - start) / 60
    print(f"{name:20}{minutes:9.1f}{peak['RssAnon']:9.0f}{peak['RssFile']:12.0f}", flush=True)
    return result


@contextmanager
def _peak_memory() -> Iterator[dict[str, float]]:
    """The most memory that this process had in the block, in MiB, by its kind in /proc."""
    peak = {"RssAnon": 0.0, "RssFile": 0.0}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLED_EVERY_S):
            lines = Path("/proc/self/status").read_text().splitlines()
            for kind, value in (line.split(":") for line in lines):
                if kind in peak:
                    peak[kind] = max(peak[kind], int(value.split()[0]) / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    command.run(main)
