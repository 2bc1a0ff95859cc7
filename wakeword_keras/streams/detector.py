"""The INT8 model over a long recording, as the device listens: front end, window, average, event.

The front end runs through without a reset. Every `stride_ms` the model scores the newest window of
frames; probabilities are averaged over `average_ms` (zeros before the first, as ESPHome does), and
the wake word with the highest average is detected when that average reaches the threshold.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
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
from wakeword_keras.streams.windows import stream_windows, window_samples
from wakeword_keras.tflite.scorers import Scorer, tflite_scorer

SILENCE_MS = 500  # before and after a recording


@dataclass(frozen=True)
class Detector:
    """A model ready to listen: window of `frames` frames, threshold on the averaged probability."""

    scorer: Scorer
    wake_words: tuple[str, ...]
    frontend: FrontendConfig
    frames: int
    threshold_probability: float

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
      model: folder with manifest.json, or .tflite file, whose wake words are called `output_<i>`.
      threshold_probability: in (0, 1); the bundle's own if None.

    Returns:
      Detector with TFLite's optimized kernels.

    Raises:
      InputError: no such model, or no threshold to go by.
    """
    if threshold_probability is not None and not 0 < threshold_probability < 1:
        raise InputError(f"`threshold_probability`={threshold_probability}: must lie in (0, 1)")
    path = Path(model)
    if path.is_dir():
        manifest = read_manifest(path)
        path = path / manifest["model"]["file"]
        described, wake_words = describe_model(path), tuple(manifest["wake_words"])
        frontend = frontend_of(manifest)
        frames = frontend.num_frames(manifest["clip_ms"] * SAMPLE_RATE_HZ // 1000)
        check_fits(described, frames, wake_words, frontend, path)
        threshold = manifest["threshold"]["probability"]
    else:
        described, frontend = describe_model(path), FrontendConfig()
        wake_words = tuple(f"output_{i}" for i in range(described["output"]["shape"][-1]))
        threshold = None
    if threshold_probability is not None:
        threshold = threshold_probability
    if threshold is None:
        raise InputError(f"{path}: a bare model has no threshold: give `threshold_probability`")
    scorer = tflite_scorer(path, kernels="optimized")
    return Detector(scorer, wake_words, frontend, described["input"]["shape"][1], threshold)


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
      InputError: the stride is not a multiple of the front end's step.
    """
    windows = stream_windows(blocks, detector.frontend, detector.frames, stride_ms)
    none = np.empty((0, len(detector.wake_words)), np.float32)
    return np.concatenate([none, *(detector.scorer(some) for some in windows)])


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
    padded = _in_silence(blocks, before_ms, max(SILENCE_MS, config.average_ms))
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


def _in_silence(
    blocks: Iterable[NDArray[np.int16]], before_ms: int, after_ms: int
) -> Iterator[NDArray[np.int16]]:
    """The blocks between zeros; nothing if they hold no samples."""
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
