import csv
import itertools

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, fake_quantize, finetuning, integer_model
from wakeword_keras.quantization.finetuning import QatConfig
from wakeword_keras.training import callbacks
from wakeword_keras.training.loop import LossConfig

STATISTICS = ("moving_mean", "moving_variance")
# tfmot's own names of the ranges of activations; a weight's range follows the weight.
RANGES = ("output_min", "output_max", "post_activation_min", "post_activation_max")
KERNELS = ("kernel", "bias", "gamma", "beta")


class _Snapshots(callbacks.Resume):
    """What every variable held after each epoch."""

    taken: list[dict[str, np.ndarray]] = []  # noqa: RUF012
    watched: keras.Model

    def on_epoch_end(self, epoch, logs=None):
        self.taken.append({v.name: v.numpy() for v in self.watched.weights})


@pytest.fixture
def qat(tiny_model, training_data):
    model = fake_quantize.quantize(tiny_model, training_data.frontend.input_affine)
    calibration.calibrate(model, tiny_model, training_data.validation[0].features)
    return model


def named(snapshot, names):
    chosen = {
        name: value
        for name, value in snapshot.items()
        if name.split("/")[-1].split(":")[0] in names
    }
    assert chosen
    return chosen


def moved(before, after, names):
    before, after = named(before, names), named(after, names)
    return {name for name in before if (before[name] != after[name]).any()}


@pytest.fixture
def snapshots(qat, tiny_model, training_data, tmp_path, monkeypatch):
    """Variables before a fine-tuning of two epochs, and after each."""
    monkeypatch.setattr(callbacks, "Resume", _Snapshots)
    start = {v.name: v.numpy() for v in qat.weights}
    monkeypatch.setattr(_Snapshots, "taken", [start])
    monkeypatch.setattr(_Snapshots, "watched", qat, raising=False)
    config = QatConfig(qat_epochs=2, qat_learning_rate=0.01)
    finetuning.finetune(qat, tiny_model, training_data, LossConfig(), config, tmp_path)
    assert len(_Snapshots.taken) == 3
    return _Snapshots.taken


def test_kernels_learn_while_statistics_and_ranges_stand_still(snapshots):
    for before, after in itertools.pairwise(snapshots):
        assert moved(before, after, KERNELS) == set(named(before, KERNELS))
        assert not moved(before, after, STATISTICS)
        assert not moved(before, after, RANGES)


def test_the_logits_come_nearer_to_those_of_the_float_model(
    qat, tiny_model, training_data, tmp_path
):
    features = training_data.validation[0].features
    expected = tiny_model.predict(features, verbose=0)
    for weight in qat.trainable_weights:
        noise = np.random.default_rng(0).normal(0, 0.05, weight.shape)
        weight.assign_add(noise.astype(np.float32))
    exact = integer_model.device_model(qat, tiny_model)

    def error():
        return np.sqrt(np.mean((exact.predict(features, verbose=0) - expected) ** 2))

    before = error()
    config = QatConfig(qat_epochs=8, qat_learning_rate=0.01)
    finetuning.finetune(qat, tiny_model, training_data, LossConfig(), config, tmp_path)
    assert error() < 0.5 * before
    with (tmp_path / "history.csv").open(newline="") as file:
        errors = [float(row["logit_error"]) for row in csv.DictReader(file)]
    assert errors[-1] < errors[0]


def test_the_input_keeps_the_range_of_the_device(qat, tiny_model, training_data, tmp_path):
    finetuning.finetune(
        qat, tiny_model, training_data, LossConfig(), QatConfig(qat_epochs=2), tmp_path
    )
    affine = training_data.frontend.input_affine
    layer = next(layer for layer in qat.layers if "quantize_layer" in layer.name)
    steps = np.arange(-128, 128)
    device = ((steps - affine.zero_point) * affine.scale).astype(np.float32)
    wild = np.concatenate([device, device + 0.4 * affine.scale, [-5.0, 99.0]]).astype(np.float32)
    heard = np.concatenate([device, device, [affine.low, affine.high]])
    np.testing.assert_allclose(layer(wild, training=True), heard, atol=1e-4)


def test_the_learning_rate_rises_and_falls_once_and_each_epoch_has_a_row(
    qat, tiny_model, training_data, tmp_path
):
    config = QatConfig(qat_epochs=4, qat_learning_rate=0.01)
    finetuning.finetune(qat, tiny_model, training_data, LossConfig(), config, tmp_path)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    rates = [float(row["learning_rate"]) for row in rows]
    # Five steps of warm-up, the last not yet at the peak, then a fall to zero.
    assert rates[0] == pytest.approx(0.008)
    assert 0.01 > rates[1] > rates[2] > rates[3] > 0
    assert rates[3] < 0.02 * 0.01


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_fine_tuning_equals_one_that_was_not_interrupted(
    epoch, tiny_model, training_data, tmp_path, monkeypatch
):
    config = QatConfig(qat_epochs=4, qat_learning_rate=0.01)

    def calibrated():
        model = fake_quantize.quantize(tiny_model, training_data.frontend.input_affine)
        calibration.calibrate(model, tiny_model, training_data.validation[0].features)
        return model

    whole = calibrated()
    finetuning.finetune(whole, tiny_model, training_data, LossConfig(), config, tmp_path / "whole")
    original = callbacks.ProgressLine.on_epoch_begin

    def interrupt(line, number, logs=None):
        original(line, number, logs)
        if number == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.ProgressLine, "on_epoch_begin", interrupt)
        with pytest.raises(KeyboardInterrupt):
            finetuning.finetune(
                calibrated(), tiny_model, training_data, LossConfig(), config, tmp_path / "resumed"
            )
    resumed = calibrated()
    finetuning.finetune(
        resumed, tiny_model, training_data, LossConfig(), config, tmp_path / "resumed"
    )
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"qat_epochs": 0}, "`qat_epochs`=0"),
        ({"qat_learning_rate": 0.0}, "`qat_learning_rate`=0"),
    ],
)
def test_a_value_out_of_range_names_its_flag(values, flag):
    with pytest.raises(InputError, match=f"^{flag}"):
        QatConfig(**values)
