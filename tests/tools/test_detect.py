import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import tf_keras as keras
from hypothesis import given, settings
from hypothesis import strategies as st

from wakeword_keras import InputError
from wakeword_keras.audio import audio_file
from wakeword_keras.audio.features import FrontendConfig, compute
from wakeword_keras.firmware.bundle import write_bundle
from wakeword_keras.streams.detector import (
    Detector,
    StreamConfig,
    detect_stream,
    detections,
    load_detector,
    stream_logits,
)

ROOT = Path(__file__).resolve().parents[2]
FRONTEND = FrontendConfig()
CLIP_MS = 300
FRAMES = 28
WINDOW_SAMPLES = 4800
WAKE_WORDS = ("low", "high")
CHANNELS = (8, 26)  # where tones of 700 and 3200 Hz are loudest


def _tone_bursts(seconds, bursts):
    """Faint noise with a tone of 200 ms at each (second, Hz)."""
    samples = np.random.default_rng(0).normal(size=int(seconds * 16000)) * 30
    for start_s, hz in bursts:
        start = int(start_s * 16000)
        samples[start : start + 3200] += 9000 * np.sin(2 * np.pi * hz / 16000 * np.arange(3200))
    return samples.astype(np.int16)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """An int8 model made by hand: each logit is how far its channel's mean is above the other's."""
    features = keras.Input((FRAMES, 40))
    mean = keras.layers.GlobalAveragePooling1D()(features)
    dense = keras.layers.Dense(2, name="logit")
    model = keras.Model(features, dense(mean))
    weights = np.zeros((40, 2), np.float32)
    weights[CHANNELS, (0, 1)] = 1.0
    weights[CHANNELS, (1, 0)] = -1.0  # the cold front end's start is loud everywhere
    dense.set_weights([weights, np.full(2, -5.0, np.float32)])
    signature = [tf.TensorSpec((1, FRAMES, 40))]
    call = tf.function(lambda x: model(x, training=False), input_signature=signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [call.get_concrete_function()], model
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    extremes = np.zeros((2, 1, FRAMES, 40), np.float32)
    extremes[(0, 1), :, :, CHANNELS] = FRONTEND.input_affine.high
    converter.representative_dataset = lambda: ([clip] for clip in extremes)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    path = tmp_path_factory.mktemp("model") / "int8.tflite"
    path.write_bytes(converter.convert())
    return path


@pytest.fixture(scope="module")
def bundle(model_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "firmware"
    write_bundle(
        model_path,
        out,
        wake_words=WAKE_WORDS,
        frontend=FRONTEND,
        clip_ms=CLIP_MS,
        threshold_logit=1.0,
        hashes={},
    )
    return out


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("audio") / "long.wav"
    audio_file.write(path, _tone_bursts(12, [(2.0, 700), (5.0, 3200), (9.0, 700)]))
    return path


def _mean_scorer(features):
    return features.mean(axis=(1, 2))[:, np.newaxis]


def _stub(scorer=_mean_scorer, wake_words=("word",), threshold=0.5):
    return Detector(lambda: scorer, wake_words, FRONTEND, FRAMES, threshold, StreamConfig())


def _playing(logits):
    """A scorer that gives these logits [steps, wake_words] in turn, whatever it hears."""
    rows = iter(np.asarray(logits, np.float32))
    return lambda features: np.stack([next(rows) for _ in features])


def _heard(logits, *, threshold=0.5, wake_words=("word",), **config):
    config = StreamConfig(**({"stride_ms": 100, "average_ms": 100} | config))
    silence = np.zeros(WINDOW_SAMPLES + (len(logits) - 1) * config.stride_ms * 16, np.int16)
    detector = _stub(_playing(logits), wake_words, threshold)
    logits = stream_logits([silence], detector, config.stride_ms)
    return detections(logits, detector, config)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9000), min_size=1, max_size=12), st.sampled_from([10, 20, 50]))
def test_stream_equals_windows_of_the_whole_whatever_the_blocks(lengths, stride_ms):
    sound = np.random.default_rng(1).integers(-3000, 3000, sum(lengths)).astype(np.int16)
    blocks = np.split(sound, np.cumsum(lengths)[:-1])
    streamed = stream_logits(blocks, _stub(), stride_ms)
    whole = np.pad(sound, (0, max(0, WINDOW_SAMPLES - len(sound))))
    rows = compute(whole[np.newaxis], FRONTEND)[0]
    starts = range(0, len(rows) - FRAMES + 1, stride_ms // 10)
    expected = np.stack([rows[i : i + FRAMES] for i in starts])
    np.testing.assert_array_equal(streamed, _mean_scorer(expected))


def test_memory_is_bounded_by_a_block():
    batches = []

    def counting(features):
        batches.append(len(features))
        return _mean_scorer(features)

    blocks = (np.zeros(16000, np.int16) for _ in range(120))
    logits = stream_logits(blocks, _stub(counting), 50)
    assert len(logits) == 2 * 60 * 20 - 5
    assert max(batches) <= 20


def test_no_audio_is_no_detection():
    assert detect_stream([], _stub(threshold=0.01), StreamConfig()) == []


def test_a_recording_as_short_as_the_window_is_scored_in_silence_like_one_within_silence():
    tone = _tone_bursts(CLIP_MS / 1000, [(0.05, 700)])
    config = StreamConfig(average_ms=200)

    def loudness(features):
        return features.mean(axis=(1, 2))[:, np.newaxis] - 2

    alone = detect_stream([tone], _stub(loudness), config)
    assert len(alone) == 1
    assert 0 < alone[0].seconds <= CLIP_MS / 1000 + 0.5
    # Cut anywhere into blocks, the same.
    assert detect_stream([tone[:7], tone[7:]], _stub(loudness), config) == alone
    assert detect_stream([np.empty(0, np.int16)], _stub(threshold=0.01), config) == []


def test_detection_is_at_the_end_of_the_window_that_fires():
    heard = _heard([[-9], [-9], [9], [-9]])
    assert [round(d.seconds, 6) for d in heard] == [0.5]
    assert heard[0].probability == pytest.approx(1 / (1 + np.exp(-9)))


def test_a_spike_shorter_than_the_average_is_not_heard():
    spike, pair = [[-20], [20], [-20]], [[-20], [20], [20]]
    assert _heard(spike, average_ms=200, threshold=0.6) == []
    assert len(_heard(pair, average_ms=200, threshold=0.6)) == 1


def test_refractory_time_silences_and_then_hears_again():
    logits = [[9]] * 10
    assert [round(d.seconds, 6) for d in _heard(logits, refractory_ms=400)] == [0.3, 0.7, 1.1]
    assert len(_heard(logits, refractory_ms=0)) == 10


def test_the_highest_of_several_wake_words_is_heard():
    heard = _heard([[1, 3], [-5, -5], [4, 2]], wake_words=WAKE_WORDS, refractory_ms=0)
    assert [d.wake_word for d in heard] == ["high", "low"]


@pytest.mark.parametrize("rate_hz", [16000, 44100, 8000])
def test_blocks_of_a_file_are_what_read_gives(tmp_path, rate_hz):
    path = tmp_path / "stereo.flac"
    samples = np.random.default_rng(0).integers(-9000, 9000, (300_000, 2)).astype(np.int16)
    soundfile.write(path, samples, rate_hz)
    blocks = list(audio_file.read_blocks(path))
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), audio_file.read(path))


@pytest.mark.parametrize("piece", [(0.5, 3.25), (1.0, 0.1), (2.5, None)])
def test_blocks_of_a_piece_are_what_read_gives(tmp_path, piece):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.random.default_rng(0).integers(-9, 9, 80_000).astype(np.int16), 16000)
    np.testing.assert_array_equal(
        np.concatenate(list(audio_file.read_blocks(path, *piece))), audio_file.read(path, *piece)
    )
    with pytest.raises(InputError, match="no samples at 6 s"):
        list(audio_file.read_blocks(path, 6.0))


def test_int8_model_hears_each_burst_once_and_by_its_name(bundle, recording):
    detector = load_detector(bundle)
    config = StreamConfig(average_ms=100)  # bursts are short
    heard = detect_stream(audio_file.read_blocks(recording), detector, config)
    assert [d.wake_word for d in heard] == ["low", "high", "low"]
    for found, start_s in zip(heard, (2.0, 5.0, 9.0), strict=True):
        assert start_s < found.seconds < start_s + 0.5


def test_threshold_comes_from_the_bundle_unless_given(bundle, model_path):
    expected = 1 / (1 + np.exp(-1.0))
    assert load_detector(bundle).threshold_probability == pytest.approx(expected)
    assert load_detector(bundle, 0.9).threshold_probability == 0.9
    bare = load_detector(model_path, 0.25)
    assert bare.threshold_probability == 0.25
    assert bare.wake_words == ("output_0", "output_1")
    assert dataclasses.replace(bare, start=None).frames == FRAMES


@pytest.mark.parametrize(
    "config",
    [{"stride_ms": 0}, {"average_ms": 120}, {"average_ms": 0}, {"refractory_ms": -1}],
    ids=str,
)
def test_impossible_times_are_named(config):
    (name, value), *_ = config.items()
    with pytest.raises(InputError, match=f"`{name}`={value}"):
        StreamConfig(**config)


def _tool(*arguments):
    # Without a terminal there is no progress bar: stderr holds errors only.
    return subprocess.run(
        [sys.executable, "-m", "tools.detect", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_tool_prints_a_line_per_detection_and_a_closing_one(bundle, recording):
    done = _tool(f"--model={bundle}", "--average_ms=100", recording, recording)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, closing = done.stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["low", "high", "low"] * 2
    path, seconds, _, probability = lines[0].split("  ")
    assert path == str(recording)
    assert 2.0 < float(seconds) < 2.5
    assert 0.73 < float(probability) <= 1.0
    assert closing.startswith("6 detections")
    assert closing.endswith("files: 2, hours: 0.007")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model={bundle}"], "no audio file"),
        (["{recording}"], "--model"),
        (["--model={bundle}/nothing", "{recording}"], "nothing"),
        (["--model={bundle}", "{recording}.missing"], "no such audio file"),
        (["--model={model}", "{recording}"], "threshold_probability"),
        (["--model={bundle}", "--threshold_probability=7", "{recording}"], "must lie in"),
        (["--model={bundle}", "--stride_ms=15", "--average_ms=15", "{recording}"], "stride_ms=15"),
        (["--model={bundle}", "--strid=15", "{recording}"], "strid"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line_and_exit_code_1(bundle, recording, model_path, arguments, message):
    places = {"bundle": bundle, "recording": recording, "model": model_path}
    done = _tool(*(argument.format(**places) for argument in arguments))
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
