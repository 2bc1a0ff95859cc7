"""Several engines in one corpus: equal shares, held-out engine, speech kept by content."""

import dataclasses
import re
from collections import Counter

import numpy as np
import pytest

from wakeword_keras.errors import InputError
from wakeword_keras.names import SPLITS
from wakeword_keras.synthesis import engines
from wakeword_keras.synthesis.config import SynthesisConfig
from wakeword_keras.synthesis.corpus import synthesize
from wakeword_keras.synthesis.engines import Formants, Kept, assign
from wakeword_keras.synthesis.espeak import Phoneme, Utterance
from wakeword_keras.synthesis.voices import ACCENTS, VARIANTS

TEXT = "okay smart mirror"


class Tone:
    """Stands for a neural engine: a tone for each line, whose length is drawn."""

    version = "tone 1"

    def __init__(self, *speakers):
        self.speakers = speakers
        self.said = []

    def say(self, text, voice, rate_wpm, rng):
        self.said.append((text, voice, rate_wpm))
        samples = int(rng.integers(4_000, 9_000))
        audio = (8_000 * np.sin(np.arange(samples) * 0.3)).astype(np.int16)
        phonemes = tuple(Phoneme("a", i, i * samples // len(text)) for i in range(len(text)))
        return Utterance(audio, phonemes, 22_050)


def tones(folder, *counts):
    """Engines a, b, ... with so many speakers each."""
    return {
        name: Kept(Tone(*(f"{name}{i}" for i in range(count))), folder)
        for name, count in zip("abc", counts, strict=False)
    }


def engine_names(voices):
    return [voice.split("+")[1][0] for voice in voices]


def test_engines_take_turns_however_many_voices_each_has(tmp_path):
    voices = assign(tones(tmp_path, 1, 50, 20), 40, 0).voices["train"]
    names = engine_names(voices)
    assert names[::2] == ["a"] * (len(names) // 2)
    assert names[1::2] == ["b"] * (len(names) // 2)


def test_of_several_engines_the_last_validates_and_tests_and_never_trains(tmp_path):
    voices = assign(tones(tmp_path, 1, 50, 20), 40, 0).voices
    assert set(engine_names(voices["train"])) == {"a", "b"}
    assert set(engine_names(voices["validation"] + voices["test"])) == {"c"}


@pytest.mark.parametrize("count", [3, 20, 200])
def test_no_speaker_of_an_engine_is_in_two_splits(tmp_path, count):
    voices = assign(tones(tmp_path, 30), count, 0).voices
    speakers = [{voice.split("+")[1] for voice in voices[split]} for split in SPLITS]
    assert all(speakers)
    assert sum(map(len, speakers)) == len(set().union(*speakers))


def test_of_more_voices_than_an_engine_has_each_engine_gives_what_it_has(tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra [tts]")
    every = tones(tmp_path, 904) | {"espeak": Formants()}
    voices = assign(every, SynthesisConfig(voices=904).voices, 0).voices
    assert len(set(voices["train"])) == 904
    held_out = voices["validation"] + voices["test"]
    assert len(set(held_out)) == len(held_out) < len(ACCENTS) * len(VARIANTS)


def test_few_speakers_have_many_voices_and_many_have_one_each(tmp_path):
    voices = tones(tmp_path, 1)["a"].voices(160, 0)["train"]
    assert len(set(voices)) == 160
    accents = Counter(voice.split("+")[0] for voice in voices)
    assert accents == dict.fromkeys(ACCENTS, 160 // len(ACCENTS))
    every = tones(tmp_path, 900)["a"].voices(160, 0)
    assert len({v.split("+")[1] for names in every.values() for v in names}) == 160


@pytest.mark.parametrize(("counts", "fault"), [((1,), "three splits"), ((9, 1), "validation and")])
def test_an_engine_with_too_few_speakers_for_its_splits_is_refused(tmp_path, counts, fault):
    with pytest.raises(InputError, match=f"`synthesis.engines`.*too few speakers for {fault}"):
        assign(tones(tmp_path, *counts), 40, 0)


def test_a_voice_speaks_at_the_asked_rate_and_as_its_own_person(tmp_path):
    engine = Kept(Tone("x"), tmp_path)
    voice = "en-us+x~3"
    cast = engines.Cast({"train": (voice,)}, {voice: engine}, 85.0, 300.0, 15.0)
    plain = engines.Cast({"train": (voice,)}, {voice: engine})
    before, said = (c.say(TEXT, voice, 140.0, np.random.default_rng(5)) for c in (plain, cast))
    assert engine.speaking.said == [(TEXT, "en-us+x", 140.0)]
    assert before.sample_rate_hz == 22_050
    change = engines.towards(before, engines.of_voice(voice, 85.0, 300.0, 15.0))
    assert said.sample_rate_hz == round(22_050 * change.pitch)
    seconds = [len(u.audio) / u.sample_rate_hz for u in (before, said)]
    assert seconds[1] == pytest.approx(seconds[0], abs=1e-3)


def test_what_was_said_is_kept_and_another_draw_is_said_anew(tmp_path):
    engine = Kept(Tone("x"), tmp_path / "kept")
    first = engine.say(TEXT, "en-us+x", 140.0, np.random.default_rng(5))
    again = engine.say(TEXT, "en-us+x", 140.0, np.random.default_rng(5))
    assert len(engine.speaking.said) == 1
    assert (first.audio == again.audio).all()
    assert dataclasses.replace(first, audio=None) == dataclasses.replace(again, audio=None)
    engine.say(TEXT, "en-us+x", 140.0, np.random.default_rng(6))
    engine.say("okay smart mirrors", "en-us+x", 140.0, np.random.default_rng(5))
    engine.say(TEXT, "en+x", 140.0, np.random.default_rng(5))
    engine.say(TEXT, "en-us+x", 141.0, np.random.default_rng(5))
    assert len(engine.speaking.said) == 5


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-40], lambda b: b[:99] + b"?" * 9])
def test_a_damaged_utterance_is_said_again(tmp_path, damage):
    engine = Kept(Tone("x"), tmp_path)
    first = engine.say(TEXT, "en-us+x", 140.0, np.random.default_rng(5))
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    again = engine.say(TEXT, "en-us+x", 140.0, np.random.default_rng(5))
    assert again.audio.tobytes() == first.audio.tobytes()
    assert len(engine.speaking.said) == 2
    assert path.read_bytes() == whole


def test_draws_after_an_utterance_are_the_same_whether_it_was_kept_or_said(tmp_path):
    draws = []
    for _ in range(2):
        rng = np.random.default_rng(5)
        Kept(Tone("x"), tmp_path).say(TEXT, "en-us+x", 140.0, rng)
        draws.append(rng.random())
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    "fault",
    [
        {"engines": ()},
        {"engines": ("flite",)},
        {"engines": ("espeak", "espeak")},
        {"piper_voices": ("a.onnx",)},
        {"kokoro_styles_dir": "voices"},
    ],
)
def test_engines_that_cannot_be_meant_are_refused(fault):
    with pytest.raises(InputError, match=f"`synthesis.{next(iter(fault))}`"):
        SynthesisConfig(**fault)


@pytest.fixture
def two_engines(monkeypatch):
    """Tones as piper and kokoro, beside espeak-ng itself."""
    pytest.importorskip("espeakng_loader", reason="needs the extra [tts]")
    piper, kokoro = Tone("joe"), Tone(*(f"kokoro-{i}" for i in range(40)))
    monkeypatch.setattr(engines.Piper, "of_files", lambda paths: piper)
    monkeypatch.setattr(engines, "Kokoro", lambda _: kokoro)
    return piper, kokoro


def test_every_label_of_a_corpus_has_the_engines_in_the_same_shares(two_engines, tmp_path):
    config = SynthesisConfig(
        engines=("piper", "kokoro", "espeak"), voices=8, positives=58, similar=44, speech=30,
        noise=24, silence=6,
    )  # fmt: skip
    (label,) = synthesize(["smart mirror"], str(tmp_path / "c"), config)
    rows = (tmp_path / "c" / "manifest.csv").read_text().splitlines()[1:]
    shares: dict[tuple[str, str], Counter] = {}
    for _, kind, speaker, split, *_ in (row.split(",") for row in rows):
        name = re.split("[-~]", speaker.split("+")[-1])[0]
        shares.setdefault((split, kind), Counter())[name] += 1
    for kind in (label, "similar", "speech"):
        assert set(shares["train", kind]) == {"joe", "kokoro"}
        assert abs(shares["train", kind]["joe"] - shares["train", kind]["kokoro"]) <= 1
        assert not {"joe", "kokoro"} & set(shares["validation", kind] + shares["test", kind])


def test_a_killed_synthesis_says_nothing_twice(two_engines, tmp_path, monkeypatch):
    config = SynthesisConfig(
        engines=("piper", "espeak"), voices=8, positives=20, similar=12, speech=12, noise=3,
        silence=3,
    )  # fmt: skip
    piper, _ = two_engines
    whole = piper.say

    def killed(*asked):
        if len(piper.said) == 15:
            raise KeyboardInterrupt
        return whole(*asked)

    with monkeypatch.context() as patch:
        patch.setattr(piper, "say", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesize(["smart mirror"], str(tmp_path / "c"), config)
    synthesize(["smart mirror"], str(tmp_path / "c"), config)
    said = len(piper.said)
    synthesize(["smart mirror"], str(tmp_path / "other"), config)
    assert len(piper.said) == said
    assert (tmp_path / "other/manifest.csv").read_text() == (
        tmp_path / "c/manifest.csv"
    ).read_text()


def test_another_version_of_an_engine_makes_the_corpus_again(two_engines, tmp_path):
    config = SynthesisConfig(
        engines=("piper", "espeak"), voices=8, positives=6, similar=6, speech=6, noise=3, silence=3
    )
    piper, _ = two_engines
    synthesize(["smart mirror"], str(tmp_path / "c"), config)
    said = len(piper.said)
    piper.version = "tone 2"
    synthesize(["smart mirror"], str(tmp_path / "c"), config)
    assert len(piper.said) == 2 * said


def test_a_phrase_that_no_take_fits_into_a_clip_names_the_length(two_engines, tmp_path):
    config = SynthesisConfig(engines=("piper", "espeak"), clip_ms=1500, voices=8)
    piper, _ = two_engines
    audio = np.ones(44_100, np.int16)
    piper.say = lambda text, *asked: Utterance(
        audio, (Phoneme("a", text.find("mirror"), 0),), 22_050
    )
    config = dataclasses.replace(config, pitch_low_hz=0.0)
    with pytest.raises(InputError, match=r"`clip_ms`=1500 is too short.*give `clip_ms`=2120"):
        synthesize(["smart mirror"], str(tmp_path / "c"), config)


def test_a_voice_without_a_sound_for_the_phrase_is_named(two_engines, tmp_path):
    config = SynthesisConfig(engines=("piper", "espeak"), voices=8)
    piper, _ = two_engines
    pause = Utterance(np.ones(9_000, np.int16), (Phoneme("_", -1, 0),), 22_050)
    piper.say = lambda *asked: pause
    with pytest.raises(InputError, match="joe has no sound for 'smart mirror'"):
        synthesize(["smart mirror"], str(tmp_path / "c"), config)
