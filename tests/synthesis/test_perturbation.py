"""Another speaker from one: pitch and formants move as drawn, time as stated."""

import importlib.util

import numpy as np
import pytest
import soundfile

from wakeword_keras.errors import InputError
from wakeword_keras.synthesis import perturbation
from wakeword_keras.synthesis.corpus import SynthesisConfig, synthesize
from wakeword_keras.synthesis.perturbation import other_speaker

RATE_HZ = 22_050


def vowel(pitch_hz, seconds=0.6):
    """A buzz through one formant, at 700 Hz, float64 [samples]."""
    n = int(seconds * RATE_HZ)
    buzz = np.zeros(n)
    buzz[:: round(RATE_HZ / pitch_hz)] = 1.0
    out = np.fft.rfft(buzz)
    hz = np.fft.rfftfreq(n, 1 / RATE_HZ)
    out *= 1 / (1 + ((hz - 700) / 80) ** 2) + 0.01
    audio = np.fft.irfft(out, n)
    return 0.3 * audio / np.abs(audio).max()


def pitch_of(audio):
    """Median pitch in Hz, by autocorrelation."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, 2_048)[2_000:-2_000:1_024]
    power = np.abs(np.fft.rfft(frames, 8_192)) ** 2
    correlation = np.fft.irfft(power)[:, RATE_HZ // 600 : RATE_HZ // 60]
    return float(np.median(RATE_HZ / (correlation.argmax(axis=1) + RATE_HZ // 600)))


def first_formant(audio):
    """Highest peak of the mean envelope, in Hz."""
    import pyworld

    envelope = pyworld.wav2world(np.ascontiguousarray(audio), RATE_HZ)[1].mean(axis=0)
    hz = np.linspace(0, RATE_HZ / 2, len(envelope))
    return hz[np.where((hz > 400) & (hz < 1_200), envelope, 0).argmax()]


@pytest.fixture
def world():
    return pytest.importorskip("pyworld", reason="needs the extra [perturbation]")


def fixed(monkeypatch, pitch_hz, formants):
    monkeypatch.setattr(perturbation, "_PITCH_HZ", (pitch_hz, pitch_hz))
    monkeypatch.setattr(perturbation, "_FORMANTS", (formants, formants))


@pytest.mark.parametrize("pitch_hz", [90.0, 140.0, 250.0])
def test_the_pitch_becomes_the_one_drawn(world, monkeypatch, pitch_hz):
    fixed(monkeypatch, pitch_hz, 1.0)
    audio, _ = other_speaker(vowel(130), RATE_HZ, np.random.default_rng(0))
    assert pitch_of(audio) == pytest.approx(pitch_hz, rel=0.04)


@pytest.mark.parametrize("formants", [0.85, 1.0, 1.25])
def test_formants_move_by_the_factor_drawn_whatever_the_pitch(world, monkeypatch, formants):
    for pitch_hz in (100.0, 180.0):
        fixed(monkeypatch, pitch_hz, formants)
        audio, _ = other_speaker(vowel(130), RATE_HZ, np.random.default_rng(0))
        assert first_formant(audio) == pytest.approx(700 * formants, rel=0.12)


def test_it_says_how_much_longer_the_speech_became(world):
    audio = vowel(130)
    for seed in range(5):
        moved, longer = other_speaker(audio, RATE_HZ, np.random.default_rng(seed))
        assert len(moved) == pytest.approx(longer * len(audio))
        assert 0.85 < longer < 1.2


def test_the_same_draws_make_the_same_speaker(world):
    first, same, other = (
        other_speaker(vowel(130), RATE_HZ, np.random.default_rng(s))[0] for s in (0, 0, 1)
    )
    assert first.tobytes() == same.tobytes() != other.tobytes()


def test_a_whisper_stays_as_it_is(world):
    audio = 0.1 * np.random.default_rng(0).standard_normal(2_000)
    moved, longer = other_speaker(audio, RATE_HZ, np.random.default_rng(0))
    assert longer == 1.0
    assert (moved == audio).all()


def test_all_labels_of_a_corpus_are_perturbed_alike(world, monkeypatch, tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra [tts]")
    calls = []

    def counted(audio, rate_hz, rng):
        calls.append(len(audio))
        return other_speaker(audio, rate_hz, rng)

    monkeypatch.setattr(perturbation, "other_speaker", counted)
    config = SynthesisConfig(
        voices=8, positives=20, similar=20, speech=20, noise=3, silence=3, other_speakers=0.5
    )
    synthesize("smart mirror", str(tmp_path / "c"), config)
    assert 15 < len(calls) < 45
    for path in (tmp_path / "c" / "smart_mirror").iterdir():
        audio, rate_hz = soundfile.read(path)
        assert rate_hz == 16_000
        assert np.abs(audio).max() > 1e-3


def test_a_missing_vocoder_names_the_extra(monkeypatch, tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra [tts]")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "pyworld" else find(name)
    )
    with pytest.raises(InputError, match=r"pip install 'wakeword_keras\[perturbation\]'"):
        synthesize("smart mirror", str(tmp_path / "c"), SynthesisConfig(other_speakers=0.5))


def test_a_share_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"`synthesis\.other_speakers`=1\.5"):
        SynthesisConfig(other_speakers=1.5)
