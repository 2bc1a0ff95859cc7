import csv

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras.errors import InputError
from wakeword_keras.training import callbacks, fp32_stage, weights, workers
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.loop import LossConfig

CONFIG = TrainConfig(epochs=2, learning_rate=0.01, teachers=2)


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def column(directory, name):
    with (directory / "history.csv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.fixture
def taught(tiny_model, training_data, tmp_path):
    """A stage with two teachers: (model as it began, as it ended, its directory)."""
    model = copy_of(tiny_model)
    fp32_stage.train(model, training_data, LossConfig(), CONFIG, tmp_path / "fp32")
    return tiny_model, model, tmp_path / "fp32"


def teacher(model, directory, number):
    """A teacher of a stage that is done, with the weights that it taught with."""
    copy = copy_of(model)
    saved = weights.read_arrays(directory / f"teacher_{number}" / "checkpoint.npz")["best"]
    copy.set_weights(saved)
    return copy


def test_the_mean_of_models_has_the_mean_of_their_logits_whatever_their_names(tiny_model):
    other = copy_of(tiny_model)
    other.set_weights([weight * 1.5 for weight in other.get_weights()])
    features = np.random.default_rng(0).uniform(0, 20, (4, *tiny_model.input_shape[1:]))
    whole = fp32_stage.mean_of([tiny_model, other, other])
    by_hand = (tiny_model(features).numpy() + 2 * other(features).numpy()) / 3
    np.testing.assert_allclose(whole(features).numpy(), by_hand, rtol=1e-5, atol=1e-6)


def test_teachers_learn_the_labels_and_the_model_their_logits(taught):
    _, _, directory = taught
    for name in ("teacher_1", "teacher_2"):
        assert column(directory / name, "logit_error") == ["", ""]
    errors = [float(value) for value in column(directory, "logit_error")]
    assert len(errors) == CONFIG.epochs
    assert errors[1] < errors[0]


def test_teachers_differ_in_weights_and_batches(taught):
    start, _, directory = taught
    first, second = (teacher(start, directory, number).get_weights() for number in (1, 2))
    assert all((a != b).any() for a, b in zip(first[:1], second[:1], strict=True))
    losses = [column(directory / f"teacher_{number}", "loss")[0] for number in (1, 2)]
    assert losses[0] != losses[1]


def test_teachers_have_epochs_of_their_own(tiny_model, training_data, tmp_path):
    config = TrainConfig(epochs=3, teachers=2, teacher_epochs=1)
    fp32_stage.train(tiny_model, training_data, LossConfig(), config, tmp_path)
    folders = (tmp_path / "teacher_1", tmp_path / "teacher_2", tmp_path)
    assert [len(column(folder, "epoch")) for folder in folders] == [1, 1, 3]


def test_a_student_comes_nearer_to_its_teachers_the_longer_it_learns(
    tiny_model, training_data, tmp_path
):
    config = TrainConfig(epochs=20, learning_rate=0.01, teachers=2, teacher_epochs=2)
    model = copy_of(tiny_model)
    fp32_stage.train(model, training_data, LossConfig(), config, tmp_path)
    members = [teacher(tiny_model, tmp_path, number) for number in (1, 2)]
    features = training_data.validation[0].features
    wanted = fp32_stage.mean_of(members)(features).numpy()
    before = np.abs(tiny_model(features).numpy() - wanted).mean()
    assert np.abs(model(features).numpy() - wanted).mean() < 0.5 * before


@pytest.mark.parametrize("killed_in", ["teacher_1", "teacher_2", "fp32"])
def test_a_stage_that_was_killed_goes_on_as_if_it_had_not_been(
    killed_in, taught, training_data, tmp_path, monkeypatch
):
    start, finished, directory = taught

    class Killed(Exception):
        pass

    def kill(resume, epoch, logs=None):
        original(resume, epoch, logs)
        if resume.path.parent.name == killed_in and epoch == 0:
            raise Killed

    original = callbacks.Resume.on_epoch_end
    whole = directory.parent / "killed" / "fp32"
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Resume, "on_epoch_end", kill)
        with pytest.raises(Killed):
            fp32_stage.train(copy_of(start), training_data, LossConfig(), CONFIG, whole)
    keras.utils.set_random_seed(99)  # as a new process may have it
    resumed = copy_of(start)
    fp32_stage.train(resumed, training_data, LossConfig(), CONFIG, whole)
    for a, b in zip(finished.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_strategy_teaches_what_one_device_does(taught, training_data, tmp_path):
    start, finished, _ = taught
    mirrored = copy_of(start)
    args = (training_data, LossConfig(), CONFIG, tmp_path / "mirrored", workers.join("mirrored"))
    fp32_stage.train(mirrored, *args)
    for a, b in zip(finished.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)


def test_without_teachers_there_are_none(tiny_model, training_data, tmp_path):
    fp32_stage.train(tiny_model, training_data, LossConfig(), TrainConfig(epochs=1), tmp_path)
    assert not list(tmp_path.glob("teacher_*"))
    assert column(tmp_path, "logit_error") == [""]


@pytest.mark.parametrize("flag", [{"teachers": -1}, {"teachers": 1}, {"teacher_epochs": -1}])
def test_a_number_of_teachers_or_epochs_that_cannot_be_names_its_flag(flag):
    ((name, value),) = flag.items()
    with pytest.raises(InputError, match=f"`{name}`={value}"):
        TrainConfig(**flag)
