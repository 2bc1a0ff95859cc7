import numpy as np
import pytest

from wakeword_keras.audio import noise_signals

RATE_HZ = 16_000


def rms_db(signal):
    return 10 * np.log10(np.mean(signal**2))


def octave_power_db(signal, low_hz):
    power = np.abs(np.fft.rfft(signal)) ** 2
    hz = np.fft.rfftfreq(len(signal), 1 / RATE_HZ)
    return 10 * np.log10(power[(hz >= low_hz) & (hz < 2 * low_hz)].sum())


@pytest.mark.parametrize(("colour", "slope_db"), [("white", 3.0), ("pink", 0.0), ("brown", -3.0)])
def test_power_per_octave_has_the_slope_of_the_colour(colour, slope_db):
    signal = noise_signals.coloured(
        np.random.default_rng(0), 160_000, noise_signals.COLOURS[colour]
    )
    assert (octave_power_db(signal, 3200) - octave_power_db(signal, 400)) / 3 == pytest.approx(
        slope_db, abs=0.3
    )


def test_level_is_the_rms_asked_for():
    signal = noise_signals.to_dbfs(np.random.default_rng(0).standard_normal(8000), -30.0)
    assert rms_db(signal) == pytest.approx(-30.0)


def test_level_yields_to_the_peak_and_silence_stays():
    click = np.zeros(8000)
    click[7] = -0.1
    assert np.abs(noise_signals.to_dbfs(click, -10.0, peak=0.9)).max() == pytest.approx(0.9)
    assert not noise_signals.to_dbfs(np.zeros(5), -10.0).any()


@pytest.mark.parametrize("kind", noise_signals.KINDS)
def test_every_kind_sounds_and_follows_its_seed(kind):
    make = noise_signals.KINDS[kind]
    first, again, other = (make(np.random.default_rng(s), 16_000, RATE_HZ) for s in (1, 1, 2))
    assert first.shape == (16_000,)
    assert np.isfinite(first).all()
    assert rms_db(first) > -80
    assert (first == again).all()
    assert (first != other).any()


def test_hum_is_a_line_spectrum():
    signal = noise_signals.hum(np.random.default_rng(3), 32_000, RATE_HZ)
    power = np.sort(np.abs(np.fft.rfft(signal)) ** 2)[::-1]
    assert power[:400].sum() > 0.8 * power.sum()
