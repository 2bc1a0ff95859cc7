"""The INT8 model over a long recording, as the device listens: front end, window, average, event.

The front end runs through without a reset. Every `stride_ms` the model scores the newest window of
frames; probabilities are averaged over `average_ms` (zeros before the first, as ESPHome does), and
the wake word with the highest average is detected when that average reaches the threshold.
A streaming model scores each of its steps, from a cold state in every recording; what it says
before its first full window does not count.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.errors import InputError
from wakeword_keras.firmware.manifest import frontend_of, read_manifest
from wakeword_keras.firmware.model_description import check_fits, describe_model
from wakeword_keras.metrics import stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.streams import stepwise
from wakeword_keras.streams.windows import stream_windows, window_samples
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.scorers import Scorer, tflite_scorer

SILENCE_MS = 500  # before and after a recording


@dataclass(frozen=True)
class Detector:
    """A model ready to listen.

    Attributes:
      start: begins a recording: gives a scorer of its windows, one after the other.
      wake_words: of the logits.
      frontend: the front end.
      frames: of a window.
      threshold_probability: on the averaged probability.
      listening: stride, average and refractory time that the threshold is meant for.
      streams: it computes only what is new, so that no other stride is possible.
    """

    start: Callable[[], Scorer]
    wake_words: tuple[str, ...]
    frontend: FrontendConfig
    frames: int
    threshold_probability: float
    listening: StreamConfig
    streams: bool = False

    @property
    def window_samples(self) -> int:
        """Samples of audio under one window of frames."""
        return window_samples(self.frontend, self.frames)


@dataclass(frozen=True)
class Detection:
    """A wake word: seconds from the start to the end of the window, averaged probability."""

    seconds: float
    wake_word: str
    probability: float


def load_detector(model: str | Path, threshold_probability: float | None = None) -> Detector:
    """Open a firmware bundle, or a bare int8 .tflite of the default front end.

    Args:
      model: folder with manifest.json, or .tflite file, whose wake words are called `output_<i>`;
        a bare streaming file counts from its first step on, its window is not known.
      threshold_probability: in (0, 1); the bundle's own if None.

    Returns:
      Detector: a streaming model on the reference kernels, another one on the optimized ones.

    Raises:
      InputError: no such model, or no threshold to go by.
    """
    if threshold_probability is not None and not 0 < threshold_probability < 1:
        raise InputError(f"`threshold_probability`={threshold_probability}: must lie in (0, 1)")
    path = Path(model)
    return (_of_bundle if path.is_dir() else _of_file)(path, threshold_probability)


def _of_bundle(folder: Path, threshold_probability: float | None) -> Detector:
    manifest = read_manifest(folder)
    path, wake_words = folder / manifest["model"]["file"], tuple(manifest["wake_words"])
    frontend = frontend_of(manifest)
    frames = given = frontend.num_frames(manifest["clip_ms"] * SAMPLE_RATE_HZ // 1000)
    start, streaming = _window_starter, manifest["streaming"]
    if streaming:
        start, frames = partial(stepwise.starter, kernels="reference"), streaming["window_frames"]
        given = manifest["listening"]["stride_ms"] // frontend.step_ms
    # Not what the manifest says of the model: what its file says.
    check_fits(describe_model(path), given, wake_words, frontend, path)
    said = {field.name: manifest["listening"][field.name] for field in fields(StreamConfig)}
    return Detector(
        start(path),
        wake_words,
        frontend,
        frames,
        threshold_probability or manifest["threshold"]["probability"],
        StreamConfig(**said),
        streaming is not None,
    )


def _of_file(path: Path, threshold_probability: float | None) -> Detector:
    if threshold_probability is None:
        raise InputError(f"{path}: a bare model has no threshold: give `threshold_probability`")
    main, *others = flatbuffer.read(path)
    for index in (main.inputs[0], main.outputs[0]):
        flatbuffer.int8_affine(main.tensors[index], path)
    frontend, frames = FrontendConfig(), main.tensors[main.inputs[0]].shape[1]
    words = tuple(f"output_{i}" for i in range(main.tensors[main.outputs[0]].shape[-1]))
    if not others:
        start, listening = _window_starter(path), StreamConfig()
    else:
        start = stepwise.starter(path, "reference")
        listening = stream_rule.of_steps(frames * frontend.step_ms)
    return Detector(start, words, frontend, frames, threshold_probability, listening, bool(others))


def _window_starter(path: Path) -> Callable[[], Scorer]:
    scorer = tflite_scorer(path, kernels="optimized")
    return lambda: scorer


def stream_logits(
    blocks: Iterable[NDArray[np.int16]], detector: Detector, stride_ms: int
) -> NDArray[np.float32]:
    """Logits every `stride_ms`, the first when the first window is full.

    Args:
      blocks: int16 [samples] each, of any lengths.
      detector: the model.
      stride_ms: whole steps of the front end.

    Returns:
      float32 [steps, wake_words]; no steps if there is no audio.

    Raises:
      InputError: the stride is not a multiple of the front end's step, or a streaming model's own
        is another.
    """
    if detector.streams and stride_ms != detector.listening.stride_ms:
        raise InputError(
            f"`stride_ms`={stride_ms}: a streaming model gives a score each of its steps, "
            f"{detector.listening.stride_ms} ms"
        )
    windows = stream_windows(blocks, detector.frontend, detector.frames, stride_ms)
    none = np.empty((0, len(detector.wake_words)), np.float32)
    return np.concatenate([none, *map(detector.start(), windows)])


def detect_stream(
    blocks: Iterable[NDArray[np.int16]], detector: Detector, config: StreamConfig
) -> list[Detection]:
    """Wake words in a recording, with silence before and after it.

    A device's microphone runs before and after the word. A recording cut to the word, or no longer
    than the model's window, has too few scores of its own to fill an average.

    Args:
      blocks: int16 [samples] each, such as `audio_file.read_blocks` yields.
      detector: the model and its threshold.
      config: stride, average and refractory time.

    Returns:
      Detections in the order of time; seconds count from the recording's start, without the
      silence, and may lie up to the silence's length after its end.

    Raises:
      InputError: the stride does not fit the front end.
    """
    # Whole strides, so that windows stand where they would without the silence.
    before_ms = math.ceil(SILENCE_MS / config.stride_ms) * config.stride_ms
    padded = in_silence(blocks, before_ms, max(SILENCE_MS, config.average_ms))
    logits = stream_logits(padded, detector, config.stride_ms)
    return [
        replace(found, seconds=max(0.0, found.seconds - before_ms / 1000))
        for found in detections(logits, detector, config)
    ]


def detections(
    logits: NDArray[np.float32], detector: Detector, config: StreamConfig
) -> list[Detection]:
    """Wake words in the scores of a stream.

    Args:
      logits: float32 [steps, wake_words] from `stream_logits`.
      detector: the model and its threshold.
      config: stride, average and refractory time.

    Returns:
      Detections in the order of time.
    """
    averages = stream_rule.probability_sums(logits, config.windows) / config.one
    times = stream_rule.detections(
        averages.max(axis=1),
        detector.threshold_probability,
        config.stride_ms,
        config.refractory_ms,
    )
    first_s = detector.window_samples / SAMPLE_RATE_HZ
    rows = averages[np.rint(times * 1000 / config.stride_ms).astype(int)]
    return [
        Detection(first_s + float(time), detector.wake_words[int(row.argmax())], float(row.max()))
        for time, row in zip(times, rows, strict=True)
    ]


def in_silence(
    blocks: Iterable[NDArray[np.int16]], before_ms: int, after_ms: int
) -> Iterator[NDArray[np.int16]]:
    """The blocks between so many ms of zeros; nothing if they hold no samples."""
    before, after = (
        np.zeros(ms * SAMPLE_RATE_HZ // 1000, np.int16) for ms in (before_ms, after_ms)
    )
    begun = False
    for block in blocks:
        if len(block) and not begun:
            begun = True
            yield before
        yield block
    if begun:
        yield after
