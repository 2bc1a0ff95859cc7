import dataclasses

import numpy as np
import pytest
import soxr
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from wakeword_keras.audio.augmentation import (
    AugmentConfig,
    augment_waveform,
    batch_seed,
    prepare_impulse_responses,
    spec_augment,
    speech_span,
)
from wakeword_keras.errors import InputError
from wakeword_keras.synthesis.espeak import Espeak

SAMPLES, WARMUP_MS, LEAD = 4_000, 100, 1_600
NOTHING = AugmentConfig(
    background_probability=0,
    gain_low_db=0,
    gain_high_db=0,
    shift_ms=0,
    reverberation_probability=0,
    speech_around_probability=0,
    speech_beneath_probability=0,
    clipping_probability=0,
    warmup_ms=WARMUP_MS,
    warmup_probability=0,
    time_masks=0,
    frequency_masks=0,
)


def but(**changes):
    return dataclasses.replace(NOTHING, **changes)


def noise(level, shape, seed=0):
    wave = np.random.default_rng(seed).normal(size=shape) * level
    return np.clip(np.round(wave), -32_768, 32_767).astype(np.int16)


def rms(audio):
    return np.sqrt(np.mean(np.square(np.asarray(audio, np.float64)), axis=-1))


def augment(audio, config, background=None, responses=None, seed=0, speech=None):
    audio, start = augment_waveform(
        tf.constant(audio), batch_seed(seed, 0, 0), config, background, responses, speech
    )
    return audio.numpy(), start.numpy()


def test_nothing_asked_is_the_clip_itself():
    clips = noise(8_000, (4, 4_001))
    audio, start = augment(clips, NOTHING)
    np.testing.assert_array_equal(audio, clips)
    np.testing.assert_array_equal(start, 0)


def test_background_of_probability_zero_changes_nothing_behind_the_unheard_lead():
    clips = noise(8_000, (4, SAMPLES))
    audio, start = augment(clips, NOTHING, noise(900, (3, 8_000), 1))
    np.testing.assert_array_equal(audio, np.pad(clips, [(0, 0), (LEAD, 0)]))
    np.testing.assert_array_equal(start, LEAD)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-10, 30),
    st.sampled_from([1_500, 5_000]),
    st.sampled_from([100, 10_000]),
    st.integers(0, 2**31),
)
def test_measured_snr_is_the_one_asked_for(snr_db, clip_level, noise_level, seed):
    clips = noise(clip_level, (2, SAMPLES), seed)
    config = but(background_probability=1, snr_low_db=snr_db, snr_high_db=snr_db)
    audio, _ = augment(clips, config, noise(noise_level, (3, 16_000), 1), seed=seed)
    added = audio - np.pad(clips, [(0, 0), (LEAD, 0)]).astype(np.int32)
    heard = np.abs(audio).max(axis=1) < 32_767  # before saturation
    measured_db = 20 * np.log10(rms(clips) / rms(added))
    np.testing.assert_allclose(measured_db[heard], snr_db, atol=0.1)


def test_one_stretch_of_background_spans_warm_up_and_clip():
    background = np.arange(12_000, dtype=np.int16)[None] + 3_000  # each sample knows its place
    clips = noise(1_000, (16, SAMPLES))
    config = but(background_probability=1, snr_low_db=0, snr_high_db=0)
    audio, _ = augment(clips, config, background)
    added = audio - np.pad(clips, [(0, 0), (LEAD, 0)]).astype(np.int32)
    slope = added / added[:, :1]
    places = (slope[:, -1] - 1) / (LEAD + SAMPLES - 1)  # 1 / first value: a straight line
    line = 1 + places[:, None] * np.arange(LEAD + SAMPLES)
    np.testing.assert_allclose(slope, line, atol=3e-3)
    assert len(np.unique(added[:, 0])) > 8  # drawn anew for each clip


def test_every_warmed_clip_hears_its_lead_and_has_background():
    config = but(warmup_probability=1, snr_low_db=10, snr_high_db=10)
    audio, start = augment(noise(2_000, (4, SAMPLES)), config, noise(500, (2, 16_000), 1))
    np.testing.assert_array_equal(start, 0)
    assert np.all(rms(audio[:, :LEAD]) > 400)


def test_about_the_asked_share_is_warmed():
    clips = np.ones((2_000, 160), np.int16)
    _, start = augment(clips, but(warmup_probability=0.3), noise(500, (2, 4_000)))
    assert set(start) == {0, LEAD}
    assert np.mean(start == 0) == pytest.approx(0.3, abs=0.05)


def test_silence_stays_finite_and_silent():
    config = but(background_probability=1, reverberation_probability=1, warmup_probability=0.5)
    clips, responses = np.zeros((4, SAMPLES), np.int16), np.eye(1, 800, dtype=np.float32)
    audio, _ = augment(clips, config, noise(500, (2, 16_000)), responses)
    assert not audio.any()


def test_silent_background_leaves_the_clip():
    clips = noise(2_000, (4, SAMPLES))
    audio, _ = augment(clips, but(background_probability=1), np.zeros((2, 16_000), np.int16))
    np.testing.assert_array_equal(audio[:, LEAD:], clips)


@settings(max_examples=20, deadline=None)
@given(st.floats(-30, 30), st.integers(0, 2**31))
def test_gain_is_exact_and_saturates_instead_of_wrapping(gain_db, seed):
    clips = noise(8_000, (2, SAMPLES), seed)
    audio, _ = augment(clips, but(gain_low_db=gain_db, gain_high_db=gain_db))
    exact = np.clip(clips * 10 ** (gain_db / 20), -32_768, 32_767)
    np.testing.assert_allclose(audio, exact, atol=0.51)


def test_gain_scales_clip_and_background_alike():
    clips, background = noise(1_000, (2, SAMPLES)), noise(500, (2, 16_000), 1)
    plain, _ = augment(clips, but(background_probability=1), background)
    louder = but(background_probability=1, gain_low_db=6, gain_high_db=6)
    audio, _ = augment(clips, louder, background)
    np.testing.assert_allclose(audio, plain * 10 ** (6 / 20), atol=1.6)  # both are rounded


def test_full_scale_plus_loud_noise_keeps_its_sign():
    # A bare cast saturates in its vectorised part and wraps in the rest: 4,013 samples have both.
    clips = np.where(np.arange(4_013) % 2, 32_767, -32_768).astype(np.int16)[None]
    loud = {"snr_low_db": 6, "snr_high_db": 6, "gain_low_db": 20, "gain_high_db": 20}
    config = but(background_probability=1, **loud)
    background = np.clip(noise(5_000, (1, 16_000)), -5_000, 5_000)
    audio, _ = augment(clips, config, background)
    np.testing.assert_array_equal(audio[:, LEAD:], clips)


def test_shift_moves_by_whole_ms_both_ways_and_fills_with_zeros():
    clips = np.tile(noise(2_000, (1, 1_000)), (200, 1))
    clips[clips == 0] = 1
    audio, _ = augment(clips, but(shift_ms=5))
    shifts = []
    for row in audio:
        before, after = (row != 0).argmax(), (row[::-1] != 0).argmax()
        shift = before - after
        expected = np.zeros(1_000, np.int16)
        expected[before : 1_000 - after] = clips[0][after : 1_000 - before]
        np.testing.assert_array_equal(row, expected)
        assert min(before, after) == 0
        shifts.append(shift)
    assert set(shifts) == {16 * ms for ms in range(-5, 6)}


def word(start, end, samples=16_000, seed=0):
    """A clip of faint noise with loud noise from start to end."""
    clip = noise(3, samples, seed)
    clip[start:end] = noise(3_000, end - start, seed + 1)
    return clip


def test_speech_is_found_where_it_is_to_a_block():
    known = [(3_200, 9_600), (0, 5_000), (8_000, 16_000), (4_000, 5_300)]
    clips = np.stack([word(*span) for span in known])
    clips[2, 300:330] = 8_000  # a click
    found = np.stack(speech_span(tf.constant(clips)), axis=1)
    assert found.dtype == np.int32
    np.testing.assert_allclose(found, known, atol=320)


def test_of_silence_and_steady_noise_all_is_the_span():
    clips = np.stack([np.zeros(16_000, np.int16), noise(500, 16_000)])
    start, end = speech_span(tf.constant(clips))
    np.testing.assert_array_equal(start, 0)
    np.testing.assert_array_equal(end, 16_000)


def test_the_end_of_spoken_words_is_found():
    """espeak-ng says when its last phoneme ends."""
    pytest.importorskip("espeakng_loader", reason="needs the extra [tts]")
    tts, off_ms = Espeak(), []
    for voice in ("en-us+f1", "en+m3", "en-gb-scotland+linda", "en-029+m5"):
        for text in ("smart mirror", "hey jarvis", "view glass", "alexa"):
            said = tts.say(text, voice, rate_wpm=130)
            start, end = (at * 16_000 // said.sample_rate_hz for at in said.span(0, len(text)))
            audio = soxr.resample(said.audio, said.sample_rate_hz, 16_000)[:22_000] // 4
            clip = noise(10, 24_000)
            clip[2_000 : 2_000 + len(audio)] += audio
            found = speech_span(tf.constant(clip[None]))
            off_ms.append(
                [(int(found[0][0]) - start - 2_000) / 16, (int(found[1][0]) - end - 2_000) / 16]
            )
    assert np.abs(np.median(off_ms, axis=0)).max() < 40
    assert np.abs(off_ms).max() < 130  # a faint "s" or "v"


def test_words_end_shortly_before_their_clip_and_whole_ones_stay_whole():
    clips = np.stack([word(3_000, 9_000, seed=seed) for seed in range(300)])
    config = but(phrase_end_probability=1, phrase_end_ms=250)
    audio, _ = augment(clips, config)
    _, end = (edge.numpy() for edge in speech_span(tf.constant(audio)))
    before_ms = (16_000 - end) / 16
    assert -5 <= before_ms.min() < 20
    assert 225 < before_ms.max() <= 265
    long, _ = augment(np.stack([word(200, 13_000)] * 50), but(phrase_end_probability=1))
    start, end = speech_span(tf.constant(long))
    np.testing.assert_allclose(end - start, 12_800, atol=480)


def test_words_that_run_into_the_end_of_their_clip_stay_where_they_are():
    clips = np.stack([word(9_000, 16_000)] * 20)
    audio, _ = augment(clips, but(phrase_end_probability=1))
    np.testing.assert_array_equal(audio, clips)


def spoken_around(config, clips, seed=0):
    """What is added by speech, of noise of 16 s; full level wherever it is."""
    speech = noise(1_000, (2, 160_000), 5)
    config = dataclasses.replace(config, snr_low_db=0, snr_high_db=0, speech_around_db=0)
    audio, _ = augment(clips, config, np.zeros((1, 160_000), np.int16), None, seed, speech)
    return audio - np.pad(clips, [(0, 0), (LEAD, 0)]).astype(np.int32)


def test_speech_around_leaves_a_pause_before_and_behind_the_words_and_is_as_loud():
    clips = np.stack([word(8_000, 9_000)] * 100 + [word(2_000, 9_000)] * 100)
    added = spoken_around(but(speech_around_probability=1), clips)
    level = np.sqrt(np.mean(added[:100, :2_500].astype(float) ** 2, axis=1))
    np.testing.assert_allclose(level, rms(clips[:100]), rtol=0.05)
    for i, (row, start) in enumerate(zip(added, [8_000] * 100 + [2_000] * 100, strict=True)):
        heard = np.flatnonzero(row)
        before, behind = heard[heard < LEAD + start], heard[heard > LEAD + 9_000]
        assert 800 - 320 <= behind[0] - LEAD - 9_000 <= 6_400 + 320
        assert i >= 100 or 800 - 320 <= LEAD + start - before[-1] <= 6_400 + 320
        assert len(before) + len(behind) == len(heard)


def test_speech_before_and_behind_come_independently_in_about_the_asked_share():
    clips = np.stack([word(6_000, 9_000)] * 400)
    added = spoken_around(but(speech_around_probability=0.3), clips)
    before, behind = added[:, :LEAD].any(axis=1), added[:, -1_000:].any(axis=1)
    assert np.mean(before) == pytest.approx(0.3, abs=0.07)
    assert np.mean(behind) == pytest.approx(0.3, abs=0.07)
    assert np.mean(before & behind) == pytest.approx(0.09, abs=0.05)


def test_speech_beneath_goes_all_through_at_the_ratio_asked_for():
    clips = np.stack([word(6_000, 9_000)] * 40)
    added = spoken_around(but(speech_beneath_probability=1), clips)
    np.testing.assert_allclose(rms(added), rms(clips), rtol=0.02)
    assert np.mean(added != 0) > 0.99


def test_without_other_speech_its_shares_change_nothing():
    clips, background = noise(3_000, (4, SAMPLES)), noise(500, (2, 16_000))
    wanted = but(speech_around_probability=1, speech_beneath_probability=1)
    np.testing.assert_array_equal(
        augment(clips, wanted, background)[0], augment(clips, NOTHING, background)[0]
    )


def test_an_overdriven_clip_is_cut_off_below_its_peak():
    clips = noise(3_000, (300, SAMPLES))
    audio, _ = augment(clips, but(clipping_probability=0.5, clipping_db=12))
    fall_db = 20 * np.log10(np.abs(clips).max(axis=1) / np.abs(audio).max(axis=1))
    assert np.mean(fall_db > 0.01) == pytest.approx(0.5, abs=0.1)
    assert 11 < fall_db.max() <= 12.01
    untouched = np.abs(clips) < np.abs(audio).max(axis=1, keepdims=True)
    np.testing.assert_array_equal(audio[untouched], clips[untouched])


def test_reverberation_convolves_and_keeps_the_level():
    clips = noise(3_000, (3, SAMPLES))
    response = (np.exp(-np.arange(700) / 150) * noise(100, 700, 1)).astype(np.int16)
    bank = prepare_impulse_responses([response], longest_ms=50)
    audio, _ = augment(clips, but(reverberation_probability=1), responses=bank)
    for clip, row in zip(clips, audio, strict=True):
        wet = np.convolve(clip, bank[0])[:SAMPLES]
        np.testing.assert_allclose(row, wet * rms(clip) / rms(wet), atol=0.6)
    np.testing.assert_allclose(rms(audio), rms(clips), rtol=1e-3)


def test_a_clip_without_reverberation_passes_outside_a_graph_too():
    clip, bank = tf.constant(np.arange(SAMPLES, dtype=np.int16)[None]), tf.ones((2, 80))
    audio, _ = augment_waveform(clip, batch_seed(0, 0, 0), NOTHING, None, bank)
    assert np.array_equal(audio, clip)


def test_reverberation_touches_only_the_chosen_share():
    clips = noise(3_000, (200, 800))
    bank = np.array([[1, -0.9, 0.8, 0.7]], np.float32)
    audio, _ = augment(clips, but(reverberation_probability=0.25), responses=bank)
    assert np.mean(np.any(audio != clips, axis=1)) == pytest.approx(0.25, abs=0.1)


def test_impulse_responses_begin_at_their_direct_sound():
    late = np.zeros(3_000, np.int16)
    late[1_000], late[1_010] = -20_000, 5_000
    bank = prepare_impulse_responses([late, np.array([4], np.int16)], longest_ms=100)
    assert bank.shape == (2, 1_600)
    np.testing.assert_array_equal(bank[0, [0, 10]], np.array([-1, 0.25], np.float32))
    np.testing.assert_array_equal(bank[1], np.eye(1, 1_600, dtype=np.float32)[0])


def test_a_silent_impulse_response_is_refused():
    with pytest.raises(InputError, match="impulse response 1"):
        prepare_impulse_responses([np.ones(3, np.int16), np.zeros(9, np.int16)])


def test_background_shorter_than_warm_up_and_clip_is_refused():
    with pytest.raises(InputError, match="5440 samples"):
        augment(noise(10, (1, SAMPLES)), NOTHING, noise(10, (2, 5_440)))


def augmented_epochs(seed, epoch, calls):
    config = AugmentConfig(warmup_ms=WARMUP_MS)
    background = tf.constant(noise(500, (3, 8_000), 1))
    bank = np.array([[1, -0.9, 0.8, 0.7]], np.float32)

    def augment_batch(index, batch):
        drawn = batch_seed(seed, epoch, index)
        audio, start = augment_waveform(batch, drawn, config, background, bank)
        features = tf.reshape(tf.cast(audio[:, :4_000], tf.float32), [-1, 100, 40])
        return audio, start, spec_augment(features, drawn, config)

    dataset = tf.data.Dataset.from_tensor_slices(noise(3_000, (64, SAMPLES)))
    dataset = dataset.batch(4).enumerate().map(augment_batch, num_parallel_calls=calls)
    return [np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True)]


def test_one_seed_gives_the_same_batches_under_a_parallel_map():
    first, again = augmented_epochs(7, 3, 1), augmented_epochs(7, 3, 8)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("seed", "epoch"), [(8, 3), (7, 4)])
def test_another_seed_or_epoch_gives_other_batches(seed, epoch):
    for one, other in zip(augmented_epochs(7, 3, 2), augmented_epochs(seed, epoch, 2), strict=True):
        assert np.any(one != other)


def masked(config, clips=400, frames=30, channels=20):
    ones = tf.ones([clips, frames, channels])
    out = spec_augment(ones, batch_seed(0, 0, 0), config).numpy()
    assert set(np.unique(out)) <= {0, 1}
    return out == 0


def test_no_masks_change_nothing():
    assert not masked(NOTHING).any()


@pytest.mark.parametrize(
    ("config", "axis"),
    [
        (but(time_masks=1, time_mask_frames=6), 1),
        (but(frequency_masks=1, frequency_mask_channels=6), 2),
    ],
)
def test_a_mask_is_one_stretch_across_the_other_axis_of_uniform_width(config, axis):
    mask = masked(config)
    across = mask.all(axis=3 - axis)
    np.testing.assert_array_equal(mask.any(axis=3 - axis), across)
    edges = np.diff(np.pad(across, [(0, 0), (1, 1)]).astype(int), axis=1)
    assert np.max((edges == 1).sum(axis=1)) == 1
    widths = across.sum(axis=1)
    np.testing.assert_allclose(np.bincount(widths, minlength=7) / len(widths), 1 / 7, atol=0.06)
    assert np.all(across.any(axis=0))  # every place is reached


def test_masks_add_up():
    config = but(time_masks=2, time_mask_frames=6, frequency_masks=3, frequency_mask_channels=4)
    mask = masked(config)
    assert 6 < mask.all(axis=2).sum(axis=1).max() <= 12
    assert 4 < mask.all(axis=1).sum(axis=1).max() <= 12


def test_a_mask_wider_than_the_features_is_cut_to_them():
    mask = masked(but(time_masks=1, time_mask_frames=1_000), frames=3)
    assert mask.all(axis=(1, 2)).any()


@pytest.mark.parametrize(
    "values",
    [
        {"background_probability": 1.5},
        {"warmup_probability": -0.1},
        {"shift_ms": -1},
        {"time_masks": -2},
        {"warmup_ms": 105},
        {"snr_low_db": 50.0},
        {"gain_high_db": -20.0},
    ],
)
def test_an_impossible_value_is_refused_in_one_line_with_the_value(values):
    with pytest.raises(InputError) as error:
        AugmentConfig(**values)
    assert "\n" not in str(error.value)
    assert str(*values.values()) in str(error.value)
