import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wakeword_keras.errors import InputError
from wakeword_keras.names import SPLITS
from wakeword_keras.synthesis import clips as spoken_clips
from wakeword_keras.synthesis import engines, espeak, lines, phonetics, voices
from wakeword_keras.synthesis.config import SynthesisConfig
from wakeword_keras.synthesis.corpus import synthesize
from wakeword_keras.synthesis.engines import Cast

pytest.importorskip("espeakng_loader", reason="needs the extra [tts]: pip install espeakng-loader")

PHRASE = "hey jarvis"
TINY = SynthesisConfig(
    clip_ms=1250, voices=8, positives=18, similar=12, speech=12, noise=24, silence=6
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthesis") / "corpus"
    assert synthesize([PHRASE], str(folder), TINY) == ("hey_jarvis",)
    return folder


def rows_of(folder):
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def read(folder, row):
    audio, rate_hz = soundfile.read(folder / row["path"], dtype="int16")
    assert rate_hz == 16_000
    assert audio.ndim == 1
    return audio


def contents(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder): p.read_bytes() for p in files}


def test_every_split_has_every_label_in_the_counts_asked_for(corpus):
    clips: Counter[tuple[str, str]] = Counter()
    for row in rows_of(corpus):
        clips[row["label"], row["split"]] += len(read(corpus, row)) // TINY.clip_samples
    wanted = {"hey_jarvis": 18, "similar": 12, "speech": 12}
    wanted |= {"_background_noise_": 24, "_silence_": 6}
    assert len(clips) == 3 * len(wanted)
    for label, count in wanted.items():
        assert sum(clips[label, split] for split in SPLITS) == count


def test_every_clip_is_said_to_be_synthetic(corpus):
    assert {row["synthetic"] for row in rows_of(corpus)} == {"1"}


def test_no_speaker_and_no_family_of_variants_is_in_two_splits(corpus):
    split_of: dict[str, str] = {}
    for row in rows_of(corpus):
        assert split_of.setdefault(row["speaker"], row["split"]) == row["split"]
    for seed in range(5):
        seen: dict[str, str] = {}
        for split, names in voices.choose_voices(200, seed).items():
            for voice in names:
                family = voices._family(voice.split("+")[1])
                assert seen.setdefault(family, split) == split


@pytest.mark.parametrize("count", [3, 8, 160, len(voices.ACCENTS) * len(voices.VARIANTS)])
def test_voices_are_distinct_and_every_split_has_some(count):
    chosen = voices.choose_voices(count, 1)
    every = [voice for split in SPLITS for voice in chosen[split]]
    assert len(set(every)) == len(every) == count
    assert all(chosen[split] for split in SPLITS)
    if count >= 160:
        assert 0.6 < len(chosen["train"]) / count < 0.8


def test_espeak_has_every_accent_and_variant():
    tts = espeak.Espeak()
    baseline = tts.say("hello", "en-us").audio
    heard = set()
    for variant in voices.VARIANTS:
        heard.add(tts.say("hello", f"en-us+{variant}").audio.tobytes())
    for accent in voices.ACCENTS:
        assert len(tts.say("hello", accent).audio) > 0
    # an unknown variant would silently be spoken by the plain voice
    assert baseline.tobytes() not in heard
    assert len(heard) == len(voices.VARIANTS)


def test_no_two_files_are_the_same_and_none_is_clipped(corpus):
    clips = [read(corpus, row) for row in rows_of(corpus)]
    assert len({clip.tobytes() for clip in clips}) == len(clips)
    assert max(np.abs(clip.astype(int)).max() for clip in clips) < 32_767


def test_labels_are_as_loud_as_they_should_be(corpus):
    levels: dict[str, list[float]] = {}
    for row in rows_of(corpus):
        clip = read(corpus, row) / 32_768
        levels.setdefault(row["label"], []).append(10 * np.log10(np.mean(clip**2) + 1e-18))
    assert max(levels["_silence_"]) < -69
    for label in ("hey_jarvis", "similar", "speech"):
        assert min(levels[label]) > -60
    # loudness must not tell positives from the phrases that sound like them
    assert abs(np.mean(levels["hey_jarvis"]) - np.mean(levels["similar"])) < 8


def test_same_seed_gives_the_same_bytes_in_another_process_and_after_other_speech(corpus, tmp_path):
    program = (
        "from wakeword_keras.synthesis import config, corpus, espeak\n"
        "espeak.Espeak(3).say('something else first', 'en-us+f2')\n"
        f"corpus.synthesize([{PHRASE!r}], {str(tmp_path / 'again')!r}, config.{TINY!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout + done.stderr == ""
    synthesize([PHRASE], str(tmp_path / "here"), TINY)
    assert contents(tmp_path / "again") == contents(corpus)
    assert contents(tmp_path / "here") == contents(corpus)


def test_any_number_of_cores_makes_the_same_bytes(corpus, tmp_path, monkeypatch):
    for cores in (1, 7):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        synthesize([PHRASE], str(tmp_path / str(cores)), TINY)
        assert contents(tmp_path / str(cores)) == contents(corpus)


def test_who_closes_the_clips_does_not_wait_for_the_rest(monkeypatch):
    made = []

    def make():
        made.append(time.sleep(0.01))
        return np.zeros(1)

    jobs = [spoken_clips._Job("speech", "en-us+f1", "train", make)] * 10_000
    monkeypatch.setattr(spoken_clips, "_jobs", lambda _: jobs)
    found = spoken_clips.clips(studio())
    next(found)
    found.close()
    assert 0 < len(made) < 1_000


def test_what_espeak_says_hangs_on_its_draws_alone():
    engine, voice = engines.Formants(), "en-us+f3"
    first = engine.say(PHRASE, voice, 150.0, np.random.default_rng(1))
    engine.say("something else", voice, 150.0, np.random.default_rng(2))
    again = engine.say(PHRASE, voice, 150.0, np.random.default_rng(1))
    assert again.audio.tobytes() == first.audio.tobytes()
    assert again.phonemes == first.phonemes


def test_another_seed_gives_other_clips(corpus, tmp_path):
    synthesize([PHRASE], str(tmp_path / "c"), dataclasses.replace(TINY, seed=1))
    ours = set(contents(corpus).values())
    same = [data for data in contents(tmp_path / "c").values() if data in ours]
    assert len(same) <= 1  # digital silence


def test_a_finished_corpus_is_reused_and_another_phrase_replaces_it(tmp_path):
    folder = tmp_path / "c"
    synthesize([PHRASE], str(folder), TINY)
    inode = (folder / "manifest.csv").stat().st_ino
    made = (folder / "manifest.csv").stat().st_mtime_ns
    synthesize([PHRASE], str(folder), TINY)
    assert (folder / "manifest.csv").stat().st_mtime_ns == made
    assert (folder / "manifest.csv").stat().st_ino == inode
    assert synthesize(["computer"], str(folder), TINY) == ("computer",)
    assert {r["label"] for r in rows_of(folder)} >= {"computer", "similar"}
    assert not (folder / "hey_jarvis").exists()


def test_a_killed_synthesis_leaves_no_corpus_and_is_made_again(tmp_path, monkeypatch, corpus):
    folder = tmp_path / "c"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(spoken_clips, "_silence", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesize([PHRASE], str(folder), TINY)
    assert not folder.exists()
    synthesize([PHRASE], str(folder), TINY)
    assert contents(folder) == contents(corpus)
    assert list(tmp_path.iterdir()) == [folder]


def test_two_runs_that_synthesise_at_once_share_a_whole_corpus(tmp_path, corpus):
    folder = tmp_path / "c"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: synthesize([PHRASE], str(folder), TINY), range(2)))
    assert contents(folder) == contents(corpus)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["synthesis.json", "manifest.csv", "similar"])
def test_a_corpus_without_all_of_its_files_is_made_again(tmp_path, corpus, name, capsys):
    folder = tmp_path / "c"
    shutil.copytree(corpus, folder)
    damaged = folder / name if "." in name else min((folder / name).iterdir())
    damaged.unlink()
    synthesize([PHRASE], str(folder), TINY)
    assert contents(folder) == contents(corpus)
    assert str(folder) in capsys.readouterr().out


def test_a_folder_with_other_things_is_not_deleted(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a synthesised corpus"):
        synthesize([PHRASE], str(tmp_path), TINY)
    with pytest.raises(InputError, match="is a file"):
        synthesize([PHRASE], str(tmp_path / "thesis.txt"), TINY)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("phrase", [PHRASE, "computer"])
def test_the_energy_of_a_phrase_lies_in_its_span(phrase):
    tts = espeak.Espeak()
    for voice in ("en-us+f1", "en+m3", "en-gb-scotland+linda", "en-029+klatt2"):
        for line in lines.alone(phrase):
            utterance = tts.say(line.text, voice)
            start, end = utterance.span(line.first, line.last)
            energy = utterance.audio.astype(float) ** 2
            assert energy[start:end].sum() > 0.995 * energy.sum()
            assert energy[start:end].sum() > 0


def test_a_span_in_a_carrier_is_as_long_as_the_phrase_alone():
    tts = espeak.Espeak()
    alone = tts.say(PHRASE, "en-us+m1").span(0, len(PHRASE))
    text = f"okay {PHRASE} stop"
    inside = tts.say(text, "en-us+m1").span(5, 5 + len(PHRASE))
    assert inside[1] - inside[0] == pytest.approx(alone[1] - alone[0], rel=0.2)
    assert inside[0] > alone[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_clip_holds_the_whole_span_with_room_at_its_ends(seed):
    rng = np.random.default_rng(seed)
    config = SynthesisConfig(clip_ms=1000)
    unused = lines.Script((), (), {})
    studio = spoken_clips.Studio(espeak.Espeak(), Cast({}, {}), rng, config, unused)
    for _ in range(50):
        audio = np.full(int(rng.integers(16_000, 40_000)), 1e-9)
        start = int(rng.integers(0, len(audio) - 12_000))
        end = start + int(rng.integers(2_000, 12_000))
        audio[start:end] = 1.0
        clip = spoken_clips._clip(studio, audio, start, end)
        inside = np.flatnonzero(clip > 0.5 * clip.max())
        assert len(clip) == 16_000
        assert inside[-1] - inside[0] + 1 == end - start
        assert inside[0] >= 0.04 * 16_000
        assert inside[-1] < 0.96 * 16_000


def test_similar_phrases_are_near_and_never_the_phrase(corpus):
    facts = json.loads((corpus / "synthesis.json").read_text())
    tts = espeak.Espeak()
    target = phonetics.symbols(tts.phonemes(PHRASE))
    assert facts["phonemes"].split() == list(tts.phonemes(PHRASE))
    texts = [item["text"] for item in facts["similar"]]
    distances = [item["distance"] for item in facts["similar"]]
    assert len(texts) >= 40
    assert "say jarvis" in texts
    assert distances == sorted(distances)
    assert 0.45 <= distances[0] <= distances[-1] < 2.5
    for text in texts:
        assert not phonetics.contains(phonetics.symbols(tts.phonemes(text)), target)
    assert {item["text"] for item in facts["parts"]} == {"hey", "jarvis", "jarvis hey"}


def test_a_one_word_phrase_has_its_halves_as_parts():
    tts = espeak.Espeak()
    halves = [tts.say(text, "en-us+f1").audio for text in lines._parts(tts, "computer")]
    whole = tts.say("computer", "en-us+f1").audio
    assert len(halves) == 2
    assert all(0.2 * len(whole) < len(half) < 0.9 * len(whole) for half in halves)


def test_a_line_with_the_phrase_in_it_is_drawn_again():
    tts = espeak.Espeak()
    drawn = iter(lines.Line(t, 0, len(t)) for t in ("oh hay jarvis", "hello jarvis"))
    assert lines.without_phrases(tts, [PHRASE], "en-us+f1", lambda: next(drawn)).text == (
        "hello jarvis"
    )
    # an accent without "h"
    drawn = iter(lines.Line(t, 0, len(t)) for t in ("say jarvis", "hi jarvis"))
    drawn = lines.without_phrases(tts, [PHRASE], "en-gb-x-gbcwmd+f1", lambda: next(drawn))
    assert drawn.text == "hi jarvis"


def test_too_short_a_clip_names_the_length_needed_and_that_is_enough(tmp_path):
    with pytest.raises(InputError, match="`clip_ms`=300 is too short") as error:
        synthesize([PHRASE], str(tmp_path / "c"), dataclasses.replace(TINY, clip_ms=300))
    needed_ms = int(re.search(r"takes up to (\d+) ms", str(error.value))[1])
    short = dataclasses.replace(TINY, clip_ms=needed_ms - 10)
    with pytest.raises(InputError, match=f"`clip_ms`={needed_ms} or more"):
        synthesize([PHRASE], str(tmp_path / "c"), short)
    synthesize([PHRASE], str(tmp_path / "c"), dataclasses.replace(TINY, clip_ms=needed_ms))


@pytest.mark.parametrize("phrase", ["", "  ", "?!", "42", "ʘʘ", "привет", "你好"])
def test_a_phrase_that_cannot_be_pronounced_is_refused(phrase, tmp_path):
    with pytest.raises(InputError, match="`wake_phrase`="):
        synthesize([phrase], str(tmp_path / "c"), TINY)
    assert not (tmp_path / "c").exists()


TWO = ["hey jarvis", "ok nova"]


def test_several_phrases_have_a_label_each_and_no_clip_has_the_sounds_of_another(
    tmp_path, monkeypatch
):
    said = []
    speak = spoken_clips._speak

    def spoken(studio, voice, line, *slowest_wpm):
        said.append((voice, line.text))
        return speak(studio, voice, line, *slowest_wpm)

    monkeypatch.setattr(spoken_clips, "_speak", spoken)
    assert synthesize(TWO, str(tmp_path / "c"), TINY) == ("hey_jarvis", "ok_nova")
    counts = Counter(row["label"] for row in rows_of(tmp_path / "c"))
    assert (counts["hey_jarvis"], counts["ok_nova"], counts["similar"]) == (18, 18, 12)
    tts = espeak.Espeak()
    held: Counter[tuple[str, ...]] = Counter()
    for voice, text in said:
        accent = voice.split("+")[0]
        sounds = phonetics.symbols(tts.phonemes(text, accent))
        held[tuple(
            phrase for phrase in TWO
            if phonetics.contains(sounds, phonetics.symbols(tts.phonemes(phrase, accent)))
        )] += 1  # fmt: skip
    assert min(held["hey jarvis",], held["ok nova",]) >= 18  # more where one did not fit
    assert held[tuple(TWO)] == 0
    facts = json.loads((tmp_path / "c" / "synthesis.json").read_text())
    assert {"hey", "jarvis", "ok", "nova"} <= {part["text"] for part in facts["parts"]}


def test_a_carrier_with_another_phrase_in_it_is_not_taken():
    tts = espeak.Espeak()
    rng = np.random.default_rng(0)
    drawn = {lines.in_carrier(rng, PHRASE).text for _ in range(300)}
    assert any("my friend" in text for text in drawn)
    for _ in range(300):
        line = lines.without_phrases(
            tts, ["my friend"], "en-us+f1", lambda: lines.in_carrier(rng, PHRASE)
        )
        assert "my friend" not in line.text


@pytest.mark.parametrize(
    "phrases",
    [["hey jarvis", "jarvis"], ["jarvis", "hey jarvis"], ["hey jarvis", "hay jarvis"],
     ["hey jarvis", "Hey Jarvis"]],
)  # fmt: skip
def test_a_phrase_within_another_is_refused(phrases, tmp_path):
    with pytest.raises(InputError, match="sounds like a part or all of"):
        synthesize(phrases, str(tmp_path / "c"), TINY)
    assert not (tmp_path / "c").exists()


def test_a_phrase_within_all_speech_is_refused():
    tts = espeak.Espeak()
    line = lines.Line("all the same", 0, 12)
    with pytest.raises(InputError, match="too short"):
        lines.without_phrases(tts, ["all"], "en-us+f1", lambda: line)


def test_a_missing_espeak_names_the_extra(monkeypatch):
    monkeypatch.setattr(espeak.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"pip install 'wakeword_keras\[tts\]'"):
        espeak.Espeak()


def test_an_unknown_voice_is_named():
    with pytest.raises(InputError, match="xx-nowhere"):
        espeak.Espeak().say("hello", "xx-nowhere")


@pytest.mark.parametrize("fault", [{"voices": 2}, {"positives": 0}, {"clip_ms": 10}, {"seed": -1}])
def test_a_config_out_of_range_is_refused(fault):
    name = next(iter(fault))
    with pytest.raises(InputError, match=f"`synthesis.{name}`={fault[name]}"):
        SynthesisConfig(**fault)


@pytest.mark.parametrize(
    ("phrase", "label"),
    [
        ("Hey, Jarvis!", "hey_jarvis"),
        ("café", "cafe"),
        ("don't", "dont"),
        ("Speech", "speech_phrase"),
        ("Øø", "oo"),
        ("Straße", "strasse"),
        ("cafe\u0301", "cafe"),
    ],
)
def test_label_of_a_phrase(phrase, label):
    assert lines.phrase_label(phrase) == label


def studio(seed=0, **changes):
    """A studio that only cuts clips."""
    config = dataclasses.replace(SynthesisConfig(clip_ms=1000), **changes)
    rng = np.random.default_rng(seed)
    return spoken_clips.Studio(espeak.Espeak(), Cast({}, {}), rng, config, lines.Script((), (), {}))


def ends_ms(phrase_end_ms, samples=8_000):
    """How long before the end of its clip a span of so many samples ends, 300 times."""
    cutting, audio = studio(phrase_end_ms=phrase_end_ms), np.full(40_000, 1e-9)
    audio[20_000 : 20_000 + samples] = 1.0
    clips = [spoken_clips._clip(cutting, audio, 20_000, 20_000 + samples) for _ in range(300)]
    return np.array([(16_000 - 1 - np.flatnonzero(c > 0.5 * c.max())[-1]) / 16 for c in clips])


def test_a_phrase_ends_at_any_time_of_the_range_before_its_clip_does():
    ends = ends_ms(300)
    assert 39 <= ends.min() < 50
    assert 290 < ends.max() <= 300
    assert abs(np.median(ends) - 170) < 20
    anywhere = ends_ms(0)
    assert anywhere.max() > 440


def test_a_phrase_that_fills_its_clip_is_whole_wherever_it_should_end():
    assert 39 <= ends_ms(300, 14_700).min() <= ends_ms(300, 14_700).max() <= 42


def test_of_a_span_the_silence_at_its_ends_is_not_speech():
    audio = np.full(16_000, 1e-4)
    audio[4_000:9_000] = np.sin(np.arange(5_000))
    start, end = spoken_clips._sounding(audio, 1_000, 15_000)
    assert 3_920 <= start <= 4_000
    assert 9_000 <= end <= 9_080
    assert spoken_clips._sounding(audio * 0, 1_000, 15_000) == (0, 0)
    assert spoken_clips._sounding(audio, 1_000, 1_000) == (0, 0)


def test_the_phrase_takes_as_long_as_people_take():
    """0.55 to 1.3 s of "smart mirror" by people (1st to 99th percentile of 369)."""
    names = [name for names in voices.choose_voices(160, 0).values() for name in names]
    speaking = dataclasses.replace(
        studio(), cast=Cast({}, dict.fromkeys(names, engines.Formants()), 0.7, 15.0)
    )
    line = lines.alone("smart mirror")[0]
    lasted = []
    for voice in names:
        _, start, end = spoken_clips._speak(speaking, voice, line)
        lasted.append((end - start) / 16_000)
    assert np.percentile(lasted, 2) < 0.6
    assert 0.75 < np.median(lasted) < 1.0
    assert np.percentile(lasted, 98) > 1.2
