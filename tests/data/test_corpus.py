import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from small_recordings import write_recordings

from wakeword_keras.audio import audio_file
from wakeword_keras.data.corpus import CorpusConfig, hash_split, read_corpus
from wakeword_keras.errors import InputError
from wakeword_keras.names import NOISE, POSITIVE, SPEECH, SPLITS

HAPPY = CorpusConfig(("happy",))
# Percentages of these speakers by the official rule, worked out with sha1sum and bc: 50.18, 6.58
# and 15.05.
TRAINER, VALIDATOR, TESTER = "00f0204f", "0e17f595", "0f250098"
SPEAKERS = (TRAINER, VALIDATOR, TESTER)


def sound(name, seconds=0.1):
    """Different audio for every name, always the same for one."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.integers(-9000, 9000, round(seconds * 16_000)).astype(np.int16)


def add(root, name, seconds=0.1, content=None):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    audio_file.write(path, sound(content or name, seconds))


def add_words(root, words=("happy", "bed"), speakers=SPEAKERS):
    for word in words:
        for speaker in speakers:
            add(root, f"{word}/{speaker}_nohash_0.wav")
    return root


def write_manifest(root, text):
    root.mkdir(exist_ok=True)
    (root / "manifest.csv").write_text(text)
    return root


def add_manifest(root, rows, header="path,label,speaker,split"):
    for row in rows:
        add(root, row.split(",")[0])
    return write_manifest(root, "\n".join([header, *rows]) + "\n")


GOOD_ROWS = [f"{w}/{s}.wav,{w},{s}er,{s}" for w in ("happy", "bed") for s in SPLITS]


def by_id(corpus):
    return {clip.clip_id: clip for clip in corpus.clips}


def splits_of(corpus):
    return {clip.clip_id: clip.split for clip in corpus.clips}


def said(corpus, what):
    return [message for message in corpus.messages if what in message]


def error_of(data_dirs, config=HAPPY):
    with pytest.raises(InputError) as error:
        read_corpus([str(folder) for folder in data_dirs], config)
    assert "\n" not in str(error.value)
    return str(error.value)


# The split rule.


def test_hash_rule_puts_speakers_where_the_official_rule_puts_them():
    assert [hash_split(speaker, 10, 10) for speaker in SPEAKERS] == list(SPLITS)


@given(st.text(min_size=1), st.floats(0, 50), st.floats(0, 49), st.floats(0, 49))
def test_a_larger_test_share_only_moves_speakers_from_training(speaker, validation, one, other):
    small, large = sorted((one, other))
    before, after = (hash_split(speaker, validation, test) for test in (small, large))
    assert before == after or (before, after) == ("train", "test")


def test_hash_rule_gives_about_the_shares_asked_for():
    counts = Counter(hash_split(f"speaker {i}", 10, 30) for i in range(5000))
    assert counts["validation"] == pytest.approx(500, abs=90)
    assert counts["test"] == pytest.approx(1500, abs=140)


# Label folders.


def test_label_folders_give_label_group_speaker_split_and_length(tmp_path):
    add_words(tmp_path, ("happy", "bed", "_background_", "negative", "_unknown_"))
    corpus = read_corpus([str(tmp_path)], HAPPY)
    groups = {clip.label: clip.group for clip in corpus.clips}
    assert groups == {
        "happy": POSITIVE,
        "bed": SPEECH,
        "_background_": NOISE,
        "negative": SPEECH,
        "_unknown_": SPEECH,
    }
    clip = by_id(corpus)[f"happy/{TESTER}_nohash_0.wav"]
    assert (clip.speaker, clip.split, clip.weight) == (TESTER, "test", 1.0)
    assert (clip.start_s, clip.duration_s) == (0.0, 0.1)
    assert clip.path == str(tmp_path / clip.clip_id)
    assert corpus.messages == ()


def test_speaker_is_the_first_folder_below_the_label_however_deep_the_file_lies(tmp_path):
    add_words(tmp_path)
    add(tmp_path, "bed/198/209/198-209-0001.ogg")
    clip = by_id(read_corpus([str(tmp_path)], HAPPY))["bed/198/209/198-209-0001.ogg"]
    assert clip.speaker == "198"


def test_files_of_unknown_speaker_are_said(tmp_path):
    add_words(tmp_path)
    add(tmp_path, "bed/recording 7.wav")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert by_id(corpus)["bed/recording 7.wav"].speaker == "recording 7"
    assert "1 files of unknown speaker" in said(corpus, "unknown speaker")[0]


def test_hidden_files_are_skipped_and_other_files_are_said(tmp_path):
    add_words(tmp_path)
    (tmp_path / "bed" / "._x.wav").write_bytes(b"resource fork")
    (tmp_path / "bed" / "notes.txt").write_text("hello")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert len(corpus.clips) == 6
    assert "1 files ignored" in said(corpus, "bed/notes.txt")[0]


def test_linked_folders_are_followed(tmp_path):
    add_words(tmp_path / "data")
    add(tmp_path / "elsewhere", "ann/a.wav")
    (tmp_path / "data" / "negative").symlink_to(tmp_path / "elsewhere")
    assert "negative/ann/a.wav" in by_id(read_corpus([str(tmp_path / "data")], HAPPY))


# Manifests.


def test_manifest_gives_speaker_split_weight_and_who_is_synthetic(tmp_path):
    rows = [*(f"{row},1," for row in GOOD_ROWS), "x.wav,bed,ann,test,2.5,1"]
    add_manifest(tmp_path, rows, "path,label,speaker,split,weight,synthetic")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    clip = by_id(corpus)["x.wav"]
    assert (clip.label, clip.speaker, clip.split, clip.weight) == ("bed", "ann", "test", 2.5)
    assert [c.clip_id for c in corpus.clips if c.synthetic] == ["x.wav"]
    assert splits_of(corpus)["happy/validation.wav"] == "validation"


def test_a_row_without_split_follows_its_speaker(tmp_path):
    split = next(s for s in SPLITS if s != hash_split("ann", 10, 10))
    add_manifest(tmp_path, [*GOOD_ROWS, f"a.wav,bed,ann,{split}", "b.wav,bed,ann,"])
    assert splits_of(read_corpus([str(tmp_path)], HAPPY))["b.wav"] == split


def test_a_manifest_needs_neither_speaker_nor_split(tmp_path):
    rows = [f"{word}/{who}_nohash_0.wav,{word}" for word in ("happy", "bed") for who in SPEAKERS]
    add_manifest(tmp_path, [*rows, "a/1.wav,bed", "b/1.wav,bed"], "path,label")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert by_id(corpus)[f"bed/{TESTER}_nohash_0.wav"].split == "test"
    assert by_id(corpus)["a/1.wav"].speaker != by_id(corpus)["b/1.wav"].speaker
    assert "2 files of unknown speaker" in said(corpus, "unknown speaker")[0]


def test_data_folders_are_merged(tmp_path):
    add_words(tmp_path / "words")
    add_manifest(tmp_path / "listed", ["a.wav,bed,ann,test"])
    corpus = read_corpus([str(tmp_path / "words"), str(tmp_path / "listed")], HAPPY)
    assert len(corpus.clips) == 7
    assert splits_of(corpus)["2/a.wav"] == "test"
    assert f"1/happy/{TRAINER}_nohash_0.wav" in by_id(corpus)


# Spelling.


@pytest.mark.parametrize("spelling", ["Happy", "HAPPY", "happy ", "häppy", "-happy-"])
def test_a_wake_word_in_another_spelling_is_the_wake_word_and_is_said(tmp_path, spelling):
    add_words(tmp_path / "folders", ("happy", spelling, "bed"))
    rows = [f"{s}.wav,{spelling},{s}er,{s}" for s in SPLITS]
    add_manifest(tmp_path / "listed", [*GOOD_ROWS, *rows])
    for folder, count in (("folders", 6), ("listed", 6)):
        corpus = read_corpus([str(tmp_path / folder)], HAPPY)
        assert Counter(c.label for c in corpus.clips if c.group == POSITIVE) == {"happy": count}
        assert Counter(c.label for c in corpus.clips if c.group != POSITIVE) == {"bed": 3}
        if spelling.strip() != "happy" or folder == "folders":  # cells of a manifest are stripped
            assert "3 recordings taken as 'happy'" in said(corpus, "warning: label")[0]


def test_noise_in_another_spelling_is_noise_and_is_said(tmp_path):
    add_words(tmp_path, ("happy", "bed", "Background Noise", "silence"))
    add(tmp_path, "Background Noise/street/1.wav")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    noise = Counter(clip.label for clip in corpus.clips if clip.group == NOISE)
    assert noise == {"_background_noise_": 4, "_silence_": 3}
    assert by_id(corpus)["Background Noise/street/1.wav"].speaker == "1"
    assert len(said(corpus, "warning: label")) == 2


def test_a_wake_word_like_a_label_of_noise_leaves_the_noise_alone(tmp_path):
    add_words(tmp_path, ("Silence", "_silence_", "bed"))
    corpus = read_corpus([str(tmp_path)], CorpusConfig(("silence",)))
    groups = Counter((clip.label, clip.group) for clip in corpus.clips)
    assert groups == {("silence", POSITIVE): 3, ("_silence_", NOISE): 3, ("bed", SPEECH): 3}


def test_what_only_looks_like_a_wake_word_is_other_speech_and_is_said(tmp_path):
    add_words(tmp_path, ("happy", "happy2", "not-happy", "bed"))
    add(tmp_path, "test/Happy/1.wav")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert {c.label for c in corpus.clips if c.group == POSITIVE} == {"happy"}
    assert said(corpus, "warning: label 'happy2' is not 'happy': its 3 recordings")
    assert said(corpus, "warning: label 'not-happy' is not 'happy'")
    assert "test/Happy/1.wav" in said(corpus, "1 recordings lie in a folder of a wake word")[0]


def test_the_usual_spelling_is_not_remarked_on(tmp_path):
    add_words(tmp_path, ("happy", "bed", "_background_noise_"))
    assert not said(read_corpus([str(tmp_path)], HAPPY), "warning")


# Long recordings.


def test_long_negatives_are_cut_into_consecutive_clips_and_nothing_is_skipped(tmp_path):
    add_words(tmp_path)
    add(tmp_path, "negative/ann/book.wav", seconds=3.6)
    pieces = [c for c in read_corpus([str(tmp_path)], HAPPY).clips if c.speaker == "ann"]
    assert [(c.clip_id, c.start_s) for c in pieces] == [
        (f"negative/ann/book.wav#{ms}", ms / 1000) for ms in (0, 1000, 2000, 3000)
    ]
    assert len({c.split for c in pieces}) == 1
    joined = np.concatenate([audio_file.read(c.path, c.start_s, c.duration_s) for c in pieces])
    np.testing.assert_array_equal(joined, sound("negative/ann/book.wav", 3.6))


def test_a_rest_under_half_a_clip_is_left(tmp_path):
    add_words(tmp_path)
    add(tmp_path, "negative/ann/short.wav", seconds=1.4)
    add(tmp_path, "negative/ann/exact.wav", seconds=1.0)
    clips = by_id(read_corpus([str(tmp_path)], HAPPY))
    assert clips["negative/ann/short.wav#0"].duration_s == 1.0
    assert "negative/ann/short.wav#1000" not in clips
    assert "negative/ann/exact.wav" in clips


def test_long_noise_is_split_by_time_so_that_every_split_hears_it(tmp_path):
    add_words(tmp_path)
    add(tmp_path, "_background_noise_/tap.flac", seconds=20.0)
    config = CorpusConfig(("happy",), validation_percent=10, test_percent=30)
    pieces = [c for c in read_corpus([str(tmp_path)], config).clips if c.group == NOISE]
    pieces.sort(key=lambda clip: clip.start_s)
    assert [c.split for c in pieces] == ["train"] * 12 + ["validation"] * 2 + ["test"] * 6


def test_noise_too_short_for_every_split_stays_in_one(tmp_path):
    add_words(tmp_path)
    name = next(f"bark {i}" for i in range(99) if hash_split(f"bark {i}", 10, 10) == "test")
    add(tmp_path, f"_background_noise_/{name}.flac", seconds=9.0)
    pieces = [c for c in read_corpus([str(tmp_path)], HAPPY).clips if c.group == NOISE]
    assert [c.split for c in pieces] == ["test"] * 9


def test_noise_with_a_split_in_the_manifest_stays_there(tmp_path):
    add_manifest(tmp_path, GOOD_ROWS)
    add(tmp_path, "hum.wav", seconds=20.0)
    write_manifest(
        tmp_path, (tmp_path / "manifest.csv").read_text() + "hum.wav,_background_noise_,,validation"
    )
    noise = [c for c in read_corpus([str(tmp_path)], HAPPY).clips if c.group == NOISE]
    assert Counter(c.split for c in noise) == {"validation": 20}


def test_long_wake_words_are_kept_whole_and_said(tmp_path):
    add_words(tmp_path)
    add(tmp_path, f"happy/{TRAINER}_nohash_1.wav", seconds=1.5)
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert by_id(corpus)[f"happy/{TRAINER}_nohash_1.wav"].duration_s == 1.5
    assert said(corpus, "1 wake words longer than 1000 ms")


# Copies.


def test_a_copy_in_several_splits_stays_only_in_the_most_held_out_one(tmp_path):
    add_words(tmp_path)
    for speaker in SPEAKERS:
        add(tmp_path, f"bed/{speaker}_nohash_1.wav", content="the same")
    add(tmp_path, f"bed/{TRAINER}_nohash_2.flac", content="other")
    add(tmp_path, f"bed/{VALIDATOR}_nohash_2.wav", content="other")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    added = {name: split for name, split in splits_of(corpus).items() if "nohash_0" not in name}
    assert added == {
        f"bed/{TESTER}_nohash_1.wav": "test",
        f"bed/{VALIDATOR}_nohash_2.wav": "validation",
    }
    assert said(corpus, "3 clips dropped, the same audio is in a more held-out split")


def test_a_copy_in_one_split_under_one_label_stays_once(tmp_path):
    add_words(tmp_path)
    shutil.copy(tmp_path / f"bed/{TRAINER}_nohash_0.wav", tmp_path / f"bed/{TRAINER}_nohash_1.wav")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert f"bed/{TRAINER}_nohash_0.wav" in by_id(corpus)
    assert f"bed/{TRAINER}_nohash_1.wav" not in by_id(corpus)
    assert said(corpus, "1 clips dropped, the same audio is in the split under the same label")


def test_the_same_audio_under_two_labels_is_kept_and_said(tmp_path):
    add_words(tmp_path)
    shutil.copy(
        tmp_path / f"bed/{TRAINER}_nohash_0.wav", tmp_path / f"happy/{TRAINER}_nohash_1.wav"
    )
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert len(corpus.clips) == 7
    assert f"bed/{TRAINER}_nohash_0.wav" in said(corpus, "1 clips the same audio as")[0]


def test_copies_of_long_recordings_are_found_too(tmp_path):
    add_words(tmp_path)
    add(tmp_path, "negative/ann/a.wav", seconds=3.0, content="book")
    add(tmp_path, "negative/ann/b.flac", seconds=3.0, content="book")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert len([c for c in corpus.clips if c.speaker == "ann"]) == 3


def test_splits_are_speaker_disjoint_and_share_no_audio(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(120):
        speaker = f"{rng.integers(40):08x}"
        word = ("happy", "bed")[i % 2]
        add(tmp_path, f"{word}/{speaker}_nohash_{i}.wav", content=f"{word} {rng.integers(80)}")
    corpus = read_corpus([str(tmp_path)], CorpusConfig(("happy",), 25, 25))
    speakers = {(c.speaker, c.split) for c in corpus.clips}
    contents = [audio_file.fingerprint(c.path)[1] for c in corpus.clips]
    assert len(speakers) == len({speaker for speaker, _ in speakers})
    assert len(contents) == len(set(contents)) < 120


# Silence, and what explains an error.


def add_silent(root, name, samples=None):
    add(root, name)
    audio_file.write(root / name, np.zeros(1600, np.int16) if samples is None else samples)


def test_silent_wake_words_are_left_out_and_counted_and_silent_speech_is_named(tmp_path):
    add_words(tmp_path)
    dithered = np.random.default_rng(0).integers(-3, 4, 1600).astype(np.int16)
    add_silent(tmp_path, f"happy/{TRAINER}_nohash_1.wav")
    add_silent(tmp_path, f"happy/{TRAINER}_nohash_2.wav", dithered)
    add_silent(tmp_path, f"bed/{TRAINER}_nohash_1.wav", dithered[::-1].copy())
    add_silent(tmp_path, "_silence_/zero.wav")
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert sum(clip.group == POSITIVE for clip in corpus.clips) == 3
    assert f"bed/{TRAINER}_nohash_1.wav" in by_id(corpus)
    assert "_silence_/zero.wav" in by_id(corpus)
    assert f"bed/{TRAINER}_nohash_1.wav" in said(corpus, "3 recordings are silent")[0]
    assert f"happy/{TRAINER}_nohash_2.wav" in said(corpus, "2 silent wake words left out")[0]


def test_channels_that_cancel_each_other_are_silent(tmp_path):
    add_words(tmp_path)
    one = sound("x")
    path = tmp_path / "happy" / f"{TRAINER}_nohash_1.wav"
    soundfile.write(path, np.stack([one, -one], 1), 16_000)
    assert said(read_corpus([str(tmp_path)], HAPPY), "1 silent wake words left out")


def test_messages_come_out_before_the_error_that_they_explain(tmp_path, capsys):
    add_words(tmp_path, ("bed",))
    for speaker in SPEAKERS:
        (tmp_path / f"{speaker}.m4a").write_bytes(b"ftypM4A")
    assert "the labels there are bed" in error_of([tmp_path])
    assert "3 files ignored, not .wav, " in capsys.readouterr().out
    for speaker in SPEAKERS:
        add_silent(tmp_path, f"happy/{speaker}_nohash_0.wav")
    assert "train 0, validation 0, test 0" in error_of([tmp_path])
    assert "3 silent wake words left out" in capsys.readouterr().out
    for speaker in SPEAKERS:
        add(tmp_path, f"happy/{speaker}_nohash_0.wav", content="the same")
    assert "train 0, validation 0, test 1" in error_of([tmp_path])
    assert "2 clips dropped, the same audio" in capsys.readouterr().out


def test_a_corpus_without_errors_prints_nothing(tmp_path, capsys):
    add_words(tmp_path)
    add_silent(tmp_path, f"happy/{TRAINER}_nohash_1.wav")
    read_corpus([str(tmp_path)], HAPPY)
    assert capsys.readouterr().out == ""


# The hash and the summary.


def test_equal_corpora_in_different_places_hash_equal(tmp_path):
    add_words(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    one, two = (read_corpus([str(tmp_path / name)], HAPPY) for name in ("one", "two"))
    assert one.sha256 == two.sha256
    assert one.clips != two.clips


def test_hash_changes_with_content_split_weight_label_wake_word_and_clip_length(tmp_path):
    rows = [f"{row},1" for row in GOOD_ROWS] + ["a.wav,bed,ann,train,1"]
    add_manifest(tmp_path, rows, "path,label,speaker,split,weight")
    add(tmp_path, "a.wav", seconds=3.0)
    manifest = (tmp_path / "manifest.csv").read_text()
    hashes = [
        read_corpus([str(tmp_path)], config).sha256
        for config in (HAPPY, CorpusConfig(("bed",)), replace(HAPPY, clip_ms=1500))
    ]
    for row in ("bed,ann,test,1", "bed,ann,train,2", "cat,ann,train,1", "bed,bob,train,1"):
        write_manifest(tmp_path, manifest.replace("bed,ann,train,1", row))
        hashes.append(read_corpus([str(tmp_path)], HAPPY).sha256)
    write_manifest(tmp_path, manifest)
    add(tmp_path, "a.wav", seconds=3.0, content="other audio")
    hashes.append(read_corpus([str(tmp_path)], HAPPY).sha256)
    assert len(set(hashes)) == len(hashes) == 8


def test_hash_changes_with_the_order_of_wake_words(tmp_path):
    add_words(tmp_path, ("happy", "bed", "cat"))
    orders = ("happy", "bed"), ("bed", "happy")
    one, other = (read_corpus([str(tmp_path)], CorpusConfig(order)) for order in orders)
    assert one.clips == other.clips
    assert one.sha256 != other.sha256


def test_summary_counts_clips_hours_and_speakers_and_is_json(tmp_path):
    add_words(tmp_path)
    add(tmp_path, f"bed/{TRAINER}/long.wav", seconds=36.0)
    corpus = read_corpus([str(tmp_path)], HAPPY)
    summary = json.loads(json.dumps(corpus.summary()))
    assert summary["sha256"] == corpus.sha256
    train = summary["splits"]["train"]
    assert train["labels"]["bed"] == {"group": "speech", "clips": 37, "hours": 0.01, "speakers": 1}
    assert (train["clips"], train["speakers"]) == (38, 1)
    assert summary["splits"]["test"]["labels"]["happy"]["clips"] == 1


def test_groups_missing_from_a_split_are_said(tmp_path):
    add_words(tmp_path)
    corpus = read_corpus([str(tmp_path)], HAPPY)
    assert corpus.messages == ("no noise negatives in train, validation, test",)
    add_words(tmp_path, ("_background_noise_",), (TRAINER, TESTER))
    assert read_corpus([str(tmp_path)], HAPPY).messages == ("no noise negatives in validation",)


# Bad input.


def test_missing_and_empty_folders_are_named(tmp_path):
    assert f"`data_dir`={tmp_path / 'no'}" in error_of([tmp_path / "no"])
    assert "no audio" in error_of([tmp_path])
    add(tmp_path, "loose.wav")
    assert "<label>/<clips>" in error_of([tmp_path])
    assert "`data_dir`" in error_of([])


def test_a_wake_word_without_clips_lists_labels_and_the_closest(tmp_path):
    add_words(tmp_path, ("hey_jarvis", "bed"))
    message = error_of([tmp_path], CorpusConfig(("hey jarvi",)))
    assert "`wake_words`=hey jarvi:" in message
    assert "bed, hey_jarvis; did you mean hey_jarvis?" in message


def test_a_wake_word_or_negatives_missing_from_a_split_give_the_counts(tmp_path):
    add_words(tmp_path, ("bed",))
    add_words(tmp_path, ("happy",), (TRAINER, VALIDATOR))
    message = error_of([tmp_path])
    assert "`wake_words`=happy" in message
    assert "train 1, validation 1, test 0" in message
    assert "negatives" in error_of([tmp_path], CorpusConfig(("bed",)))


def test_bad_audio_is_named_and_can_be_skipped(tmp_path):
    add_words(tmp_path)
    (tmp_path / "bed" / "empty.wav").write_bytes(b"")
    (tmp_path / "bed" / "text.flac").write_text("hello " * 100)
    message = error_of([tmp_path])
    assert str(tmp_path / "bed" / "empty.wav") in message
    assert "`skip_bad_audio`" in message
    assert "2 such files" in message
    corpus = read_corpus([str(tmp_path)], replace(HAPPY, skip_bad_audio=True))
    assert len(corpus.clips) == 6
    assert said(corpus, "2 unreadable audio files skipped")


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("gone.wav,bed,ann,train,1", "gone.wav"),
        ("x.wav,bed,ann,training,1", "unknown split 'training'"),
        ("x.wav,bed,ann,train,heavy", "weight 'heavy'"),
        ("x.wav,bed,ann,train,-1", "weight '-1'"),
        ("x.wav,bed,ann,train,nan", "weight 'nan'"),
        ("x.wav,bed,ann,train,1,yes", "synthetic is 'yes'"),
        ("x.wav,,ann,train,1", "must not be empty"),
        (",bed,ann,train,1", "must not be empty"),
        ("happy/test.wav,happy,ann,train,1", "in row 4 already"),
    ],
)
def test_a_bad_manifest_row_is_named_by_its_number(tmp_path, row, complaint):
    add_manifest(tmp_path, GOOD_ROWS)
    add(tmp_path, "x.wav")
    text = (
        (tmp_path / "manifest.csv")
        .read_text()
        .replace("speaker,split", "speaker,split,weight,synthetic")
    )
    write_manifest(tmp_path, text + row)
    message = error_of([tmp_path])
    assert f"{tmp_path / 'manifest.csv'} row 8: " in message
    assert complaint in message


def test_one_speaker_in_two_splits_names_speaker_splits_and_files(tmp_path):
    add_manifest(tmp_path, [*GOOD_ROWS, "a.wav,bed,ann,train", "b.wav,bed,ann,test"])
    message = error_of([tmp_path])
    for named in ("speaker ann", "in test here", "b.wav", "in train in", "a.wav", "row 9"):
        assert named in message


def test_one_speaker_in_two_splits_of_two_manifests_is_an_error(tmp_path):
    add_manifest(tmp_path / "one", [*GOOD_ROWS, "a.wav,bed,ann,train"])
    add_manifest(tmp_path / "two", ["b.wav,bed,ann,test"])
    assert "speaker ann" in error_of([tmp_path / "one", tmp_path / "two"])


def test_a_manifest_that_is_no_manifest_says_what_it_must_be(tmp_path):
    write_manifest(tmp_path, "file,word\n")
    assert "no column label, path" in error_of([tmp_path])
    (tmp_path / "manifest.csv").write_bytes("path,label\nä.wav,x".encode("latin-1"))
    assert "UTF-8" in error_of([tmp_path])
    write_manifest(tmp_path, "path,label\n")
    assert "no audio" in error_of([tmp_path])


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        ({"wake_words": ()}, "`wake_words`"),
        ({"wake_words": ("a", "a")}, "`wake_words`"),
        ({"wake_words": ("a", "")}, "`wake_words`"),
        ({"wake_words": ("a b", "A_b")}, "`wake_words`"),
        ({"test_percent": 90.0}, "`test_percent`"),
        ({"validation_percent": -1.0}, "`validation_percent`"),
        ({"test_percent": float("nan")}, "`test_percent`"),
        ({"clip_ms": 0}, "`clip_ms`"),
    ],
)
def test_bad_settings_name_the_flag(arguments, flag):
    with pytest.raises(InputError, match=flag):
        CorpusConfig(**({"wake_words": ("happy",)} | arguments))


def test_commas_and_spaces_in_quoted_names_are_kept(tmp_path):
    add_manifest(tmp_path, GOOD_ROWS)
    add(tmp_path, "bed/a, b.wav")
    manifest = (tmp_path / "manifest.csv").read_text()
    write_manifest(tmp_path, manifest + '"bed/a, b.wav",bed,,\n')
    assert "bed/a, b.wav" in by_id(read_corpus([str(tmp_path)], HAPPY))


def test_a_corpus_that_only_tests_has_every_clip_in_that_split(tmp_path):
    root = write_recordings(tmp_path / "words")
    config = CorpusConfig(("yes",), clip_ms=500)
    three = read_corpus([str(root)], config)
    one = read_corpus([str(root)], config, only="test")
    assert {clip.split for clip in one.clips} == {"test"}
    assert {clip.path for clip in one.clips} == {clip.path for clip in three.clips}
    assert one.sha256 != three.sha256
    # Speakers, whom a manifest may not put into two splits otherwise, do not matter.
    rows = (root / "manifest.csv").read_text()
    moved = rows.replace("test-no-1.wav,no,test-1", "test-no-1.wav,no,train-3")
    assert moved != rows
    (root / "manifest.csv").write_text(moved)
    with pytest.raises(InputError, match="train-3"):
        read_corpus([str(root)], config)
    read_corpus([str(root)], config, only="test")


def test_a_corpus_that_only_tests_needs_wake_words_and_others(tmp_path):
    root = write_recordings(tmp_path / "words", clips=(("yes", 2),))
    for path in root.glob("*background*"):
        path.unlink()
    rows = (root / "manifest.csv").read_text().splitlines()
    kept = [row for row in rows if "background" not in row]
    (root / "manifest.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(InputError, match=r"`data_dir`: negatives .* are missing"):
        read_corpus([str(root)], CorpusConfig(("yes",), clip_ms=500), only="test")
