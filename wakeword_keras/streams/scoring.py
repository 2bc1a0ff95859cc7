"""Models over streams: the front end runs through, scores become the sums that the device compares.

A split's audio is its ambient streams and each of its wake words in a stream of its own, between
noise. The device's arithmetic is that of TFLite's reference kernels, which are some 60 times slower
than XNNPACK and differ from it by a few LSB. So XNNPACK scores every window, and the reference
kernels score again each window that could reach a useful threshold if the two differed by SLACK_LSB
or, should more be found, by three times the largest difference. From `floor` on, sums are theirs.

Of a model that can run step by step XNNPACK scores long stretches, every frame computed once; where
its logits could matter, the reference kernels score the whole window, which gives the streaming
file's own bits.
"""

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import Affine
from wakeword_keras.audio import audio_file
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data import ambient
from wakeword_keras.data.clips import ClipInfo
from wakeword_keras.data.corpus import Clip
from wakeword_keras.data.shards import AFTER_MS, WARM_MS, Shards, in_noise, read_audio
from wakeword_keras.errors import InputError
from wakeword_keras.metrics import stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.progress import Progress
from wakeword_keras.streams.windows import stream_windows, window_samples
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import device_kernels
from wakeword_keras.tflite.scorers import Scorer, stretch_scorer, tflite_scorer

SLACK_LSB = 4.0
Logits = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True)
class StreamModel:
    """A model to listen with.

    Attributes:
      quick: scores every window; is given those of a recording one after the other.
      exact: scores again what matters; None if `quick`'s scores are what counts.
      output: quantization of int8 logits.
    """

    quick: Scorer
    exact: Scorer | None = None
    output: Affine | None = None


@dataclass(frozen=True)
class StreamSettings:
    """What all models share: the front end, the frames of a window, and the times of listening."""

    frontend: FrontendConfig
    frames: int
    config: StreamConfig

    @property
    def window_ms(self) -> float:
        """Length of a window."""
        return window_samples(self.frontend, self.frames) / audio_file.SAMPLE_RATE_HZ * 1000


@dataclass(frozen=True)
class SplitAudio:
    """The audio of a split: pieces of each ambient stream in order, and where the clips are."""

    shards: Shards
    split: str
    streams: tuple[tuple[Clip, ...], ...]

    @property
    def hours(self) -> float:
        """Length of the ambient streams."""
        pieces = itertools.chain.from_iterable(self.streams)
        return sum(piece.duration_s or 0.0 for piece in pieces) / 3600

    @property
    def positives(self) -> tuple[ClipInfo, ...]:
        """The wake words, in the order of their tracks."""
        return tuple(clip for clip in self.shards.clips[self.split] if clip.target >= 0)

    def recordings(self) -> Iterator[Iterable[NDArray[np.int16]]]:
        """Blocks of int16 [samples] of every ambient stream, then of every wake word in noise."""
        for pieces in self.streams:
            yield itertools.chain.from_iterable(
                audio_file.read_blocks(piece.path, piece.start_s, piece.duration_s)
                for piece in pieces
            )
        if not self.positives:
            return
        mix = in_noise(self.shards, self.split, AFTER_MS)
        clips = self.shards.clips[self.split]
        sounds = read_audio(self.shards, self.split)
        for index, (clip, samples) in enumerate(zip(clips, sounds, strict=True)):
            if clip.target >= 0:
                yield [mix(samples, index)]


@dataclass(frozen=True)
class Tracks:
    """One model over a split: highest sum over the wake words and which word has it.

    Attributes:
      ambient: (uint32 sums [steps], uint8 words [steps]) of each stream.
      positives: uint32 sums [clips, steps] from the clip's start on, uint8 words likewise.
      floor: sums from here on are exact, lower ones may be the quick kernels'.
      rescored: windows that the exact kernels scored, of `windows`.
      largest_difference_lsb: between both kernels on these; None without exact kernels.
    """

    ambient: tuple[tuple[NDArray[np.uint32], NDArray[np.uint8]], ...]
    positives: tuple[NDArray[np.uint32], NDArray[np.uint8]]
    floor: int
    windows: int
    rescored: int
    largest_difference_lsb: float | None

    @property
    def sums(self) -> list[NDArray[np.uint32]]:
        """Of the ambient streams."""
        return [sums for sums, _ in self.ambient]


def open_models(paths: Mapping[str, Path], streaming: Container[str]) -> dict[str, StreamModel]:
    """Models to listen with: float by XNNPACK, int8 by XNNPACK and the reference kernels.

    Args:
      paths: .tflite files by model name, which take windows.
      streaming: names of those that can run step by step.

    Raises:
      InputError: a file is missing or no such model.
    """
    models = {}
    for name, path in paths.items():
        output, exact = flatbuffer.output_affine(path), None
        if output is not None:
            kernels = device_kernels(flatbuffer.operators(path))
            exact = _of_newest(tflite_scorer(path, kernels), path)
        quick = stretch_scorer if name in streaming else tflite_scorer
        models[name] = StreamModel(quick(path, "xnnpack"), exact, output)
    return models


def _of_newest(scorer: Scorer, path: Path) -> Scorer:
    """The frames that a window model takes: windows of whole steps may hold a few more."""
    graph = flatbuffer.read_graph(path)
    frames = graph.tensors[graph.inputs[0]].shape[1]
    return lambda windows: scorer(windows[:, -frames:])


def split_audio(shards: Shards, streams: Iterable[Clip], split: str) -> SplitAudio:
    """The audio of a split.

    Args:
      shards: the corpus, with wake words in this split.
      streams: `Corpus.streams`, of any split.
      split: "validation" or "test".

    Raises:
      InputError: there are no wake words or no streams.
    """
    found = SplitAudio(shards, split, ambient.of_split(streams, split))
    if not found.positives:
        raise InputError(f"the {split} split has no wake word to miss: add recordings or speakers")
    if not found.hours:
        raise InputError(f"the {split} split has no ambient audio: give `ambient_dir`")
    return found


@dataclass
class _Scores:
    """A model's scores of a split's recordings, streams first: the quick ones, then exact ones."""

    model: StreamModel
    logits: Logits
    exact: Masks  # steps that the exact kernels have scored
    useful: int = 0  # lower sums than this are no threshold
    floor: int = 0
    slack_lsb: float = SLACK_LSB
    worst_lsb: float = 0.0

    def sums(self, config: StreamConfig, slack_lsb: float) -> list[NDArray[np.int64]]:
        """Highest sums [steps], were scores of the quick kernels so many LSB too low."""
        step = 0.0 if self.model.output is None else self.model.output.scale
        return [
            stream_rule.probability_sums(
                values + slack_lsb * step * ~done[:, None], config.windows
            ).max(axis=1)
            for values, done in zip(self.logits, self.exact, strict=True)
        ]

    def not_exact(self, config: StreamConfig) -> Masks:
        """Steps still to be scored exactly: those of a sum that could reach the floor."""
        if self.model.exact is None:
            return [np.zeros(len(done), bool) for done in self.exact]
        sums = self.sums(config, self.slack_lsb)
        return [
            _reaching(sums >= self.floor, config.windows) & ~done
            for sums, done in zip(sums, self.exact, strict=True)
        ]

    def add_exact(self, masks: Masks, worst_lsb: float) -> None:
        """Note which steps are exact now, and how far the quick kernels were off there."""
        self.exact = [done | mask for done, mask in zip(self.exact, masks, strict=True)]
        self.worst_lsb = max(self.worst_lsb, worst_lsb)
        if 2 * self.worst_lsb > self.slack_lsb:
            self.slack_lsb = 3 * self.worst_lsb


def score(
    audio: SplitAudio,
    models: Mapping[str, StreamModel],
    settings: StreamSettings,
    most_useful: float,
    most_allowed: float | None = None,
    thresholds: Mapping[str, int] | None = None,
) -> dict[str, Tracks]:
    """Listen to a split with every model.

    Memory is bounded by the logits, 4 bytes a stride and wake word for each model.

    Args:
      audio: the audio.
      models: by name.
      settings: front end and times.
      most_useful: thresholds with more false accepts in all of the streams are of no use.
      most_allowed: sums have to be exact from the highest one on that, as threshold, gives more.
      thresholds: sums that have to be exact in any case, by model.

    Returns:
      Tracks by model name.

    Raises:
      InputError: the streams are shorter than a window, or a recording is gone.
      ValueError: a model gives NaN or infinity.
    """
    streams, config = len(audio.streams), settings.config
    scores = _quick_scores(audio, models, settings)
    for model in scores.values():
        quick = model.sums(config, 0.0)[:streams]
        if not any(map(len, quick)):
            raise InputError(f"`ambient_dir`: the {audio.split} streams are shorter than a window")
        _, model.useful = stream_rule.budget_range(quick, most_useful, config.refractory_steps)
    while True:
        for name, model in scores.items():
            model.floor = _floor(model, streams, config, most_allowed, (thresholds or {}).get(name))
        masks = {name: model.not_exact(config) for name, model in scores.items()}
        masks = {name: found for name, found in masks.items() if any(map(np.any, found))}
        if not masks:
            return {name: _tracks(model, audio, settings) for name, model in scores.items()}
        for name, worst_lsb in _rescore(audio, scores, settings, masks).items():
            scores[name].add_exact(masks[name], worst_lsb)


def _floor(
    scores: _Scores,
    streams: int,
    config: StreamConfig,
    most_allowed: float | None,
    threshold: int | None,
) -> int:
    """The sum from which on all must be exact, as far as is known by now."""
    floors = [scores.useful] if threshold is None else [scores.useful, threshold]
    if most_allowed is not None:
        likely = scores.sums(config, 0.0)[:streams]
        breaking, keeping = stream_rule.budget_range(likely, most_allowed, config.refractory_steps)
        floors.append(keeping if breaking is None else breaking)
    return min(floors)


def _reaching(sums: NDArray[np.bool_], windows: int) -> NDArray[np.bool_]:
    """Every step whose score is part of one of these sums."""
    parts = sums.copy()
    for back in range(1, min(windows, len(sums))):
        parts[:-back] |= sums[back:]
    return parts


def _quick_scores(
    audio: SplitAudio, models: Mapping[str, StreamModel], settings: StreamSettings
) -> dict[str, _Scores]:
    """Every recording by the quick kernels: logits [steps, wake_words], nothing exact."""
    width = len(audio.shards.wake_words)
    logits: dict[str, Logits] = {name: [] for name in models}
    clip_s = audio.shards.clip_samples / audio_file.SAMPLE_RATE_HZ + (WARM_MS + AFTER_MS) / 1000
    minutes = audio.hours * 60 + len(audio.positives) * clip_s / 60
    title = f"listening ({audio.split})"
    with Progress(title, minutes, "minutes of audio") as progress:
        for blocks in audio.recordings():
            parts: dict[str, Logits] = {name: [np.empty((0, width), np.float32)] for name in models}
            for windows in _windows(blocks, settings):
                for name, model in models.items():
                    parts[name].append(model.quick(windows))
                progress.update(len(windows) * settings.config.stride_ms / 60_000)
            for name, scored in parts.items():
                logits[name].append(np.concatenate(scored))
    return {
        name: _Scores(model, logits[name], [np.zeros(len(values), bool) for values in logits[name]])
        for name, model in models.items()
    }


def _rescore(
    audio: SplitAudio,
    scores: Mapping[str, _Scores],
    settings: StreamSettings,
    masks: Mapping[str, Masks],
) -> dict[str, float]:
    """Put the exact kernels' logits into these steps: largest difference in LSB, by model."""
    worst = dict.fromkeys(masks, 0.0)
    total = sum(int(mask.sum()) for found in masks.values() for mask in found)
    title = f"reference kernels ({audio.split})"
    with Progress(title, total, "windows") as progress:
        for number, blocks in enumerate(audio.recordings()):
            chosen = {name: found[number] for name, found in masks.items() if found[number].any()}
            first = 0
            for windows in _windows(blocks, settings) if chosen else ():
                for name, mask in chosen.items():
                    rows = np.flatnonzero(mask[first : first + len(windows)])
                    model, track = scores[name].model, scores[name].logits[number]
                    if rows.size and model.exact is not None and model.output is not None:
                        scored = model.exact(windows[rows])
                        gap = float(np.abs(scored - track[first + rows]).max())
                        worst[name] = max(worst[name], gap / model.output.scale)
                        track[first + rows] = scored
                        progress.update(rows.size)
                first += len(windows)
    return worst


def _windows(
    blocks: Iterable[NDArray[np.int16]], settings: StreamSettings
) -> Iterator[NDArray[np.float32]]:
    return stream_windows(blocks, settings.frontend, settings.frames, settings.config.stride_ms)


def _tracks(scores: _Scores, audio: SplitAudio, settings: StreamSettings) -> Tracks:
    best = [_best(values, settings.config.windows) for values in scores.logits]
    ambient, spoken = best[: len(audio.streams)], best[len(audio.streams) :]
    # A window that ends before the clip begins holds noise alone.
    noise_ms = WARM_MS - settings.window_ms
    first = int(noise_ms // settings.config.stride_ms) + 1 if noise_ms >= 0 else 0
    sums = np.stack([sums[first:] for sums, _ in spoken])
    words = np.stack([words[first:] for _, words in spoken])
    return Tracks(
        tuple(ambient),
        (sums, words),
        scores.floor,
        sum(map(len, scores.logits)),
        int(sum(mask.sum() for mask in scores.exact)),
        None if scores.model.exact is None else round(scores.worst_lsb, 3),
    )


def _best(
    logits: NDArray[np.float32], windows: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    sums = stream_rule.probability_sums(logits, windows)
    return sums.max(axis=1).astype(np.uint32), sums.argmax(axis=1).astype(np.uint8)
