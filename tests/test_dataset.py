import numpy as np
import pytest
import soundfile
import tensorflow as tf
import tf_keras as keras

from wakeword_keras import dataset
from wakeword_keras.augmentation import AugmentConfig
from wakeword_keras.corpus import GROUPS, NOISE, POSITIVE, SPEECH, CorpusConfig, read_corpus
from wakeword_keras.errors import InputError
from wakeword_keras.features import FrontendConfig, compute

FRONTEND = FrontendConfig()
CONFIG = dataset.DataConfig(batch=8, echo=2, shuffle=16)
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
    return dataset.write_shards(corpus, CLIP_MS, tmp_path_factory.mktemp("cache"))


def batches(shards, seed=1, first_epoch=0, epochs=2, config=CONFIG):
    stream = dataset.training_batches(
        shards, FRONTEND, AugmentConfig(), config, seed, first_epoch, epochs
    )
    return list(stream.as_numpy_iterator())


def test_shards_hold_every_clip_with_its_sound(corpus, shards):
    for split in ("train", "validation", "test"):
        clips = {clip.clip_id: clip for clip in corpus.clips if clip.split == split}
        infos = shards.clips[split]
        assert {info.clip_id for info in infos} == set(clips)
        for info, samples in zip(infos, dataset.read_audio(shards, split), strict=True):
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
    first = dataset.write_shards(corpus, CLIP_MS, tmp_path)
    stamp = (first.directory / "index.json").stat().st_mtime_ns
    assert dataset.write_shards(corpus, CLIP_MS, tmp_path) == first
    assert (first.directory / "index.json").stat().st_mtime_ns == stamp
    other = dataset.write_shards(corpus, CLIP_MS + 100, tmp_path)
    assert other.directory != first.directory
    assert dataset.open_shards(tmp_path / "clips-unfinished") is None


def test_a_long_clip_keeps_its_loudest_stretch_and_a_short_one_is_centred():
    loud = np.zeros(100, np.int16)
    loud[60:70] = 1000
    assert dataset.fit_length(loud, 20).sum() == 10_000
    short = dataset.fit_length(np.ones(4, np.int16), 10)
    np.testing.assert_array_equal(short, [0, 0, 0, 1, 1, 1, 1, 0, 0, 0])


def test_the_seed_decides_every_batch(shards):
    first, second, other = batches(shards), batches(shards), batches(shards, seed=2)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert any((a[0] != b[0]).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_programs_own_seed_changes_no_batch(shards, seed):
    expected = batches(shards, epochs=1)
    tf.random.set_seed(seed)
    for a, b in zip(expected, batches(shards, epochs=1), strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_a_run_may_have_seed_zero(shards):
    keras.utils.set_random_seed(0)
    assert len(batches(shards, seed=0, epochs=1)) == shards.steps_per_epoch(CONFIG)


def test_a_resumed_epoch_sees_what_the_whole_run_saw(shards):
    steps = shards.steps_per_epoch(CONFIG)
    whole = batches(shards, epochs=3)
    resumed = batches(shards, first_epoch=2, epochs=3)
    assert len(whole) == 3 * steps
    for a, b in zip(whole[2 * steps :], resumed, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_epochs_differ_and_batches_carry_labels_weights_and_groups(shards):
    steps = shards.steps_per_epoch(CONFIG)
    whole = batches(shards)
    assert (whole[0][0] != whole[steps][0]).any()
    for features, labels, weights, groups in whole:
        assert features.shape == (8, FRONTEND.num_frames(CLIP_MS * 16), 40)
        assert (labels[:, 0] == (groups == GROUPS.index(POSITIVE))).all()
        assert (weights == 1).all()


def test_echoes_of_a_clip_share_its_features_but_for_their_masks(shards):
    plain = AugmentConfig(time_masks=0, frequency_masks=0)
    stream = dataset.training_batches(shards, FRONTEND, plain, CONFIG, 1, 0, 1)
    rows = np.concatenate([batch[0] for batch in stream.as_numpy_iterator()])
    unique, counts = np.unique(rows.reshape(len(rows), -1), axis=0, return_counts=True)
    assert counts.max() == CONFIG.echo
    assert len(unique) >= len(rows) // CONFIG.echo


def test_cold_features_are_the_front_ends_and_warm_ones_differ(shards):
    cold = dataset.split_features(shards, "test", FRONTEND, "cold")
    warm = dataset.split_features(shards, "test", FRONTEND, "warm")
    samples = np.stack(list(dataset.read_audio(shards, "test")))
    np.testing.assert_array_equal(cold.features, compute(samples, FRONTEND))
    assert warm.features.shape == cold.features.shape
    assert (warm.features != cold.features).any()
    np.testing.assert_array_equal(
        cold.labels(1)[:, 0], [clip.group == POSITIVE for clip in cold.clips]
    )
    assert {clip.group for clip in cold.clips} == {POSITIVE, SPEECH, NOISE}


def test_impulse_responses_reach_the_training_clips(shards, tmp_path):
    always = AugmentConfig(reverberation_probability=1.0)
    response = np.zeros(1600, np.float32)
    response[[0, 800]] = 0.5, 0.4
    soundfile.write(tmp_path / "room.wav", response, 16000)
    rooms = dataset.read_impulse_responses(tmp_path)
    assert rooms.shape[0] == 1

    def first(responses):
        stream = dataset.training_batches(
            shards, FRONTEND, always, CONFIG, 1, 0, 1, impulse_responses=responses
        )
        return next(stream.as_numpy_iterator())[0]

    assert (first(rooms) != first(None)).any()
    assert dataset.read_impulse_responses("") is None
    with pytest.raises(InputError, match="impulse_response_dir"):
        dataset.read_impulse_responses(tmp_path.parent / "nowhere")
