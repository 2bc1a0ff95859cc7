"""Background noise from nothing: coloured noise, hum, clicks, bursts, hubbub.

All signals are float64 [samples] at a given rate; their level is set by `to_dbfs` (RMS in dB
relative to full scale, where full scale is 1).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float64]

# Amplitude falls as frequency to this power: 0 white, 1/2 pink (3 dB per octave), 1 brown.
COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0}


def to_dbfs(signal: Signal, level_dbfs: float, peak: float = 1.0) -> Signal:
    """Scales a signal to an RMS level, or less where its peak would exceed `peak`.

    Args:
        signal: float64 [samples]; silence stays silence.
        level_dbfs: wanted RMS, dB relative to 1.
        peak: largest absolute value allowed.
    """
    rms, top = np.sqrt(np.mean(signal**2)), np.abs(signal).max()
    if top == 0.0:
        return signal
    return signal * min(10 ** (level_dbfs / 20) / rms, peak / top)


def coloured(
    rng: np.random.Generator, samples: int, exponent: float, lowest: float = 20 / 16_000
) -> Signal:
    """Gaussian noise whose amplitude falls as frequency to the power `exponent`.

    Args:
        rng: where the noise comes from.
        samples: length.
        exponent: see `COLOURS`.
        lowest: frequency below which there is nothing, as a share of the sampling rate (20 Hz).
    """
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples)
    gain = np.where(frequency < lowest, 0.0, np.maximum(frequency, lowest) ** -exponent)
    return np.fft.irfft(spectrum * gain, samples)


def hum(rng: np.random.Generator, samples: int, sample_rate_hz: int) -> Signal:
    """A mains or motor hum: a drifting fundamental, its harmonics, and a little pink noise."""
    fundamental_hz = rng.choice([50.0, 60.0, rng.uniform(70, 400)])
    drift = 1 + 0.01 * np.sin(
        2 * np.pi * rng.uniform(0.05, 0.5) * np.arange(samples) / sample_rate_hz
    )
    phase = 2 * np.pi * np.cumsum(fundamental_hz * drift) / sample_rate_hz
    top = min(30, int(0.45 * sample_rate_hz / fundamental_hz))
    weights = rng.uniform(0.2, 1.0, top) / np.arange(1, top + 1) ** rng.uniform(0.7, 1.5)
    tones = sum(w * np.sin(k * phase + rng.uniform(0, 6.28)) for k, w in enumerate(weights, 1))
    return tones + to_dbfs(coloured(rng, samples, 0.5), rng.uniform(-40, -15))


def clicks(rng: np.random.Generator, samples: int, sample_rate_hz: int) -> Signal:
    """Knocks and taps: decaying resonances at random times over faint noise."""
    signal = to_dbfs(coloured(rng, samples, 0.5), -60)
    per_second = rng.uniform(1, 8)
    for start in rng.integers(0, samples, 1 + rng.poisson(per_second * samples / sample_rate_hz)):
        t = np.arange(min(samples - start, sample_rate_hz // 4)) / sample_rate_hz
        ring = np.sin(2 * np.pi * rng.uniform(150, 5000) * t) + 0.5 * rng.standard_normal(len(t))
        signal[start : start + len(t)] += (
            rng.uniform(0.1, 1) * np.exp(-t / rng.uniform(3e-3, 5e-2)) * ring
        )
    return signal


def bursts(rng: np.random.Generator, samples: int, sample_rate_hz: int) -> Signal:
    """Rustle and gusts: noise of a random colour, its loudness moving at 0.5 to 8 Hz."""
    knots = max(4, int(samples / sample_rate_hz * rng.uniform(0.5, 8)))
    loudness_db = np.interp(
        np.linspace(0, knots - 1, samples), np.arange(knots), rng.uniform(-35, 0, knots)
    )
    return coloured(rng, samples, rng.uniform(0, 1)) * 10 ** (loudness_db / 20)


KINDS: dict[str, Callable[[np.random.Generator, int, int], Signal]] = {
    "white": lambda rng, samples, _: coloured(rng, samples, COLOURS["white"]),
    "pink": lambda rng, samples, _: coloured(rng, samples, COLOURS["pink"]),
    "brown": lambda rng, samples, _: coloured(rng, samples, COLOURS["brown"]),
    "hum": hum,
    "clicks": clicks,
    "bursts": bursts,
}
