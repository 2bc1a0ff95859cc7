import dataclasses

import numpy as np
import pytest

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.ambient_features import AmbientConfig, FeatureStreams, Windows
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.errors import InputError
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.names import EXAMPLES, HARD, STREAM
from wakeword_keras.training import hard_negatives, listening
from wakeword_keras.training.hard_negatives import Pools
from wakeword_keras.training.listening import ValidationStreams
from wakeword_keras.training.negatives import JITTER_FRAMES, Negatives

FRONTEND = FrontendConfig()
FRAMES, STRIDE = 10, 5
CONFIG = StreamConfig(stride_ms=50, average_ms=100, refractory_ms=1000)


def newest(features):
    """A model whose logit is the first value of the newest frame."""
    return features[:, -1, :1]


def streams(tracks, name="made"):
    """Streams whose frames hold these logits; everything else is 0."""
    bounds = np.cumsum([0, *map(len, tracks)])
    values = np.zeros((bounds[-1], 40), np.float32)
    values[:, 0] = np.concatenate(tracks)
    pairs = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return FeatureStreams(values, pairs, name, (), pairs[:, 0])


def quiet(seconds, *loud):
    """Logits of -9, and at some frames others."""
    track = np.full(round(seconds * 100), -9.0)
    for frame, logit in loud:
        track[frame] = logit
    return track


def clips(logits):
    features = np.zeros((len(logits), FRAMES, 40), np.float32)
    features[:, -1, 0] = logits
    infos = [
        ClipInfo(f"clip-{i}", "other", 0 if i == 0 else -1, "speech", "", 1.0)
        for i in range(len(logits))
    ]
    return ClipFeatures(tuple(infos), features)


def negatives(tracks, clip_logits=(9.0, -3.0, 2.0, -5.0), **config):
    config = AmbientConfig(**{"hard_windows": 4, **config})
    windows = Windows([streams(tracks)], FRAMES, FRONTEND)
    return Negatives(windows, clips(clip_logits), config)


def find(found, epoch=4, **changes):
    given = {"seed": 1, "epoch": epoch, "from_step": 40, "threshold": CONFIG.one // 2} | changes
    return listening.find_hard(newest, found, CONFIG, **given)


def test_the_highest_peaks_fill_the_pool_one_for_each_event():
    # A window's newest frame is its number + 9 in the first stream. Strides of 5 from frame 9.
    tracks = [
        quiet(5, (109, 4.0), (114, 5.0), (159, 3.0), (309, 1.0)),
        quiet(5, (209, 4.5)),
    ]
    found = find(negatives(tracks))
    assert found.windows == (105, 491 + 200)  # 5.0 and 4.5; 4.0 and 3.0 are within a second of 5.0
    assert [heard.recording for heard in found.worst_windows] == ["made[0]", "made[1]"]
    assert [heard.seconds for heard in found.worst_windows] == [1.17, 2.12]
    assert found.worst_windows[0].probability == pytest.approx(1 / (1 + np.exp(-5)))


def test_negative_clips_are_found_and_wake_words_are_not():
    found = find(negatives([quiet(2)]))
    assert found.clips == (2, 1)  # clip 0 is the wake word
    assert found.worst_clips[0].recording == "clip-2"


def test_false_accepts_are_counted_by_the_rule_of_the_detector():
    # Two windows in a row at 3.0 average 0.95; one alone only 0.48. Another event 2 s later.
    tracks = [quiet(6, (109, 3.0), (114, 3.0), (309, 9.0), (409, 9.0), (414, 9.0))]
    found = find(negatives(tracks), threshold=round(0.9 * CONFIG.one))
    assert found.false_accepts == 2
    assert found.threshold == pytest.approx(0.9)
    steps = len(range(0, 600 - FRAMES + 1, STRIDE))
    assert found.per_hour == pytest.approx(2 / (steps * 0.05 / 3600))


def test_where_not_all_can_be_heard_streams_take_turns_until_all_were():
    tracks = [quiet(60, (304 + 10 * i, 8.0 + 0.1 * i)) for i in range(6)]
    tracks = [np.concatenate([track, track]) for track in tracks]
    made = negatives(tracks, listen_hours=4 / 60, listen_every=2, hard_windows=24)
    pools = [find(made, epoch=2 * turn) for turn in range(1, 5)]
    for pool in pools:
        assert pool.hours == pytest.approx(4 / 60, rel=0.1)
    assert find(made, epoch=2) == pools[0]
    all_of_them = find(negatives(tracks, hard_windows=60), epoch=2)
    assert all_of_them.hours == pytest.approx(12 / 60, rel=0.02)
    heard = {h.recording for pool in pools for h in pool.worst_windows if h.probability > 0.9}
    assert heard == {f"made[{i}]" for i in range(6)}


def validation(tracks, spoken, targets, per_hour=0.5):
    windows = Windows([streams(tracks)], FRAMES, FRONTEND)
    return ValidationStreams(windows, spoken, np.asarray(targets, np.int32), 200, per_hour)


def test_validation_gives_recall_above_the_highest_event_within_the_budget():
    spoken = np.full((3, 60, 40), -9.0, np.float32)
    for row, logit in zip(spoken, (9.0, 3.0, 1.0), strict=True):
        row[30:40, 0] = logit
    tracks = [quiet(6, (109, 2.0), (114, 2.0)), quiet(6)]
    found = listening.validate(newest, validation(tracks, spoken, [0, 0, 0]), CONFIG)
    # The budget allows no event in 12 s: above the two windows at 2.0 lie the words at 9 and 3.
    assert found.recall == pytest.approx(2 / 3)
    assert found.mean == pytest.approx(2 / 3)
    assert found.threshold / CONFIG.one == pytest.approx(1 / (1 + np.exp(-2.0)), abs=1e-6)
    many = listening.validate(newest, validation(tracks, spoken, [0, 0, 0], 400.0), CONFIG)
    assert many.recall == 1.0


def test_what_comes_before_the_wake_words_clip_does_not_find_it():
    spoken = np.full((1, 60, 40), -9.0, np.float32)
    spoken[0, :14, 0] = 9.0  # in the noise before: the clip begins at 200 ms
    tracks = [quiet(6, (109, 0.0))]
    assert listening.validate(newest, validation(tracks, spoken, [0]), CONFIG).recall == 0.0
    spoken[0, 19, 0] = 9.0
    assert listening.validate(newest, validation(tracks, spoken, [0]), CONFIG).recall == 1.0


def test_a_word_of_another_name_is_not_found():
    spoken = np.full((2, 60, 40), -9.0, np.float32)
    spoken[:, 30:40, 0] = 9.0

    def two(features):
        return np.concatenate([features[:, -1, :1], -9.0 + 0 * features[:, -1, :1]], axis=1)

    found = listening.validate(two, validation([quiet(6)], spoken, [0, 1]), CONFIG)
    assert found.recall == 0.5


def test_a_stride_that_the_front_end_cannot_take_is_named():
    odd = FrontendConfig(kind="log_mel", window_ms=30, step_ms=20)
    windows = Windows([streams([quiet(2)])], FRAMES, odd)
    made = dataclasses.replace(validation([quiet(2)], np.zeros((1, 60, 40)), [0]), windows=windows)
    with pytest.raises(InputError, match=r"`frontend\.step_ms`=20"):
        listening.validate(newest, made, CONFIG)


# The pool in batches.


def test_a_batch_holds_the_stated_share_of_hard_negatives_once_there_is_a_pool(tmp_path):
    made = negatives([quiet(9, (409, 5.0))], ambient_share=0.5, hard_share=0.25)
    pools = Pools(tmp_path / "pools.json")
    before = made.batch(pools, 1, 39, 16, 1)
    assert np.bincount(before[3], minlength=5).tolist() == [0, 0, 0, 12, 0]
    pools.add(find(made))
    still = made.batch(pools, 1, 39, 16, 1)
    np.testing.assert_array_equal(still[0], before[0])
    features, labels, weights, groups = made.batch(pools, 1, 40, 16, 1)
    assert (groups == EXAMPLES.index(STREAM)).sum() == 8
    assert (groups == EXAMPLES.index(HARD)).sum() == 4
    assert not labels.any()
    assert (weights == 1).all()
    assert features.shape == (12, FRAMES, 40)


def test_hard_negatives_are_the_pools_and_windows_move_by_single_frames(tmp_path):
    made = negatives([quiet(9, (409, 5.0))], ambient_share=0.0, hard_share=0.5, hard_windows=2)
    pools = Pools(tmp_path / "pools.json")
    pools.add(find(made))
    drawn = np.concatenate([made.batch(pools, 1, 40 + i, 32, 1)[0] for i in range(30)])[:, :, 0]
    clip = (drawn == made.clips.features[2, :, 0]).all(axis=1)
    assert 0.4 < clip.mean() < 0.6
    loud = np.argmax(drawn[~clip], axis=1)
    # Moved beyond the end of the window, the loud frame is no longer in it: all are quiet.
    inside = drawn[~clip].max(axis=1) == 5.0
    assert set(loud[inside]) == set(range(FRAMES - 1 - JITTER_FRAMES, FRAMES))
    assert 0.4 < inside.mean() < 0.7


def test_pools_survive_and_those_of_epochs_trained_again_are_forgotten(tmp_path):
    made = negatives([quiet(9, (409, 5.0))])
    path = tmp_path / "pools.json"
    pools = Pools(path)
    for epoch in (4, 8, 12, 16):
        pools.add(find(made, epoch=epoch, from_step=10 * epoch))
    again = Pools(path)
    for step in (85, 119, 120, 200):
        assert again.at(step) == pools.at(step)
    assert again.at(85).epoch == 8
    resumed = Pools(path)
    resumed.keep(12)
    assert resumed.at(1000).epoch == 12
    other_stage = Pools(tmp_path / "qat.json", start=path)
    assert other_stage.at(0).epoch == 16


def test_a_pool_that_comes_too_late_to_be_repeated_is_an_error(tmp_path):
    made = negatives([quiet(9)])
    pools = Pools(tmp_path / "pools.json")
    pools.at(40)
    with pytest.raises(AssertionError):
        pools.add(find(made, from_step=40))


def test_a_damaged_file_of_pools_is_named(tmp_path):
    path = tmp_path / "pools.json"
    for content in ("", "{}", '{"pools": [{}]}', '{"pools": 3}'):
        path.write_text(content)
        with pytest.raises(InputError, match=r"pools\.json is damaged"):
            hard_negatives.read_pools(path)
