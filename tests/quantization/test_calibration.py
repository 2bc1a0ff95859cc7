import numpy as np
import pytest
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.affine import Affine
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, fake_quantize

INPUT = Affine(26 / 256, -128)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).uniform(0, 26, (40, 12, 8)).astype(np.float32)


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


def test_ranges_are_the_float_activations_extremes(fp32, features):
    qat = fake_quantize.quantize(fp32, INPUT)
    ranges = {r.layer: r for r in calibration.calibrate(qat, fp32, features)}
    relu = keras.Model(fp32.inputs, fp32.get_layer("relu").output)(features).numpy()
    assert set(ranges) == {"relu", "pool", "logit"}
    assert ranges["relu"].before == (-6.0, 6.0)
    assert ranges["relu"].after == (0.0, pytest.approx(relu.max(), rel=1e-6))
    assert ranges["relu"].clipped_before == pytest.approx(np.mean(relu > 6), abs=1e-9)
    assert calibration.read_ranges(qat)["relu"] == pytest.approx(ranges["relu"].after)


def test_calibrating_leaves_weights_and_batch_norm_statistics_alone(fp32, features):
    qat = fake_quantize.quantize(fp32, INPUT)
    names = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    kept = [v for v in qat.weights if v.name.split("/")[-1].split(":")[0] in names]
    assert len(kept) == 8
    before = [v.numpy() for v in kept]
    calibration.calibrate(qat, fp32, features)
    for variable, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_calibrated_model_is_within_two_output_steps_of_the_float_one(fp32, features):
    qat = fake_quantize.quantize(fp32, INPUT)
    ranges = {r.layer: r.after for r in calibration.calibrate(qat, fp32, features)}
    low, high = ranges["logit"]
    step = (high - low) / 255
    difference = np.abs(qat(features, training=False) - fp32(features, training=False))
    assert difference.max() <= 2 * step


def test_an_uncalibrated_model_is_far_off_so_the_test_above_can_fail(fp32, features):
    qat = fake_quantize.quantize(fp32, INPUT)
    logits = fp32(features, training=False).numpy()
    step = (max(logits.max(), 0) - min(logits.min(), 0)) / 255
    assert np.abs(qat(features, training=False) - logits).max() > 2 * step


def test_an_activation_inside_another_layer_is_refused_as_no_range_could_be_measured():
    inputs = layers.Input((12, 8))
    x = layers.Flatten(name="flat")(inputs)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="both")(x))
    with pytest.raises(InputError, match="both"):
        fake_quantize.quantize(model, INPUT)


def test_the_ranges_of_another_model_are_refused(fp32, features):
    inputs = layers.Input((12, 8))
    other = keras.Model(inputs, layers.Dense(1, name="other")(layers.Flatten()(inputs)))
    with pytest.raises(InputError, match="other"):
        calibration.calibrate(fake_quantize.quantize(other, INPUT), fp32, features)


def test_ranges_that_the_kernel_demands_stay_fixed(features):
    x = inputs = layers.Input((12, 8))
    x = layers.Dense(4, name="dense")(layers.Flatten(name="flat")(x))
    x = layers.Activation("sigmoid", name="gate")(x)
    model = keras.Model(inputs, layers.Dense(1, name="logit")(x))
    qat = fake_quantize.quantize(model, INPUT)
    ranges = calibration.calibrate(qat, model, features)
    assert [r.layer for r in ranges] == ["dense", "logit"]
    gate = keras.Model(qat.inputs, qat.get_layer("quant_gate").output)(features).numpy() * 256
    np.testing.assert_allclose(gate, np.round(gate), atol=1e-3)
    assert len(np.unique(gate)) > 10


def test_every_label_is_chosen_in_proportion_and_the_seed_decides():
    labels = ["a"] * 900 + ["b"] * 99 + ["c"]
    chosen = calibration.choose_clips(labels, 100, seed=3)
    picked = [labels[i] for i in chosen]
    assert (picked.count("a"), picked.count("b"), picked.count("c")) == (90, 10, 1)
    assert len(set(chosen.tolist())) == len(chosen)
    np.testing.assert_array_equal(chosen, calibration.choose_clips(labels, 100, seed=3))
    assert (chosen != calibration.choose_clips(labels, 100, seed=4)).any()


def test_asking_for_more_clips_than_there_are_takes_all():
    assert len(calibration.choose_clips(["a"] * 5, 100, seed=0)) == 5


def test_the_hash_covers_ids_and_features(features):
    clips = tuple(ClipInfo(str(i), "x", -1, "speech", "", 1.0) for i in range(40))
    one = ClipFeatures(clips, features)
    louder = ClipFeatures(clips, features * 2)
    renamed = ClipFeatures(clips[::-1], features)
    assert len({calibration.sha256(clips) for clips in (one, louder, renamed)}) == 3


def test_the_representative_dataset_gives_one_clip_at_a_time(features):
    given = list(calibration.representative_dataset(features)())
    assert [clip[0].shape for clip in given] == [(1, 12, 8)] * 40
    np.testing.assert_array_equal(np.concatenate([clip[0] for clip in given]), features)
