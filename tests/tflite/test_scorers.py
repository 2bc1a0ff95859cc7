import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from wakeword_keras import InputError, affine, models
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite.interpreter import KERNELS, device_kernels, open_interpreter
from wakeword_keras.tflite.scorers import (
    keras_facts,
    keras_scorer,
    open_tflite,
    tflite_facts,
    tflite_int8_scores,
    tflite_scorer,
)

FRAMES, CHANNELS = 20, 8


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    shape = rng.uniform(0, 26, (60, FRAMES, 1)) * rng.uniform(0, 1, (60, 1, CHANNELS))
    return shape.astype(np.float32)


@pytest.fixture(scope="module")
def keras_model(features):
    import tf_keras as keras

    keras.utils.set_random_seed(1)
    model = models.build("ds_cnn", FRAMES, CHANNELS, 2)
    for _ in range(40):  # batch-norm statistics of these features, so that logits spread
        model(features, training=True)
    head = model.get_layer("logit")
    spread = model.predict(features, verbose=0)
    kernel, bias = head.get_weights()
    head.set_weights([kernel * 4 / spread.std(0), bias - spread.mean(0) * 4 / spread.std(0)])
    return model


@pytest.fixture(scope="module")
def files(keras_model, features, tmp_path_factory):
    spec = tf.TensorSpec((1, FRAMES, CHANNELS), tf.float32)
    forward = tf.function(lambda x: keras_model(x, training=False)).get_concrete_function(spec)
    folder = tmp_path_factory.mktemp("tflite")
    paths = {name: folder / f"{name}.tflite" for name in ("fp32", "int8")}
    for name, path in paths.items():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([forward], keras_model)
        if name == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([clip[np.newaxis]] for clip in features)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        path.write_bytes(converter.convert())
    return paths


def test_float_tflite_equals_keras_to_float_rounding(keras_model, files, features):
    keras_logits = keras_scorer(keras_model)(features)
    assert keras_logits.std() > 1  # else agreement would mean nothing
    for kernels in KERNELS:
        logits = tflite_scorer(files["fp32"], kernels)(features)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, keras_logits, atol=1e-4)


def test_keras_scorer_is_inference_mode_and_ignores_batching(keras_model, features):
    whole = keras_scorer(keras_model)(features)
    np.testing.assert_allclose(
        whole, keras_model.predict(features, verbose=0), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(keras_scorer(keras_model, 7)(features), whole, rtol=1e-5, atol=1e-5)


def test_int8_scorer_rounds_saturates_and_dequantizes(files, features):
    loud = features * 3  # part of it above what int8 can hold
    source = flatbuffer.input_affine(files["int8"])
    target = flatbuffer.output_affine(files["int8"])
    assert (loud > source.high + source.scale).any()
    interpreter = open_interpreter(files["int8"], "reference")
    detail_in = interpreter.get_input_details()[0]
    detail_out = interpreter.get_output_details()[0]
    expected = []
    for clip in loud:
        steps = np.floor(clip / np.float32(source.scale) + 0.5) + source.zero_point
        clipped = np.minimum(np.maximum(steps, -128), 127).astype(np.int8)
        interpreter.set_tensor(detail_in["index"], clipped[np.newaxis])
        interpreter.invoke()
        expected.append(interpreter.get_tensor(detail_out["index"])[0])
    raw = tflite_int8_scores(files["int8"], loud)
    assert raw.dtype == np.int8
    np.testing.assert_array_equal(raw, expected)
    logits = tflite_scorer(files["int8"])(loud)
    np.testing.assert_array_equal(logits, affine.dequantize(raw, target))


@pytest.mark.parametrize("kernels", ["reference", "xnnpack"])
def test_threads_change_no_bit(files, features, kernels):
    one = tflite_int8_scores(files["int8"], features, kernels, threads=1)
    assert np.unique(one).size > 10
    for threads in (2, 3, 100):  # 100: more threads than clips
        many = tflite_int8_scores(files["int8"], features, kernels, threads)
        np.testing.assert_array_equal(many, one)


def test_a_scorer_keeps_no_state_between_calls(files, features):
    scorer = tflite_scorer(files["int8"])
    first = scorer(features)
    np.testing.assert_array_equal(scorer(features[::-1])[::-1], first)


def test_int8_model_holds_no_float_tensor_and_float_model_no_int8(files):
    int8, fp32 = flatbuffer.tensor_types(files["int8"]), flatbuffer.tensor_types(files["fp32"])
    assert set(int8) == {"INT8", "INT32"}
    assert "INT8" not in fp32
    assert len(fp32["FLOAT32"]) > 10


def test_operators_are_those_of_a_ds_cnn_in_order(files):
    names = flatbuffer.operators(files["int8"])
    assert names.count("DEPTHWISE_CONV_2D") == 4
    assert names.count("CONV_2D") == 5
    assert names[-1] == "FULLY_CONNECTED"
    assert "QUANTIZE" not in names


def test_affines_are_none_for_float_and_match_the_calibration_range(files, features):
    assert flatbuffer.input_affine(files["fp32"]) is None
    assert flatbuffer.output_affine(files["fp32"]) is None
    source = flatbuffer.input_affine(files["int8"])
    assert source.zero_point == -128
    assert source.high == pytest.approx(features.max(), rel=1e-3)


def test_facts_are_measured(files, keras_model):
    facts = tflite_facts(files["int8"], kernels="reference")
    assert facts.bytes == files["int8"].stat().st_size
    assert facts.kernels == "reference"
    assert facts.latency_kernels == "xnnpack"
    assert 1 < facts.latency_us < 1e6
    slow = tflite_facts(files["int8"], latency_kernels="reference")
    assert slow.latency_us > facts.latency_us
    size = keras_facts(keras_model)
    assert size.bytes == 4 * keras_model.count_params()
    assert size.latency_us is None


def test_no_clips_give_no_logits(files, keras_model):
    none = np.zeros((0, FRAMES, CHANNELS), np.float32)
    assert tflite_scorer(files["int8"])(none).shape == (0, 2)
    assert keras_scorer(keras_model)(none).shape == (0, 2)


def test_nan_is_refused_going_in_and_coming_out(files, keras_model, features):
    import tf_keras as keras

    spoiled = features.copy()
    spoiled[3, 2, 1] = np.nan
    for scorer in (tflite_scorer(files["int8"]), keras_scorer(keras_model)):
        with pytest.raises(ValueError, match="features hold NaN"):
            scorer(spoiled)
    broken = keras.models.clone_model(keras_model)
    logit = broken.get_layer("logit")
    logit.set_weights([np.full_like(weight, np.nan) for weight in logit.get_weights()])
    with pytest.raises(ValueError, match=r"ds_cnn.*clip 0"):
        keras_scorer(broken)(features)


def test_wrong_files_are_one_line_that_names_them(files, features, tmp_path):
    text = tmp_path / "readme.tflite"
    text.write_text("this is no model at all")
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(files["int8"].read_bytes()[:2000])
    for path in (tmp_path / "absent.tflite", tmp_path, text, cut):
        for function in (tflite_scorer, flatbuffer.operators, flatbuffer.tensor_types):
            with pytest.raises(InputError, match=path.name) as error:
                function(path)
            assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"fp32.tflite.*int8"):
        tflite_int8_scores(files["fp32"], features)
    with pytest.raises(InputError, match=r"int8.tflite.*\[20, 8\].*\[19, 8\]"):
        tflite_scorer(files["int8"])(features[:, 1:])
    with pytest.raises(InputError, match="turbo"):
        tflite_scorer(files["int8"], "turbo")


def test_opened_files_are_what_their_names_say(files, features):
    paths = {"fp32_tflite": files["fp32"], "int8_ptq": files["int8"], "int8": files["int8"]}
    scorers, facts = open_tflite(paths)
    assert facts["fp32_tflite"].kernels == "xnnpack"
    assert facts["int8"].kernels == "reference"
    reference = tflite_scorer(files["int8"], "reference")(features)
    np.testing.assert_array_equal(scorers["int8"](features), reference)
    with pytest.raises(InputError, match=r"fp32.tflite.*'int8'.*FLOAT32"):
        open_tflite({"int8": files["fp32"]})
    with pytest.raises(InputError, match=r"int8.tflite.*'fp32_tflite'.*INT8"):
        open_tflite({"fp32_tflite": files["int8"]})
    with pytest.raises(InputError, match="int4"):
        open_tflite({"int4": files["int8"]})


def test_importing_the_scorers_does_not_import_tensorflow():
    code = "import sys, wakeword_keras.tflite.scorers; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_with_a_sum_is_judged_by_the_kernels_whose_sum_is_right(tmp_path, features):
    """SUM of a row of equal values: what BUILTIN_REF makes of it is not their sum."""

    def summed(x):
        return tf.reduce_sum(x, (1, 2))[:, None]

    function = tf.function(summed).get_concrete_function(
        tf.TensorSpec([1, *features.shape[1:]], tf.float32)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    path = tmp_path / "sum.tflite"
    quantizing = convert._quantizing(converter, lambda: ([clip[None]] for clip in features))
    path.write_bytes(quantizing.convert())
    kernels = device_kernels(flatbuffer.operators(path))
    assert kernels == "optimized"
    scale = flatbuffer.output_affine(path).scale
    expected = features.sum((1, 2))[:, None]
    logits = tflite_scorer(path, kernels)(features)
    assert np.abs(logits - expected).max() < 4 * scale
