import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_loop import copy_of, epochs_in

from wakeword_keras.metrics import detection
from wakeword_keras.models import mixed_conv
from wakeword_keras.training import callbacks, fp32_stage, loop, weights, workers
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.loop import LossConfig

CONFIG = TrainConfig(epochs=2, learning_rate=0.01, teachers=2)


def column(directory, name):
    return [row[name] for row in epochs_in(directory)]


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
    assert (first[0] != second[0]).any()
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


def small_mixed_conv(data, members=1):
    frames = data.frontend.num_frames(data.shards.clip_samples)
    sizes = {"kernels": ((3,), (2, 3)), "filters": 6, "first_filters": 5, "head_rows": 3}
    return mixed_conv.mixed_conv(frames, 40, 1, members, **sizes)


def train_members(data, directory, group=workers.ALONE):
    """A model of two members that are trained: (the model, its members)."""
    keras.utils.set_random_seed(5)
    model, members = small_mixed_conv(data, 2), [small_mixed_conv(data) for _ in range(2)]
    config = TrainConfig(epochs=2, learning_rate=0.01)
    fp32_stage.train(model, data, LossConfig(), config, directory, group, members)
    return model, members


def test_a_model_of_members_is_their_mean_and_is_judged_as_that(training_data, tmp_path):
    model, members = train_members(training_data, tmp_path)
    features = training_data.validation[0].features
    logits = [member(features).numpy() for member in members]
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    np.testing.assert_allclose(model(features).numpy(), np.mean(logits, 0), rtol=1e-4, atol=1e-5)
    positive = training_data.validation[0].one_hot(1)[:, 0]
    auc = detection.roc_auc(np.mean(logits, axis=0)[:, 0], positive)
    assert float(column(tmp_path, "val_auc")[-1]) == pytest.approx(auc, abs=1e-6)


def test_members_that_were_killed_go_on_as_if_they_had_not_been(
    training_data, tmp_path, monkeypatch
):
    class Killed(Exception):
        pass

    def kill(resume, epoch, logs=None):
        original(resume, epoch, logs)
        raise Killed

    finished, _ = train_members(training_data, tmp_path / "whole")
    original = callbacks.Resume.on_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Resume, "on_epoch_end", kill)
        with pytest.raises(Killed):
            train_members(training_data, tmp_path / "killed")
    resumed, _ = train_members(training_data, tmp_path / "killed")
    for a, b in zip(finished.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_strategy_trains_the_members_that_one_device_does(training_data, tmp_path):
    alone, _ = train_members(training_data, tmp_path / "alone")
    mirrored, _ = train_members(training_data, tmp_path / "mirrored", workers.join("mirrored"))
    for a, b in zip(alone.get_weights(), mirrored.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_prior_bias_starts_a_model_at_the_share_of_its_wake_word(tiny_model):
    targets = np.asarray([0] * 9 + [-1] * 89)
    fp32_stage.set_prior_bias(tiny_model, targets, 1)
    # By hand: (9 + 1) / (98 + 2) = 0.1.
    assert tf.sigmoid(tiny_model.layers[-1].bias).numpy() == pytest.approx(0.1, rel=1e-5)


def test_prior_bias_can_be_left_out(tiny_model, training_data, tmp_path, monkeypatch):
    biases = []

    def record(models, *_, **__):
        biases.append(float(models.kept.layers[-1].bias.numpy()[0]))

    monkeypatch.setattr(loop, "fit", record)
    for prior_bias in (True, False):
        model = copy_of(tiny_model)
        fp32_stage.train(
            model, training_data, LossConfig(), TrainConfig(prior_bias=prior_bias), tmp_path
        )
    # 8 of 22 training clips are positive: log((8 + 1) / (22 - 8 + 1)).
    assert biases == [pytest.approx(np.log(9 / 15), rel=1e-5), 0.0]


def test_targets_of_several_wake_words_each_get_their_bias():
    inputs = keras.layers.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    fp32_stage.set_prior_bias(model, np.asarray([0, 0, 1, -1]), 2)
    # By hand: (2 + 1) / 6 and (1 + 1) / 6.
    expected = [np.log(0.5 / 0.5), np.log((1 / 3) / (2 / 3))]
    np.testing.assert_allclose(model.layers[-1].bias.numpy(), expected, atol=1e-6)
