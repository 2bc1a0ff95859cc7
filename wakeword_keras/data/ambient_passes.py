"""The training part of ambient audio, several times over: as recorded, then in noise and rooms.

A device hears speech in the noise that the wake words are mixed with in training. So each further
pass goes through the augmentation of clips, but nothing is moved: noise at an SNR, a room, a gain
and an overdriven microphone are drawn for each STRETCH_S of a stream. Noise runs on through a
stretch, so that only its ends show.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from wakeword_keras.audio import audio_file
from wakeword_keras.audio.augmentation import AugmentConfig, augment_waveform, batch_seed
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data import ambient_features
from wakeword_keras.data.ambient_features import Audio, FeatureStreams
from wakeword_keras.data.corpus import Clip

STRETCH_S = 10
_SHORTEST = audio_file.SAMPLE_RATE_HZ // 10  # less is no speech to augment
_LAYOUT = 1  # raise when files or sound change, so that old caches are not read

Streams = Sequence[Sequence[Clip]]


def as_recorded(
    streams: Streams, content_sha256: str, frontend: FrontendConfig, cache_dir: str | Path
) -> FeatureStreams:
    """Features of streams as they were recorded, from the cache if they are there.

    Args:
      streams: pieces of each.
      content_sha256: of all that is heard.
      frontend: runs through each stream.
      cache_dir: folder for caches.

    Raises:
      InputError: a recording is gone or damaged.
    """
    folder = Path(cache_dir) / f"ambient-{_key(content_sha256, frontend)}"
    return ambient_features.build(folder, streams, frontend, "", lambda _, pieces: _audio(pieces))


def in_noise(
    streams: Streams,
    content_sha256: str,
    frontend: FrontendConfig,
    cache_dir: str | Path,
    number: int,
    augment: AugmentConfig,
    background: NDArray[np.int16],
    impulse_responses: NDArray[np.float32] | None,
) -> FeatureStreams:
    """Features of a further pass, from the cache if they are there.

    Args:
      streams, content_sha256, frontend, cache_dir: as `as_recorded` takes them.
      number: of the pass; each draws anew.
      augment: probabilities and ranges; shifts and warm-up are left out.
      background: int16 [stretches, samples] of noise, may be none.
      impulse_responses: float32 [responses, taps] or None.
    """
    augment = replace(
        augment, shift_ms=0, phrase_end_probability=0.0, warmup_ms=0, warmup_probability=0.0
    )
    sounds = (background, np.empty(0) if impulse_responses is None else impulse_responses)
    digests = [hashlib.sha256(sound.tobytes()).hexdigest() for sound in sounds]
    key = _key(content_sha256, frontend, number, sorted(asdict(augment).items()), digests)

    def audio_of(stream: int, pieces: Sequence[Clip]) -> Audio:
        seed = batch_seed(number, 0, stream)
        return _varied(_audio(pieces), seed, augment, background, impulse_responses)

    folder = Path(cache_dir) / f"ambient-{key}"
    return ambient_features.build(folder, streams, frontend, " in added noise", audio_of)


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((_LAYOUT, *parts)).encode()).hexdigest()[:16]


def _audio(pieces: Sequence[Clip]) -> Audio:
    return itertools.chain.from_iterable(
        audio_file.read_blocks(piece.path, piece.start_s, piece.duration_s) for piece in pieces
    )


def _varied(
    blocks: Audio,
    seed: tf.Tensor,
    augment: AugmentConfig,
    background: NDArray[np.int16],
    impulse_responses: NDArray[np.float32] | None,
) -> Iterator[NDArray[np.int16]]:
    noise = None
    if background.size:
        # One tape: neighbours come from the same recording, so a cut of it is mostly seamless.
        length = 2 * STRETCH_S * audio_file.SAMPLE_RATE_HZ
        noise = tf.constant(np.resize(background, (1, max(background.size, length))))
    for number, stretch in enumerate(_stretches(blocks)):
        if len(stretch) < _SHORTEST:
            yield stretch
            continue
        own_seed = tf.random.experimental.stateless_fold_in(seed, number)
        audio, _ = augment_waveform(
            tf.constant(stretch[None]), own_seed, augment, noise, impulse_responses
        )
        yield audio[0].numpy()


def _stretches(blocks: Audio) -> Iterator[NDArray[np.int16]]:
    """The same samples in stretches of STRETCH_S, the last one up to twice as long."""
    length = STRETCH_S * audio_file.SAMPLE_RATE_HZ
    pending = np.empty(0, np.int16)
    for block in blocks:
        pending = np.concatenate([pending, block])
        while len(pending) >= 2 * length:
            yield pending[:length]
            pending = pending[length:]
    if len(pending):
        yield pending
