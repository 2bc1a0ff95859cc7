import csv
import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.data.ambient_features import AmbientConfig, FeatureStreams, Windows
from wakeword_keras.data.shards import WARM_MS, split_features, spoken_features
from wakeword_keras.errors import InputError
from wakeword_keras.training import callbacks, fp32_stage, hard_negatives, listening, loop
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.listening import ValidationStreams
from wakeword_keras.training.loop import LossConfig
from wakeword_keras.training.negatives import Negatives

CONFIG = TrainConfig(epochs=3, learning_rate=0.01)


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def alone(model):
    """A model that learns and is judged itself, on one device."""
    return loop.Models(model, model, model, copies=lambda: (model, model))


def epochs_in(directory):
    with (directory / "history.csv").open(newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


@pytest.fixture
def whole(tiny_model, training_data, tmp_path):
    """A training from start to end: (model as it began, model as it ended, its directory)."""
    model = copy_of(tiny_model)
    fp32_stage.train(model, training_data, LossConfig(), CONFIG, tmp_path / "whole")
    return tiny_model, model, tmp_path / "whole"


def interrupt_in(monkeypatch, epoch, batch=1):
    """Makes a training stop as if by Ctrl-C, in the middle of an epoch (from 0)."""

    original = callbacks.ProgressLine.on_train_batch_end

    def by_count(line, index, logs=None):
        original(line, index, logs)
        if len(line._seconds) == epoch and index == batch:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.ProgressLine, "on_train_batch_end", by_count)


def test_a_resumed_training_equals_one_that_was_not_interrupted(
    whole, training_data, tmp_path, monkeypatch
):
    start, finished, directory = whole
    with monkeypatch.context() as patch:
        interrupt_in(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            fp32_stage.train(
                copy_of(start), training_data, LossConfig(), CONFIG, tmp_path / "interrupted"
            )
    assert len(epochs_in(tmp_path / "interrupted")) == 1
    # A new process: other initial weights, which the checkpoint must replace.
    resumed = copy_of(start)
    resumed.set_weights([weight + 1 for weight in resumed.get_weights()])
    fp32_stage.train(resumed, training_data, LossConfig(), CONFIG, tmp_path / "interrupted")
    for a, b in zip(finished.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    ours, theirs = epochs_in(tmp_path / "interrupted"), epochs_in(directory)
    assert [row["epoch"] for row in ours] == ["1", "2", "3"]
    for a, b in zip(theirs, ours, strict=True):
        assert float(b["loss"]) == pytest.approx(float(a["loss"]), rel=1e-5)
        assert b["learning_rate"] == a["learning_rate"]


def test_dropout_is_repeated_bit_for_bit_by_a_resumed_training(
    training_data, tiny_model, tmp_path, monkeypatch
):
    dropped = keras.layers.Dropout(0.5, name="dropout")(tiny_model.layers[-2].output)
    dropped = keras.layers.Dropout(0.5, name="dropout_2")(dropped)
    start = keras.Model(tiny_model.inputs, keras.layers.Dense(1, name="logit")(dropped))
    finished, interrupted = copy_of(start), copy_of(start)
    fp32_stage.train(finished, training_data, LossConfig(), CONFIG, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_in(patch, epoch=1)
        with pytest.raises(KeyboardInterrupt):
            fp32_stage.train(interrupted, training_data, LossConfig(), CONFIG, tmp_path / "killed")
    resumed = copy_of(start)
    fp32_stage.train(resumed, training_data, LossConfig(), CONFIG, tmp_path / "killed")
    for a, b in zip(finished.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_is_dropped_for_a_model_that_has_a_teacher(training_data, tiny_model, tmp_path):
    dropped = keras.layers.Dropout(0.5, name="dropout")(tiny_model.layers[-2].output)
    start = keras.Model(tiny_model.inputs, keras.layers.Dense(1, name="logit")(dropped))
    plain = keras.Model(tiny_model.inputs, start.layers[-1](tiny_model.layers[-2].output))
    students = [copy_of(start), copy_of(plain)]
    schedule = loop.Schedule(2, 0.01, 0.0, 2)
    for student, name in zip(students, ("dropping", "plain"), strict=True):
        args = (training_data, LossConfig(), schedule, tmp_path / name)
        loop.fit(alone(student), *args, teacher=tiny_model)
    for a, b in zip(*(student.get_weights() for student in students), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_training_is_not_resumed_by_another_teacher(training_data, tiny_model, tmp_path):
    schedule = loop.Schedule(1, 0.01, 0.0, 1)
    args = (training_data, LossConfig(), schedule, tmp_path)
    loop.fit(alone(copy_of(tiny_model)), *args, teacher=tiny_model)
    other = copy_of(tiny_model)
    other.layers[-1].bias.assign([1.0])
    with pytest.raises(InputError, match="of a training with other settings"):
        loop.fit(alone(copy_of(tiny_model)), *args, teacher=other)


def test_a_finished_training_is_not_trained_on_but_gives_its_best_weights(
    whole, training_data, capsys
):
    start, finished, directory = whole
    before = (directory / "history.csv").read_text()
    capsys.readouterr()
    again = copy_of(start)
    fp32_stage.train(again, training_data, LossConfig(), CONFIG, directory)
    assert capsys.readouterr().out == ""
    assert (directory / "history.csv").read_text() == before
    for a, b in zip(finished.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(b, a)


def test_training_ends_with_the_best_epochs_weights_which_score_as_logged(whole, training_data):
    _, finished, directory = whole
    rows = epochs_in(directory)
    highest = max(float(row["val_auc"]) for row in rows)
    best = [row for row in rows if float(row["val_auc"]) >= highest - callbacks.AUC_TIE][-1]
    validation = training_data.validation[0]
    logs = {}
    callbacks.DetectionMetrics(
        finished, [validation.features], validation.one_hot(1), LossConfig().build()
    ).on_epoch_end(0, logs)
    assert logs["val_loss"] == pytest.approx(float(best["val_loss"]), rel=1e-5)


def test_the_rate_warms_up_over_an_epoch_and_falls_to_zero(whole):
    rates = [float(row["learning_rate"]) for row in epochs_in(whole[2])]
    assert max(rates) <= CONFIG.learning_rate
    assert rates[0] > 0.5 * CONFIG.learning_rate
    assert rates[0] > rates[1] > rates[2]
    assert rates[2] < 0.2 * CONFIG.learning_rate


def test_the_seed_decides_the_training(whole, training_data, tmp_path):
    start, _, _ = whole
    other = copy_of(start)
    config = replace(CONFIG, epochs=1)
    fp32_stage.train(
        other, replace(training_data, seed=2), LossConfig(), config, tmp_path / "other"
    )
    same = copy_of(start)
    fp32_stage.train(same, training_data, LossConfig(), config, tmp_path / "same")
    first = float(epochs_in(whole[2])[0]["loss"])
    assert float(epochs_in(tmp_path / "same")[0]["loss"]) == pytest.approx(first, rel=1e-4)
    assert float(epochs_in(tmp_path / "other")[0]["loss"]) != pytest.approx(first, rel=1e-4)


def test_patience_ends_a_training_early(tiny_model, training_data, tmp_path, monkeypatch):
    worse = iter([0.9, 0.8, 0.7, 0.6, 0.5])
    monkeypatch.setattr(callbacks.detection, "roc_auc", lambda scores, labels: next(worse))
    config = TrainConfig(epochs=5, patience=1)
    fp32_stage.train(tiny_model, training_data, LossConfig(), config, tmp_path)
    assert [row["epoch"] for row in epochs_in(tmp_path)] == ["1", "2"]
    assert [row["val_auc"] for row in epochs_in(tmp_path)] == ["0.9", "0.8"]


def test_a_training_that_diverges_says_which_flag_mends_it(tiny_model, training_data, tmp_path):
    config = TrainConfig(epochs=1, learning_rate=1e30)
    with pytest.raises(InputError, match="`learning_rate`"):
        fp32_stage.train(tiny_model, training_data, LossConfig(), config, tmp_path)


def test_class_weights_balance_positives_and_negatives_and_keep_the_mean(training_data):
    clips = training_data.shards.clips["train"]
    labels = np.asarray([[clip.target == 0] for clip in clips], np.float32)
    weigh = loop._class_weighted(training_data)
    given = np.ones(len(clips), np.float32)
    weights = weigh(None, tf.constant(labels), tf.constant(given), None)[2].numpy()
    positive = labels[:, 0] > 0
    assert weights[positive].sum() == pytest.approx(weights[~positive].sum(), rel=1e-5)
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)
    doubled = weigh(None, tf.constant(labels), tf.constant(2 * given), None)[2].numpy()
    np.testing.assert_allclose(doubled, 2 * weights)


def test_class_weights_reach_the_loss(tiny_model, training_data, tmp_path):
    shares = {}
    for class_weights in (False, True):
        directory = tmp_path / str(class_weights)
        loss = LossConfig(gamma=0.0, class_weights=class_weights)
        fp32_stage.train(copy_of(tiny_model), training_data, loss, TrainConfig(epochs=1), directory)
        shares[class_weights] = float(epochs_in(directory)[0]["share_positive"])
    assert shares[True] > shares[False] + 0.02


def test_class_weights_and_alpha_exclude_each_other():
    with pytest.raises(InputError, match=r"`class_weights` and `alpha`=0\.25"):
        LossConfig(alpha=0.25, class_weights=True)


def test_bce_is_focal_loss_at_gamma_zero():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, (9, 2)).astype(np.float32), rng.normal(size=(9, 2)) * 4
    for smoothing in (0.0, 0.1):
        bce = LossConfig(loss="bce", gamma=2.0, alpha=0.25, label_smoothing=smoothing).build()
        focal = LossConfig(loss="focal", gamma=0.0, label_smoothing=smoothing).build()
        other = LossConfig(loss="focal", gamma=2.0, label_smoothing=smoothing).build()
        assert float(bce(labels, logits)) == float(focal(labels, logits))
        assert float(bce(labels, logits)) != float(other(labels, logits))
    by_hand = np.mean(np.log1p(np.exp(-(2 * labels - 1) * logits)))
    assert float(LossConfig(loss="bce").build()(labels, logits)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(
    ("config", "values", "flag"),
    [
        (LossConfig, {"gamma": -1.0}, "`gamma`"),
        (LossConfig, {"gamma": float("nan")}, "`gamma`"),
        (LossConfig, {"alpha": 1.5}, "`alpha`"),
        (LossConfig, {"label_smoothing": 1.0}, "`label_smoothing`"),
        (TrainConfig, {"epochs": 0}, "`epochs`"),
        (TrainConfig, {"patience": 0}, "`patience`"),
        (TrainConfig, {"learning_rate": 0.0}, "`learning_rate`"),
        (TrainConfig, {"weight_decay": -1.0}, "`weight_decay`"),
        (TrainConfig, {"teachers": -1}, "`teachers`"),
        (TrainConfig, {"teachers": 1}, "`teachers`"),
        (TrainConfig, {"teacher_epochs": -1}, "`teacher_epochs`"),
        (DataConfig, {"batch": 0}, "`batch`"),
        (DataConfig, {"echo": 0}, "`echo`"),
        (DataConfig, {"shuffle": 0}, "`shuffle`"),
    ],
)
def test_a_value_out_of_range_names_its_flag(config, values, flag):
    with pytest.raises(InputError, match=f"^{flag}") as error:
        config(**values)
    assert str(next(iter(values.values()))) in str(error.value)


def test_a_training_writes_for_tensorboard(whole):
    assert list((whole[2] / "tensorboard").rglob("events.out.tfevents.*"))


@pytest.fixture
def listening_data(training_data):
    """Training data with half of each batch from streams and hard negatives, and validation."""
    frontend = training_data.frontend
    rng = np.random.default_rng(5)
    values = rng.uniform(0, 20, (3000, 40)).astype(np.float32)
    bounds = np.asarray([[0, 1200], [1200, 3000]])
    part = FeatureStreams(values, bounds, "made", (), bounds[:, 0])
    frames = frontend.num_frames(training_data.shards.clip_samples)
    windows = Windows([part], frames, frontend)
    config = AmbientConfig(
        ambient_share=0.25, hard_share=0.25, hard_windows=20, listen_every=1, listen_hours=0.004
    )
    clips = split_features(training_data.shards, "train", frontend, "warm")
    spoken = spoken_features(training_data.shards, "validation", frontend)
    streams = ValidationStreams(windows, spoken.features, spoken.targets, WARM_MS, 0.5)
    return replace(training_data, negatives=Negatives(windows, clips, config), streams=streams)


def test_a_training_without_validation_streams_listens_by_the_runs_average_too(
    tiny_model, listening_data, tmp_path, monkeypatch
):
    heard = []

    def found(predict, negatives, config, **_):
        heard.append(config.average_ms)
        raise KeyboardInterrupt

    monkeypatch.setattr(listening, "find_hard", found)
    data = replace(listening_data, streams=None, average_ms=300)
    with pytest.raises(KeyboardInterrupt):
        fp32_stage.train(tiny_model, data, LossConfig(), CONFIG, tmp_path)
    assert heard == [300]


def test_a_resumed_training_with_hard_negatives_equals_one_that_was_not_interrupted(
    tiny_model, listening_data, tmp_path, monkeypatch
):
    whole = copy_of(tiny_model)
    fp32_stage.train(whole, listening_data, LossConfig(), CONFIG, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_in(patch, epoch=2, batch=9)  # the pool after epoch 2 is in use
        with pytest.raises(KeyboardInterrupt):
            fp32_stage.train(
                copy_of(tiny_model), listening_data, LossConfig(), CONFIG, tmp_path / "interrupted"
            )
    resumed = copy_of(tiny_model)
    fp32_stage.train(resumed, listening_data, LossConfig(), CONFIG, tmp_path / "interrupted")
    for a, b in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    ours, theirs = (
        hard_negatives.read_pools(tmp_path / name / loop.HARD_NEGATIVES)
        for name in ("interrupted", "whole")
    )
    assert [pool.epoch for pool in ours] == [1, 2, 3]
    assert [pool.from_step for pool in ours] == [11 * epoch + 8 for epoch in (1, 2, 3)]
    for a, b in zip(theirs, ours, strict=True):
        assert (a.windows, a.clips, a.false_accepts) == (b.windows, b.clips, b.false_accepts)
    (tmp_path / "interrupted" / loop.HARD_NEGATIVES).unlink()
    with pytest.raises(InputError, match=r"hard_negatives\.json is missing"):
        fp32_stage.train(resumed, listening_data, LossConfig(), CONFIG, tmp_path / "interrupted")


def test_an_epoch_logs_what_was_heard_and_where_the_loss_comes_from(
    tiny_model, listening_data, tmp_path, capsys
):
    fp32_stage.train(tiny_model, listening_data, LossConfig(), CONFIG, tmp_path / "fp32")
    rows = epochs_in(tmp_path / "fp32")
    assert all(0 <= float(row["val_stream_recall"]) <= 1 for row in rows)
    assert all(0 <= float(row["val_stream_mean_recall"]) <= 1 for row in rows)
    assert all(float(row["train_false_accepts_per_hour"]) >= 0 for row in rows)
    assert float(rows[0]["share_stream"]) > 0
    assert [float(row["share_hard"]) > 0 for row in rows] == [False, True, True]
    shares = [float(value) for name, value in rows[2].items() if name.startswith("share_")]
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    said = capsys.readouterr().out
    assert said.count("false accepts per hour at") == said.count("at the budget") == 3
    assert "made[" in said


def test_recall_in_streams_chooses_the_best_epoch_where_there_is_any(tiny_model, tmp_path):
    history = callbacks.HistoryCsv(tmp_path / "history.csv")
    keep = callbacks.KeepBest(tiny_model, history, patience=9)

    def best(*epochs):
        names = ("val_auc", "val_stream_recall", "val_stream_mean_recall")
        rows = [dict(zip(names, values, strict=False)) for values in epochs]
        unknown = dict.fromkeys(callbacks.COLUMNS, np.nan)
        history.rows = [{**unknown, "epoch": i + 1, **row} for i, row in enumerate(rows)]
        return keep.best_epoch()

    assert best((0.9,), (0.99,), (0.98,)) == 2
    assert best((1.0,), (0.8, 0.5, 0.6)) == 2  # not heard: no candidate
    assert best((0.8, 0.6, 0.6), (0.9, 0.5, 0.9), (0.9,)) == 1
    assert best((0.8, 0.6, 0.6), (0.9, 0.6, 0.7), (0.9, 0.6, 0.65)) == 2
    assert best((0.8, 0.6, 0.7), (0.9, 0.6, 0.7)) == 2


def test_an_epoch_is_chosen_only_where_a_person_says_a_wake_word_of_validation(training_data):
    (first, *others) = training_data.validation
    assert training_data.people_validate

    def spoken_by_machines(but_clips):
        clips = tuple(
            dataclasses.replace(clip, synthetic=clip.target < 0 or number not in but_clips)
            for number, clip in enumerate(first.clips)
        )
        found = (dataclasses.replace(first, clips=clips), *others)
        return dataclasses.replace(training_data, validation=found)

    positive = next(number for number, clip in enumerate(first.clips) if clip.target >= 0)
    assert not spoken_by_machines(()).people_validate
    assert spoken_by_machines((positive,)).people_validate
