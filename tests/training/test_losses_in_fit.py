"""What plain `compile` and `fit` notice: probabilities for logits, labels that are none."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.errors import InputError
from wakeword_keras.training.losses import FocalLoss

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(32, 4)).astype(np.float32)
LABELS = (FEATURES[:, :1] > 0).astype(np.float32)


def model_of(head=None, loss=None, words=1, **compiled):
    x = inputs = layers.Input((4,))
    x = layers.Dense(words)(x)
    model = keras.Model(inputs, head(x) if head else x)
    model.compile("sgd", loss or FocalLoss(), **compiled)
    return model


HEADS = {
    "sigmoid": layers.Activation("sigmoid"),
    "softmax": layers.Softmax(),
    "half": layers.Activation("sigmoid", dtype="float16"),
    "reshaped": lambda x: layers.Reshape((1,))(layers.Activation("sigmoid")(x)),
}


# An eager tensor knows that it is a sigmoid's, not what came before a reshape.
@pytest.mark.parametrize(
    ("head", "eagerly"),
    [*((name, False) for name in HEADS), ("sigmoid", True), ("softmax", True)],
)
def test_a_head_of_probabilities_is_refused_in_one_line(head, eagerly):
    model = model_of(HEADS[head], run_eagerly=eagerly)
    before = model.get_weights()
    with pytest.raises(InputError) as refused:
        model.fit(FEATURES, LABELS, verbose=0)
    assert "\n" not in str(refused.value)
    assert "leave the sigmoid or softmax out" in str(refused.value)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("head", [layers.Activation("tanh"), layers.Reshape((1,)), None])
def test_other_heads_are_let_through(head):
    model_of(head).fit(FEATURES, LABELS, verbose=0)


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("wrong", [2.0, -1.0, 0.5, np.nan])
def test_one_label_out_of_its_domain_stops_fit(wrong, eagerly):
    labels = LABELS.copy()
    labels[-1] = wrong
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as refused:
        model_of(run_eagerly=eagerly).fit(FEATURES, labels, batch_size=8, verbose=0)
    assert any(
        "FocalLoss: labels must be 0 or 1" in line for line in str(refused.value).split("\n")
    )


def test_soft_labels_may_lie_between_but_not_beyond():
    model = model_of(loss=FocalLoss(soft_labels=True))
    model.fit(FEATURES, 0.9 * LABELS, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be between 0 and 1"):
        model.fit(FEATURES, 1.1 * LABELS, verbose=0)


def test_smoothing_does_not_excuse_labels_that_are_soft_already():
    with pytest.raises(tf.errors.InvalidArgumentError, match="labels must be 0 or 1"):
        model_of(loss=FocalLoss(label_smoothing=0.1)).fit(FEATURES, 0.9 * LABELS, verbose=0)


def test_labels_of_another_width_are_refused_in_one_line():
    with pytest.raises(InputError) as refused:
        model_of(words=2).fit(FEATURES, np.hstack([LABELS] * 3), verbose=0)
    assert str(refused.value) == "labels of shape (32, 3) for logits of shape (32, 2)"


def test_the_checks_leave_training_as_it_was(monkeypatch):
    def trained():
        keras.utils.set_random_seed(0)
        model = model_of()
        model.fit(FEATURES, LABELS, epochs=3, batch_size=8, verbose=0)
        return model.get_weights()

    checked = trained()
    monkeypatch.setattr("wakeword_keras.training.losses._assert_domain", lambda *_: None)
    for ours, theirs in zip(checked, trained(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_saved_model_loads_with_its_loss_in_a_new_program(tmp_path):
    model = model_of(loss=FocalLoss(3.0, None))
    model.fit(FEATURES, LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    code = (
        "import wakeword_keras, tf_keras\n"
        f"model = tf_keras.models.load_model({str(tmp_path / 'model.keras')!r})\n"
        "print(type(model.loss).__name__, model.loss.gamma, model.loss.alpha)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "FocalLoss 3.0 None\n", done.stderr
