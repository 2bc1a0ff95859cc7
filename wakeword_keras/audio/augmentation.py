"""Augmentation of training clips inside tf.data: waveforms first, features (SpecAugment) after.

Everything works on a batch at once and draws its randomness from the seed it is given, and from
nothing else: the same seed gives the same batch, however many calls run in parallel. That is why
the SpecAugment masks are drawn here: tensorflow-io's `freq_mask` and `time_mask` draw from the
stateful `tf.random.uniform`, whose order under a parallel map is a race.

Levels are RMS; SNR and gain are in dB; audio is mono 16 kHz int16, saturated and never wrapped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.errors import InputError

_SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000
# Backgrounds are cut on this grid: copying rows of 10 ms is much faster than single samples.
_BACKGROUND_GRID = 10 * _SAMPLES_PER_MS

# End-pointing: speech is what is within 30 dB of the loudest, and 9 dB above the quietest tenth.
_BLOCK = 10 * _SAMPLES_PER_MS
_BELOW_LOUDEST_DB, _ABOVE_QUIETEST_DB = 30.0, 9.0
_RUN = 5  # blocks, of which four are speech: a click is none
# Between the clip's own speech and other speech around it.
_PAUSE_MS = (50.0, 400.0)
_FADE = 10 * _SAMPLES_PER_MS


@dataclass(frozen=True)
class AugmentConfig:
    """How far training clips are varied. Ranges are drawn from uniformly.

    Attributes:
      background_probability: share of clips mixed with background, 0 to 1.
      snr_low_db: lowest ratio of the clip's RMS to the background's, in dB.
      snr_high_db: highest ratio of the clip's RMS to the background's, in dB.
      gain_low_db: lowest gain of the mix, in dB.
      gain_high_db: highest gain of the mix, in dB.
      shift_ms: milliseconds that a clip moves at most, either way; zeros fill in.
      reverberation_probability: share of clips convolved with an impulse response, if any, 0 to 1.
      rooms: how many times a room and a microphone are simulated, whose impulse responses are
        taken where `impulse_response_dir` gives none; 0 for never.
      phrase_end_probability: share of clips moved so that their speech, if it ends within them,
        ends shortly before they do, as when a device hears it, 0 to 1.
      phrase_end_ms: milliseconds before the end of the clip at which such speech ends at most.
      speech_around_probability: share of clips with other people's speech before their own, and
        the share with it behind, if there is any, 0 to 1.
      speech_around_db: dB by which that speech is louder or softer at most.
      speech_beneath_probability: share of clips with other people's speech all through, at a ratio
        drawn as that of the background, 0 to 1.
      clipping_probability: share of clips that overdrive the microphone, 0 to 1.
      clipping_db: dB by which they do at most.
      warmup_ms: milliseconds of background before a warmed clip; a multiple of 10.
      warmup_probability: share of clips warmed, 0 to 1; these always carry background.
      time_masks: SpecAugment masks over time, for each clip.
      time_mask_frames: frames that the widest mask over time takes.
      frequency_masks: SpecAugment masks over channels, for each clip.
      frequency_mask_channels: channels that the widest mask over channels takes.

    Raises:
      InputError: on a probability outside [0, 1], an empty range or a negative size.
    """

    background_probability: float = 0.7
    snr_low_db: float = 0.0
    snr_high_db: float = 45.0
    gain_low_db: float = -10.0
    gain_high_db: float = 6.0
    shift_ms: int = 60
    reverberation_probability: float = 0.5
    rooms: int = 32
    phrase_end_probability: float = 0.0
    phrase_end_ms: int = 300
    speech_around_probability: float = 0.4
    speech_around_db: float = 10.0
    speech_beneath_probability: float = 0.2
    clipping_probability: float = 0.1
    clipping_db: float = 12.0
    warmup_ms: int = 500
    warmup_probability: float = 0.5
    time_masks: int = 1
    time_mask_frames: int = 10
    frequency_masks: int = 1
    frequency_mask_channels: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise InputError(f"`{name}`={value}: a probability lies between 0 and 1")
            ranged = name.startswith(("snr", "gain")) or name.endswith("_probability")
            if not ranged and value < 0:
                raise InputError(f"`{name}`={value}: must not be negative")
        for name in ("snr", "gain"):
            low, high = getattr(self, f"{name}_low_db"), getattr(self, f"{name}_high_db")
            if low > high:
                raise InputError(f"`{name}_low_db`={low} exceeds `{name}_high_db`={high}")
        if self.warmup_ms % 10:
            raise InputError(f"`warmup_ms`={self.warmup_ms}: must be a multiple of 10")

    @property
    def warmup_samples(self) -> int:
        """Samples of background before each clip."""
        return self.warmup_ms * _SAMPLES_PER_MS


def batch_seed(seed: int | tf.Tensor, epoch: int | tf.Tensor, batch: int | tf.Tensor) -> tf.Tensor:
    """The seed of one batch of one epoch: int64 [2], for `augment_waveform` and `spec_augment`."""
    pair = tf.stack([tf.cast(seed, tf.int64), tf.cast(epoch, tf.int64)])
    return tf.random.experimental.stateless_fold_in(pair, tf.cast(batch, tf.int64))


def augment_waveform(
    audio: tf.Tensor,
    seed: tf.Tensor,
    config: AugmentConfig,
    background: tf.Tensor | None = None,
    impulse_responses: tf.Tensor | None = None,
    speech: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reverberation, shift, other speech, background at an SNR, gain; and noise before the clip.

    One stretch of background spans the warm-up and the clip, so that the front end's noise estimate
    has met the noise that the clip is in. The SNR compares the RMS of the shifted clip with the RMS
    of that whole stretch. A silent clip therefore stays silent.

    Args:
      audio: int16 [clips, samples], samples known statically.
      seed: int [2], see `batch_seed`.
      config: what to do and how far.
      background: int16 [pieces, piece samples], pieces at least warm-up + samples long; without it
        no clip is mixed or warmed.
      impulse_responses: float32 [responses, taps] from `prepare_impulse_responses`, or None.
      speech: int16 [pieces, piece samples] of people who say no wake word, as long as background;
        without it no clip has other speech around or beneath it. Needs background.

    Returns:
      audio int16 [clips, warm-up + samples] (warm-up 0 without background), and start int32
      [clips]: the first sample the front end is to run over, 0 for a warmed clip, else the warm-up.
      These are what `features.graph_features` takes, with `frames` those of the clip alone.
    """
    clips, samples = tf.shape(audio)[0], int(audio.shape[1])
    lead = 0 if background is None else config.warmup_samples
    draw = tf.unstack(tf.random.stateless_uniform([9, clips], _stream(seed, 0)))
    more = tf.unstack(tf.random.stateless_uniform([4, clips], _stream(seed, 3)))
    span = speech_span(audio)
    if impulse_responses is not None:
        chosen = draw[0] < config.reverberation_probability
        audio = _reverberate(audio, chosen, draw[1], impulse_responses)
    later_ms, most_ms = _movement(span, samples, draw[2], more[:2], config)
    clip = tf.cast(_shift(audio, later_ms, most_ms, lead), tf.float32)
    gain = _from_db(_between(draw[3], config.gain_low_db, config.gain_high_db))
    if background is None:
        mix = _overdriven(clip, more[2:4], config) * gain[:, None]
        return _to_int16(mix), tf.zeros([clips], tf.int32)
    warmed = draw[4] < config.warmup_probability
    mixed = warmed | (draw[5] < config.background_probability)
    noise = tf.cast(_cut(background, draw[6], draw[7], lead + samples), tf.float32)
    snr = _from_db(_between(draw[8], config.snr_low_db, config.snr_high_db))
    # The lead of `clip` is zeros: its RMS over the clip alone needs no slice.
    clip_rms = _rms(clip, samples)
    level = tf.math.divide_no_nan(clip_rms, _rms(noise, lead + samples) * snr)
    level = tf.where(mixed, level, 0.0)
    if speech is not None:
        moved = [lead + later_ms * _SAMPLES_PER_MS + edge for edge in span]
        clip += _other_speech(speech, lead + samples, clip_rms, moved, _stream(seed, 4), config)
    mix = _overdriven(clip + noise * level[:, None], more[2:4], config)
    return _to_int16(mix * gain[:, None]), tf.where(warmed, 0, lead)


def speech_span(audio: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where speech begins and ends, by energy in blocks of 10 ms.

    Args:
      audio: int16 [clips, samples].

    Returns:
      int32 [clips] each: first sample and the one after the last; those of the whole clip where it
      is silent or nearly as loud throughout.
    """
    samples = int(audio.shape[1])
    blocks = tf.reshape(
        tf.cast(audio[:, : samples // _BLOCK * _BLOCK], tf.float32), [-1, samples // _BLOCK, _BLOCK]
    )
    level_db = 10 * tf.math.log(tf.reduce_mean(tf.square(blocks), axis=2) + 1.0) / math.log(10)
    loudest = tf.reduce_max(level_db, axis=1, keepdims=True)
    quietest = tf.sort(level_db, axis=1)[:, samples // _BLOCK // 10, None]
    above = tf.minimum(quietest + _ABOVE_QUIETEST_DB, (quietest + loudest) / 2)
    on = tf.cast(level_db > tf.maximum(loudest - _BELOW_LOUDEST_DB, above), tf.float32)[..., None]
    run = tf.nn.avg_pool1d(on, _RUN, 1, "SAME") > (_RUN - 1.5) / _RUN
    near = tf.nn.max_pool1d(tf.cast(run, tf.float32), _RUN, 1, "SAME")
    heard = (near * on)[..., 0] > 0
    steady = loudest - quietest < _ABOVE_QUIETEST_DB
    found = tf.reduce_any(heard, axis=1) & ~steady[:, 0]
    first = tf.argmax(heard, axis=1, output_type=tf.int32)
    after = tf.argmax(heard[:, ::-1], axis=1, output_type=tf.int32)
    start = tf.where(found, first * _BLOCK, 0)
    return start, tf.where(found, (samples // _BLOCK - after) * _BLOCK, samples)


def spec_augment(
    features: tf.Tensor, seed: tf.Tensor, config: AugmentConfig, fill: float = 0.0
) -> tf.Tensor:
    """Masks stretches of frames and of channels (SpecAugment without time warping).

    Park et al. 2019, https://arxiv.org/abs/1904.08779, section 2: a mask's width is uniform in
    [0, widest], its start uniform in [0, size - width].

    Args:
      features: float32 [clips, frames, channels].
      seed: int [2], see `batch_seed`.
      config: how many masks, how wide.
      fill: what masked values become; the front end's silence.

    Returns:
      float32 of the same shape.
    """
    shape = tf.shape(features)
    frames = _masks(
        _stream(seed, 1), shape[0], config.time_masks, config.time_mask_frames, shape[1]
    )
    channels = _masks(
        _stream(seed, 2), shape[0], config.frequency_masks, config.frequency_mask_channels, shape[2]
    )
    return tf.where(frames[:, :, None] | channels[:, None, :], fill, features)


def prepare_impulse_responses(
    responses: Sequence[NDArray], longest_ms: int = 500
) -> NDArray[np.float32]:
    """Room impulse responses as one bank, each beginning at its direct sound.

    Args:
      responses: int16 or float32 [taps] each, at 16 kHz.
      longest_ms: tails are cut here.

    Returns:
      float32 [responses, taps], padded with zeros, direct sound +-1.

    Raises:
      InputError: on a silent response.
    """
    taps = longest_ms * _SAMPLES_PER_MS
    bank = np.zeros((len(responses), taps), np.float32)
    for i, (row, response) in enumerate(zip(bank, responses, strict=True)):
        if not np.any(response):
            raise InputError(f"impulse response {i} is silent: leave it out")
        direct = int(np.argmax(np.abs(response.astype(np.float64))))
        tail = response[direct : direct + taps].astype(np.float32)
        row[: len(tail)] = tail / np.abs(tail[0])
    return bank


def _stream(seed: tf.Tensor, number: int) -> tf.Tensor:
    """A seed of its own for each user of one batch's seed."""
    return tf.random.experimental.stateless_fold_in(seed, number)


def _between(draw: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + draw * (high - low)


def _from_db(decibel: tf.Tensor) -> tf.Tensor:
    return tf.pow(10.0, decibel / 20.0)


def _rms(audio: tf.Tensor, samples: int) -> tf.Tensor:
    return tf.sqrt(tf.reduce_sum(tf.square(audio), axis=1) / samples)


def _to_int16(audio: tf.Tensor) -> tf.Tensor:
    """Rounded and saturated: beyond its vectorised part, the cast alone wraps around."""
    return tf.cast(tf.round(tf.clip_by_value(audio, -32768.0, 32767.0)), tf.int16)


def _pick(draw: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """An index below count from a uniform draw in [0, 1)."""
    count = tf.cast(count, tf.float32)
    return tf.cast(tf.minimum(draw * count, count - 1), tf.int32)


def _movement(
    span: tuple[tf.Tensor, tf.Tensor],
    samples: int,
    draw: tf.Tensor,
    to_end: list[tf.Tensor],
    config: AugmentConfig,
) -> tuple[tf.Tensor, int]:
    """Whole ms by which each clip is to be later, int32 [clips], and the most it can be."""
    later_ms = config.shift_ms - _pick(draw, 2 * config.shift_ms + 1)
    if not config.phrase_end_probability:
        return later_ms, config.shift_ms
    start, end = span
    # Speech that runs into the end of its clip may go on behind it: nobody knows where it ends.
    ends = end < samples - 2 * _BLOCK
    chosen = ends & (to_end[0] < config.phrase_end_probability)
    before_end_ms = _pick(to_end[1], config.phrase_end_ms + 1)
    wanted_ms = (samples - end) // _SAMPLES_PER_MS - before_end_ms
    wanted_ms = tf.maximum(wanted_ms, -start // _SAMPLES_PER_MS)
    most_ms = max(config.shift_ms, samples // _SAMPLES_PER_MS)
    return tf.where(chosen, wanted_ms, later_ms), most_ms


def _other_speech(
    speech: tf.Tensor,
    samples: int,
    clip_rms: tf.Tensor,
    span: list[tf.Tensor],
    seed: tf.Tensor,
    config: AugmentConfig,
) -> tf.Tensor:
    """A stretch of speech for each clip, before, behind or beneath its own: float32."""
    draw = tf.unstack(tf.random.stateless_uniform([9, tf.shape(clip_rms)[0]], seed))
    stretch = tf.cast(_cut(speech, draw[0], draw[1], samples), tf.float32)
    pause = [_between(d, *_PAUSE_MS) * _SAMPLES_PER_MS for d in draw[2:4]]
    start, end = (tf.cast(edge, tf.float32) for edge in span)
    place = tf.range(samples, dtype=tf.float32)
    before = tf.clip_by_value(((start - pause[0])[:, None] - place) / _FADE, 0.0, 1.0)
    behind = tf.clip_by_value((place - (end + pause[1])[:, None]) / _FADE, 0.0, 1.0)
    share = config.speech_around_probability
    around = tf.where((draw[4] < share)[:, None], before, 0.0)
    around += tf.where((draw[5] < share)[:, None], behind, 0.0)
    louder = _from_db(_between(draw[6], -config.speech_around_db, config.speech_around_db))
    snr = _from_db(_between(draw[7], config.snr_low_db, config.snr_high_db))
    beneath = tf.where(draw[8] < config.speech_beneath_probability, 1 / snr, 0.0)
    ratio = tf.maximum(around * louder[:, None], beneath[:, None])
    return stretch * ratio * tf.math.divide_no_nan(clip_rms, _rms(stretch, samples))[:, None]


def _overdriven(audio: tf.Tensor, draw: list[tf.Tensor], config: AugmentConfig) -> tf.Tensor:
    """The chosen clips, cut off at a level below their peak."""
    chosen = draw[0] < config.clipping_probability
    peak = tf.reduce_max(tf.abs(audio), axis=1)
    limit = peak * tf.where(chosen, _from_db(-draw[1] * config.clipping_db), 1.0)
    return tf.clip_by_value(audio, -limit[:, None], limit[:, None])


def _shift(audio: tf.Tensor, later_ms: tf.Tensor, most_ms: int, lead: int) -> tf.Tensor:
    """Each clip so many ms later, at most most_ms either way, behind a lead of zeros."""
    samples = int(audio.shape[1])
    margin = most_ms * _SAMPLES_PER_MS
    tail = -samples % _SAMPLES_PER_MS
    padded = tf.pad(audio, [[0, 0], [margin, margin + tail]])
    # Rows of 1 ms, gathered with an offset: a block copy, as no sample is addressed alone.
    rows = tf.reshape(padded, [tf.shape(audio)[0], -1, _SAMPLES_PER_MS])
    first = most_ms - later_ms
    wanted = first[:, None] + tf.range((samples + tail) // _SAMPLES_PER_MS)
    moved = tf.reshape(tf.gather(rows, wanted, batch_dims=1), [-1, samples + tail])
    return tf.pad(moved[:, :samples], [[0, 0], [lead, 0]])


def _cut(background: tf.Tensor, piece: tf.Tensor, place: tf.Tensor, samples: int) -> tf.Tensor:
    """One stretch of `samples` per draw of a piece and a place in it, on the background grid."""
    pieces, per_piece = (int(size) for size in background.shape)
    wanted = -(-samples // _BACKGROUND_GRID)
    rows_per_piece = per_piece // _BACKGROUND_GRID
    starts = rows_per_piece - wanted + 1
    if starts < 1:
        raise InputError(
            f"background pieces of {per_piece} samples are shorter than warm-up and clip "
            f"({wanted * _BACKGROUND_GRID} samples): cut longer pieces"
        )
    rows = tf.reshape(background[:, : rows_per_piece * _BACKGROUND_GRID], [-1, _BACKGROUND_GRID])
    first = _pick(piece, pieces) * rows_per_piece + _pick(place, starts)
    stretch = tf.gather(rows, first[:, None] + tf.range(wanted))
    return tf.reshape(stretch, [-1, wanted * _BACKGROUND_GRID])[:, :samples]


def _reverberate(
    audio: tf.Tensor, chosen: tf.Tensor, draw: tf.Tensor, impulse_responses: tf.Tensor
) -> tf.Tensor:
    """Convolves the chosen clips with a response each, keeping their RMS and length."""
    samples, taps = int(audio.shape[1]), int(impulse_responses.shape[1])
    where = tf.where(chosen)
    dry = tf.cast(tf.gather_nd(audio, where), tf.float32)
    picked = _pick(tf.gather_nd(draw, where), int(impulse_responses.shape[0]))
    # Whole tenths of a second: no wrap-around, and a length that has small factors.
    fft = -(-(samples + taps) // 1600) * 1600
    # Padded here: `rfft` does not pad where nothing was chosen, and fails when called eagerly.
    responses = tf.pad(tf.gather(impulse_responses, picked), [[0, 0], [0, fft - taps]])
    padded = tf.pad(dry, [[0, 0], [0, fft - samples]])
    wet = tf.signal.irfft(tf.signal.rfft(padded) * tf.signal.rfft(responses))[:, :samples]
    level = tf.math.divide_no_nan(_rms(dry, samples), _rms(wet, samples))
    return tf.tensor_scatter_nd_update(audio, where, _to_int16(wet * level[:, None]))


def _masks(
    seed: tf.Tensor, clips: tf.Tensor, count: int, widest: int, size: tf.Tensor
) -> tf.Tensor:
    """True under any of `count` random stretches of at most `widest`: bool [clips, size]."""
    draw = tf.random.stateless_uniform([2, clips, count], seed)
    width = tf.minimum(_pick(draw[0], widest + 1), size)
    first = _pick(draw[1], size - width + 1)
    place = tf.range(size)[None, None, :]
    under = (place >= first[..., None]) & (place < (first + width)[..., None])
    return tf.reduce_any(under, axis=1)
