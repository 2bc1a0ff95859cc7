import dataclasses
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_recordings import write_ambient, write_recordings

from wakeword_keras import InputError
from wakeword_keras.audio import audio_file
from wakeword_keras.data import ambient
from wakeword_keras.data.corpus import CorpusConfig, read_corpus
from wakeword_keras.names import AMBIENT, SPEECH, SPLITS

CONFIG = CorpusConfig(("yes",), clip_ms=500)
SPEAKERS = [f"reader-{i}" for i in range(6)]


@pytest.fixture
def corpus(tmp_path):
    return read_corpus([str(write_recordings(tmp_path / "words"))], CONFIG)


def joined(corpus, *folders):
    return ambient.join(corpus, [str(folder) for folder in folders], CONFIG)


def moments(corpus, split):
    return {
        (clip.path, round(float(moment), 2))
        for clip in corpus.streams
        if clip.split == split
        for moment in np.arange(clip.start_s + 0.05, clip.start_s + clip.duration_s, 0.1)
    }


def test_speakers_are_disjoint_and_streams_are_no_clips(corpus, tmp_path):
    whole = joined(corpus, write_ambient(tmp_path / "ambient", SPEAKERS))
    speakers = {s: {c.speaker for c in whole.streams if c.split == s} for s in SPLITS}
    assert sorted(name for found in speakers.values() for name in found) == SPEAKERS
    assert {len(found) for found in speakers.values()} == {2}
    assert {(piece.label, piece.group) for piece in whole.streams} == {(AMBIENT, SPEECH)}
    assert whole.clips == corpus.clips
    streams = [ambient.of_split(whole.streams, split) for split in SPLITS]
    assert [[len(pieces) for pieces in found] for found in streams] == [[1, 1]] * 3


def test_the_hash_covers_every_split_of_the_ambient_audio(corpus, tmp_path):
    folder = write_ambient(tmp_path / "ambient", SPEAKERS)
    before = joined(corpus, folder)
    assert before.sha256 != corpus.sha256
    assert joined(corpus, folder) == before
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert joined(corpus, moved).sha256 == before.sha256
    for number, split in enumerate(SPLITS):
        (changed,) = [s for s in joined(corpus, moved).streams if s.split == split][:1]
        audio_file.write(changed.path, np.full(16000, 7 + number, np.int16))
        after = joined(corpus, moved).sha256
        assert after != before.sha256
        before = dataclasses.replace(before, sha256=after)


@pytest.mark.parametrize("names", [["only"], ["one", "two"]])
def test_fewer_than_three_speakers_are_split_by_time_without_overlap(corpus, tmp_path, names):
    whole = joined(corpus, write_ambient(tmp_path / "ambient", names, seconds=6))
    held = [moments(whole, split) for split in SPLITS]
    assert not held[0] & held[1]
    assert not (held[0] | held[1]) & held[2]
    assert {len(found) for found in held} == {20 * len(names)}
    assert any("time is split" in message for message in whole.messages)


def test_a_speaker_of_the_corpus_stays_in_the_split(corpus, tmp_path):
    pinned = {"train-1": "train", "validation-1": "validation", "test-1": "test"}
    folder = write_ambient(tmp_path / "ambient", [*SPEAKERS, *pinned])
    found = {clip.speaker: clip.split for clip in joined(corpus, folder).streams}
    assert {name: found[name] for name in pinned} == pinned


def test_ambient_audio_that_the_corpus_holds_is_left_out(corpus, tmp_path):
    folder = write_ambient(tmp_path / "ambient", SPEAKERS)
    for name in SPEAKERS:
        shutil.copy(tmp_path / "words" / "test-no-1.wav", folder / name / "copied.wav")
    whole = joined(corpus, folder)
    assert not [clip for clip in whole.streams if "copied" in clip.clip_id]
    assert any("6 ambient recordings left out" in message for message in whole.messages)


@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.floats(1, 100), min_size=3))
def test_splits_differ_by_no_more_than_the_longest_speaker(seconds):
    chosen = ambient.split_speakers(seconds, {})
    totals = [sum(seconds[name] for name in chosen if chosen[name] == s) for s in SPLITS]
    assert max(totals) - min(totals) <= max(seconds.values()) + 1e-9
    assert chosen == ambient.split_speakers(dict(reversed(seconds.items())), {})


def test_bad_folders_are_named(corpus, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        joined(corpus, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no audio"):
        joined(corpus, tmp_path / "empty")
    everyone = ["train-1", "train-2", "train-3"]
    with pytest.raises(InputError, match="validation split"):
        joined(corpus, write_ambient(tmp_path / "ambient", everyone))


def test_messages_come_out_before_the_error_that_they_explain(corpus, tmp_path, capsys):
    folder = write_ambient(tmp_path / "ambient", SPEAKERS[:3], seconds=1.0)
    for speaker in SPEAKERS[1:3]:
        shutil.copy(folder / SPEAKERS[0] / "chapter/1.flac", folder / speaker / "chapter/1.flac")
    with pytest.raises(InputError, match="`ambient_dir`"):
        joined(corpus, folder)
    assert "2 ambient recordings left out, the same audio" in capsys.readouterr().out


def test_silent_ambient_recordings_are_named(corpus, tmp_path):
    folder = write_ambient(tmp_path / "ambient", SPEAKERS)
    audio_file.write(folder / SPEAKERS[0] / "off.wav", np.zeros(16_000, np.int16))
    (message,) = [m for m in joined(corpus, folder).messages if "1 recordings are silent" in m]
    assert "off.wav" in message


def test_a_corpus_that_only_tests_takes_every_speaker_whole(corpus, tmp_path):
    folder = write_ambient(tmp_path / "ambient", SPEAKERS[:2])
    whole = ambient.join_test(corpus, [str(folder)], CONFIG)
    assert [(piece.speaker, piece.split) for piece in whole.streams] == [
        (speaker, "test") for speaker in SPEAKERS[:2]
    ]
    assert {(piece.start_s, piece.duration_s) for piece in whole.streams} == {(0.0, 4.0)}
    assert (whole.clips, whole.sha256) == (corpus.clips, corpus.sha256)
