"""A finished run on recordings that it has not seen: its own thresholds, other clips and streams.

Thresholds are those of the run's thresholds.json, as the device has them; nothing is chosen on the
other data. Clips and ambient recordings that trained or validated the run are left out.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras import json_file
from wakeword_keras.audio import audio_file
from wakeword_keras.data import ambient
from wakeword_keras.data.corpus import Clip, Corpus, read_corpus
from wakeword_keras.data.recordings import few, printed_before_an_error
from wakeword_keras.data.shards import Shards, fit_length, read_audio, write_shards
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation.findings import measure
from wakeword_keras.evaluation.run_models import HeldOut, RunModels
from wakeword_keras.names import POSITIVE, TEST, TRAIN, VALIDATION
from wakeword_keras.progress import say
from wakeword_keras.report import report
from wakeword_keras.run import ambient_audio, pipeline
from wakeword_keras.run.config import RunConfig
from wakeword_keras.run.directory import RunDirectory


def evaluate(
    config: RunConfig,
    data_dirs: Sequence[str],
    ambient_dirs: Sequence[str],
    out_dir: str | Path,
) -> None:
    """Measure a run on other data and write a report of its own, with corpus.json beside it.

    Args:
      config: of the finished run; its cache_dir takes the clips.
      data_dirs: folders of recordings, of the wake words and of others; all of them test.
      ambient_dirs: folders of long recordings without a wake word; may be none.
      out_dir: where report.html, report.json and pictures go.

    Raises:
      InputError: the run is not finished, or its thresholds are damaged; the recordings
        lack a wake word, or the run a threshold for streams.
    """
    out = Path(out_dir)
    if out.resolve() in (Path(config.run_dir).resolve(), Path(config.run_dir, "report").resolve()):
        raise InputError(f"`report_dir`={out}: the run's own report lies there; name another")
    chosen = pipeline.open_thresholds(config)
    if ambient_dirs and not chosen.streams:
        raise InputError(
            f"`ambient_dir`: {config.run_dir} has no threshold for streams; train a run with "
            "`ambient_dir`, or evaluate on `data_dir` alone"
        )
    run, corpus, data, models = gather(config, data_dirs, ambient_dirs)
    # Exported after the thresholds were chosen: there is none to judge them by.
    judged = {name: path for name, path in models.onnx.items() if name in chosen.clips.logits}
    models = dataclasses.replace(models, onnx=judged)
    report.write(measure(models, data, chosen), run.directory, out)
    json_file.write_sealed(out / "corpus.json", corpus.summary())
    say(f"report: {out / 'report.html'}")


def gather(
    config: RunConfig, data_dirs: Sequence[str], ambient_dirs: Sequence[str]
) -> tuple[RunDirectory, Corpus, HeldOut, RunModels]:
    """A finished run and other recordings, all of which test.

    Args:
      config: of the finished run; its cache_dir takes the clips.
      data_dirs, ambient_dirs: as `evaluate`.

    Returns:
      The run's directory, the recordings without clips of its own, the same to measure on, and the
      run's models.

    Raises:
      InputError: the run is not finished, or the recordings lack a wake word.
    """
    corpus = read_corpus(data_dirs, config.corpus, only=TEST)
    run, shards, models = pipeline.open_finished(config)
    with printed_before_an_error(corpus.messages):
        corpus = _without_the_runs_own(corpus, shards)
    if ambient_dirs:
        corpus = ambient.join_test(corpus, ambient_dirs, config.corpus)
        with printed_before_an_error(corpus.messages):
            corpus = _without_the_runs_streams(corpus, run)
    for message in corpus.messages:
        say(message)
    data = HeldOut(
        write_shards(corpus, config.corpus.clip_ms, config.cache_dir),
        config.frontend,
        corpus.streams,
        config.max_false_accepts_per_hour,
        config.average_ms,
    )
    return run, corpus, data, models


def _without_the_runs_own(corpus: Corpus, shards: Shards) -> Corpus:
    """The corpus without clips that sound like one the run was trained or chosen on."""
    own = {
        _digest(samples)
        for split in (TRAIN, VALIDATION)
        for samples in read_audio(shards, split)
        if samples.any()
    }
    kept: list[Clip] = []
    dropped: list[Clip] = []
    for clip in corpus.clips:
        samples = audio_file.read(clip.path, clip.start_s, clip.duration_s)
        known = _digest(fit_length(samples, shards.clip_samples)) in own
        (dropped if known else kept).append(clip)
    if not dropped:
        return corpus
    names = [clip.clip_id for clip in dropped]
    message = f"{len(names)} clips trained or validated the run, left out: {few(names)}"
    for word in (*corpus.wake_words, None):
        if not any(clip.label == word if word else clip.group != POSITIVE for clip in kept):
            raise InputError(
                f"`data_dir`: {message}; no clip of {word or 'other sounds'} is left: add others"
            )
    return dataclasses.replace(
        corpus,
        clips=tuple(kept),
        sha256=json_file.digest([corpus.sha256, names]),
        messages=(*corpus.messages, message),
    )


def _without_the_runs_streams(corpus: Corpus, run: RunDirectory) -> Corpus:
    """The corpus without ambient recordings that the run was trained or chosen on."""
    pieces, contents = ambient_audio.pieces(run)
    own = {contents[piece.clip_id] for piece in pieces if piece.split != TEST}
    kept = tuple(piece for piece in corpus.streams if corpus.contents[piece.path] not in own)
    dropped = [piece.clip_id for piece in corpus.streams if piece not in kept]
    if not dropped:
        return corpus
    message = (
        f"{len(dropped)} ambient recordings trained or validated the run, left out: {few(dropped)}"
    )
    if not kept:
        raise InputError(f"`ambient_dir`: {message}; none is left: add others")
    return dataclasses.replace(corpus, streams=kept, messages=(*corpus.messages, message))


def _digest(samples: NDArray[np.int16]) -> bytes:
    return hashlib.sha256(samples.tobytes()).digest()
