import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import from_range
from wakeword_keras.quantization import calibration, fake_quantize, integer_model, tfmot_access
from wakeword_keras.quantization.range_watch import QuantizationRanges

FEATURES = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def int8():
    keras.utils.set_random_seed(0)
    x = inputs = layers.Input((6,))
    x = layers.ReLU(name="hidden_relu")(layers.Dense(8, name="hidden")(x))
    fp32 = keras.Model(inputs, layers.Dense(1, name="logit")(x))
    qat = fake_quantize.quantize(fp32, from_range(-4.0, 4.0))
    calibration.calibrate(qat, fp32, FEATURES)
    return integer_model.device_model(qat, fp32)


def scaled(int8, factor):
    qat, _ = integer_model.parts_of(int8)
    weights = tfmot_access.wrapper_of(qat, "hidden").weights
    (kernel,) = (weight for weight in weights if weight.name.endswith("kernel:0"))
    kernel.assign(factor * kernel)


def test_weights_that_were_calibrated_clip_nothing(int8, capsys):
    logs = {}
    QuantizationRanges(int8, FEATURES).on_epoch_end(0, logs)
    assert logs == {"clipped": 0.0}
    assert capsys.readouterr().out == ""


def test_weights_that_grow_clip_and_the_layer_is_named_once(int8, capsys):
    watch = QuantizationRanges(int8, FEATURES)
    scaled(int8, 2.0)
    logs = {}
    watch.on_epoch_end(0, logs)
    watch.on_epoch_end(1, {})
    scaled(int8, 0.5)
    qat, fp32 = integer_model.parts_of(int8)
    _, high = calibration.read_ranges(qat)["hidden_relu"]
    hidden = keras.Model(fp32.inputs, fp32.get_layer("hidden").output)
    clipped = 2 * np.maximum(hidden.predict(FEATURES, verbose=0), 0) > high
    assert logs["clipped"] == pytest.approx(clipped.mean(), abs=2 / clipped.size)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("warning: layer hidden_relu: ")
    assert [one["hidden_relu"] for one in watch.clipped] == [logs["clipped"]] * 2


def test_it_is_in_the_history_of_fit_and_ranges_stand_still(int8):
    qat, _ = integer_model.parts_of(int8)
    before = calibration.read_ranges(qat)
    int8.compile(keras.optimizers.SGD(1e-3), "mse")
    watch = QuantizationRanges(int8, FEATURES)
    target = np.zeros((64, 1), np.float32)
    fitted = int8.fit(FEATURES, target, epochs=2, callbacks=[watch], verbose=0)
    assert len(fitted.history["clipped"]) == 2
    assert calibration.read_ranges(qat) == before


def test_a_float_model_is_refused():
    inputs = layers.Input((6,))
    with pytest.raises(ValueError, match="is not quantized"):
        QuantizationRanges(keras.Model(inputs, layers.Dense(1)(inputs)), FEATURES)
