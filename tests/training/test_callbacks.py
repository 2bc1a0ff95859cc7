import math

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras import progress
from wakeword_keras.errors import InputError
from wakeword_keras.metrics import detection
from wakeword_keras.training import callbacks
from wakeword_keras.training.losses import FocalLoss, sigmoid_focal_loss


def examples(clips=48, words=1, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(clips, 4, 3)).astype(np.float32)
    labels = (features[:, 0, :words] + rng.normal(size=(clips, words)) > 0).astype(np.float32)
    return features, labels


def build(words=1):
    keras.utils.set_random_seed(0)
    features = keras.layers.Input((4, 3))
    logits = keras.layers.Dense(words)(keras.layers.Flatten()(features))
    model = keras.Model(features, logits)
    model.compile(keras.optimizers.Adam(0.05), FocalLoss())
    return model


class Planned(keras.callbacks.Callback):
    """Stands in for DetectionMetrics: the val_auc of each epoch is given."""

    def __init__(self, val_auc, val_loss=0.1):
        super().__init__()
        self._val_auc, self._val_loss = val_auc, val_loss

    def on_epoch_end(self, epoch, logs=None):
        logs |= {
            "val_auc": self._val_auc[epoch],
            "val_loss": np.broadcast_to(self._val_loss, len(self._val_auc))[epoch],
            "val_recall_at_fpr_0_01": 0.5,
        }


class Snapshots(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.kernels = {}

    def on_epoch_end(self, epoch, logs=None):
        self.kernels[epoch + 1] = self.model.get_weights()[0]


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self._epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self._epoch:
            raise Killed


def watchers_of(directory, model, patience=9, made_from="this test", chooses=True):
    history = callbacks.HistoryCsv(directory / "history.csv")
    keep_best = callbacks.KeepBest(model, history, patience, chooses)
    path = directory / "checkpoint.npz"
    args = (made_from, model, model.optimizer, history, keep_best)
    return history, keep_best, callbacks.Resume(path, *args)


def train(
    directory,
    val_auc,
    *,
    patience=9,
    kill_at=None,
    kill_after="resume",
    val_loss=0.1,
    chooses=True,
):
    """Train as the library does; returns model, history, KeepBest, snapshots, first epoch."""
    model = build()
    history, keep_best, resume = watchers_of(directory, model, patience, chooses=chooses)
    first = resume.restore()
    snapshots = Snapshots()
    watchers = {"history": history, "best": keep_best, "resume": resume}
    ordered = [Planned(val_auc, val_loss), snapshots]
    for name, watcher in watchers.items():
        ordered.append(watcher)
        if kill_at is not None and name == kill_after:
            ordered.append(Kill(kill_at))
    if not keep_best.exhausted:
        features, labels = examples()
        model.fit(
            features,
            labels,
            batch_size=16,
            shuffle=False,
            initial_epoch=first,
            epochs=len(val_auc),
            callbacks=ordered,
            verbose=0,
        )
    return model, history, keep_best, snapshots, first


@pytest.mark.parametrize("words", [1, 2])
def test_detection_metrics_are_those_of_the_logits_of_all_conditions(words):
    model = build(words)
    (cold, labels), (warm, _) = examples(words=words), examples(words=words, seed=1)
    watcher = callbacks.DetectionMetrics(model, [cold, warm], labels, FocalLoss(), batch=7)
    logs = {}
    watcher.on_epoch_end(0, logs)
    logits = model.predict(np.concatenate([cold, warm]), verbose=0)
    truth = np.concatenate([labels, labels])
    words_of = range(words)
    auc = [detection.roc_auc(logits[:, word], truth[:, word]) for word in words_of]
    recall = [
        detection.recall_at_false_positive_rate(logits[:, word], truth[:, word], 0.01)
        for word in words_of
    ]
    assert logs["val_auc"] == pytest.approx(np.mean(auc))
    assert logs["val_recall_at_fpr_0_01"] == pytest.approx(np.mean(recall))
    assert logs["val_loss"] == pytest.approx(np.mean(sigmoid_focal_loss(truth, logits)), rel=1e-5)


def test_detection_metrics_reach_the_callbacks_that_follow(tmp_path):
    model = build()
    features, labels = examples()
    history = callbacks.HistoryCsv(tmp_path / "history.csv")
    metrics = callbacks.DetectionMetrics(model, [features], labels, FocalLoss())
    fitted = model.fit(features, labels, epochs=2, callbacks=[metrics, history], verbose=0)
    for column in ("loss", "val_loss", "val_auc", "val_recall_at_fpr_0_01"):
        logged = [row[column] for row in history.rows]
        np.testing.assert_allclose(logged, fitted.history[column], rtol=1e-6)


def test_a_diverged_model_is_an_error_that_names_the_epoch():
    model = build()
    model.set_weights([np.full_like(weight, math.nan) for weight in model.get_weights()])
    features, labels = examples()
    watcher = callbacks.DetectionMetrics(model, [features], labels, FocalLoss())
    with pytest.raises(InputError, match=r"epoch 3.*learning_rate"):
        watcher.on_epoch_end(2, {})


def test_history_has_one_row_an_epoch_with_the_contract_s_columns(tmp_path):
    _, history, *_ = train(tmp_path, [0.5, 0.6, 0.7])
    rows = history.rows
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert tuple(rows[0]) == callbacks.COLUMNS
    assert rows[1]["learning_rate"] == pytest.approx(0.05)
    assert all(row["seconds"] > 0 for row in rows)
    assert math.isnan(rows[0]["share_speech"])  # nothing logged it


def test_history_logs_the_learning_rate_of_a_schedule(tmp_path):
    model = build()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.1, 0.01])
    model.compile(keras.optimizers.SGD(schedule), FocalLoss())
    history = callbacks.HistoryCsv(tmp_path / "history.csv")
    features, labels = examples()
    model.fit(features, labels, batch_size=16, epochs=2, callbacks=[history], verbose=0)
    assert [row["learning_rate"] for row in history.rows] == pytest.approx([0.1, 0.01])


def test_best_is_the_highest_auc_and_of_ties_the_latest(tmp_path):
    plans = {
        "the highest": ([0.8, 0.95, 0.9, 0.94], 2),
        "ties": ([0.9, 0.95, 0.95, 0.94], 3),
        "a difference that cannot be told": ([0.9, 0.95, 0.94995, 0.9498], 3),
    }
    for name, (val_auc, expected) in plans.items():
        directory = tmp_path / name
        directory.mkdir()
        model, _, best, seen, _ = train(directory, val_auc)
        assert best.best_epoch() == expected, name
        best.restore()
        np.testing.assert_array_equal(model.get_weights()[0], seen.kernels[expected])


def test_training_stops_when_patience_is_exhausted(tmp_path):
    _, history, best, *_ = train(tmp_path, [0.8, 0.9, 0.7, 0.7, 0.99], patience=2)
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4]
    assert best.exhausted
    assert best.best_epoch() == 2


def test_a_lost_history_is_written_again_from_the_checkpoint(tmp_path):
    _, history, *_ = train(tmp_path, [0.8, 0.9])
    before = history.path.read_bytes()
    history.path.unlink()
    *_, first = train(tmp_path, [0.8, 0.9])
    assert first == 2
    assert history.path.read_bytes() == before


@pytest.mark.parametrize("at", [0.2, 0.4, 0.6])
def test_a_damaged_checkpoint_is_named(tmp_path, at):
    train(tmp_path, [0.8])
    path = tmp_path / "checkpoint.npz"
    content = bytearray(path.read_bytes())
    first = int(at * len(content))
    content[first : first + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.npz is damaged.*delete it"):
        train(tmp_path, [0.8, 0.9])


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    train(tmp_path, [0.8])
    *_, resume = watchers_of(tmp_path, build(), made_from="another")
    with pytest.raises(InputError, match=r"checkpoint\.npz is of a training with other settings"):
        resume.restore()
    *_, resume = watchers_of(tmp_path, build(words=2))
    with pytest.raises(InputError, match=r"checkpoint\.npz is of another model"):
        resume.restore()


def test_an_exhausted_training_stays_exhausted_when_started_again(tmp_path):
    plan = [0.8, 0.9, 0.7, 0.7, 0.99]
    _, history, *_ = train(tmp_path, plan, patience=2)
    before = history.path.read_text()
    _, history, best, seen, first = train(tmp_path, plan, patience=2)
    assert (first, seen.kernels) == (4, {})
    assert history.path.read_text() == before
    best.restore()


@pytest.mark.parametrize("kill_after", ["history", "best", "resume"])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, kill_after):
    plan = [0.5, 0.9, 0.7, 0.8, 0.6]
    (tmp_path / "straight").mkdir()
    straight, history, best, *_ = train(tmp_path / "straight", plan, patience=3)
    expected = [row["val_auc"] for row in history.rows]
    best.restore()

    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(Killed):
        train(killed, plan, patience=3, kill_at=1, kill_after=kill_after)
    again, history, best, _, first = train(killed, plan, patience=3)
    best.restore()
    assert first == (2 if kill_after == "resume" else 1)
    assert [row["epoch"] for row in history.rows] == [1, 2, 3, 4, 5][: len(expected)]
    assert [row["val_auc"] for row in history.rows] == pytest.approx(expected)
    for ours, theirs in zip(again.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_best_weights_are_those_of_the_best_row_even_if_the_killed_epoch_came_out_better(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, [0.9, 0.95, 0.5], kill_at=1, kill_after="best")
    # Trained again, epoch 2 comes out worse than epoch 1 (threads make training not repeatable).
    model, _, best, _, _ = train(tmp_path, [0.9, 0.6, 0.5])
    (tmp_path / "straight").mkdir()
    _, _, straight_best, seen, _ = train(tmp_path / "straight", [0.9, 0.6, 0.5])
    assert best.best_epoch() == straight_best.best_epoch() == 1
    best.restore()
    np.testing.assert_allclose(model.get_weights()[0], seen.kernels[1], rtol=1e-5, atol=1e-7)


def test_optimizer_state_and_step_are_resumed(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, [0.5, 0.6, 0.7], kill_at=1)
    model = build()
    assert watchers_of(tmp_path, model)[-1].restore() == 2
    assert int(model.optimizer.iterations) == 6  # 48 clips, batches of 16, 2 epochs
    assert any(np.any(variable.numpy()) for variable in model.optimizer.variables[2:])


def test_progress_line_tells_the_epoch_in_one_line(capsys):
    model = build()
    features, labels = examples()
    metrics = callbacks.DetectionMetrics(model, [features], labels, FocalLoss())
    progress = callbacks.ProgressLine(2, 2, "fp32")
    model.fit(features, labels, epochs=2, callbacks=[metrics, progress], verbose=0)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2
    for word in ("fp32 2/2", "loss", "AUC", "recall at 1 % FPR", "left"):
        assert word in lines[1]


def test_a_long_first_epoch_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE_S", 0.0)
    model = build()
    features, labels = examples()
    line = callbacks.ProgressLine(2, 4, "fp32")
    model.fit(features, labels, epochs=2, steps_per_epoch=4, callbacks=[line], verbose=0)
    said = capsys.readouterr().out.strip().splitlines()
    first = next(number for number, text in enumerate(said) if "fp32 1/2" in text)
    assert any(text.startswith("fp32  ") and "of 8 steps" in text for text in said[:first])


def test_the_last_epoch_is_kept_where_nothing_is_to_be_chosen(tmp_path):
    auc = [0.9, 0.99, 0.5, 0.4]
    _, _, keep_best, snapshots, _ = train(tmp_path, auc, patience=1, chooses=False)
    assert sorted(snapshots.kernels) == [1, 2, 3, 4]  # nothing stops it
    np.testing.assert_array_equal(keep_best.weights[0], snapshots.kernels[4])
