"""Other speakers from one: pitch and formants of speech, moved apart from each other.

Children, women and men differ in the pitch of the voice and, less, in the length of the vocal
tract, which scales the formants; resampling would move both by the same factor. The vocoder is
WORLD (Morise, Yokomori and Ozawa, "WORLD: A Vocoder-Based High-Quality Speech Synthesis System for
Real-Time Applications", IEICE 2016).
"""

import importlib.util

import numpy as np

from wakeword_keras.audio.noise_signals import Signal
from wakeword_keras.errors import InputError

_PITCH_HZ = (85.0, 290.0)  # medians, of a low man and of a child
_FORMANTS = (0.82, 1.28)  # times their frequency
_FORMANTS_PER_OCTAVE = 0.16  # high voices have short vocal tracts, on the whole
_FORMANTS_SPREAD = 0.07
_MIDDLE_HZ = 150.0
_RANGE = (0.6, 1.6)  # times the melody's intervals
_TEMPO = (0.9, 1.12)  # times the duration
_FRAME_MS = 5.0
_SEARCHED_HZ, _SPOKEN_HZ = (60.0, 500.0), (55.0, 600.0)
_LEAST_VOICED_FRAMES = 5


def check_installed() -> None:
    """Raises InputError if the vocoder is not installed."""
    if importlib.util.find_spec("pyworld") is None:
        raise InputError(
            "pyworld is not installed, and `synthesis.other_speakers` needs it: "
            "pip install 'wakeword_keras[perturbation]'"
        )


def other_speaker(audio: Signal, rate_hz: int, rng: np.random.Generator) -> tuple[Signal, float]:
    """The same speech by another speaker, drawn from `rng`.

    Args:
        audio: float64 [samples], full scale 1.
        rate_hz: its sample rate, 16 kHz or more.

    Returns:
        float64 [samples]; how many times longer it is. Speech without voice (a whisper) is returned
        as it is.
    """
    import pyworld

    pitch_hz = float(np.exp(rng.uniform(*np.log(_PITCH_HZ))))
    follow = 1 + _FORMANTS_PER_OCTAVE * np.log2(pitch_hz / _MIDDLE_HZ)
    formants = float(np.clip(follow + rng.normal(0, _FORMANTS_SPREAD), *_FORMANTS))
    melody, tempo = rng.uniform(*_RANGE), rng.uniform(*_TEMPO)
    audio = np.ascontiguousarray(audio, np.float64)
    floor_hz, ceiling_hz = _SEARCHED_HZ
    f0_hz, times = pyworld.dio(audio, rate_hz, floor_hz, ceiling_hz, frame_period=_FRAME_MS)
    f0_hz = pyworld.stonemask(audio, f0_hz, times, rate_hz)
    voiced = f0_hz > 0
    if voiced.sum() < _LEAST_VOICED_FRAMES:
        return audio, 1.0
    spectrum = pyworld.cheaptrick(audio, f0_hz, times, rate_hz)
    noise = pyworld.d4c(audio, f0_hz, times, rate_hz)
    intervals = np.log(np.where(voiced, f0_hz, 1.0) / np.median(f0_hz[voiced]))
    moved_hz = np.where(voiced, np.clip(pitch_hz * np.exp(melody * intervals), *_SPOKEN_HZ), 0.0)
    spectrum = np.exp(_scaled(np.log(spectrum), formants))
    noise = np.clip(_scaled(noise, formants), 1e-6, 1.0)
    spoken = pyworld.synthesize(moved_hz, spectrum, noise, rate_hz, _FRAME_MS * tempo)
    return spoken, len(spoken) / len(audio)


def _scaled(frames: Signal, factor: float) -> Signal:
    """Frames [times, bins] with the frequency axis stretched by a factor."""
    bins = np.arange(frames.shape[1])
    source = np.minimum(bins / factor, bins[-1])
    below = source.astype(int)
    above = np.minimum(below + 1, bins[-1])
    share = source - below
    return np.ascontiguousarray(frames[:, below] * (1 - share) + frames[:, above] * share)
