import csv

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from sklearn.metrics import roc_auc_score, roc_curve
from tf_keras import layers

from wakeword_keras import callbacks
from wakeword_keras.errors import InputError
from wakeword_keras.losses import FocalLoss


class _Echo(keras.Model):
    """Gives its features as logits, so that a test chooses the scores."""

    def call(self, features, training=False):
        return features[:, 0, :]


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(400, 2)) < (0.3, 0.1)).astype(np.float32)
    logits = (labels * 1.5 + rng.normal(0, 1, labels.shape)).astype(np.float32)
    return logits[:, None, :], labels


def judged(features, labels, batch=64):
    logs = {}
    metrics = callbacks.DetectionMetrics(_Echo(), features, labels, FocalLoss(2.0, None), batch)
    metrics.on_epoch_end(0, logs)
    return logs


def recall_at_one_percent(labels, scores):
    false_positive_rate, recall, _ = roc_curve(labels, scores, drop_intermediate=False)
    return recall[false_positive_rate <= 0.01].max()


def test_metrics_of_one_wake_word_are_scikit_learns(scored):
    features, labels = scored[0][:, :, :1], scored[1][:, :1]
    logs = judged([features], labels)
    assert logs["val_auc"] == pytest.approx(roc_auc_score(labels, features[:, 0]), abs=1e-9)
    assert logs["val_recall_at_fpr_0_01"] == pytest.approx(
        recall_at_one_percent(labels[:, 0], features[:, 0, 0]), abs=1e-9
    )
    loss = FocalLoss(2.0, None)(labels, features[:, 0])
    assert logs["val_loss"] == pytest.approx(float(loss), rel=1e-6)


def test_several_wake_words_are_averaged(scored):
    features, labels = scored
    both, words = judged([features], labels), []
    for word in range(2):
        words.append(judged([features[:, :, word : word + 1]], labels[:, word : word + 1]))
    assert words[0]["val_auc"] != words[1]["val_auc"]
    assert both["val_auc"] == pytest.approx(
        roc_auc_score(labels, features[:, 0], average="macro"), abs=1e-9
    )
    for name in ("val_auc", "val_recall_at_fpr_0_01"):
        assert both[name] == pytest.approx((words[0][name] + words[1][name]) / 2, abs=1e-9)


def test_conditions_are_judged_together(scored):
    features, labels = scored[0][:, :, :1], scored[1][:, :1]
    logs = judged([features, features - 1], labels)
    together = np.concatenate([features, features - 1])[:, 0, 0]
    expected = roc_auc_score(np.concatenate([labels, labels]), together)
    assert logs["val_auc"] == pytest.approx(expected, abs=1e-9)
    assert logs["val_auc"] != pytest.approx(judged([features], labels)["val_auc"])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_diverged_training_names_its_epoch_and_the_mend(scored, wrong):
    features = scored[0].copy()
    features[7, 0, 1] = wrong
    with pytest.raises(InputError, match=r"epoch 1: .*--learning_rate") as error:
        judged([features], scored[1])
    assert "\n" not in str(error.value)


def small_model():
    keras.utils.set_random_seed(1)
    inputs = layers.Input((3, 2))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(inputs)))
    model.compile(keras.optimizers.AdamW(0.01), "mse")
    return model


def logs_of(auc, loss=0.5):
    return {"loss": loss, "val_loss": loss, "val_auc": auc, "val_recall_at_fpr_0_01": auc}


def watched(directory, model, patience=2):
    history = callbacks.HistoryCsv(directory / "history.csv")
    best = callbacks.KeepBest(directory / "best.weights.h5", model, history, patience)
    for callback in (history, best):
        callback.set_model(model)
    return history, best


def play(watchers, model, epochs):
    """Epochs of given metrics, in each of which the weights become the epoch's number."""
    for epoch, logs in epochs:
        model.set_weights([np.full_like(w, epoch + 1) for w in model.get_weights()])
        for callback in watchers:
            callback.on_epoch_begin(epoch)
        for callback in watchers:
            callback.on_epoch_end(epoch, logs)


def test_history_has_one_row_an_epoch_in_fixed_columns(tmp_path):
    model = small_model()
    history, _ = watched(tmp_path, model)
    play([history], model, [(0, logs_of(0.5) | {"accuracy": 1.0}), (1, logs_of(0.75, 0.125))])
    with history.path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == callbacks.COLUMNS
    assert [row[0] for row in rows[1:]] == ["1", "2"]
    # What the epoch did not log is an empty cell, not a number.
    assert rows[2][1:6] == ["0.125", "0.125", "0.75", "0.75", "0.01"]
    assert rows[2][7:] == [""] * 5
    assert np.isnan(history.rows()[1]["share_noise"])
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_rows_of_epochs_trained_again_are_replaced(tmp_path):
    model = small_model()
    history, _ = watched(tmp_path, model)
    play([history], model, [(epoch, logs_of(0.5)) for epoch in range(3)])
    again = callbacks.HistoryCsv(history.path)
    again.set_model(model)
    again.keep(2)
    assert [row["epoch"] for row in again.rows()] == [1, 2]
    play([again], model, [(1, logs_of(0.9)), (2, logs_of(0.8))])
    assert [(row["epoch"], row["val_auc"]) for row in again.rows()] == [
        (1, 0.5),
        (2, 0.9),
        (3, 0.8),
    ]


def test_the_best_epochs_weights_come_back(tmp_path):
    model = small_model()
    watchers = watched(tmp_path, model, patience=9)
    play(watchers, model, [(0, logs_of(0.6)), (1, logs_of(0.9)), (2, logs_of(0.7))])
    assert watchers[1].best_epoch() == 2
    assert all((weight == 3).all() for weight in model.get_weights())
    watchers[1].restore()
    assert all((weight == 2).all() for weight in model.get_weights())


def test_the_lower_loss_breaks_a_tie_and_the_earlier_epoch_a_second(tmp_path):
    model = small_model()
    watchers = watched(tmp_path, model, patience=9)
    play(watchers, model, [(0, logs_of(1, 0.3)), (1, logs_of(1, 0.1)), (2, logs_of(1, 0.1))])
    watchers[1].restore()
    assert all((weight == 2).all() for weight in model.get_weights())


def test_patience_ends_a_training_that_no_longer_improves(tmp_path):
    model = small_model()
    watchers = watched(tmp_path, model, patience=2)
    model.stop_training = False
    play(watchers, model, [(0, logs_of(0.6)), (1, logs_of(0.5))])
    assert not model.stop_training
    assert not watchers[1].exhausted
    play(watchers, model, [(2, logs_of(0.55))])
    assert model.stop_training
    assert watchers[1].exhausted


def test_a_resumed_training_still_knows_its_best_epoch_and_its_patience(tmp_path):
    model = small_model()
    play(watched(tmp_path, model), model, [(0, logs_of(0.9)), (1, logs_of(0.5))])
    resumed = watched(tmp_path, model)
    assert resumed[1].best_epoch() == 1
    model.stop_training = False
    play(resumed, model, [(2, logs_of(0.8))])  # better than the last, not than the best
    assert model.stop_training
    resumed[1].restore()
    assert all((weight == 1).all() for weight in model.get_weights())


def test_resume_restores_epoch_weights_and_steps(tmp_path):
    x = np.random.default_rng(0).normal(size=(16, 3, 2)).astype(np.float32)
    first = small_model()
    resume = callbacks.Resume(tmp_path / "checkpoints", first, first.optimizer)
    assert resume.restore() == 0
    first.fit(x, x[:, 0, :1], batch_size=4, epochs=2, callbacks=[resume], verbose=0)
    second = small_model()
    second.set_weights([w * 0 for w in second.get_weights()])
    assert callbacks.Resume(tmp_path / "checkpoints", second, second.optimizer).restore() == 2
    assert int(second.optimizer.iterations.numpy()) == 8
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(b, a)


def test_the_moments_of_a_resumed_optimizer_are_the_interrupted_ones(tmp_path):
    x = tf.data.Dataset.from_tensor_slices(
        (np.eye(6, dtype=np.float32).reshape(6, 3, 2), np.arange(6, dtype=np.float32)[:, None])
    ).batch(2)
    whole = small_model()
    whole.fit(x, epochs=4, verbose=0)
    first = small_model()
    resume = callbacks.Resume(tmp_path / "checkpoints", first, first.optimizer)
    first.fit(x, epochs=2, callbacks=[resume], verbose=0)
    second = small_model()
    resume = callbacks.Resume(tmp_path / "checkpoints", second, second.optimizer)
    second.fit(x, initial_epoch=resume.restore(), epochs=4, callbacks=[resume], verbose=0)
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)
    assert len(list((tmp_path / "checkpoints").glob("*.index"))) == 1


def test_the_epochs_line_says_all_there_is_and_the_time_left(capsys, monkeypatch):
    clock = iter([0.0, 60.0, 100.0, 160.0])
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(clock))
    line = callbacks.ProgressLine(epochs=4, steps=2, title="fp32")
    shares = {"share_positive": 0.5, "share_speech": 0.3, "share_noise": 0.2}
    weighting = {"hardest_tenth_weight": 3.25, "hardest_tenth_weight_ce": 1.0, **shares}
    for epoch in range(2):
        line.on_epoch_begin(epoch)
        line.on_train_batch_end(0)
        line.on_epoch_end(epoch, logs_of(0.875, 0.25) | weighting)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("fp32 1/4  loss 0.2500  val AUC 0.8750  recall at 1 % FPR 0.875  ")
    assert "hardest tenth weighs 3.2x  loss from positive 50%, speech 30%, noise 20%" in first
    assert first.endswith("60 s, 3.0 min left")
    assert second.endswith("60 s, 2.0 min left")


def test_the_line_of_a_plain_model_has_its_loss_alone(capsys):
    line = callbacks.ProgressLine(epochs=1, steps=1, title="fp32")
    line.on_epoch_begin(0)
    line.on_epoch_end(0, {"loss": 0.5})
    assert capsys.readouterr().out == "fp32 1/1  loss 0.5000  0 s, 0.0 min left\n"
