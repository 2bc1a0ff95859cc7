"""New speakers from one voice: its pitch and its formants moved, each by a factor of its own.

Played faster, a recording has both moved by the same factor. So the envelope of the short-time
spectrum, which holds the formants, is first stretched by what is left between the two; the
harmonics stay where they are. The envelope is the cepstrum's slow part (Oppenheim and Schafer,
"Homomorphic analysis of speech", 1968). People's formants follow their pitch a little: from men to
women and children pitch rises by more than two, formants by a third (Peterson and Barney 1952).
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wakeword_keras.synthesis.espeak import Utterance

_WINDOW_MS, _HOPS = 40, 4  # frames of the spectrum, and how many cover a sample
_ENVELOPE_MS = 2.5  # slow part of the cepstrum: above it lie the periods of voices below 400 Hz
_MOST_NEPERS = 3.5  # a band is raised or lowered by at most: 30 dB
_FORMANTS_FOLLOW = 0.25  # formants rise as pitch to this power, before their own factor


@dataclass(frozen=True)
class Perturbation:
    """How a voice is changed.

    Attributes:
        pitch: factor of the fundamental frequency, above 0.
        formants: factor of the resonances' frequencies, above 0.
    """

    pitch: float = 1.0
    formants: float = 1.0


def of_voice(voice: str, pitch_octaves: float, formant_percent: float) -> Perturbation:
    """The perturbation that belongs to a voice's name, the same in every corpus.

    Args:
        voice: name.
        pitch_octaves: how far pitch is moved up at most; down half as far, since most of the
            voices one gets are low.
        formant_percent: how far formants are moved at most, either way, beyond following pitch.
    """
    digest = hashlib.sha256(voice.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    pitch = 2 ** (pitch_octaves * rng.uniform(-0.5, 1.0))
    own = 1 + formant_percent / 100 * rng.uniform(-1, 1)
    return Perturbation(pitch, pitch**_FORMANTS_FOLLOW * own)


def perturb(utterance: Utterance, change: Perturbation) -> Utterance:
    """An utterance by the changed voice: `pitch` times faster, at as many more samples a second.

    Args:
        utterance: what was spoken.
        change: how the voice is changed.
    """
    if change == Perturbation():
        return utterance
    audio = utterance.audio.astype(np.float64)
    stretched = _move_formants(audio, utterance.sample_rate_hz, change.formants / change.pitch)
    peak = np.abs(stretched).max(initial=1.0)
    samples = np.rint(stretched * min(1.0, 32_767 / peak)).astype(np.int16)
    rate_hz = round(utterance.sample_rate_hz * change.pitch)
    return replace(utterance, audio=samples, sample_rate_hz=rate_hz)


def _move_formants(
    audio: npt.NDArray[np.float64], sample_rate_hz: int, factor: float
) -> npt.NDArray[np.float64]:
    """The same harmonics under an envelope whose frequencies are `factor` times higher."""
    hop = sample_rate_hz * _WINDOW_MS // 1000 // _HOPS
    size = hop * _HOPS
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
    padded = np.pad(audio, (size, size + -len(audio) % hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window
    spectra = np.fft.rfft(frames)
    spectra *= np.exp(
        _envelope_change(spectra, round(sample_rate_hz * _ENVELOPE_MS / 1000), factor)
    )
    moved = np.fft.irfft(spectra, size) * window
    out = np.zeros((len(frames) + _HOPS - 1) * hop)
    for part in range(_HOPS):
        rows = moved[:, part * hop : (part + 1) * hop]
        out[part * hop : part * hop + rows.size] += rows.ravel()
    return out[size : size + len(audio)] / (_HOPS / 2)  # sin^2 windows add up to this


def _envelope_change(
    spectra: npt.NDArray[np.complex128], slow: int, factor: float
) -> npt.NDArray[np.float64]:
    """Logarithm of the gain of each band, [frames, bins]."""
    magnitude = np.abs(spectra)
    floor = 1e-4 * magnitude.max(axis=1, keepdims=True) + 1e-3
    cepstra = np.fft.irfft(np.log(magnitude + floor))
    cepstra[:, slow : -slow + 1] = 0.0
    envelope = np.fft.rfft(cepstra).real
    bins = np.arange(envelope.shape[1])
    source = np.minimum(bins / factor, bins[-1])
    low = np.minimum(source.astype(int), bins[-1] - 1)
    share = source - low
    moved = (1 - share) * envelope[:, low] + share * envelope[:, low + 1]
    return np.clip(moved - envelope, -_MOST_NEPERS, _MOST_NEPERS)
