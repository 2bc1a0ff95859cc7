"""The INT8 model over a long recording, as the device listens: front end, window, average, event.

The front end runs through without a reset. Every `stride_ms` the model scores the newest window of
frames; probabilities are averaged over `average_ms` (zeros before the first, as ESPHome does), and
the wake word with the highest average is heard when that average reaches the threshold.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras import events, firmware, runtimes
from wakeword_keras.audio import SAMPLE_RATE_HZ
from wakeword_keras.errors import InputError
from wakeword_keras.events import StreamConfig
from wakeword_keras.features import FrontendConfig, StreamingFrontend


@dataclass(frozen=True)
class Detector:
    """A model ready to listen: window of `frames` frames, threshold on the averaged probability."""

    scorer: runtimes.Scorer
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
    """A wake word heard: seconds from the start to the end of the window, averaged probability."""

    seconds: float
    wake_word: str
    probability: float


def window_samples(frontend: FrontendConfig, frames: int) -> int:
    """Samples of audio under a window of frames."""
    return frontend.window_samples + (frames - 1) * frontend.step_samples


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
        raise InputError(f"threshold_probability={threshold_probability}: must lie in (0, 1)")
    path = Path(model)
    if path.is_dir():
        manifest = firmware.read_manifest(path)
        path = path / manifest["model"]["file"]
        described, wake_words = manifest["model"], tuple(manifest["wake_words"])
        frontend = firmware.frontend_of(manifest)
        threshold = manifest["threshold"]["probability"]
    else:
        described, frontend = firmware.describe_model(path), FrontendConfig()
        wake_words = tuple(f"output_{i}" for i in range(described["output"]["shape"][-1]))
        threshold = None
    if threshold_probability is not None:
        threshold = threshold_probability
    if threshold is None:
        raise InputError(f"{path}: a bare model has no threshold: give threshold_probability")
    scorer = runtimes.tflite_scorer(path, kernels="optimized")
    return Detector(scorer, wake_words, frontend, described["input"]["shape"][1], threshold)


def stream_windows(
    blocks: Iterable[NDArray[np.int16]], frontend: FrontendConfig, frames: int, stride_ms: int
) -> Iterator[NDArray[np.float32]]:
    """What the model sees every `stride_ms`, the first when the first window is full.

    Memory is bounded by a block. Audio shorter than a window is followed by silence.

    Args:
      blocks: int16 [samples] each, of any lengths.
      frontend: runs through the stream without a reset.
      frames: of a window.
      stride_ms: whole steps of the front end.

    Yields:
      float32 [steps, frames, channels], views that share memory; steps >= 1.

    Raises:
      InputError: the stride is not a multiple of the front end's step.
    """
    if stride_ms % frontend.step_ms:
        raise InputError(
            f"stride_ms={stride_ms}: must be a multiple of the front end's {frontend.step_ms} ms"
        )
    stride = stride_ms // frontend.step_ms
    stream = StreamingFrontend(frontend)
    pending = np.empty((0, frontend.channels), np.float32)
    for block in _at_least(blocks, window_samples(frontend, frames)):
        pending = np.concatenate([pending, stream.process(block)])
        steps = max(0, (len(pending) - frames) // stride + 1)
        if steps:
            windows = np.lib.stride_tricks.sliding_window_view(pending, frames, axis=0)
            yield windows[: steps * stride : stride].transpose(0, 2, 1)
            pending = pending[steps * stride :]


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
    """Wake words heard in a recording.

    Args:
      blocks: int16 [samples] each, such as `audio.read_blocks` yields.
      detector: the model and its threshold.
      config: stride, average and refractory time.

    Returns:
      Detections in the order of time.

    Raises:
      InputError: the stride does not fit the front end.
    """
    logits = stream_logits(blocks, detector, config.stride_ms)
    averages = events.probability_sums(logits, config.windows) / config.one
    times = events.detections(
        averages.max(axis=1),
        detector.threshold_probability,
        config.stride_ms,
        config.refractory_ms,
    )
    first_s = detector.window_samples / SAMPLE_RATE_HZ
    heard = averages[np.rint(times * 1000 / config.stride_ms).astype(int)]
    return [
        Detection(first_s + float(time), detector.wake_words[int(row.argmax())], float(row.max()))
        for time, row in zip(times, heard, strict=True)
    ]


def _at_least(blocks: Iterable[NDArray[np.int16]], samples: int) -> Iterable[NDArray[np.int16]]:
    heard = 0
    for block in blocks:
        heard += len(block)
        yield block
    if 0 < heard < samples:
        yield np.zeros(samples - heard, np.int16)
