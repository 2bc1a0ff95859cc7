import csv
import itertools

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras import callbacks
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, finetuning, scheme
from wakeword_keras.quantization.finetuning import QatConfig
from wakeword_keras.training import LossConfig

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
    model = scheme.quantize(tiny_model, training_data.frontend.input_affine)
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
    """Variables before a fine-tuning of two moving and two frozen epochs, and after each."""
    monkeypatch.setattr(callbacks, "Resume", _Snapshots)
    start = {v.name: v.numpy() for v in qat.weights}
    monkeypatch.setattr(_Snapshots, "taken", [start])
    monkeypatch.setattr(_Snapshots, "watched", qat, raising=False)
    config = QatConfig(qat_epochs=4, qat_learning_rate=0.01, frozen_share=0.5)
    finetuning.finetune(qat, tiny_model, training_data, LossConfig(), config, tmp_path)
    assert len(_Snapshots.taken) == 5
    return _Snapshots.taken


def test_statistics_and_ranges_follow_the_data_and_then_stand_still(snapshots):
    start, first, second, third, fourth = snapshots
    for before, after in ((start, first), (first, second)):
        assert moved(before, after, STATISTICS) == set(named(start, STATISTICS))
        assert moved(before, after, RANGES)
    for before, after in ((second, third), (third, fourth)):
        assert not moved(before, after, STATISTICS)
        assert not moved(before, after, RANGES)


def test_kernels_learn_in_both_parts(snapshots):
    for before, after in itertools.pairwise(snapshots):
        assert moved(before, after, KERNELS) == set(named(before, KERNELS))


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


def test_the_schedule_is_one_over_both_parts_and_each_epoch_has_a_row(
    qat, tiny_model, training_data, tmp_path
):
    config = QatConfig(qat_epochs=4, qat_learning_rate=0.01)
    finetuning.finetune(qat, tiny_model, training_data, LossConfig(), config, tmp_path)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    rates = [float(row["learning_rate"]) for row in rows]
    # Five steps of warm-up, the last not yet at the peak, then one fall to zero over both parts.
    assert rates[0] == pytest.approx(0.008)
    assert 0.01 > rates[1] > rates[2] > rates[3] > 0
    assert rates[3] < 0.02 * 0.01


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resumed_fine_tuning_equals_one_that_was_not_interrupted(
    epoch, tiny_model, training_data, tmp_path, monkeypatch
):
    config = QatConfig(qat_epochs=4, qat_learning_rate=0.01)

    def calibrated():
        model = scheme.quantize(tiny_model, training_data.frontend.input_affine)
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
    ("epochs", "share", "first"), [(6, 0.5, 3), (4, 0.0, 4), (4, 1.0, 0), (1, 0.5, 1), (5, 0.4, 3)]
)
def test_the_frozen_part_is_the_last_share_of_the_epochs(epochs, share, first):
    assert QatConfig(qat_epochs=epochs, frozen_share=share).frozen_from == first


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"qat_epochs": 0}, "--qat_epochs=0"),
        ({"qat_learning_rate": 0.0}, "--qat_learning_rate=0"),
        ({"frozen_share": 1.5}, "--frozen_share=1.5"),
    ],
)
def test_a_value_out_of_range_names_its_flag(values, flag):
    with pytest.raises(InputError, match=f"^{flag}"):
        QatConfig(**values)
