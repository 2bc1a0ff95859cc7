"""One voice becomes others: its pitch and its formants moved by the factors asked for."""

import numpy as np
import pytest
from scipy import signal

from wakeword_keras.synthesis import perturbation
from wakeword_keras.synthesis.espeak import Phoneme, Utterance
from wakeword_keras.synthesis.perturbation import (
    Person,
    Perturbation,
    of_voice,
    perturb,
    towards,
)

RATE_HZ = 22_050
FORMANTS_HZ = (600.0, 1_700.0, 3_000.0)


def vowel(pitch_hz=110.0, seconds=1.0):
    """Pulses through three resonances of 100 Hz bandwidth."""
    audio = (np.diff(np.floor(np.arange(seconds * RATE_HZ + 1) * pitch_hz / RATE_HZ)) > 0) * 1.0
    for formant_hz in FORMANTS_HZ:
        pole = np.exp(-np.pi * 100 / RATE_HZ + 2j * np.pi * formant_hz / RATE_HZ)
        audio = signal.lfilter([1.0], [1.0, -2 * pole.real, abs(pole) ** 2], audio)
    audio = np.rint(8_000 * audio / np.abs(audio).max()).astype(np.int16)
    return Utterance(audio, (Phoneme("a", 0, 2_205),), RATE_HZ)


def pitch_hz(said):
    """Where the autocorrelation first peaks, 60 to 400 Hz."""
    lags = np.arange(said.sample_rate_hz // 400, said.sample_rate_hz // 60)
    audio = said.audio[3_000:-3_000].astype(float)
    likeness = [np.mean(audio[lag:] * audio[:-lag]) for lag in lags]
    first = np.flatnonzero(np.array(likeness) > 0.9 * max(likeness))[0]
    peak = first + int(np.argmax(likeness[first : first + 10]))
    return said.sample_rate_hz / lags[peak]


def formants_hz(said):
    """Angles of the poles of linear prediction, the sharpest three."""
    audio = np.diff(said.audio[3_000:-3_000].astype(float)) * np.hanning(len(said.audio) - 6_001)
    order = 16
    auto = signal.correlate(audio, audio, method="fft")[len(audio) - 1 :][: order + 1]
    lags = np.abs(np.arange(order)[:, None] - np.arange(order))
    poles = np.roots(np.r_[1.0, -np.linalg.solve(auto[lags], auto[1:])])
    poles = poles[(poles.imag > 0) & (np.angle(poles) < 2.2)]
    sharpest = poles[np.argsort(-np.abs(poles))[:3]]
    return np.sort(np.angle(sharpest) * said.sample_rate_hz / (2 * np.pi))


@pytest.mark.parametrize(
    ("pitch", "formants"), [(1.0, 1.15), (1.3, 1.0), (1.6, 1.3), (0.8, 0.9), (0.8, 1.1)]
)
def test_pitch_and_formants_move_by_their_own_factors(pitch, formants):
    said = perturb(vowel(), Perturbation(pitch, formants))
    assert pitch_hz(said) == pytest.approx(110 * pitch, rel=0.02)
    assert len(said.audio) == pytest.approx(said.sample_rate_hz, abs=2)  # a second, as before
    assert said.phonemes[0].sample == pytest.approx(said.sample_rate_hz / 10, abs=2)
    # The envelope is smooth over 400 Hz: the first formant ends up to an eighth off.
    np.testing.assert_allclose(formants_hz(said), formants_hz(vowel()) * formants, rtol=0.12)


@pytest.mark.parametrize("own_hz", [70, 110, 180, 250, 350])
def test_pitch_is_measured_to_a_hundredth(own_hz):
    assert perturbation.pitch_hz(vowel(own_hz).audio, RATE_HZ) == pytest.approx(own_hz, rel=0.01)


def test_hiss_silence_and_nothing_have_no_pitch():
    hiss = np.random.default_rng(0).normal(0, 3_000, RATE_HZ).astype(np.int16)
    for audio in (hiss, np.zeros(RATE_HZ, np.int16), np.zeros(0, np.int16)):
        assert perturbation.pitch_hz(audio, RATE_HZ) == 0.0
        change = towards(Utterance(audio, (), RATE_HZ), Person(200.0, 1.1))
        assert change == Perturbation(1.0, 1.1)


@pytest.mark.parametrize("own_hz", [100, 200])
@pytest.mark.parametrize("wanted_hz", [90.0, 160.0, 250.0])
def test_a_voice_gets_a_persons_pitch_from_wherever_its_own_lies(own_hz, wanted_hz):
    said = vowel(own_hz)
    moved = perturb(said, towards(said, Person(wanted_hz)))
    assert pitch_hz(moved) == pytest.approx(wanted_hz, rel=0.03)


def test_no_change_is_the_utterance_itself():
    said = vowel()
    assert perturb(said, Perturbation()) is said


def test_silence_and_nothing_stay_what_they_are():
    for audio in (np.zeros(0, np.int16), np.zeros(5_000, np.int16)):
        said = perturb(Utterance(audio, (), RATE_HZ), Perturbation(1.3, 0.9))
        assert len(said.audio) == round(1.3 * len(audio))
        assert not said.audio.any()


def test_full_scale_speech_does_not_wrap_around():
    loud = vowel()
    audio = np.clip(loud.audio.astype(int) * 4, -32_768, 32_767).astype(np.int16)
    said = perturb(Utterance(audio, (), RATE_HZ), Perturbation(1.0, 1.2))
    assert np.abs(np.diff(said.audio.astype(int))).max() < 30_000


def test_a_voice_is_one_person_in_every_corpus_and_voices_fill_the_range():
    people = [of_voice(f"en-us+joe~{i}", 85.0, 300.0, 15.0) for i in range(500)]
    assert people[3] == of_voice("en-us+joe~3", 85.0, 300.0, 15.0)
    pitch_hz = np.array([person.pitch_hz for person in people])
    assert 85 <= pitch_hz.min() < 86
    assert 297 < pitch_hz.max() <= 300
    # Every octave alike.
    assert np.median(pitch_hz) == pytest.approx(np.sqrt(85 * 300), rel=0.1)
    own = [person.formants for person in people]
    assert 0.85 <= min(own) < 0.86
    assert 1.14 < max(own) <= 1.15
    assert abs(np.corrcoef(np.log(pitch_hz), own)[0, 1]) < 0.15
    assert of_voice("en-us+f3", 0.0, 0.0, 0.0) == Person()
