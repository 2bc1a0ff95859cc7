import hashlib
import json
import os
import re
import shutil

import jsonschema
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.lite.experimental.microfrontend.python.ops import audio_microfrontend_op
from tiny_bundle import (
    CLIP_MS,
    FRAMES,
    FRONTEND,
    HASHES,
    LISTENING,
    STEP_FRAMES,
    STEPS,
    WAKE_WORDS,
    convert,
    golden_clips,
    write,
)

from wakeword_keras import InputError
from wakeword_keras.affine import Affine, dequantize, quantize
from wakeword_keras.audio.features import compute
from wakeword_keras.firmware import bundle as bundle_module
from wakeword_keras.firmware import verify as verify_module
from wakeword_keras.firmware.bundle import write_bundle
from wakeword_keras.firmware.decision import int8_threshold
from wakeword_keras.firmware.manifest import read_manifest
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import open_interpreter


def test_bundle_holds_the_models_own_bytes_and_nothing_unexpected(bundle, model_path, manifest):
    blob = model_path.read_bytes()
    assert (bundle / manifest["model"]["file"]).read_bytes() == blob
    assert manifest["model"]["sha256"] == hashlib.sha256(blob).hexdigest()
    assert manifest["model"]["bytes"] == len(blob)
    expected = """LICENCES.txt README.md detector.h front_end.c front_end.h manifest.json
        manifest.schema.json model_data.c model_data.h model_int8.tflite model_settings.h
        op_resolver.h"""
    assert sorted(os.listdir(bundle)) == expected.split()


def test_tensors_and_operators_are_those_of_the_interpreter(manifest, model_path):
    interpreter = open_interpreter(model_path, "optimized")
    model = manifest["model"]
    for said, details in (
        (model["input"], interpreter.get_input_details()[0]),
        (model["output"], interpreter.get_output_details()[0]),
    ):
        assert said["shape"] == details["shape"].tolist()
        assert said["dtype"] == np.dtype(details["dtype"]).name
        assert (said["scale"], said["zero_point"]) == details["quantization"]
    assert model["input"]["shape"] == [1, FRAMES, 40]
    ran = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert model["operators"] == sorted(ran)


def test_a_streaming_run_has_one_model_the_one_that_the_device_runs(
    streaming_path, model_path, tmp_path
):
    out = write(streaming_path, write(model_path, tmp_path / "firmware"), listening=LISTENING)
    manifest = read_manifest(out)
    assert [path.name for path in out.glob("*.tflite")] == ["model_int8_streaming.tflite"]
    assert manifest["model"]["input"]["shape"] == [1, STEP_FRAMES, 40]
    assert {"CALL_ONCE", "VAR_HANDLE", "CONV_2D"} < set(manifest["model"]["operators"])
    states = flatbuffer.read(streaming_path)[1].operators
    assert manifest["streaming"]["variables"] == sum(op.kind == "VAR_HANDLE" for op in states)
    assert manifest["streaming"]["window_frames"] == STEPS * STEP_FRAMES >= FRAMES
    assert manifest["listening"]["warm_up_steps"] == STEPS - 1
    settings = (out / "model_settings.h").read_text()
    for name, value in (
        ("INPUT_FRAMES", STEP_FRAMES),
        ("STRIDE_FRAMES", STEP_FRAMES),
        ("WARM_UP_STEPS", STEPS - 1),
        ("VARIABLES", manifest["streaming"]["variables"]),
    ):
        assert f"#define WAKEWORD_{name} {value} " in settings or (
            f"#define WAKEWORD_{name} {value}\n" in settings
        )
    with pytest.raises(InputError, match=r"4 frames a step, `listening\.stride_ms`=50") as error:
        write(streaming_path, out)
    assert "\n" not in str(error.value)


def test_what_was_given_is_in_the_manifest(manifest):
    assert manifest["wake_words"] == list(WAKE_WORDS)
    assert manifest["clip_ms"] == CLIP_MS
    assert manifest["hashes"] == HASHES
    assert manifest["versions"]["tensorflow"] == tf.__version__


def test_threshold_is_the_same_decision_as_probability_logit_and_int8(manifest):
    threshold, output = manifest["threshold"], manifest["model"]["output"]
    every = np.arange(-128, 128)
    logits = dequantize(every, Affine(output["scale"], output["zero_point"])).astype(np.float64)
    fires = every >= threshold["int8"]
    assert threshold["int8"] == 11
    np.testing.assert_array_equal(fires, logits >= threshold["logit"])
    np.testing.assert_array_equal(fires, 1 / (1 + np.exp(-logits)) >= threshold["probability"])


def test_stream_threshold_is_the_sum_that_the_device_compares(model_path, bundle, tmp_path):
    clips = read_manifest(bundle)
    assert clips["threshold"] == clips["clip_threshold"] | {"chosen_on": "clips"}
    rule = clips["listening"]
    one = rule["windows"] * rule["probability_one"]
    assert rule["threshold_sum"] - 1 < clips["threshold"]["probability"] * one
    assert rule["threshold_sum"] >= clips["threshold"]["probability"] * one
    table = np.array(rule["probability_table"])
    least = int(np.searchsorted(table, table[40])) - 128
    given_sum = rule["windows"] * int(table[40])
    streams = read_manifest(write(model_path, tmp_path / "a", stream_sum=given_sum))
    assert streams["threshold"]["chosen_on"] == "streams"
    assert streams["threshold"]["int8"] == least
    assert streams["threshold"]["probability"] == given_sum / one
    assert streams["listening"]["threshold_sum"] == given_sum
    assert streams["clip_threshold"] == clips["clip_threshold"]
    with pytest.raises(InputError, match="never fire"):
        write(model_path, tmp_path / "b", stream_sum=rule["windows"] * int(table[-1]) + 1)


@given(st.floats(-60, 60), st.floats(1e-3, 0.5), st.integers(-128, 127))
def test_int8_threshold_is_the_smallest_that_reaches_the_logit(logit, scale, zero_point):
    affine = Affine(scale, zero_point)
    least = int8_threshold(logit, affine)
    if least is None:
        assert dequantize(127, affine) < logit
    else:
        assert dequantize(least, affine) >= logit
        assert least == -128 or dequantize(least - 1, affine) < logit


def test_integer_rule_equals_the_models_quantization_for_every_feature_value(manifest):
    rule = manifest["front_end"]["feature_to_int8"]
    inner = re.fullmatch(r"min\(127, (.*)\)", rule).group(1).replace("/", "//")
    feature = np.arange(65536)
    by_rule = np.minimum(127, eval(inner, {"feature": feature}))
    said = manifest["model"]["input"]
    affine = Affine(said["scale"], said["zero_point"])
    np.testing.assert_array_equal(by_rule, quantize((feature / 25.6).astype(np.float32), affine))


def _tensorflow_features(audio, front_end):
    noise, pcan = front_end["noise_reduction"], front_end["pcan_gain_control"]
    return audio_microfrontend_op.audio_microfrontend(
        tf.constant(audio),
        sample_rate=front_end["sample_rate_hz"],
        window_size=front_end["window_ms"],
        window_step=front_end["step_ms"],
        num_channels=front_end["channels"],
        lower_band_limit=front_end["low_hz"],
        upper_band_limit=front_end["high_hz"],
        smoothing_bits=noise["smoothing_bits"],
        even_smoothing=noise["even_smoothing"],
        odd_smoothing=noise["odd_smoothing"],
        min_signal_remaining=noise["min_signal_remaining"],
        enable_pcan=True,
        pcan_strength=pcan["strength"],
        pcan_offset=pcan["offset"],
        gain_bits=pcan["gain_bits"],
        enable_log=True,
        scale_shift=front_end["log_scale"]["scale_shift"],
        out_type=tf.float32,
    ).numpy()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {"noise_reduction": {"smoothing_bits": 6}},
        {"noise_reduction": {"even_smoothing": 0.03}},
        {"noise_reduction": {"odd_smoothing": 0.05}},
        {"noise_reduction": {"min_signal_remaining": 0.2}},
        {"pcan_gain_control": {"strength": 0.94}},
        {"pcan_gain_control": {"offset": 90.0}},
        {"pcan_gain_control": {"gain_bits": 20}},
        {"log_scale": {"scale_shift": 5}},
        {"low_hz": 150.0},
        {"high_hz": 7000.0},
    ],
    ids=str,
)
def test_front_end_constants_give_the_features_and_others_do_not(manifest, wrong):
    # Loud, then softer (the noise estimate takes its share), then faint and swelling.
    sample = np.arange(48000)
    faint = 10 * (1 + np.sin(sample / 700))
    envelope = np.select([sample < 10000, sample < 16000], [3000, 1500], faint)
    audio = (np.random.default_rng(0).normal(size=48000) * envelope).astype(np.int16)
    ours = np.round(compute(audio[np.newaxis], FRONTEND)[0] * 25.6)
    front_end = manifest["front_end"]
    for key, value in (wrong or {}).items():
        changed = {**front_end[key], **value} if isinstance(value, dict) else value
        front_end = {**front_end, key: changed}
    equal = np.mean(_tensorflow_features(audio, front_end) == ours)
    # TensorFlow's tables are in double precision, the device's are not: a few values differ.
    assert equal > 0.999 if wrong is None else equal < 0.995, equal


def test_readme_says_what_the_manifest_says(bundle, manifest):
    text = (bundle / "README.md").read_text()
    assert f"at least **{manifest['clip_threshold']['int8']}**" in text
    assert f"at least **{manifest['listening']['threshold_sum']}**" in text
    assert f"the last {FRAMES} rows ({CLIP_MS} ms of audio)" in text
    for i, word in enumerate(WAKE_WORDS):
        assert f"output {i}: {word}" in text
    named = re.search(r"`op_resolver.h` adds: (.*)\.", text).group(1).split(", ")
    assert named == manifest["model"]["operators"]


def test_the_same_run_gives_the_same_bytes(model_path, golden_bundle, tmp_path):
    again = write(model_path, tmp_path / "again", golden_clips=golden_clips())
    names = [path.relative_to(again) for path in sorted(again.rglob("*")) if path.is_file()]
    assert len(names) > 60
    for name in names:
        assert (again / name).read_bytes() == (golden_bundle / name).read_bytes(), name


def test_manifest_is_what_its_schema_says(bundle, golden_bundle, streaming_bundle):
    for folder in (bundle, golden_bundle, streaming_bundle):
        schema = json.loads((folder / "manifest.schema.json").read_text())
        jsonschema.validate(json.loads((folder / "manifest.json").read_text()), schema)


def test_bundle_without_tflite_micro_says_what_it_lacks_and_how_to_get_it(
    model_path, tmp_path, monkeypatch
):
    out = write(model_path, tmp_path / "firmware", golden_clips=golden_clips())
    assert (out / "golden_test.c").exists()
    for module in (bundle_module, verify_module):
        monkeypatch.setattr(module, "micro_installed", lambda: False)
    write(model_path, out, golden_clips=golden_clips())
    said = read_manifest(out)
    assert said["arena"] is None
    assert said["golden"] is None
    (missing,) = said["missing"]
    assert "pip install 'wakeword_keras[firmware]'" in missing
    assert missing in (out / "README.md").read_text()
    assert not (out / "golden").exists()
    assert not (out / "golden_test.c").exists()
    assert missing in verify_module.verify(out)


def test_killed_writing_leaves_no_manifest_and_the_next_one_completes(
    model_path, tmp_path, monkeypatch
):
    out = write(model_path, tmp_path / "firmware")
    replace, calls = os.replace, []

    def dying(source, target):
        calls.append(target)
        if len(calls) == 3:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        write(model_path, out)
    with pytest.raises(InputError, match="finished run"):
        read_manifest(out)
    monkeypatch.undo()
    assert read_manifest(write(model_path, out))["wake_words"] == list(WAKE_WORDS)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"wake_words": ("one",)}, "output shape"),
        ({"clip_ms": 1000}, "input shape"),
        ({"threshold_logit": 1e6}, "never fire"),
    ],
    ids=["wake words", "clip", "threshold"],
)
def test_model_that_does_not_fit_is_refused_in_one_line(model_path, tmp_path, changed, message):
    with pytest.raises(InputError, match=message) as error:
        write(model_path, tmp_path / "firmware", **changed)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "firmware").exists()


def test_model_of_another_input_range_is_refused(tmp_path):
    other = convert(tmp_path / "other.tflite", 20.0)
    with pytest.raises(InputError, match="input scale"):
        write(other, tmp_path / "firmware")


def test_float_input_or_a_file_that_is_no_model_is_refused(tmp_path):
    floating = convert(tmp_path / "float.tflite", interface=tf.float32)
    with pytest.raises(InputError, match="is float32, not int8 with one scale: give a fully"):
        write(floating, tmp_path / "firmware", threshold_logit=0.0)
    text = tmp_path / "text.tflite"
    text.write_text("no model at all")
    with pytest.raises(InputError, match="not a TFLite model"):
        write_bundle(
            text,
            tmp_path / "firmware",
            wake_words=WAKE_WORDS,
            frontend=FRONTEND,
            clip_ms=CLIP_MS,
            threshold_logit=0.0,
            hashes=HASHES,
        )


def test_manifest_beside_another_model_or_of_another_version_is_refused(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "firmware")
    (copy / "model_int8.tflite").write_bytes(b"other")
    with pytest.raises(InputError, match="is not the model"):
        read_manifest(copy)
    said = json.loads((copy / "manifest.json").read_text())
    for version in (3, 99):  # 3 had the window file as the model of a run that streams
        (copy / "manifest.json").write_text(json.dumps(said | {"manifest_version": version}))
        with pytest.raises(
            InputError, match=f"has version {version}, not 4: export again"
        ) as error:
            read_manifest(copy)
        assert "\n" not in str(error.value)
