"""Impulse responses of rooms and microphones, simulated: what becomes of speech on its way.

A box-shaped room mirrors its source in its walls, and the mirror images in theirs (Allen and
Berkley, "Image method for efficiently simulating small-room acoustics", JASA 1979). Each image
arrives after its distance, weaker by the distance and by the walls on its way, which swallow more
of high sounds than of low ones. The images stand a little off their places, as walls are not ideal:
a perfect box whistles (De Sena et al., "On the modeling of rectangular geometries in room acoustic
simulations", IEEE TASLP 2015). A microphone colours what arrives.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ

SPEED_M_PER_S = 343.0
_DISPLACED_M = 0.05
_SPLIT_HZ = 2_000.0  # between what counts as low and as high
_FFT = 1 << 15

# Drawn uniformly, reverberation and distance so that their logarithm is uniform.
_SIZE_M = ((2.5, 8.0), (2.5, 6.0), (2.3, 3.2))
_T60_S = (0.1, 0.5)  # by Eyring's formula; a box of images rings up to twice as long
_HIGH_T60_SHARE = (0.5, 1.0)
_DISTANCE_M = (0.3, 4.0)
_WALL_M = 0.3  # nearest that anything stands to a wall
_TILT_DB_PER_OCTAVE = (-3.0, 3.0)
_RIPPLE_DB = 3.0  # standard deviation of a microphone's response at a frequency
_LOW_CUT_HZ, _HIGH_CUT_HZ = (30.0, 250.0), (4_000.0, 9_000.0)


@dataclass(frozen=True)
class Room:
    """A box, and who is where in it.

    Attributes:
        size_m: length, width, height.
        source_m, microphone_m: places, from a corner.
        t60_s: time in which low sound decays by 60 dB.
        high_t60_s: the same above 2 kHz.
    """

    size_m: NDArray[np.float64]
    source_m: NDArray[np.float64]
    microphone_m: NDArray[np.float64]
    t60_s: float
    high_t60_s: float


def simulate(count: int, seed: int, longest_ms: int = 300) -> list[NDArray[np.float32]]:
    """Impulse responses of so many rooms, distances and microphones.

    Args:
        count: how many.
        seed: of the draws.
        longest_ms: tails are cut here.

    Returns:
        float32 [taps] each, at 16 kHz, the first sound after its way through the air.
    """
    rng = np.random.default_rng(seed)
    taps = longest_ms * SAMPLE_RATE_HZ // 1000
    return [microphone(rng, response(draw_room(rng), rng, taps)) for _ in range(count)]


def draw_room(rng: np.random.Generator) -> Room:
    """A room of a home or an office, with a speaker and a microphone at a distance from him."""
    size_m = np.array([rng.uniform(*sides) for sides in _SIZE_M])
    low, high = np.full(3, _WALL_M), size_m - _WALL_M
    microphone_m = rng.uniform(low, high)
    distance_m = _log_uniform(rng, *_DISTANCE_M)
    direction = rng.standard_normal(3) * (1, 1, 0.3)
    source_m = microphone_m + distance_m * direction / np.linalg.norm(direction)
    t60_s = _log_uniform(rng, *_T60_S)
    share = rng.uniform(*_HIGH_T60_SHARE)
    return Room(size_m, np.clip(source_m, low, high), microphone_m, t60_s, share * t60_s)


def response(room: Room, rng: np.random.Generator, taps: int) -> NDArray[np.float64]:
    """Impulse response of a room, float64 [taps], for a microphone without a colour of its own.

    Args:
        room: the room.
        rng: displaces the images.
        taps: length at 16 kHz.
    """
    distance_m, walls = _images(room, rng, taps * SPEED_M_PER_S / SAMPLE_RATE_HZ)
    place = distance_m / SPEED_M_PER_S * SAMPLE_RATE_HZ
    first = place.astype(int)
    late = place - first
    spectrum = np.zeros(_FFT // 2 + 1, complex)
    for t60_s, band in zip((room.t60_s, room.high_t60_s), _bands(), strict=True):
        gain = reflection(room.size_m, t60_s) ** walls / distance_m
        echoes = np.bincount(first, gain * (1 - late), taps + 1)
        echoes += np.bincount(first + 1, gain * late, taps + 1)
        spectrum += np.fft.rfft(echoes[:taps], _FFT) * band
    return np.fft.irfft(spectrum, _FFT)[:taps]


def reflection(size_m: NDArray[np.float64], t60_s: float) -> float:
    """Amplitude that a wall gives back, so that a room decays by 60 dB in a time (Eyring 1930).

    Args:
        size_m: length, width, height.
        t60_s: the time.
    """
    area = 2 * (size_m * np.roll(size_m, 1)).sum()
    decay = 24 * np.log(10) * size_m.prod() / (SPEED_M_PER_S * area * t60_s)
    return float(np.exp(-decay / 2))


def microphone(rng: np.random.Generator, audio: NDArray[np.float64]) -> NDArray[np.float32]:
    """A response as a drawn microphone hears it: tilted, rippled, band-limited, minimum phase.

    Args:
        rng: draws the microphone.
        audio: float64 [taps].

    Returns:
        float32 [taps].
    """
    frequency_hz = np.maximum(np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ), 10.0)
    octaves = np.log2(frequency_hz / 1_000)
    ripple_db = np.interp(octaves, np.arange(-7, 4), rng.normal(0, _RIPPLE_DB, 11))
    gain_db = np.clip(octaves, -4, 3) * rng.uniform(*_TILT_DB_PER_OCTAVE) + ripple_db
    # Second-order edges of the band.
    gain_db -= 10 * np.log10(1 + (_log_uniform(rng, *_LOW_CUT_HZ) / frequency_hz) ** 4)
    gain_db -= 10 * np.log10(1 + (frequency_hz / _log_uniform(rng, *_HIGH_CUT_HZ)) ** 4)
    cepstrum = np.fft.irfft(gain_db * np.log(10) / 20)
    cepstrum[1 : _FFT // 2] *= 2
    cepstrum[_FFT // 2 + 1 :] = 0.0
    heard = np.fft.rfft(audio, _FFT) * np.exp(np.fft.rfft(cepstrum))
    return np.fft.irfft(heard, _FFT)[: len(audio)].astype(np.float32)


def _images(
    room: Room, rng: np.random.Generator, reach_m: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distance of each image within reach of the microphone, and the walls its sound has met."""
    along, met = [], []
    for size_m, source_m, ear_m in zip(room.size_m, room.source_m, room.microphone_m, strict=True):
        number = np.arange(-int(reach_m / size_m) - 2, int(reach_m / size_m) + 3)
        mirrored = np.where(number % 2, size_m - source_m, source_m)
        along.append(number * size_m + mirrored - ear_m)
        met.append(np.abs(number))
    x, y, z = along
    near = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 < (reach_m - 1) ** 2
    i, j, k = np.nonzero(near)
    walls = met[0][i] + met[1][j] + met[2][k]
    away = np.stack([x[i], y[j], z[k]])
    away += rng.uniform(-_DISPLACED_M, _DISPLACED_M, away.shape) * (walls > 0)
    return np.maximum(np.linalg.norm(away, axis=0), 0.1), walls


def _bands() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of the low and the high band over frequency; their sum is 1 everywhere."""
    frequency_hz = np.fft.rfftfreq(_FFT, 1 / SAMPLE_RATE_HZ)
    low = 1 / (1 + (frequency_hz / _SPLIT_HZ) ** 4)
    return low, 1 - low


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low * (high / low) ** rng.random()
