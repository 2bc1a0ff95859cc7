"""Audio files in and out: everything inside the package is mono, 16 kHz, int16.

Reading takes whatever libsndfile reads (wav, flac, ogg, opus, mp3), any rate and any number of
channels. Samples are scaled by 32768, so that 16 kHz mono 16 bit audio passes through bit for bit;
everything else is averaged over its channels, resampled by soxr ("HQ") and rounded, saturating.

Known limit, of libsndfile: an mp3 of variable bit rate without a Xing header has a guessed length.
"""

import hashlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from wakeword_keras.audio import mp3_tag, ogg_pages, wav_header
from wakeword_keras.errors import InputError
from wakeword_keras.files import write_bytes

SAMPLE_RATE_HZ = 16_000
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")

_WRITABLE = (".wav", ".flac", ".ogg", ".mp3")
_FULL_SCALE = np.float32(32768)
_BLOCK_FRAMES = 1 << 18
_SAMPLE_RATES_HZ = 4_000, 768_000
_SILENT_PEAK = 3  # of 32,768: -80 dBFS
# What libsndfile says of a flac written to a pipe is 2^63 - 1 frames; this is 8 days at 48 kHz.
_ENDLESS_FRAMES = 1 << 35


@dataclass(frozen=True)
class AudioInfo:
    """What a file holds, as it is stored.

    Attributes:
      seconds: length.
      sample_rate_hz: samples per second of each channel.
      channels: how many.
      silent: no sample of all channels' mean is beyond -80 dBFS; only decoding tells.
    """

    seconds: float
    sample_rate_hz: int
    channels: int
    silent: bool = False


def read(
    path: str | os.PathLike[str], start_s: float = 0.0, duration_s: float | None = None
) -> NDArray[np.int16]:
    """Read a file, or a piece of it, as mono 16 kHz.

    Args:
      path: audio file.
      start_s: where the piece begins, in seconds from the start of the file, >= 0.
      duration_s: length of the piece in seconds; None for all that follows `start_s`.

    Returns:
      int16 [samples], round(seconds * 16000) samples of what the file holds of the piece.

    Raises:
      InputError: the file is missing, cannot be decoded, or holds nothing at `start_s`.
    """
    with _open(path) as file:
        rate_hz = file.samplerate
        start = round(start_s * rate_hz)
        if start >= file.frames:
            raise InputError(
                f"{path}: holds no samples at {start_s:g} s: it is {file.frames / rate_hz:g} s long"
            )
        frames = None if duration_s is None else round(duration_s * rate_hz)
        mono = np.concatenate([np.zeros(0, np.float32), *_decode(file, path, start, frames)])
    if rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ)
    return _to_int16(mono)


def read_blocks(
    path: str | os.PathLike[str], start_s: float = 0.0, duration_s: float | None = None
) -> Iterator[NDArray[np.int16]]:
    """Read a file of any length, or a piece of it, as mono 16 kHz in bounded memory.

    Args:
      path: audio file.
      start_s: where the piece begins, in seconds from the start of the file, >= 0.
      duration_s: length of the piece in seconds; None for all that follows `start_s`.

    Yields:
      int16 [samples], together exactly what `read` gives.

    Raises:
      InputError: the file is missing, cannot be decoded or holds no samples there.
    """
    with _open(path) as file:
        # No state and no delay at 16 kHz: the samples pass through.
        resampler = soxr.ResampleStream(file.samplerate, SAMPLE_RATE_HZ, 1)
        start = min(round(start_s * file.samplerate), file.frames)
        frames = None if duration_s is None else round(duration_s * file.samplerate)
        empty = True
        for block in _decode(file, path, start, frames):
            empty = False
            yield _to_int16(resampler.resample_chunk(block))
        if empty:
            where = f" at {start_s:g} s" if start_s else ""
            raise InputError(f"{path}: holds no samples{where}; remove it or record it again")
        yield _to_int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """What the header of a file says, without decoding it.

    Args:
      path: audio file.

    Raises:
      InputError: the file is missing or is not audio.
    """
    with _open(path) as file:
        return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)


def fingerprint(path: str | os.PathLike[str]) -> tuple[AudioInfo, str]:
    """Decode a whole file once, in bounded memory: proves that it is sound, and says what it holds.

    Args:
      path: audio file.

    Returns:
      (info, sha256): info with the length that was really decoded, and the hexadecimal SHA-256 of
      the sample rate and the mono int16 samples. Lossless copies in other containers hash equal.

    Raises:
      InputError: the file is missing, corrupt, cut short or holds no samples.
    """
    _refuse_damage(path)
    digest = hashlib.sha256()
    frames = peak = 0
    with _open(path) as file:
        rate_hz, channels = file.samplerate, file.channels
        digest.update(rate_hz.to_bytes(4, "little"))
        for block in _decode(file, path):
            frames += len(block)
            samples = _to_int16(block)
            peak = max(peak, int(samples.max()), -int(samples.min()))
            digest.update(samples.astype("<i2", copy=False).data)
    if frames == 0:
        raise InputError(f"{path}: holds no samples; remove it or record it again")
    info = AudioInfo(frames / rate_hz, rate_hz, channels, silent=peak <= _SILENT_PEAK)
    return info, digest.hexdigest()


def write(path: str | os.PathLike[str], audio: NDArray[np.int16]) -> None:
    """Write mono 16 kHz audio, atomically; the suffix chooses the format.

    Args:
      path: target, ending in .wav or .flac (16 bit, lossless), .ogg (Vorbis) or .mp3.
      audio: int16 [samples].

    Raises:
      InputError: the suffix is none of these.
    """
    target = Path(path)
    if target.suffix.lower() not in _WRITABLE:
        raise InputError(f"{path}: cannot write this suffix; use one of {', '.join(_WRITABLE)}")
    if audio.dtype != np.int16 or audio.ndim != 1:
        raise ValueError(f"audio must be int16 [samples], got {audio.dtype} {audio.shape}")
    content = io.BytesIO()  # libsndfile does not say that a disk is full
    suffix = target.suffix.lower().removeprefix(".")
    with soundfile.SoundFile(content, "w", SAMPLE_RATE_HZ, 1, format=suffix) as file:
        # In blocks: libsndfile 1.2.2 overflows its stack on one long write of Vorbis.
        for start in range(0, len(audio), _BLOCK_FRAMES):
            file.write(audio[start : start + _BLOCK_FRAMES])
    write_bytes(target, content.getvalue())


def _refuse_damage(path: str | os.PathLike[str]) -> None:
    """Refuse what a decoder passes over: each format's own sizes and checksums disagree."""
    _check_file(path)
    for format_of in (wav_header, ogg_pages, mp3_tag):
        if fault := format_of.find_fault(path):
            raise InputError(
                f"{path}: damaged or cut short: {fault}; remove it or convert it again"
            )


def _check_file(path: str | os.PathLike[str]) -> None:
    check_name(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such audio file")


def check_name(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a path that is no UTF-8, which no message or JSON file could name."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{os.fspath(path)!a}: its name is not UTF-8; rename it") from None


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[soundfile.SoundFile]:
    _check_file(path)
    try:
        with soundfile.SoundFile(wav_header.open_unsized(path) or path) as file:
            if file.frames > _ENDLESS_FRAMES:
                raise InputError(f"{path}: its header does not say its length; convert it again")
            low, high = _SAMPLE_RATES_HZ
            if not low <= file.samplerate <= high:
                raise InputError(
                    f"{path}: its header says {file.samplerate} samples a second, which is not "
                    f"{low} to {high}; remove it or convert it again"
                )
            yield file
    except soundfile.LibsndfileError as error:
        # libsndfile calls a file that only looks like an mp3 "does not exist"; it does.
        reason = (
            "it holds no bytes"
            if os.path.getsize(path) == 0
            else f"it is corrupt or of an unknown format (libsndfile error {error.code})"
        )
        raise InputError(
            f"{path}: cannot be read as audio: {reason}; remove it or copy it again"
        ) from error


def _decode(
    file: soundfile.SoundFile,
    path: str | os.PathLike[str],
    start: int = 0,
    count: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Mono blocks from a frame on, as many frames as there are without `count`.

    Nothing is allocated by what the header promises. A short block before the promised end is
    damage: after a hole libsndfile goes on with samples that are shifted.
    """
    if start and file.seekable():
        file.seek(start)
    elif start:  # GSM
        for _ in _decode(file, path, 0, start):
            pass
    left = sys.maxsize if count is None else count
    position = start
    while left:
        asked = min(left, _BLOCK_FRAMES)
        block = file.read(asked, dtype="float32", always_2d=True)
        position += len(block)
        left -= len(block)
        if len(block):
            yield _mono(block, path)
        if len(block) < asked:
            if position < file.frames:
                raise InputError(
                    f"{path}: damaged or cut short, only {position} of {file.frames} frames "
                    "decode; remove it or convert it again"
                )
            return


def _mono(frames: NDArray[np.float32], path: str | os.PathLike[str]) -> NDArray[np.float32]:
    mono = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise InputError(f"{path}: holds samples that are not finite numbers; export it again")
    return mono


def _to_int16(mono: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.clip(np.rint(mono * _FULL_SCALE), -32768, 32767).astype(np.int16)
