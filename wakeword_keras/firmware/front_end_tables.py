"""The device front end's constants as integers: what its code computes on start, computed here.

TFLite Micro's audio front end fills its tables with `cosf`, `log1pf` and `powf`, whose last bit
differs from one C library to the next (two filterbank weights do where `log1pf` rounds correctly),
and with it the features. These are the tables of training: pymicro-features calls this machine's C
library, and so does this module, in float32, operation by operation.

Formulas: tensorflow/lite/experimental/microfrontend/lib/ (window_util.cc, filterbank_util.cc,
pcan_gain_control_util.cc, noise_reduction_util.cc), kissfft (twiddles). `front_end.c` reads them.
"""

import ctypes
import ctypes.util
import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.audio.features import FrontendConfig

SMOOTHING_BITS = 10
EVEN_SMOOTHING, ODD_SMOOTHING = 0.025, 0.06
MIN_SIGNAL_REMAINING = 0.05
PCAN_STRENGTH, PCAN_OFFSET, PCAN_GAIN_BITS = 0.95, 80.0, 21
LOG_SCALE_SHIFT = 6
CONSTANTS = {
    "noise_reduction": {
        "smoothing_bits": SMOOTHING_BITS,
        "even_smoothing": EVEN_SMOOTHING,
        "odd_smoothing": ODD_SMOOTHING,
        "min_signal_remaining": MIN_SIGNAL_REMAINING,
    },
    "pcan_gain_control": {
        "strength": PCAN_STRENGTH,
        "offset": PCAN_OFFSET,
        "gain_bits": PCAN_GAIN_BITS,
    },
    "log_scale": {"scale_shift": LOG_SCALE_SHIFT},
    "feature_to_int8": "min(127, (feature * 256 + 333) / 666 - 128)",
}
"""Compiled into pymicro-features and ESPHome (TFLite Micro's frontend_util.h, FrontendConfig)."""
_WINDOW_BITS, _FILTERBANK_BITS, _NOISE_BITS, _PCAN_SNR_BITS = 12, 12, 14, 12
_BLOCK = 4  # weights of a channel come in blocks of so many
_ALIGNMENT = 2  # and start at an even bin
_INT16_MAX = 32767

_F = np.float32


@dataclass(frozen=True)
class FrontEndTables:
    """All tables, int16 but for `log` (uint16), and the integers beside them.

    Attributes:
      window: [window samples], 4096 stands for 1.
      twiddles: [192, 2] cosine and sine of the complex transform of half the size, 32767 for 1.
      real_twiddles: [128, 2] of the step from the complex transform to that of real samples.
      frequency_starts, weight_starts, widths: [channels + 1] of each channel, first bin, first
        weight, number of weights.
      weights, unweights: [weights] share of a bin that rises into a channel, and that falls into
        the one before; 4096 stands for 1.
      gain: [125] automatic gain by the noise estimate, pieces of parabolas.
      log: [130] correction of a logarithm between powers of two.
      first_bin, last_bin: bins of the transform that count, the last one excluded.
      even_smoothing, odd_smoothing, min_signal_remaining: of noise reduction, 16384 stands for 1.
      correction_bits, snr_shift: shifts of logarithm and gain.
    """

    window: NDArray[np.int16]
    twiddles: NDArray[np.int16]
    real_twiddles: NDArray[np.int16]
    frequency_starts: NDArray[np.int16]
    weight_starts: NDArray[np.int16]
    widths: NDArray[np.int16]
    weights: NDArray[np.int16]
    unweights: NDArray[np.int16]
    gain: NDArray[np.int16]
    log: NDArray[np.uint16]
    first_bin: int
    last_bin: int
    even_smoothing: int
    odd_smoothing: int
    min_signal_remaining: int
    correction_bits: int
    snr_shift: int


def front_end_tables(config: FrontendConfig) -> FrontEndTables:
    """The tables of a "micro" front end.

    Raises:
      ValueError: another kind of front end.
    """
    if config.kind != "micro":
        raise ValueError(f"front end {config.kind!r} has no tables for the device")
    correction_bits = config.fft_size.bit_length() - 1 - _FILTERBANK_BITS // 2
    bins = _filterbank(config)
    return FrontEndTables(
        window=_window(config.window_samples),
        twiddles=_turns([-2 * math.pi * i / (config.fft_size // 2) for i in range(192)]),
        real_twiddles=_turns(
            [-math.pi * ((i + 1) / (config.fft_size // 2) + 0.5) for i in range(128)]
        ),
        **bins,
        gain=_gain(SMOOTHING_BITS - correction_bits),
        log=_log(),
        even_smoothing=int(_F(EVEN_SMOOTHING) * _F(1 << _NOISE_BITS)),
        odd_smoothing=int(_F(ODD_SMOOTHING) * _F(1 << _NOISE_BITS)),
        min_signal_remaining=int(_F(MIN_SIGNAL_REMAINING) * _F(1 << _NOISE_BITS)),
        correction_bits=correction_bits,
        snr_shift=PCAN_GAIN_BITS - correction_bits - _PCAN_SNR_BITS,
    )


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(ctypes.util.find_library("m"))


def _c(name: str, *arguments: np.float32) -> np.float32:
    """A function of the C library, of float32 numbers."""
    function = _library()[name]
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float] * len(arguments)
    return _F(function(*map(float, arguments)))


def _fixed(value: np.float32, bits: int) -> int:
    return math.floor(_F(value * _F(1 << bits)) + _F(0.5))


def _window(samples: int) -> NDArray[np.int16]:
    """A Hann window, sampled between its points."""
    step = _F(_F(math.pi) * _F(2)) / _F(samples)
    turns = (_c("cosf", step * (_F(i) + _F(0.5))) for i in range(samples))
    return np.array([_fixed(_F(0.5) - _F(0.5) * turn, _WINDOW_BITS) for turn in turns], np.int16)


def _turns(phases: list[float]) -> NDArray[np.int16]:
    return np.array(
        [
            [math.floor(0.5 + _INT16_MAX * part) for part in (math.cos(phase), math.sin(phase))]
            for phase in phases
        ],
        np.int16,
    )


def _mel(frequency_hz: np.float32) -> np.float32:
    return _F(1127) * _c("log1pf", frequency_hz / _F(700))


def _filterbank(config: FrontendConfig) -> dict:
    """Triangles on the mel scale, as rising weights; their complements fall."""
    low, high = _mel(_F(config.low_hz)), _mel(_F(config.high_hz))
    channels = config.channels + 1
    spacing = _F(high - low) / _F(channels)
    centers = [low + spacing * _F(i + 1) for i in range(channels)]
    bin_hz = _F(0.5) * _F(SAMPLE_RATE_HZ) / _F(config.fft_size // 2)
    first = int(_F(1.5) + _F(config.low_hz) / bin_hz)
    rows: list[tuple[int, int, int]] = []
    weights: list[int] = []
    unweights: list[int] = []
    start = first
    for lower, center in zip([low, *centers], centers, strict=False):
        end = start
        while _mel(_F(end) * bin_hz) <= center:
            end += 1
        assert end > start, "every channel has a bin"
        aligned = start // _ALIGNMENT * _ALIGNMENT
        width = -(-(end - aligned) // _BLOCK) * _BLOCK
        rows.append((aligned, len(weights), width))
        rising = [(center - _mel(_F(at) * bin_hz)) / (center - lower) for at in range(start, end)]
        before, after = [0] * (start - aligned), [0] * (aligned + width - end)
        weights += [*before, *(_fixed(w, _FILTERBANK_BITS) for w in rising), *after]
        unweights += [*before, *(_fixed(_F(1) - w, _FILTERBANK_BITS) for w in rising), *after]
        start = end
    starts, places, widths = np.array(rows, np.int16).T
    return {
        "frequency_starts": starts,
        "weight_starts": places,
        "widths": widths,
        "weights": np.array(weights, np.int16),
        "unweights": np.array(unweights, np.int16),
        "first_bin": first,
        "last_bin": start,
    }


def _gain(input_bits: int) -> NDArray[np.int16]:
    """A piece of a parabola for each power of two: value at its start, slope, curvature."""

    def gain(estimate: int) -> int:
        at = _F(estimate) / _F(1 << input_bits) + _F(PCAN_OFFSET)
        power = _c("powf", at, _F(-_F(PCAN_STRENGTH)))
        return int(min(_F(_INT16_MAX), _F(1 << PCAN_GAIN_BITS) * power) + _F(0.5))

    table = [gain(0), gain(1)]
    for interval in range(2, 33):
        start = 1 << (interval - 1)
        last = 2 * start - (interval == 32)
        value, middle, end = gain(start), gain(start + start // 2), gain(last)
        slope = 4 * (middle - value) - (end - value)
        table += [value, slope, (end - value) - slope, 0]
    return np.array(table[:-1], np.int16)


def _log() -> NDArray[np.uint16]:
    """65536 * (log2(1 + i / 128) - i / 128), and a last 0 that is read but not used."""
    between = [65536 * (math.log2(1 + i / 128) - i / 128) for i in range(129)]
    return np.array([*(math.floor(value + 0.5) for value in between), 0], np.uint16)
