import numpy as np
import pytest
import tf_keras as keras
from hypothesis import given
from hypothesis import strategies as st

from wakeword_keras.training.callbacks import DetectionMetrics
from wakeword_keras.training.early_warning import DEAD_EPOCHS, EarlyWarning, faults
from wakeword_keras.training.losses import FocalLoss

LABELS = np.tile(np.eye(2, dtype=np.float32), (20, 1))


def kinds(logits, epochs=9, labels=LABELS):
    return [kind for kind, _ in faults(np.asarray(logits, np.float32), labels, epochs, ("a", "b"))]


def sound(seed=0, spread=3.0):
    noise = np.random.default_rng(seed).normal(size=LABELS.shape)
    return spread * (2 * LABELS - 1) + noise


@given(seed=st.integers(0, 99), spread=st.floats(1.0, 20.0), epochs=st.integers(1, 50))
def test_a_sound_model_is_left_alone(seed, spread, epochs):
    assert kinds(sound(seed, spread), epochs) == []


@given(level=st.floats(-20, 20), epochs=st.integers(1, 50))
def test_the_same_logit_for_every_clip_is_collapsed_at_any_level(level, epochs):
    logits = sound()
    logits[:, 1] = level
    assert kinds(logits, epochs) == ["collapsed b"]


def test_a_word_none_of_whose_clips_is_found_is_dead_once_it_has_had_time():
    logits = sound()
    logits[:, 0] -= 100
    logits[:, 0] /= 10
    assert kinds(logits, DEAD_EPOCHS) == ["dead a"]
    assert kinds(logits, DEAD_EPOCHS - 1) == []
    logits[0, 0] = 0.1  # one that is
    assert kinds(logits) == []


def test_a_word_that_is_not_in_validation_is_not_called_dead():
    assert kinds(sound() - [9, 0], labels=LABELS * [0, 1]) == []


def test_logits_explode_when_a_step_of_int8_is_over_half_a_logit():
    assert kinds(127 / 4 * sound(spread=1) / np.abs(sound(spread=1)).max()) == []
    logits = sound()
    logits[0, 0], logits[1, 0] = 70, -70
    assert kinds(logits) == ["exploding a"]


def test_each_fault_is_told_once_and_in_one_line(capsys):
    keras.utils.set_random_seed(0)
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    inputs = keras.layers.Input((4,))
    outputs = keras.layers.Dense(2, kernel_initializer="zeros")(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), FocalLoss())
    metrics = DetectionMetrics(model, [features], LABELS, FocalLoss())
    warning = EarlyWarning(metrics, ("a", "b"))
    model.fit(features, LABELS, epochs=4, callbacks=[metrics, warning], verbose=0)
    assert list(warning.found) == ["collapsed a", "collapsed b"]
    assert capsys.readouterr().out.splitlines() == [
        f"warning: {line}" for line in warning.found.values()
    ]


def test_nothing_is_scored_for_it(monkeypatch):
    features = np.ones((4, 3), np.float32)
    inputs = keras.layers.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    metrics = DetectionMetrics(model, [features], LABELS[:4], FocalLoss())
    metrics.on_epoch_end(0, {})
    np.testing.assert_allclose(metrics.logits, model.predict(features, verbose=0), rtol=1e-6)
    monkeypatch.setattr(keras.Model, "__call__", lambda *_: pytest.fail("scored again"))
    EarlyWarning(metrics).on_epoch_end(0, {})
