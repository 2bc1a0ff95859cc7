import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from wakeword_keras.audio.features import FrontendConfig, compute
from wakeword_keras.data.corpus import Clip, CorpusConfig, read_corpus
from wakeword_keras.data.shards import (
    fit_length,
    open_shards,
    read_audio,
    split_features,
    write_shards,
)
from wakeword_keras.names import NOISE, POSITIVE, SPEECH

FRONTEND = FrontendConfig()
CLIP_MS = 500


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    rows = ["path,label,speaker,split"]
    for split in ("train", "validation", "test"):
        for label, count in (("yes", 6), ("no", 10), ("_background_noise_", 1)):
            for i in range(count):
                seconds = 3.0 if label.startswith("_") else 0.4
                name = f"{split}-{label}-{i}.wav"
                soundfile.write(root / name, rng.normal(0, 0.1, int(16000 * seconds)), 16000)
                speaker = f"{split}-{i}"
                rows.append(f"{name},{label},{speaker},{split}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return read_corpus([str(root)], CorpusConfig(wake_words=("yes",), clip_ms=CLIP_MS))


@pytest.fixture(scope="module")
def shards(corpus, tmp_path_factory):
    return write_shards(corpus, CLIP_MS, tmp_path_factory.mktemp("cache"))


def test_shards_hold_every_clip_with_its_sound(corpus, shards):
    for split in ("train", "validation", "test"):
        clips = {clip.clip_id: clip for clip in corpus.clips if clip.split == split}
        infos = shards.clips[split]
        assert {info.clip_id for info in infos} == set(clips)
        for info, samples in zip(infos, read_audio(shards, split), strict=True):
            clip = clips[info.clip_id]
            assert (info.target, info.group, info.speaker) == (
                0 if clip.label == "yes" else -1,
                clip.group,
                clip.speaker,
            )
            assert samples.shape == (CLIP_MS * 16,)
            assert samples.any()


def test_an_equal_corpus_reuses_the_shards_and_a_broken_write_is_not_taken_for_whole(
    corpus, tmp_path
):
    first = write_shards(corpus, CLIP_MS, tmp_path)
    stamp = (first.directory / "index.json").stat().st_mtime_ns
    assert write_shards(corpus, CLIP_MS, tmp_path) == first
    assert (first.directory / "index.json").stat().st_mtime_ns == stamp
    other = write_shards(corpus, CLIP_MS + 100, tmp_path)
    assert other.directory != first.directory
    assert open_shards(tmp_path / "clips-unfinished") is None


def test_two_runs_that_write_one_corpus_at_once_share_a_whole_one(corpus, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: write_shards(corpus, CLIP_MS, tmp_path), range(2))
    assert one == other == open_shards(one.directory)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: split_features(one, "test", FRONTEND), range(2))
    np.testing.assert_array_equal(first.features, second.features)
    assert [path for path in tmp_path.rglob("*partial*")] == []


def test_other_speech_comes_from_streams_of_the_training_split_alone(corpus, tmp_path):
    levels = {"train": 0.25, "validation": 0.5, "test": 0.125}
    for split, level in levels.items():
        soundfile.write(tmp_path / f"{split}.wav", np.full(100_000, level), 16000)
    streams = tuple(
        Clip(split, str(tmp_path / f"{split}.wav"), "", SPEECH, split, split, duration_s=6.25)
        for split in levels
    )
    short = dataclasses.replace(streams[0], clip_id="short", start_s=1.0, duration_s=0.5)
    joined = dataclasses.replace(corpus, streams=(*streams, short), sha256="with streams")
    shards = write_shards(joined, CLIP_MS, tmp_path / "cache")
    speech = np.load(shards.directory / "speech.npy")
    background = np.load(shards.directory / "background.npy")
    assert speech.shape == (4, background.shape[1])  # three whole cuts, one that is repeated
    assert (speech == 8_192).all()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["train-00000.tfrecord", "background.npy", "speech.npy", "index.json"]
)
@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: path.unlink()])
def test_damaged_shards_are_not_opened_and_are_written_again(corpus, tmp_path, name, damage):
    shards = write_shards(corpus, CLIP_MS, tmp_path)
    content = (shards.directory / name).read_bytes()
    damage(shards.directory / name)
    assert open_shards(shards.directory) is None
    assert write_shards(corpus, CLIP_MS, tmp_path) == shards
    assert (shards.directory / name).read_bytes() == content


def test_damaged_features_are_computed_again(corpus, tmp_path):
    shards = write_shards(corpus, CLIP_MS, tmp_path)
    before = np.array(split_features(shards, "test", FRONTEND).features)
    (path,) = shards.directory.glob("test-cold-*/*.npy")
    flip_a_bit(path)
    np.testing.assert_array_equal(split_features(shards, "test", FRONTEND).features, before)


def test_a_file_that_was_not_written_with_the_shards_is_not_read(corpus, tmp_path):
    shards = write_shards(corpus, CLIP_MS, tmp_path)
    paths = shards.paths("train")
    shutil.copy(paths[0], shards.directory / "train-00001.tfrecord")
    assert shards.paths("train") == paths


def test_a_long_clip_keeps_its_loudest_stretch_and_a_short_one_is_centred():
    loud = np.zeros(100, np.int16)
    loud[60:70] = 1000
    assert fit_length(loud, 20).sum() == 10_000
    short = fit_length(np.ones(4, np.int16), 10)
    np.testing.assert_array_equal(short, [0, 0, 0, 1, 1, 1, 1, 0, 0, 0])


def test_cold_features_are_the_front_ends_and_warm_ones_differ(shards):
    cold = split_features(shards, "test", FRONTEND, "cold")
    warm = split_features(shards, "test", FRONTEND, "warm")
    samples = np.stack(list(read_audio(shards, "test")))
    np.testing.assert_array_equal(cold.features, compute(samples, FRONTEND))
    assert warm.features.shape == cold.features.shape
    assert (warm.features != cold.features).any()
    np.testing.assert_array_equal(
        cold.one_hot(1)[:, 0], [clip.group == POSITIVE for clip in cold.clips]
    )
    assert {clip.group for clip in cold.clips} == {POSITIVE, SPEECH, NOISE}
