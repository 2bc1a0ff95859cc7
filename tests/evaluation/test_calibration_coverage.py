import json

import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import Affine
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import calibration_coverage
from wakeword_keras.quantization import calibration, fake_quantize

INPUT = Affine(26 / 256, -128)


def clips(seed, count=40, loud=1.0, prefix="clip", labels=("happy", "none")):
    features = np.random.default_rng(seed).uniform(0, 25 * loud, (count, 12, 8))
    infos = tuple(
        ClipInfo(f"{prefix}{i}", labels[i % len(labels)], -1, "speech", "", 1.0)
        for i in range(count)
    )
    return ClipFeatures(infos, features.astype(np.float32))


@pytest.fixture(scope="module")
def fp32():
    keras.utils.set_random_seed(1)
    x = inputs = layers.Input((12, 8), name="features")
    x = layers.Reshape((12, 8, 1), name="image")(x)
    x = layers.Conv2D(4, 3, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(1, name="logit")(x))


TRAINING = ("happy", "none") * 500


def measured(fp32, calibrated, checked, training=TRAINING):
    qat = fake_quantize.quantize(fp32, INPUT)
    calibration.calibrate(qat, fp32, calibrated.features)
    twin = fake_quantize.unquantized(qat, fp32)
    return calibration_coverage.measure(
        twin, calibration.read_ranges(qat), INPUT, calibrated, training, checked
    )


def test_a_set_like_the_test_clips_raises_no_warning(fp32):
    found = measured(fp32, clips(0, 400), clips(1, 40, prefix="test"))
    assert found.warnings == ()
    assert found.disjoint
    assert (found.mix_distance, found.silent_calibration) == (0.0, 0.0)
    assert [t.layer for t in found.tensors] == ["input", "relu", "pool", "logit"]
    assert all(t.outside_calibration == 0 for t in found.tensors)
    assert (found.clips_calibration, found.clips_checked) == (400, 40)


def test_a_calibration_set_of_silence_raises_the_warning(fp32):
    found = measured(fp32, clips(0, 40, loud=0.0), clips(1, prefix="test"))
    silent, clipped = found.warnings
    assert "100 % of the calibration clips are silent" in silent
    assert "calibrate on more clips" in clipped
    relu = next(t for t in found.tensors if t.layer == "relu")
    assert relu.outside > 0.2
    assert relu.overshoot > 1


def test_quiet_calibration_clips_are_caught_by_their_ranges(fp32):
    found = measured(fp32, clips(0, loud=0.3), clips(1, prefix="test"))
    (warning,) = found.warnings
    assert "relu" in warning or "pool" in warning or "logit" in warning
    for tensor in found.tensors[1:]:
        assert tensor.seen_high - tensor.seen_low > tensor.high - tensor.low
        assert tensor.outside > 0


def test_ranges_that_fine_tuning_outgrew_are_told_from_a_small_calibration_set(fp32):
    calibrated, checked = clips(0), clips(1, prefix="test")
    ranges = calibration.observed_ranges(fp32, calibrated.features, ["relu", "pool"])
    ranges["relu"] = (0.0, ranges["relu"][1] / 2)
    found = calibration_coverage.measure(fp32, ranges, INPUT, calibrated, TRAINING, checked)
    assert ["relu" in w and "fine-tuning moved" in w for w in found.warnings] == [True]


def test_calibration_far_louder_than_the_test_clips_wastes_codes(fp32):
    found = measured(fp32, clips(0), clips(1, loud=0.02, prefix="test"))
    assert any("wider than anything seen" in warning for warning in found.warnings)


def test_outside_and_overshoot_by_hand(fp32):
    checked = clips(1, prefix="test")
    relu = keras.Model(fp32.inputs, fp32.get_layer("relu").output)(checked.features).numpy()
    high = float(np.quantile(relu, 0.9))
    found = calibration_coverage.measure(
        fp32, {"relu": (0.0, high)}, Affine(0.05, -128), clips(0), TRAINING, checked
    )
    by_name = {t.layer: t for t in found.tensors}
    assert by_name["relu"].outside == pytest.approx(np.mean(relu > high), abs=1e-6)
    assert by_name["relu"].overshoot == pytest.approx((relu.max() - high) / high, rel=1e-5)
    # The input holds up to 255 * 0.05 = 12.75 of 25: about half of the values are clipped.
    expected = np.mean(checked.features > 255 * 0.05)
    assert by_name["input"].outside == pytest.approx(expected, abs=1e-6)


def test_another_class_mix_and_a_missing_label_are_named(fp32):
    calibrated = clips(0, labels=("none",))
    found = measured(fp32, calibrated, clips(1, prefix="test"))
    assert found.mix_distance == pytest.approx(0.5)
    assert [(m.label, m.calibration, m.training) for m in found.labels] == [
        ("happy", 0, 500),
        ("none", 40, 500),
    ]
    assert any("no calibration clip of happy" in warning for warning in found.warnings)
    assert any("50 % off" in warning for warning in found.warnings)


def test_a_clip_in_both_sets_is_found_by_id_and_under_another_name_by_its_sound(fp32):
    calibrated = clips(0)
    same_id = clips(1, 3)
    assert measured(fp32, calibrated, same_id).shared_ids == ("clip0", "clip1", "clip2")
    checked = clips(1, prefix="test")
    checked.features[5] = calibrated.features[7]
    found = measured(fp32, calibrated, checked)
    assert found.shared_ids == ()
    assert found.shared_sounds == (("clip7", "test5"),)
    assert not found.disjoint
    assert "clip7 = test5" in found.warnings[0]


def test_digital_silence_in_both_sets_is_no_overlap(fp32):
    calibrated, checked = clips(0), clips(1, prefix="test")
    calibrated.features[0] = checked.features[0] = 0
    assert measured(fp32, calibrated, checked).disjoint


def test_coverage_is_json(fp32):
    content = measured(fp32, clips(0, loud=0.0), clips(1, prefix="test")).to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == content


def test_nothing_to_compare_is_refused(fp32):
    with pytest.raises(InputError, match="coverage needs"):
        calibration_coverage.measure(fp32, {}, INPUT, clips(0), TRAINING, clips(1, 0))
