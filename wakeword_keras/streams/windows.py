"""Windows of frames over a stream, through a front end that is never reset."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.errors import InputError


def window_samples(frontend: FrontendConfig, frames: int) -> int:
    """Samples of audio under a window of frames."""
    return frontend.window_samples + (frames - 1) * frontend.step_samples


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
            f"`stride_ms`={stride_ms}: must be a multiple of the front end's {frontend.step_ms} ms"
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


def _at_least(blocks: Iterable[NDArray[np.int16]], samples: int) -> Iterable[NDArray[np.int16]]:
    length = 0
    for block in blocks:
        length += len(block)
        yield block
    if 0 < length < samples:
        yield np.zeros(samples - length, np.int16)
