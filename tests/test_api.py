"""The short public API, on a model and features that are none of ours."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

import wakeword_keras
from wakeword_keras import InputError, api
from wakeword_keras.metrics import detection
from wakeword_keras.quantization import calibration, integer_model
from wakeword_keras.tflite.flatbuffer import input_affine, output_affine, tensor_types
from wakeword_keras.tflite.scorers import tflite_scorer

SHAPE = (12, 10)


def clips(count, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    labels = np.arange(count) % 2
    features[labels == 1, 4:8] += 0.5
    return features, labels


@pytest.fixture(scope="module")
def fp32():
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input(SHAPE)
    x = layers.Reshape((*SHAPE, 1))(x)
    x = layers.Conv2D(4, 3, 2, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(x)))
    model.compile(keras.optimizers.Adam(0.01), wakeword_keras.FocalLoss(2.0, None))
    model.fit(*clips(128, 0), epochs=5, verbose=0)
    return model


@pytest.fixture(scope="module")
def int8(fp32):
    features, _ = clips(128, 0)
    before = fp32.get_weights()
    model = api.quantize(fp32, features)
    model.compile(keras.optimizers.Adam(1e-4), "mse")
    model.fit(features, fp32.predict(features, verbose=0), epochs=2, verbose=0)
    for ours, theirs in zip(fp32.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return model


@pytest.fixture(scope="module")
def evaluation(int8):
    return api.evaluate(int8, clips(128, 0), clips(60, 1), clips(60, 2), ("hey",))


def test_every_public_name_is_there_when_it_is_asked_for():
    for name in wakeword_keras._MODULES:
        assert getattr(wakeword_keras, name).__doc__
        assert name in dir(wakeword_keras)
    with pytest.raises(AttributeError, match="quantise"):
        wakeword_keras.quantise  # noqa: B018


def test_the_quantized_model_gives_the_very_integers_of_its_file(int8, tmp_path):
    path = api.export_tflite(int8, tmp_path / "new" / "int8.tflite")
    features, _ = clips(50, 3)
    steps = (int8.predict(features, verbose=0) - tflite_scorer(path)(features)) / output_affine(
        path
    ).scale
    assert np.abs(steps).max() < 0.01
    assert "FLOAT32" not in tensor_types(path)


def test_a_float_model_is_exported_as_float_and_with_clips_as_int8(fp32, tmp_path):
    features, _ = clips(20, 3)
    expected = fp32.predict(features, verbose=0)
    whole = api.export_tflite(fp32, tmp_path / "fp32.tflite")
    np.testing.assert_allclose(tflite_scorer(whole, "xnnpack")(features), expected, atol=1e-5)
    ptq = api.export_tflite(fp32, tmp_path / "ptq.tflite", features)
    assert input_affine(ptq) is not None
    lost = tflite_scorer(ptq)(features) - expected
    assert np.abs(lost).max() < 0.1 * np.ptp(expected)


def test_a_dataset_calibrates_as_its_array_does(int8):
    features, labels = clips(40, 4)
    api.calibrate(int8, features)
    qat, _ = integer_model.parts_of(int8)
    from_array = calibration.read_ranges(qat)
    api.calibrate(int8, 2 * features)
    doubled = calibration.read_ranges(qat)
    assert doubled != from_array
    ranges = api.calibrate(int8, tf.data.Dataset.from_tensor_slices((features, labels)).batch(16))
    assert calibration.read_ranges(qat) == from_array
    assert {one.layer: one.after for one in ranges} == from_array
    api.calibrate(int8, clips(128, 0)[0])


def test_any_rank_and_a_sequential_model_are_quantized():
    model = keras.Sequential([layers.Input((5,)), layers.Dense(3), layers.ReLU(), layers.Dense(2)])
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    expected = model.predict(features, verbose=0)
    lost = api.quantize(model, features).predict(features, verbose=0) - expected
    assert np.abs(lost).max() < 0.05 * np.ptp(expected)


def test_a_pinned_input_is_the_file_s(fp32, tmp_path):
    affine = wakeword_keras.FrontendConfig().input_affine
    int8 = api.quantize(fp32, clips(20, 0)[0], affine)
    found = input_affine(api.export_tflite(int8, tmp_path / "int8.tflite"))
    assert found.zero_point == affine.zero_point
    assert found.scale == pytest.approx(affine.scale, rel=1e-6)


def test_evaluation_measures_the_models_it_was_given(evaluation, fp32, int8):
    features, labels = clips(60, 2)
    models = evaluation.models
    assert set(models) == {"fp32", "qat", "fp32_tflite", "int8_ptq", "int8"}
    for name, model in (("fp32", fp32), ("qat", int8)):
        auc = detection.roc_auc(model.predict(features, verbose=0)[:, 0], labels)
        assert models[name].roc_auc == pytest.approx(auc, abs=1e-6)
    assert models["int8"].roc_auc == models["qat"].roc_auc
    assert models["fp32"].positives == 30
    assert evaluation.findings.evaluated.quantization_error.qat_vs_int8_max_lsb == 0


def test_evaluation_is_a_page_in_a_notebook_and_a_table_in_print(evaluation):
    assert "INT8 against FP32" in str(evaluation)
    shown = evaluation._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2  # nothing of the page leaks out of its frame
    assert "hey" in evaluation.page
    assert evaluation.page.rstrip().endswith("</html>")


FEATURES, LABELS = clips(8, 0)
BROKEN = FEATURES.copy()
BROKEN[5, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m, q: api.quantize(m, BROKEN), "NaN or infinity, first in clip 5"),
        (lambda m, q: api.quantize(m, FEATURES[:0]), "at least one clip"),
        (lambda m, q: api.quantize(m, FEATURES[:, :5]), r"shape \[8, 5, 10\].*\[clips, 12, 10\]"),
        (lambda m, q: api.quantize(m, 0 * FEATURES), "features are 0 throughout"),
        (
            lambda m, q: api.quantize(m, tf.data.Dataset.from_tensors((FEATURES, LABELS)).repeat()),
            r"no end.*take\(n\)",
        ),
        (lambda m, q: api.quantize(lambda x: x, FEATURES), "no functional model"),
        (lambda m, q: api.calibrate(m, FEATURES), "is not quantized: give what `quantize`"),
        (lambda m, q: api.evaluate(m, *[(FEATURES, LABELS)] * 3), "is not quantized"),
        (
            lambda m, q: api.evaluate(q, *[(FEATURES, LABELS + 1)] * 3),
            "train: labels must be 0 or 1",
        ),
        (
            lambda m, q: api.evaluate(q, *[(FEATURES, LABELS[1:])] * 3),
            r"train: labels of shape \[7, 1\] for 8 clips",
        ),
    ],
    ids=lambda value: None if callable(value) else value,
)
def test_what_does_not_fit_is_refused_in_one_line(fp32, int8, call, told):
    with pytest.raises(InputError, match=told) as refused:
        call(fp32, int8)
    assert "\n" not in str(refused.value)


def test_what_the_converter_cannot_do_is_one_line(fp32, tmp_path):
    inputs = layers.Input((4,))
    outputs = layers.Lambda(lambda x: tf.strings.length(tf.strings.as_string(x)))(inputs)
    with pytest.raises(InputError, match="cannot be a TFLite file") as refused:
        api.export_tflite(keras.Model(inputs, outputs), tmp_path / "none.tflite")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "none.tflite").exists()
