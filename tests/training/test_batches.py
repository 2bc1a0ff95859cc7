import dataclasses
import hashlib

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.corpus import Clip, CorpusConfig, read_corpus
from wakeword_keras.data.shards import read_impulse_responses, write_shards
from wakeword_keras.errors import InputError
from wakeword_keras.names import AMBIENT, GROUPS, NOISE, POSITIVE, SPEECH, SPLITS
from wakeword_keras.training import batches

FRONTEND = FrontendConfig()
CONFIG = batches.DataConfig(batch=8, echo=4, shuffle=16)
CLIP_MS = 500
CORPUS = CorpusConfig(wake_words=("yes",), clip_ms=CLIP_MS)
AUGMENT = AugmentConfig()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    rows = ["path,label,speaker,split"]
    for split in ("train", "validation", "test"):
        for label, count in (("yes", 15), ("no", 24), ("_background_noise_", 1)):
            for i in range(count if split == "train" else 1):
                seconds = 3.0 if label.startswith("_") else 0.4
                name = f"{split}-{label}-{i}.wav"
                soundfile.write(root / name, rng.normal(0, 0.1, int(16000 * seconds)), 16000)
                rows.append(f"{name},{label},{split}-{i},{split}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return str(root)


@pytest.fixture(scope="module")
def shards(recordings, tmp_path_factory):
    return write_shards(
        read_corpus([recordings], CORPUS), CLIP_MS, tmp_path_factory.mktemp("cache")
    )


def stream(shards, seed=1, first_epoch=0, epochs=2, config=CONFIG, augment=AUGMENT, **rooms):
    made = batches.training_batches(
        shards, FRONTEND, augment, config, seed, first_epoch, epochs, **rooms
    )
    return list(made.as_numpy_iterator())


def equal(some, others):
    for a, b in zip(some, others, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_batches_stay_those_of_earlier_versions_to_the_byte(shards):
    # Without noise and gain, whose sums may round otherwise on another processor.
    plain = AugmentConfig(
        warmup_probability=0, background_probability=0, gain_low_db=0, gain_high_db=0,
        clipping_probability=0,
    )  # fmt: skip
    digest = hashlib.sha256()
    for batch in stream(shards, epochs=11, augment=plain):
        for array in batch:
            digest.update(array.tobytes())
    assert digest.hexdigest()[:16] == "4f59ef766b960254"


def test_a_second_iteration_gives_the_same_batches(shards):
    batch_stream = batches.training_batches(shards, FRONTEND, AUGMENT, CONFIG, 1, 1, 3)
    equal(*(list(batch_stream.as_numpy_iterator()) for _ in range(2)))


def test_nothing_waits_for_a_tuning_thread_where_training_stops_before_the_stream_ends(shards):
    made = batches.training_batches(shards, FRONTEND, AUGMENT, CONFIG, 1, 0, 2)
    assert made.options().autotune.enabled is False


def test_the_seed_decides_every_batch(shards):
    first, other = stream(shards), stream(shards, seed=2)
    equal(first, stream(shards))
    assert any((a[0] != b[0]).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_programs_own_seed_changes_no_batch(shards, seed):
    expected = stream(shards, epochs=1)
    tf.random.set_seed(seed)
    equal(expected, stream(shards, epochs=1))


def test_a_run_may_have_seed_zero(shards):
    keras.utils.set_random_seed(0)
    assert len(stream(shards, seed=0, epochs=1)) == batches.steps_per_epoch(shards, CONFIG)


# 11 epochs go round the pool and through the clips more than once.
@pytest.mark.parametrize("first_epoch", [1, 2, 7, 10])
@pytest.mark.parametrize("shuffle", [16, 1000])
def test_a_resumed_epoch_sees_what_the_whole_run_saw(shards, first_epoch, shuffle):
    config = batches.DataConfig(batch=8, echo=4, shuffle=shuffle)
    steps = batches.steps_per_epoch(shards, config)
    whole = stream(shards, epochs=11, config=config)
    assert len(whole) == 11 * steps
    equal(
        whole[first_epoch * steps :],
        stream(shards, first_epoch=first_epoch, epochs=11, config=config),
    )


def test_epochs_differ_and_batches_carry_labels_weights_and_groups(shards):
    steps = batches.steps_per_epoch(shards, CONFIG)
    whole = stream(shards)
    assert (whole[0][0] != whole[steps][0]).any()
    for features, labels, weights, groups in whole:
        assert features.shape == (8, FRONTEND.num_frames(CLIP_MS * 16), 40)
        assert (labels[:, 0] == (groups == GROUPS.index(POSITIVE))).all()
        assert (weights == 1).all()


def uses(rows):
    _, counts = np.unique(rows.reshape(len(rows), -1), axis=0, return_counts=True)
    return counts


def test_an_augmented_clip_is_used_about_echo_times_and_masked_anew_each_time(shards):
    plain = AugmentConfig(time_masks=0, frequency_masks=0, shift_ms=0)
    unmasked = np.concatenate([batch[0] for batch in stream(shards, epochs=40, augment=plain)])
    # The ends hold clips whose other uses lie before or after the stream.
    middle = uses(unmasked)
    assert CONFIG.echo - 1 < middle.mean() < CONFIG.echo + 1
    masked = np.concatenate([batch[0] for batch in stream(shards, epochs=40)])
    assert len(uses(masked)) > 2 * len(middle)


def test_echoes_of_a_clip_are_shifted_by_whole_frames_within_half_the_shift(shards):
    moving = AugmentConfig(time_masks=0, frequency_masks=0, shift_ms=60)
    made = np.concatenate([batch[0] for batch in stream(shards, epochs=10, augment=moving)])
    shifts = {
        later - earlier
        for i, one in enumerate(made)
        for other in made[:i]
        for earlier, later in ((0, 0), (0, 1), (0, 3), (0, 6), (0, 7))
        if np.array_equal(one[later : later + 40], other[earlier : earlier + 40])
        and one[later : later + 40].any()
    }
    assert {0, 1, 3, 6} <= shifts
    assert 7 not in shifts


def test_without_echo_every_example_is_fresh_and_every_clip_comes_once_a_pass(shards):
    config = batches.DataConfig(batch=9, echo=1, shuffle=16)
    plain = AugmentConfig(
        time_masks=0, frequency_masks=0, warmup_probability=0, background_probability=0, shift_ms=0,
        gain_low_db=0, gain_high_db=0, clipping_probability=0,
    )  # fmt: skip
    made = np.concatenate([batch[0] for batch in stream(shards, 1, 0, 3, config, plain)])
    counts = uses(made)
    # Three epochs begin and end within a pass.
    assert len(counts) == len(shards.clips["train"])
    assert 2 <= counts.min() <= counts.max() <= 4
    moved = np.concatenate([b[0] for b in stream(shards, 1, 0, 3, config)])
    assert len(uses(moved)) == len(moved)


@pytest.mark.parametrize(("size", "count"), [(16, 6), (4, 6), (7, 7)])
def test_draws_go_through_the_whole_pool_before_one_comes_again(size, count):
    drawn = np.concatenate([batches._drawn(3, i * count, count, size) for i in range(4 * size)])
    rounds = drawn[: len(drawn) // size * size].reshape(-1, size)
    assert (np.sort(rounds, axis=1) == np.arange(size)).all()
    assert (rounds[0] != rounds[1]).any()


@pytest.fixture(scope="module")
def shards_with_streams(recordings, tmp_path_factory):
    """The same clips, and streams that are beeps of 3 kHz in the training split alone."""
    root = tmp_path_factory.mktemp("streams")
    place = np.arange(48_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 3_000 * place) * (place % 0.2 < 0.1)
    for split, audio in (("train", tone), ("validation", 0 * tone), ("test", 0 * tone)):
        soundfile.write(root / f"{split}.wav", audio, 16000)
    clips = tuple(
        Clip(split, str(root / f"{split}.wav"), AMBIENT, SPEECH, split, split, duration_s=3.0)
        for split in SPLITS
    )
    joined = dataclasses.replace(
        read_corpus([recordings], CORPUS), streams=clips, sha256="with streams"
    )
    return write_shards(joined, CLIP_MS, tmp_path_factory.mktemp("cache"))


def test_ambient_speech_is_mixed_around_and_beneath_clips_of_every_label_alike(shards_with_streams):
    plain = AugmentConfig(
        speech_around_probability=0, speech_beneath_probability=0.5, snr_low_db=-20,
        snr_high_db=-20, background_probability=0, warmup_probability=0,
        reverberation_probability=0, time_masks=0, frequency_masks=0,
    )  # fmt: skip
    channels = slice(25, 30)  # around 3 kHz
    features, labels, _, groups = (
        np.concatenate(parts)
        for parts in zip(*stream(shards_with_streams, epochs=40, augment=plain), strict=True)
    )
    spoken = features[:, :, channels].max(axis=2) - np.median(features, axis=2)
    with_speech = np.quantile(spoken, 0.9, axis=1) > 10
    for positive in (0, 1):
        of_label = (labels[:, 0] == positive) & (groups != GROUPS.index(NOISE))
        assert 0.3 < with_speech[of_label].mean() < 0.7, positive


def test_echo_cannot_exceed_the_batch():
    with pytest.raises(InputError, match="`echo`=9"):
        batches.DataConfig(batch=8, echo=9)


def test_impulse_responses_reach_the_training_clips(shards, tmp_path):
    always = AugmentConfig(reverberation_probability=1.0)
    response = np.zeros(1600, np.float32)
    response[[0, 800]] = 0.5, 0.4
    soundfile.write(tmp_path / "room.wav", response, 16000)
    rooms = read_impulse_responses(tmp_path)
    assert rooms.shape[0] == 1

    def first(responses):
        return stream(shards, epochs=1, augment=always, impulse_responses=responses)[0][0]

    assert (first(rooms) != first(None)).any()
    assert read_impulse_responses("") is None
    assert read_impulse_responses("", simulated=2).shape[0] == 2
    with pytest.raises(InputError, match="impulse_response_dir"):
        read_impulse_responses(tmp_path.parent / "nowhere")
