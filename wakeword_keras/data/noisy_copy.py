"""A copy of a data folder with noise in every recording, to measure models in noise."""

import csv
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras import files
from wakeword_keras.audio import audio_file
from wakeword_keras.data.recordings import (
    MANIFEST,
    Recording,
    is_audio,
    list_files,
    list_recordings,
    printed_before_an_error,
)
from wakeword_keras.errors import InputError
from wakeword_keras.progress import say, track

_BLOCK = audio_file.SAMPLE_RATE_HZ // 50
_MARGIN_DB = 15.9  # P.56: what is further below the speech level is no speech


def write(
    data_dirs: Sequence[str], noise_dirs: Sequence[str], snr_db: float, out_dir: str | Path
) -> int:
    """Write every recording with a stretch of noise beneath it, lossless, and a manifest.

    Which noise a recording gets hangs on its id alone, wherever it lies and whatever else is there.

    Args:
      data_dirs: folders of recordings, in one of the layouts of `recordings`.
      noise_dirs: folders of noise, all files below.
      snr_db: `speech_level` over the RMS of the noise beneath, in dB.
      out_dir: data folder to make; it appears whole or not at all.

    Returns:
      How many recordings were written.

    Raises:
      InputError: something is there already, a folder is missing or empty, or a file is bad.
    """
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"`out_dir`={out}: is there already; name a new folder or remove it")
    messages: list[str] = []
    with printed_before_an_error(messages):
        recordings = list_recordings(data_dirs, (), messages)
        noises = _read_noise(noise_dirs)
    for message in messages:
        say(message)

    def fill(folder: Path) -> None:
        for recording in track(recordings, "adding noise", len(recordings), "recordings"):
            path = folder / _name(recording)
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(zlib.crc32(recording.recording_id.encode()))
            noise = noises[rng.integers(len(noises))]
            audio = audio_file.read(recording.path)
            audio_file.write(path, _noisy(audio, noise, snr_db, rng))
        files.write_bytes(folder / MANIFEST, _manifest(recordings).encode())

    files.build_folder(out, fill, lambda folder: (folder / MANIFEST).is_file())
    return len(recordings)


def speech_level(audio: NDArray[np.int16]) -> float:
    """RMS of the speech in a recording, its pauses left out; 0 in silence or less than 20 ms.

    After ITU-T P.56, method B, in blocks of 20 ms and without hangover: the level whose blocks less
    than 15.9 dB below it have that level.

    Args:
      audio: int16 [samples].
    """
    blocks = audio[: len(audio) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).astype(np.float64)
    power = np.mean(blocks**2, axis=1)
    level, speech = 0.0, power > 0
    # Leaving out pauses raises the level, which leaves out more: it ends after a few rounds.
    while speech.any() and (found := float(power[speech].mean())) > level:
        level, speech = found, power > found * 10 ** (-_MARGIN_DB / 10)
    return float(np.sqrt(level))


def _noisy(
    audio: NDArray[np.int16],
    noise: NDArray[np.int16],
    snr_db: float,
    rng: np.random.Generator,
) -> NDArray[np.int16]:
    repeated = np.resize(noise.astype(np.float64), max(len(noise), len(audio)))
    rms = 0.0
    while not rms:  # digital silence within the noise
        start = int(rng.integers(len(repeated) - len(audio) + 1))
        beneath = repeated[start : start + len(audio)]
        rms = float(np.sqrt(np.mean(beneath**2)))
    mix = audio + beneath * (speech_level(audio) / rms * 10 ** (-snr_db / 20))
    return np.clip(np.round(mix), -32768, 32767).astype(np.int16)


def _read_noise(noise_dirs: Sequence[str]) -> list[NDArray[np.int16]]:
    noises = []
    for folder in map(Path, noise_dirs):
        if not folder.is_dir():
            raise InputError(f"`noise_dir`={folder}: no such folder; give a folder of noise")
        for path in filter(is_audio, list_files(folder)):
            noises.append(audio_file.read(path))
            if not noises[-1].any():
                raise InputError(f"{path}: is silent; remove it from `noise_dir`")
    if not noises:
        raise InputError(f"`noise_dir`={','.join(map(str, noise_dirs))}: no audio in it")
    return noises


def _name(recording: Recording) -> str:
    name = recording.recording_id
    return name if Path(name).suffix.lower() in (".wav", ".flac") else f"{name}.flac"


def _manifest(recordings: Sequence[Recording]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label", "speaker", "split"))
    for one in recordings:
        speaker = one.speaker if one.speaker_known else ""
        rows.writerow((_name(one), one.label, speaker, one.split or ""))
    return text.getvalue()
