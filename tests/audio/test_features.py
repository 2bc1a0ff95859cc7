import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from pymicro_features import MicroFrontend

from wakeword_keras import affine
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend, compute, graph_features
from wakeword_keras.errors import InputError

MICRO, LOG_MEL = FrontendConfig(), FrontendConfig("log_mel")
# dB; half a per cent of an input LSB. The transform's sums may be ordered differently by batch.
LOG_MEL_TOLERANCE_DB = 2e-3


def tone(hz, peak, samples):
    return peak * np.sin(2 * np.pi * hz * np.arange(samples) / 16_000)


def make_audio(kind, level, seed, samples):
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    hz = float(np.exp(rng.uniform(np.log(100), np.log(7_000))))
    syllables = np.maximum(0, np.sin(2 * np.pi * rng.uniform(2, 6) * time))
    waves = {
        "silence": np.zeros(samples),
        "noise": rng.normal(size=samples) / 4,
        "tone": tone(hz, 1, samples),
        "tone_440": tone(440, 1, samples),
        "speech_like": syllables * sum(tone(k * 140, 1 / k, samples) for k in range(1, 20)) / 4,
        "square": np.sign(tone(hz, 1, samples)),
    }
    return np.clip(np.round(waves[kind] * level), -32_768, 32_767).astype(np.int16)


@st.composite
def audio(draw, max_samples=8_000):
    kind = draw(st.sampled_from(["silence", "noise", "tone", "tone_440", "speech_like", "square"]))
    level = draw(st.sampled_from([1, 30, 1_000, 12_000, 32_767, 40_000]))
    return make_audio(kind, level, draw(st.integers(0, 2**31)), draw(st.integers(0, max_samples)))


def device_frames(clip):
    frontend, frames = MicroFrontend(), []
    for i in range(len(clip) // 160):
        features = frontend.process_samples(clip[160 * i : 160 * (i + 1)].tobytes()).features
        if features:
            frames.append(features)
    return np.array(frames, np.float32).reshape(-1, 40)


@settings(max_examples=60, deadline=None)
@given(audio())
def test_micro_equals_the_device_loop_bit_for_bit(clip):
    np.testing.assert_array_equal(compute(clip[np.newaxis], MICRO)[0], device_frames(clip))


@settings(max_examples=30, deadline=None)
@given(audio(16_000), st.lists(st.integers(0, 1_500), min_size=1, max_size=12))
def test_micro_stream_in_any_chunks_equals_the_whole(clip, sizes):
    np.testing.assert_array_equal(in_chunks(clip, sizes, MICRO), compute(clip[None], MICRO)[0])


@settings(max_examples=15, deadline=None)
@given(audio(), st.lists(st.integers(0, 1_500), min_size=1, max_size=12))
def test_log_mel_stream_in_any_chunks_equals_the_whole(clip, sizes):
    whole = compute(clip[None], LOG_MEL)[0]
    np.testing.assert_allclose(
        in_chunks(clip, sizes, LOG_MEL), whole, rtol=0, atol=LOG_MEL_TOLERANCE_DB
    )


def in_chunks(clip, sizes, config):
    stream = StreamingFrontend(config)
    cuts = np.cumsum(sizes)
    return np.concatenate([stream.process(chunk) for chunk in np.split(clip, cuts)])


def batch_of_all_kinds(samples=8_000):
    kinds = ["silence", "noise", "tone_440", "speech_like", "square"]
    return np.stack([make_audio(kind, 30_000, i, samples) for i, kind in enumerate(kinds)])


@pytest.mark.parametrize(("config", "atol"), [(MICRO, 0), (LOG_MEL, LOG_MEL_TOLERANCE_DB)])
def test_batch_equals_single_clips(config, atol):
    clips = batch_of_all_kinds()
    singles = np.stack([compute(clip[np.newaxis], config)[0] for clip in clips])
    np.testing.assert_allclose(compute(clips, config), singles, rtol=0, atol=atol)


@pytest.mark.parametrize(("config", "atol"), [(MICRO, 0), (LOG_MEL, LOG_MEL_TOLERANCE_DB)])
def test_graph_in_a_parallel_map_equals_compute(config, atol):
    clips = np.concatenate([batch_of_all_kinds(), batch_of_all_kinds()[::-1]])
    dataset = tf.data.Dataset.from_tensor_slices(clips).batch(5, drop_remainder=True)
    dataset = dataset.map(lambda batch: graph_features(batch, config), num_parallel_calls=2)
    assert dataset.element_spec.shape == [5, config.num_frames(8_000), 40]
    in_graph = np.concatenate(list(dataset.as_numpy_iterator()))
    np.testing.assert_allclose(in_graph, compute(clips, config), rtol=0, atol=atol)


def test_graph_takes_a_batch_of_unknown_size():
    traced = tf.function(lambda a: graph_features(a, MICRO)).get_concrete_function(
        tf.TensorSpec([None, 8_000], tf.int16)
    )
    assert traced.output_shapes.as_list() == [None, 48, 40]


@pytest.mark.parametrize("config", [MICRO, LOG_MEL])
@pytest.mark.parametrize("samples", [0, 159, 479, 480, 639, 640, 16_000])
def test_num_frames_counts_whole_windows(config, samples):
    frames = compute(np.zeros((2, samples), np.int16), config).shape[1]
    assert frames == config.num_frames(samples) == max(0, (samples - 480) // 160 + 1)


def test_one_second_is_98_frames():
    assert MICRO.num_frames(16_000) == 98


def test_warmed_frames_are_those_of_the_running_stream():
    background, clip = make_audio("noise", 3_000, 0, 8_000), make_audio("tone", 20_000, 1, 8_000)
    both = np.concatenate([background, clip])
    warm = compute(both[None], MICRO, frames=48)[0]
    np.testing.assert_array_equal(warm, device_frames(both)[-48:])
    assert np.any(warm != device_frames(clip))  # the memory matters


@pytest.mark.parametrize("in_graph", [False, True])
def test_a_clip_is_cold_when_its_lead_is_not_heard(in_graph):
    rows = np.stack([make_audio("noise", 3_000, seed, 16_000) for seed in (0, 1)])
    start = np.array([0, 8_000], np.int32)
    features = np.asarray(
        graph_features(tf.constant(rows), MICRO, frames=48, start=tf.constant(start))
        if in_graph
        else compute(rows, MICRO, frames=48, start=start)
    )
    np.testing.assert_array_equal(features[0], device_frames(rows[0])[-48:])
    np.testing.assert_array_equal(features[1], device_frames(rows[1][8_000:]))


def test_log_mel_has_no_memory():
    rows = make_audio("noise", 3_000, 0, 16_000)[np.newaxis]
    np.testing.assert_allclose(
        compute(rows, LOG_MEL, frames=48),
        compute(rows[:, 8_000:], LOG_MEL),
        rtol=0,
        atol=LOG_MEL_TOLERANCE_DB,
    )


@pytest.mark.parametrize("start", [[80], [8_160], [-160]])
def test_an_impossible_start_is_refused(start):
    with pytest.raises(ValueError, match="start"):
        compute(np.zeros((1, 16_000), np.int16), MICRO, frames=48, start=np.array(start))


def test_more_frames_than_audio_are_refused():
    with pytest.raises(ValueError, match="cannot keep 99 frames"):
        compute(np.zeros((1, 16_000), np.int16), MICRO, frames=99)


def test_float_audio_is_refused():
    with pytest.raises(ValueError, match="int16"):
        compute(np.zeros((1, 16_000), np.float32), MICRO)
    with pytest.raises(ValueError, match="int16"):
        StreamingFrontend(MICRO).process(np.zeros(160, np.float32))


def test_micro_input_quantization_equals_esphomes_integer_rule_on_every_value():
    values = np.arange(2**16)
    esphome = np.clip((values * 256 + 333) // 666 - 128, -128, 127)
    real = values.astype(np.float32) * np.float32(0.0390625)
    np.testing.assert_array_equal(affine.quantize(real, MICRO.input_affine), esphome)


def test_log_mel_input_quantization_covers_the_clip_range():
    scale = LOG_MEL.input_affine.scale
    assert LOG_MEL.input_affine.low == pytest.approx(-60, abs=scale / 2)
    assert LOG_MEL.input_affine.high == pytest.approx(50, abs=scale / 2)


def test_log_mel_peaks_in_the_channel_of_a_tone_and_has_its_level():
    # A full-scale 1 kHz tone lies on a bin (32 of 512): under a Hann window of 480 its magnitude is
    # 480 / 4 = 120 there and about half of that in either neighbour. A triangle of height 1 weighs
    # the bin by at least 1/2: between 60 (35.6 dB) and 120 + 60 + 60 (47.6 dB).
    clip = np.round(tone(1_000, 32_767, 16_000)).astype(np.int16)
    mean = compute(clip[None], LOG_MEL)[0].mean(axis=0)
    edges_mel = np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7_500 / 700), 42)
    centres_hz = 700 * np.expm1(edges_mel[1:-1] / 1127)
    assert np.argmax(mean) == np.argmin(np.abs(centres_hz - 1_000))
    assert 35.6 < mean.max() < 47.6


def test_log_mel_of_silence_is_the_floor():
    assert np.all(compute(np.zeros((1, 1_600), np.int16), LOG_MEL) == -60)


def test_tensorflows_own_operation_differs_on_a_loud_tone():
    # Whoever thinks of swapping it in for speed: its tables are double, the device's are float.
    from tensorflow.lite.experimental.microfrontend.python.ops import audio_microfrontend_op

    clip = np.round(tone(440, 32_000, 16_000)).astype(np.int16)
    operation = audio_microfrontend_op.audio_microfrontend(
        tf.constant(clip),
        sample_rate=16_000,
        window_size=30,
        window_step=10,
        num_channels=40,
        lower_band_limit=125.0,
        upper_band_limit=7_500.0,
        enable_pcan=True,
        min_signal_remaining=0.05,
        out_scale=1,
        out_type=tf.float32,
    )
    same = operation.numpy() * np.float32(0.0390625) == compute(clip[None], MICRO)[0]
    assert same.shape == (98, 40)
    assert np.mean(~same.all(axis=1)) > 0.5


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "mfcc"},
        {"channels": 20},
        {"window_ms": 25},
        {"low_hz": 0.0},
        {"kind": "log_mel", "step_ms": 0},
        {"kind": "log_mel", "step_ms": 40},
        {"kind": "log_mel", "high_hz": 9_000.0},
        {"kind": "log_mel", "low_hz": 8_000.0},
        {"kind": "log_mel", "channels": 0},
        {"kind": "log_mel", "channels": 200},
    ],
)
def test_an_impossible_front_end_is_refused_in_one_line_with_the_value(values):
    with pytest.raises(InputError) as error:
        FrontendConfig(**values)
    assert "\n" not in str(error.value)
    assert str(list(values.values())[-1]) in str(error.value)


@pytest.mark.parametrize("channels", [40, 80, 120])
def test_no_channel_of_an_accepted_log_mel_is_dead(channels):
    noise = make_audio("noise", 10_000, 0, 1_600)[None]
    features = compute(noise, FrontendConfig("log_mel", channels=channels))
    assert features.max(axis=(0, 1)).min() > -40
