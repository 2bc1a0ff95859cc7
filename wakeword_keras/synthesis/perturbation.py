"""New speakers from one voice: its pitch and its formants moved, each by a factor of its own.

People's pitch spreads over two octaves and a synthesiser's few voices do not: a model that heard
low voices missed seven of eight people above 195 Hz. So each voice is given a pitch of people's
range, from wherever its own lies.

Played faster, a recording has pitch and formants moved by the same factor. So the envelope of the
short-time spectrum, which holds the formants, is first stretched by what is left between the two;
the harmonics stay where they are. The envelope is the cepstrum's slow part (Oppenheim and Schafer,
"Homomorphic analysis of speech", 1968). What was played faster is then drawn out again by repeating
stretches of it that match (WSOLA: Verhelst and Roelands, ICASSP 1993). People's formants follow
their pitch a little: from men to women and children pitch rises by more than two, formants by a
third (Peterson and Barney 1952).
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wakeword_keras.synthesis.espeak import Phoneme, Utterance

_WINDOW_MS, _HOPS = 40, 4  # frames of the spectrum, and how many cover a sample
_ENVELOPE_MS = 2.5  # slow part of the cepstrum: above it lie the periods of voices below 400 Hz
_MOST_NEPERS = 3.5  # a band is raised or lowered by at most: 30 dB
_FORMANTS_FOLLOW = 0.25  # formants rise as pitch to this power, before their own factor
_PITCH_FACTOR = (0.4, 2.8)  # beyond, little of the voice is left
_MEASURED_HZ = (60, 450)
_VOICED = 0.5  # autocorrelation of a frame at its period, at least
_LOUD = 0.1  # energy of a frame with pitch, of the loudest frame's
_STRETCH_MS, _REACH_MS = 20, 7  # hop of what is drawn out; how far a match is looked for either way


@dataclass(frozen=True)
class Person:
    """Whom a voice is to sound like.

    Attributes:
        pitch_hz: median fundamental frequency; 0 for the voice's own.
        formants: factor of the resonances' frequencies, above 0, beyond following the pitch.
    """

    pitch_hz: float = 0.0
    formants: float = 1.0


@dataclass(frozen=True)
class Perturbation:
    """How speech is changed.

    Attributes:
        pitch: factor of the fundamental frequency, above 0.
        formants: factor of the resonances' frequencies, above 0.
    """

    pitch: float = 1.0
    formants: float = 1.0


def of_voice(voice: str, low_hz: float, high_hz: float, formant_percent: float) -> Person:
    """The person that belongs to a voice's name, the same in every corpus.

    Args:
        voice: name.
        low_hz, high_hz: range of pitch, drawn so that its logarithm is uniform; 0 for the voice's.
        formant_percent: how far formants are moved at most, either way, beyond following pitch.
    """
    digest = hashlib.sha256(voice.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    place = rng.random()
    pitch_hz = low_hz * (high_hz / low_hz) ** place if low_hz else 0.0
    return Person(pitch_hz, 1 + formant_percent / 100 * rng.uniform(-1, 1))


def towards(utterance: Utterance, person: Person) -> Perturbation:
    """What makes an utterance sound like a person; of a whisper the pitch is left."""
    own_hz = pitch_hz(utterance.audio, utterance.sample_rate_hz) if person.pitch_hz else 0.0
    pitch = float(np.clip(person.pitch_hz / own_hz, *_PITCH_FACTOR)) if own_hz else 1.0
    return Perturbation(pitch, pitch**_FORMANTS_FOLLOW * person.formants)


def pitch_hz(audio: npt.NDArray[np.int16], sample_rate_hz: int) -> float:
    """Median fundamental frequency of the loud, voiced frames, by autocorrelation; 0 for none.

    Args:
        audio: int16 [samples].
        sample_rate_hz: samples per second.
    """
    size = sample_rate_hz * _WINDOW_MS // 1000
    if len(audio) < size:
        return 0.0
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[:: size // _HOPS].astype(float)
    frames = frames - frames.mean(axis=1, keepdims=True)
    power = np.abs(np.fft.rfft(frames, 2 * size)) ** 2
    likeness = np.fft.irfft(power)[:, : size // 2 + 1]
    energy = likeness[:, 0]
    frames_with = energy > _LOUD * energy.max(initial=0.0)
    # A frame's own end makes long lags weaker: that is taken out.
    shorter = 1 - np.arange(likeness.shape[1]) / size
    likeness = likeness[frames_with] / energy[frames_with, None] / shorter
    low, high = (sample_rate_hz // bound for bound in reversed(_MEASURED_HZ))
    lags = likeness[:, low : min(high, likeness.shape[1])]
    # The first lag that is nearly as good as the best: twice a period is a period, too.
    first = (lags > 0.85 * lags.max(axis=1, keepdims=True)).argmax(axis=1)
    periods = [low + i + int(row[i : i + low].argmax()) for i, row in zip(first, lags, strict=True)]
    voiced = lags.max(axis=1) > _VOICED
    found = np.asarray(periods)[voiced] if len(periods) else np.empty(0)
    return float(sample_rate_hz / np.median(found)) if len(found) else 0.0


def perturb(utterance: Utterance, change: Perturbation) -> Utterance:
    """An utterance by the changed voice, as long as before.

    Args:
        utterance: what was spoken.
        change: how the voice is changed.

    Returns:
        `pitch` times as many samples, at as many times more a second.
    """
    if change == Perturbation():
        return utterance
    audio = utterance.audio.astype(np.float64)
    moved = _move_formants(audio, utterance.sample_rate_hz, change.formants / change.pitch)
    rate_hz = round(utterance.sample_rate_hz * change.pitch)
    if change.pitch != 1.0:
        moved = _draw_out(moved, rate_hz, change.pitch)
    peak = np.abs(moved).max(initial=1.0)
    samples = np.rint(moved * min(1.0, 32_767 / peak)).astype(np.int16)
    phonemes = tuple(
        Phoneme(p.name, p.character, min(round(p.sample * change.pitch), len(samples)))
        for p in utterance.phonemes
    )
    return replace(utterance, audio=samples, phonemes=phonemes, sample_rate_hz=rate_hz)


def _draw_out(
    audio: npt.NDArray[np.float64], sample_rate_hz: int, factor: float
) -> npt.NDArray[np.float64]:
    """The same sounds, `factor` times as long: pieces overlap where they go on alike (WSOLA)."""
    hop, reach = (sample_rate_hz * ms // 1000 for ms in (_STRETCH_MS, _REACH_MS))
    length = round(len(audio) * factor)
    pieces = length // hop + 2
    window = 0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * hop) + 0.5) / hop)
    padded = np.pad(audio, (hop + reach, 3 * hop + 2 * reach))
    out = np.zeros((pieces + 1) * hop)
    goes_on = np.zeros(2 * hop)
    for number in range(pieces):
        # The first piece lies half before the audio, where its window rises.
        wanted = round((number - 1) * hop / factor) + hop
        low = min(wanted, len(padded) - 3 * hop - 2 * reach)
        around = padded[max(0, low) : max(0, low) + 2 * hop + 2 * reach]
        first = max(0, low) + int(np.correlate(around, goes_on, "valid").argmax())
        out[number * hop : (number + 2) * hop] += padded[first : first + 2 * hop] * window
        goes_on = padded[first + hop : first + 3 * hop]
    return out[hop : hop + length]


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
