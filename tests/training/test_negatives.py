import dataclasses
from pathlib import Path

import numpy as np
import pytest

from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.data.ambient_features import AmbientConfig, FeatureStreams, Windows
from wakeword_keras.data.shards import split_features
from wakeword_keras.names import EXAMPLES, STREAM
from wakeword_keras.training import batches
from wakeword_keras.training.hard_negatives import Pools
from wakeword_keras.training.negatives import Negatives

NO_POOLS = Pools(Path("nowhere.json"))
PLAIN = AugmentConfig(time_masks=0, frequency_masks=0)


@pytest.fixture(scope="module")
def negatives(training_data):
    """Streams in which each frame's first value is its number."""
    bounds = np.asarray([[0, 300], [300, 340], [340, 1000]])
    values = np.zeros((1000, 40), np.float32)
    values[:, 0] = np.arange(1000)
    frames = training_data.frontend.num_frames(training_data.shards.clip_samples)
    part = FeatureStreams(values, bounds, "numbered", (), bounds[:, 0])
    windows = Windows([part], frames, training_data.frontend)
    clips = split_features(training_data.shards, "train", training_data.frontend, "warm")
    return Negatives(windows, clips, AmbientConfig(ambient_share=0.375, hard_share=0.0))


def stream(data, negatives, seed=1, first_epoch=0, epochs=3, batch=16):
    config = dataclasses.replace(data.config, batch=batch)
    made = batches.training_batches(
        data.shards,
        data.frontend,
        PLAIN,
        config,
        seed,
        first_epoch,
        epochs,
        negatives=negatives,
        pools=NO_POOLS,
    )
    return list(made.as_numpy_iterator())


def test_a_batch_holds_the_stated_share_of_windows_and_an_epoch_every_clip(
    training_data, negatives
):
    made = stream(training_data, negatives)
    clips = len(training_data.shards.clips["train"])
    assert len(made) == 3 * (clips // 10)
    for features, labels, weights, groups in made:
        windows = groups == EXAMPLES.index(STREAM)
        assert (len(features), windows.sum()) == (16, 6)
        assert not labels[windows].any()
        assert (weights == 1).all()
        starts = features[windows][:, 0, 0]
        expected = starts[:, None] + np.arange(features.shape[1])
        np.testing.assert_array_equal(features[windows][:, :, 0], expected)


def test_windows_come_from_everywhere_uniformly_over_time(negatives):
    frames = negatives.windows.frames
    starts = np.concatenate(
        [negatives.batch(NO_POOLS, 1, step, 64, 1)[0][:, 0, 0] for step in range(1000)]
    ).astype(int)
    possible = np.concatenate([np.arange(0, 301 - frames), np.arange(340, 1001 - frames)])
    assert set(possible) == set(starts)
    counts = np.bincount(starts)[possible]
    expected = len(starts) / len(possible)
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert abs(chi_squared - len(possible)) < 5 * np.sqrt(2 * len(possible))


@pytest.mark.parametrize("first_epoch", [1, 2])
def test_a_resumed_run_sees_the_same_batches_to_the_byte(training_data, negatives, first_epoch):
    whole = stream(training_data, negatives)
    resumed = stream(training_data, negatives, first_epoch=first_epoch)
    for some, others in zip(whole[first_epoch * len(whole) // 3 :], resumed, strict=True):
        for a, b in zip(some, others, strict=True):
            np.testing.assert_array_equal(a, b)
    other = stream(training_data, negatives, seed=2)
    assert any((a[0] != b[0]).any() for a, b in zip(whole, other, strict=True))


def test_windows_are_masked_like_clips(training_data, negatives):
    masked = AugmentConfig(time_masks=1, time_mask_frames=20, frequency_masks=0)
    config = dataclasses.replace(training_data.config, batch=16)
    args = (training_data.shards, training_data.frontend, masked, config, 1, 0, 1, None)
    made = batches.training_batches(*args, negatives, NO_POOLS)
    features, _, _, groups = next(made.as_numpy_iterator())
    windows = features[groups == EXAMPLES.index(STREAM)][:, :, 0]
    assert (windows == 0).sum() > 10


def test_without_a_share_batches_are_those_of_clips_alone(training_data, negatives):
    none = dataclasses.replace(negatives, config=AmbientConfig(ambient_share=0.0, hard_share=0.0))
    for some, others in zip(stream(training_data, none), stream(training_data, None), strict=True):
        for a, b in zip(some, others, strict=True):
            np.testing.assert_array_equal(a, b)


def test_targets_and_calibration_see_windows_in_their_share(training_data, negatives):
    data = dataclasses.replace(
        training_data,
        negatives=negatives,
        config=dataclasses.replace(training_data.config, batch=16),
    )
    clips = len(data.shards.clips["train"])
    assert len(data.targets()) == clips + round(clips * 6 / 10)
    assert (data.targets()[clips:] == -1).all()
    found = negatives.sample(20, seed=3)
    assert {clip.label for clip in found.clips} == {"_ambient_"}
    assert len({clip.clip_id for clip in found.clips}) == len(found) == 20
    np.testing.assert_array_equal(found.features, negatives.sample(20, seed=3).features)
