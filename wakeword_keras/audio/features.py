"""Waveform to frames: the microcontroller's own front end ("micro"), and a log-mel spectrogram.

"micro" is the TFLite Micro audio front end with ESPHome's constants, computed by pymicro-features,
which equals the device bit for bit. TensorFlow's `audio_microfrontend` operation does not (it
builds its tables in double precision, the device in float), so the exact one is used in training
too. A value is `uint16 / 25.6`. The front end has a memory, a running noise estimate: it is cold at
the start of a clip and warm in a stream.

"log_mel" is a mel spectrogram in dB (tensorflow-io), each frame by itself: no memory.

Audio is mono 16 kHz int16; features are float32 [clips, frames, channels].
"""

import functools
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pymicro_features import MicroFrontend

from wakeword_keras import affine
from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

KINDS = ("micro", "log_mel")

# Mel magnitude in dB relative to samples of +-1. One LSB of white noise lies near -68 dB and the
# loudest tone near 46 dB: the floor cuts what 16 bits cannot tell from silence.
LOG_MEL_LOW_DB = -60.0
LOG_MEL_HIGH_DB = 50.0


@dataclass(frozen=True)
class FrontendConfig:
    """Which front end turns audio into frames, and their shape.

    Attributes:
      kind: "micro" is the device's, with every number below fixed; only "log_mel" can be shaped.
      window_ms: milliseconds of audio under one frame.
      step_ms: milliseconds from one frame's start to the next one's.
      channels: mel channels of a frame.
      low_hz: lower edge of the lowest channel, in Hz.
      high_hz: upper edge of the highest channel, in Hz.

    Raises:
      InputError: on a value that the front end cannot have.
    """

    kind: str = "micro"
    window_ms: int = 30
    step_ms: int = 10
    channels: int = 40
    low_hz: float = 125.0
    high_hz: float = 7500.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"`frontend.kind`={self.kind!r} is none of {', '.join(KINDS)}")
        if self.kind == "micro":
            self._check_micro()
        else:
            self._check_log_mel()

    def _check_micro(self) -> None:
        for name in ("window_ms", "step_ms", "channels", "low_hz", "high_hz"):
            value, fixed = getattr(self, name), getattr(FrontendConfig, name)
            if value != fixed:
                raise InputError(
                    f"`frontend.{name}`={value}: the device's own front end has {fixed}; "
                    "leave it out or use `frontend.kind`=log_mel"
                )

    def _check_log_mel(self) -> None:
        if not 0 < self.step_ms <= self.window_ms:
            raise InputError(
                f"`frontend.step_ms`={self.step_ms}, `frontend.window_ms`={self.window_ms}: "
                "need 0 < step <= window"
            )
        if not 0 <= self.low_hz < self.high_hz <= SAMPLE_RATE_HZ / 2:
            raise InputError(
                f"`frontend.low_hz`={self.low_hz}, `frontend.high_hz`={self.high_hz}: "
                f"need 0 <= low < high <= {SAMPLE_RATE_HZ // 2}"
            )
        # A mel triangle narrower than two bins of the transform may hold none: a dead channel.
        spacing = (_mel(self.high_hz) - _mel(self.low_hz)) / (max(self.channels, 0) + 1)
        narrowest_hz = _hz(_mel(self.low_hz) + 2 * spacing) - self.low_hz
        if self.channels < 1 or narrowest_hz < SAMPLE_RATE_HZ / self.fft_size:
            raise InputError(
                f"`frontend.channels`={self.channels}: need 1 or more, each with a bin "
                f"of the {self.fft_size}-point transform"
            )

    @property
    def window_samples(self) -> int:
        """Samples under one frame."""
        return self.window_ms * SAMPLE_RATE_HZ // 1000

    @property
    def step_samples(self) -> int:
        """Samples from one frame's start to the next one's."""
        return self.step_ms * SAMPLE_RATE_HZ // 1000

    @property
    def fft_size(self) -> int:
        """Points of the Fourier transform: the power of two that holds a window."""
        return 1 << (self.window_samples - 1).bit_length()

    @property
    def input_affine(self) -> affine.Affine:
        """The pinned int8 quantization of the model's input.

        For "micro" it equals ESPHome's integer rule `(uint16 * 256 + 333) / 666 - 128`, clamped.
        """
        if self.kind == "micro":
            return affine.Affine(666 / 25.6 / 256, affine.INT8_MIN)
        return affine.from_range(LOG_MEL_LOW_DB, LOG_MEL_HIGH_DB)

    def num_frames(self, samples: int) -> int:
        """Whole frames in so many samples (0 if not even one window)."""
        return max(0, (samples - self.window_samples) // self.step_samples + 1)


def compute(
    audio: NDArray[np.int16],
    config: FrontendConfig,
    *,
    frames: int | None = None,
    start: NDArray[np.int32] | None = None,
) -> NDArray[np.float32]:
    """Features of clips, each with a front end of its own that starts cold.

    To warm the front end, put background before the clip, [clips, warm-up + samples] with a
    warm-up of whole steps, and keep the clip's own frames: `frames=config.num_frames(samples)`.

    Args:
      audio: int16 [clips, samples].
      config: the front end.
      frames: keep only the last so many frames; all by default.
      start: int [clips], the first sample of each row that the front end reads, a whole number of
        steps; 0 by default. It must leave `frames` frames.

    Returns:
      float32 [clips, frames, channels].

    Raises:
      ValueError: on audio of another type or shape, or a `start` that cannot be.
    """
    if audio.dtype != np.int16 or audio.ndim != 2:
        raise ValueError(f"audio must be int16 [clips, samples], got {audio.dtype} {audio.shape}")
    kept = config.num_frames(audio.shape[1]) if frames is None else frames
    starts = np.zeros(len(audio), np.int32) if start is None else np.asarray(start)
    latest = (config.num_frames(audio.shape[1]) - kept) * config.step_samples
    if kept and np.any((starts > latest) | (starts < 0) | (starts % config.step_samples != 0)):
        raise ValueError(
            f"cannot keep {kept} frames of {audio.shape[1]} samples from start={starts.tolist()}: "
            f"start must be whole steps of {config.step_samples} between 0 and {latest}"
        )
    if config.kind == "log_mel":
        return _log_mel(audio[:, max(latest, 0) :], config).numpy()
    features = np.empty((len(audio), kept, config.channels), np.float32)
    for row, clip, first in zip(features, audio, starts, strict=True):
        row[:] = _micro(MicroFrontend(), clip[first:], config)[-kept:] if kept else 0
    return features


def graph_features(
    audio: "tf.Tensor",
    config: FrontendConfig,
    *,
    frames: int | None = None,
    start: "tf.Tensor | None" = None,
) -> "tf.Tensor":
    """The values of `compute` inside a graph, such as a tf.data map.

    Args:
      audio: int16 [clips, samples]; samples must be known when the graph is built.
      config, frames, start: as `compute` takes them.

    Returns:
      float32 [clips, frames, channels]; frames and channels are known statically.
    """
    import tensorflow as tf

    total = config.num_frames(int(audio.shape[1]))
    kept = total if frames is None else frames
    if config.kind == "log_mel":
        features = _log_mel(audio[:, (total - kept) * config.step_samples :], config)
    else:
        starts = tf.zeros(tf.shape(audio)[:1], tf.int32) if start is None else start
        features = tf.numpy_function(
            lambda clips, first: compute(clips, config, frames=kept, start=first),
            [audio, starts],
            tf.float32,
            stateful=False,  # every call starts from a reset front end
        )
    return tf.ensure_shape(features, [audio.shape[0], kept, config.channels])


class StreamingFrontend:
    """The front end over a stream, chunk by chunk; its state lives as long as the object.

    Args:
      config: the front end.
    """

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._micro = MicroFrontend() if config.kind == "micro" else None
        self._pending = np.empty(0, np.int16)

    def process(self, audio: NDArray[np.int16]) -> NDArray[np.float32]:
        """Frames that so many more samples complete.

        Args:
          audio: int16 [samples], any number.

        Returns:
          float32 [frames, channels]; frames may be 0.
        """
        if audio.dtype != np.int16 or audio.ndim != 1:
            raise ValueError(f"audio must be int16 [samples], got {audio.dtype} {audio.shape}")
        pending = np.concatenate([self._pending, audio])
        step = self._config.step_samples
        if self._micro is not None:
            # The library keeps the overlap of windows itself: only a broken step waits here.
            self._pending = pending[len(pending) // step * step :]
            return _micro(self._micro, pending, self._config)
        frames = self._config.num_frames(len(pending))
        self._pending = pending[frames * step :]
        return _log_mel(pending[np.newaxis], self._config).numpy()[0]


def _micro(
    frontend: MicroFrontend, audio: NDArray[np.int16], config: FrontendConfig
) -> NDArray[np.float32]:
    """Frames [frames, channels] of the whole steps in audio; the library takes one step a call."""
    raw = audio.astype("<i2", copy=False).tobytes()
    step_bytes = 2 * config.step_samples
    values: list[float] = []
    for i in range(0, len(raw) - step_bytes + 1, step_bytes):
        values += frontend.process_samples(raw[i : i + step_bytes]).features
    return np.array(values, np.float32).reshape(-1, config.channels)


def _log_mel(audio: Any, config: FrontendConfig) -> "tf.Tensor":
    """Mel magnitudes in dB, clipped to the fixed range: float32 [clips, frames, channels]."""
    import tensorflow as tf

    tfio_audio, frames = _tfio_audio(), config.num_frames(int(audio.shape[1]))
    if not frames:
        return tf.zeros([tf.shape(audio)[0], 0, config.channels])
    samples = tf.cast(audio, tf.float32) / 32768.0
    magnitude = tfio_audio.spectrogram(
        samples, config.fft_size, config.window_samples, config.step_samples
    )
    # tensorflow-io pads the end with zeros; a stream has no end, so only whole windows count.
    magnitude = magnitude[:, :frames]
    mel = tfio_audio.melscale(
        magnitude, SAMPLE_RATE_HZ, config.channels, config.low_hz, config.high_hz
    )
    # top_db counts from the clip's maximum, which a stream does not know: beyond reach here.
    decibel = tfio_audio.dbscale(mel, top_db=1000.0, amin=10 ** (LOG_MEL_LOW_DB / 10))
    return tf.clip_by_value(decibel, LOG_MEL_LOW_DB, LOG_MEL_HIGH_DB)


@functools.cache
def _tfio_audio() -> Any:
    """tensorflow_io.audio, without its pages about native kernels, which are not used here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_io

        return tensorflow_io.audio


def _mel(frequency_hz: float) -> float:
    """The mel scale of `tf.signal.linear_to_mel_weight_matrix` (HTK)."""
    return 1127.0 * math.log1p(frequency_hz / 700.0)


def _hz(mel: float) -> float:
    return 700.0 * math.expm1(mel / 1127.0)
