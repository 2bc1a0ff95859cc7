import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.names import GROUPS
from wakeword_keras.training.hardness import _BINS, LossWeighting
from wakeword_keras.training.losses import FocalLoss
from wakeword_keras.training.trainer import MonitoredModel

SHARES = tuple(f"share_{group}" for group in GROUPS)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(500, 1)) < 0.2).astype(np.float32)
    logits = ((2 * labels - 1) * rng.normal(2, 2, labels.shape)).astype(np.float32)
    groups = np.where(labels[:, 0] > 0, 0, rng.integers(1, 3, len(labels))).astype(np.int32)
    losses = rng.uniform(size=len(labels)).astype(np.float32)
    return labels, logits, groups, losses


def hardness(labels, logits):
    margin = ((2 * labels - 1) * logits).astype(np.float64)
    return (1 / (1 + np.exp(margin))).ravel()


def oracle(hard, gamma):
    order = np.sort(hard)[::-1]
    tenth = len(order) // 10
    weights = order**gamma
    return weights[:tenth].mean() / weights[tenth:].mean()


def measured(gamma, examples, batch=100):
    metric = LossWeighting(gamma)
    labels, logits, groups, losses = examples
    for i in range(0, len(labels), batch):
        part = slice(i, i + batch)
        metric.update_state(labels[part], logits[part], groups[part], losses[part])
    return {name: float(value) for name, value in metric.result().items()}


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 4.0])
def test_the_hardest_tenth_weighs_what_sorting_says(gamma, examples):
    hard = hardness(*examples[:2])
    result = measured(gamma, examples)["hardest_tenth_weight"]
    # Only the examples of the bin in which the tenth ends can be counted on the wrong side, and
    # their weights differ by less than the weights of the bin's edges.
    boundary = np.sort(hard)[::-1][len(hard) // 10 - 1]
    low = np.floor(boundary * _BINS) / _BINS
    in_bin = np.mean((hard >= low) & (hard < low + 1 / _BINS))
    weights = hard**gamma
    misplaced = in_bin * ((low + 1 / _BINS) ** gamma - low**gamma)
    hardest, rest = np.sort(weights)[::-1][:50].sum() / 500, np.sort(weights)[:450].sum() / 500
    bound = 9 * (hardest + misplaced) / (rest - misplaced) - 9 * hardest / rest
    assert abs(result - oracle(hard, gamma)) <= bound + 1e-5 * result
    assert result > 1


def test_a_tenth_that_ends_between_bins_is_exact():
    # By hand: one of ten at hardness 0.5, nine at 1/(1+e^3) = 0.04743; (0.5/0.04743)^2 = 111.14.
    labels = np.zeros((10, 1), np.float32)
    logits = np.asarray([[0.0]] + [[-3.0]] * 9, np.float32)
    metric = LossWeighting(2.0)
    metric.update_state(labels, logits)
    assert float(metric.result()["hardest_tenth_weight"]) == pytest.approx(111.14, rel=1e-4)


def test_every_example_weighs_the_same_in_cross_entropy(examples):
    # 9 * 50 / 450 in float32, whose last digit may be off.
    for gamma in (0.0, 2.0):
        result = measured(gamma, examples)
        assert result["hardest_tenth_weight_ce"] == pytest.approx(1.0, abs=3e-7)
    assert measured(0.0, examples)["hardest_tenth_weight"] == pytest.approx(1.0, abs=3e-7)


def test_shares_of_the_loss_are_the_groups_sums_over_the_total(examples):
    groups, losses = examples[2:]
    result = measured(2.0, examples)
    expected = np.bincount(groups, losses, len(GROUPS)) / losses.sum()
    np.testing.assert_allclose([result[name] for name in SHARES], expected, rtol=1e-5)
    assert sum(result[name] for name in SHARES) == pytest.approx(1.0, abs=1e-6)


def test_batches_add_up_and_a_reset_forgets(examples):
    assert measured(2.0, examples, batch=500) == pytest.approx(measured(2.0, examples), rel=1e-5)
    metric = LossWeighting(2.0)
    labels, logits, groups, losses = examples
    metric.update_state(labels, -logits, groups, losses)
    metric.reset_state()
    metric.update_state(*examples)
    again = {name: float(value) for name, value in metric.result().items()}
    assert again == pytest.approx(measured(2.0, examples, batch=500), rel=1e-6)


def test_before_the_first_example_the_result_is_finite():
    assert all(float(value) == 0.0 for value in LossWeighting(2.0).result().values())


def plain_model(wake_words=1):
    keras.utils.set_random_seed(3)
    inputs = layers.Input((5, 4))
    x = layers.Dense(6, activation="relu")(layers.Flatten()(inputs))
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(wake_words)(x))


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(1)
    labels = (rng.uniform(size=(32, 1)) < 0.4).astype(np.float32)
    groups = np.where(labels[:, 0] > 0, 0, 1 + np.arange(32) % 2).astype(np.int32)
    features = rng.normal(size=(32, 5, 4)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices(
        (features, labels, rng.uniform(0.5, 2, 32).astype(np.float32), groups)
    ).batch(8)


def monitored(model, teacher=None):
    trainer = MonitoredModel(inputs=model.inputs, outputs=model.outputs)
    trainer.compile(keras.optimizers.Adam(0.01), FocalLoss(2.0, None), teacher)
    return trainer


def test_a_monitored_model_takes_the_step_that_a_plain_one_takes(batches):
    plain, watched = plain_model(), plain_model()
    before = plain.get_weights()
    plain.compile(keras.optimizers.Adam(0.01), FocalLoss(2.0, None))
    expected = plain.fit(batches.map(lambda x, y, w, g: (x, y, w)).take(1), verbose=0)
    seen = monitored(watched).fit(batches.take(1), verbose=0)
    # The step went through the trainer; it is the model it was made of whose weights moved.
    for start, a, b in zip(before, plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7)
        assert (start != b).any()
    assert seen.history["loss"] == pytest.approx(expected.history["loss"], rel=1e-6)


def test_fit_logs_the_weighting_of_each_epoch_alone(batches):
    trainer = monitored(plain_model())
    trainer.optimizer.learning_rate.assign(0.0)  # so that both epochs are equal but for batch norm
    for layer in trainer.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    history = trainer.fit(batches, epochs=2, verbose=0).history
    assert set(SHARES) | {"loss", "hardest_tenth_weight", "hardest_tenth_weight_ce"} <= set(history)
    for name, (first, second) in history.items():
        assert second == pytest.approx(first, rel=1e-5), name
    assert history["hardest_tenth_weight"][0] > 1


def test_shares_count_the_sample_weights(batches):
    trainer = monitored(plain_model())
    silenced = batches.map(lambda x, y, w, g: (x, y, tf.where(g == 2, 0.0, w), g))
    history = trainer.fit(silenced, verbose=0).history
    assert history["share_noise"] == [0.0]
    assert history["share_positive"][0] + history["share_speech"][0] == pytest.approx(1, abs=1e-6)


def frozen_norms(model):
    """The same model with batch norms in inference mode: its step is deterministic in its input."""
    for layer in model.layers:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    return model


def test_without_a_teacher_no_distance_to_one_is_logged(batches):
    assert "logit_error" not in monitored(plain_model()).fit(batches, verbose=0).history


def test_a_student_learns_its_teachers_logits_whatever_the_labels_say(batches):
    teacher = plain_model()
    teacher.set_weights([weight * 1.5 for weight in teacher.get_weights()])
    wrong = batches.map(lambda x, y, w, g: (x, 1.0 - y, w, g))
    students = []
    for data in (batches, wrong):
        student = frozen_norms(plain_model())
        history = monitored(student, teacher).fit(data, epochs=30, verbose=0).history
        assert history["logit_error"][-1] < 0.2 * history["logit_error"][0]
        students.append(student.get_weights())
    for a, b in zip(*students, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_logit_error_is_the_root_of_the_weighted_mean_square(batches):
    student, teacher = frozen_norms(plain_model(2)), plain_model(2)
    teacher.layers[-1].bias.assign([3.0, -4.0])  # 3 and 4 apart on every clip
    trainer = monitored(student, teacher)
    trainer.optimizer.learning_rate.assign(0.0)
    data = batches.map(lambda x, y, w, g: (x, tf.repeat(y, 2, axis=1), w, g))
    assert trainer.fit(data, verbose=0).history["logit_error"][0] == pytest.approx(np.sqrt(12.5))


def test_a_clips_weight_scales_what_is_learnt_from_its_teacher(batches):
    teacher = plain_model()
    teacher.layers[-1].bias.assign([1.0])
    half = batches.map(lambda x, y, w, g: (x, y, tf.fill((8,), 0.5), g))
    bias = []
    for data in (half, half.map(lambda x, y, w, g: (x, y, 2 * w, g))):
        student = frozen_norms(plain_model())
        trainer = MonitoredModel(inputs=student.inputs, outputs=student.outputs)
        trainer.compile(keras.optimizers.SGD(0.01), FocalLoss(2.0, None), teacher)
        trainer.fit(data.take(1), verbose=0)
        bias.append(float(student.layers[-1].bias.numpy()[0]))
    # The slope of (1 - b)^2 at b = 0 is -2.
    np.testing.assert_allclose(bias, [0.01, 0.02], rtol=1e-5)


def test_a_teacher_is_neither_trained_nor_saved(batches):
    teacher, student = plain_model(), plain_model()
    teacher.layers[-1].bias.assign([1.0])
    before = teacher.get_weights()
    trainer = monitored(student, teacher)
    trainer.fit(batches, verbose=0)
    for a, b in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {id(v) for v in trainer.trainable_variables} == {
        id(v) for v in student.trainable_variables
    }


def test_several_wake_words_each_count():
    labels = np.zeros((10, 2), np.float32)
    logits = np.full((10, 2), -3.0, np.float32)
    logits[:2, 1] = 0.0
    metric = LossWeighting(2.0)
    metric.update_state(labels, logits)
    assert float(metric.result()["hardest_tenth_weight"]) == pytest.approx(111.14, rel=1e-4)


@pytest.mark.parametrize("words", [1, 2])
def test_of_two_members_each_learns_as_it_would_alone(batches, words):
    data = batches.map(lambda x, y, w, g: (x, tf.concat([y, 1 - y], 1)[:, :words], w, g))
    alone, other, first, second = (frozen_norms(plain_model(words)) for _ in range(4))
    for model in (other, second):
        model.set_weights([weight * 1.5 for weight in model.get_weights()])
    named = [keras.Model(m.inputs, m.outputs, name=f"of_{m.name}") for m in (first, second)]
    features = keras.Input(alone.input_shape[1:])
    both = keras.Model(features, layers.Concatenate()([member(features) for member in named]))
    for model in (alone, other, both):
        monitored(model).fit(data, epochs=3, verbose=0)
    for mine, joint in ((alone, first), (other, second)):
        for a, b in zip(mine.get_weights(), joint.get_weights(), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4)
