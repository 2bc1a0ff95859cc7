import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.training.losses import FocalLoss, focal_weight, prior_bias, sigmoid_focal_loss

EPS = np.finfo(np.float32).eps
GAMMAS = [0.5, 1.0, 2.0, 5.0]


def batch(seed=0, shape=(64, 3), scale=4.0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(shape) < 0.4).astype(np.float32)
    return labels, rng.normal(scale=scale, size=shape).astype(np.float32)


def value_and_gradient(labels, logits, **options):
    logits = tf.convert_to_tensor(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = sigmoid_focal_loss(labels, logits, **options)
    return value.numpy(), tape.gradient(value, logits).numpy()


def reference(labels, logits, gamma, alpha):
    """Value and gradient by the paper's formula, in the widest float that NumPy has."""
    y, x = np.asarray(labels, np.longdouble), np.asarray(logits, np.longdouble)
    p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
    ce = y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x)
    wrong = y * q + (1 - y) * p
    alpha_t = 1.0 if alpha is None else alpha * y + (1 - alpha) * (1 - y)
    slope = gamma * ce * (1 - 2 * y) * p * q / wrong + (1 - y) * p - y * q
    return alpha_t * wrong**gamma * ce, alpha_t * wrong**gamma * slope


def test_hand_derived_values():
    # Logit 0: p = 1/2, so (1/2)^2 ln 2 = 0.17328680; times 0.25 (positive), 0.75 (negative).
    # Logit ln 3, positive: p_t = 3/4, so 0.25 (1/4)^2 ln(4/3) = 0.00449503.
    loss = sigmoid_focal_loss([1.0, 0.0, 1.0], [0.0, 0.0, math.log(3.0)])
    np.testing.assert_allclose(loss, [0.04332170, 0.12996510, 0.00449503], rtol=1e-6)


def test_hand_derived_gradient():
    # Positive at logit 0: -alpha q^2 (q + 2 (1 - q) ce) = -0.25 / 4 (0.5 + ln 2) = -0.07457170.
    _, gradient = value_and_gradient([1.0], [0.0])
    np.testing.assert_allclose(gradient, [-0.07457170], rtol=1e-6)


@pytest.mark.parametrize("soft_labels", [False, True])
def test_gamma_zero_without_alpha_is_cross_entropy_bit_for_bit(soft_labels):
    labels, logits = batch(scale=20.0)
    focal = sigmoid_focal_loss(labels, logits, gamma=0.0, alpha=None, soft_labels=soft_labels)
    assert np.array_equal(focal, tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))


@pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
def test_alpha_one_silences_negatives_and_alpha_zero_positives(gamma):
    labels, logits = batch()
    only_positives = sigmoid_focal_loss(labels, logits, gamma=gamma, alpha=1.0).numpy()
    only_negatives = sigmoid_focal_loss(labels, logits, gamma=gamma, alpha=0.0).numpy()
    both = sigmoid_focal_loss(labels, logits, gamma=gamma, alpha=None).numpy()
    assert not only_positives[labels == 0].any()
    assert not only_negatives[labels == 1].any()
    np.testing.assert_allclose(only_positives + only_negatives, both, rtol=2 * EPS)


@pytest.mark.parametrize("gamma", [*GAMMAS, 3.3])
def test_soft_path_equals_hard_path_on_hard_labels(gamma):
    labels, logits = batch(scale=8.0)
    hard = value_and_gradient(labels, logits, gamma=gamma)
    soft = value_and_gradient(labels, logits, gamma=gamma, soft_labels=True)
    np.testing.assert_allclose(hard, soft, rtol=100 * EPS, atol=1e-30)


@pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
def test_weight_times_cross_entropy_is_the_loss(gamma):
    labels, logits = batch()
    cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    loss = sigmoid_focal_loss(labels, logits, gamma=gamma)
    np.testing.assert_allclose(
        focal_weight(labels, logits, gamma) * cross_entropy, loss, rtol=30 * EPS
    )


@pytest.mark.parametrize("gamma", GAMMAS)
def test_weight_falls_as_a_positive_gets_easier(gamma):
    logits = np.linspace(-12, 12, 200, dtype=np.float32)
    weight = focal_weight(np.ones_like(logits), logits, gamma, None).numpy()
    assert (np.diff(weight) < 0).all()
    np.testing.assert_allclose(weight, (1 / (1 + np.exp(logits.astype(float)))) ** gamma, rtol=1e-5)


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_gradient_matches_a_wide_float_over_thirty_logits(gamma, alpha):
    logits = np.tile(np.linspace(-30, 30, 1201, dtype=np.float32), (2, 1))
    labels = np.repeat([[0.0], [1.0]], 1201, axis=1)
    value, gradient = value_and_gradient(labels, logits, gamma=gamma, alpha=alpha)
    exact_value, exact_gradient = reference(labels, logits, gamma, alpha)
    # A few float32 steps for each factor of the product; below 1e-36 float32 underflows.
    tolerance = {"rtol": 8 * (1 + gamma) * EPS, "atol": 1e-36}
    np.testing.assert_allclose(value, exact_value.astype(float), **tolerance)
    np.testing.assert_allclose(gradient, exact_gradient.astype(float), **tolerance)


@pytest.mark.parametrize("label", [0.0, 0.05, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
def test_gradient_is_the_derivative_of_the_value(gamma, label):
    logits, step = tf.linspace(tf.constant(-8.0, tf.float64), 8.0, 33), 1e-5
    labels, options = np.full(33, label), {"gamma": gamma, "soft_labels": label not in (0.0, 1.0)}
    up, gradient, down = (
        value_and_gradient(labels, logits + shift, **options) for shift in (step, 0.0, -step)
    )
    np.testing.assert_allclose(gradient[1], (up[0] - down[0]) / (2 * step), atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.3])
def test_second_derivative_is_the_derivative_of_the_gradient(gamma, graph):
    labels, step = np.repeat([[0.0], [1.0]], 21, axis=1), 1e-5
    logits = tf.constant(np.tile(np.linspace(-5, 5, 21), (2, 1)), tf.float64)

    def second_derivative(logits):
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                value = sigmoid_focal_loss(labels, logits, gamma=gamma)
            first = inner.gradient(value, logits)
        return outer.gradient(first, logits)

    _, up = value_and_gradient(labels, logits + step, gamma=gamma)
    _, down = value_and_gradient(labels, logits - step, gamma=gamma)
    ours = (tf.function(second_derivative) if graph else second_derivative)(logits)
    np.testing.assert_allclose(ours, (up - down) / (2 * step), atol=1e-8)


@pytest.mark.parametrize("soft_labels", [False, True])
@pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
def test_finite_at_extreme_logits(gamma, soft_labels):
    logits = np.float32([-100, 100, -100, 100, -1e4, 1e4])
    labels = np.float32([0, 0, 1, 1, 1, 1])
    value, gradient = value_and_gradient(labels, logits, gamma=gamma, soft_labels=soft_labels)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    # Wrong by 100: (1 - p_t)^gamma is 1 and the cross-entropy is 100, with slope 1.
    np.testing.assert_allclose(value[[1, 2]], [75.0, 25.0], rtol=4 * EPS)
    np.testing.assert_allclose(gradient[[1, 2]], [0.75, -0.25], rtol=4 * EPS)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [1.0, 2.0, 5.0])
def test_parity_with_keras_focal_loss_where_that_is_finite(gamma, smoothing):
    labels, logits = batch(scale=3.0)
    theirs = keras.losses.BinaryFocalCrossentropy(
        True, alpha=0.25, gamma=gamma, from_logits=True, label_smoothing=smoothing
    )
    ours = FocalLoss(gamma, 0.25, label_smoothing=smoothing)
    np.testing.assert_allclose(ours(labels, logits), theirs(labels, logits), rtol=1e-5)


def test_soft_labels_that_were_not_announced_are_refused():
    with pytest.raises(ValueError, match=r"0\.9.*soft_labels=True"):
        sigmoid_focal_loss([0.0, 1.0, 0.9], [1.0, 1.0, 1.0])
    sigmoid_focal_loss([0.0, 1.0, 0.9], [1.0, 1.0, 1.0], soft_labels=True)


def test_sample_weight_is_applied_once():
    labels, logits = batch()
    weight = np.linspace(0, 3, len(labels)).astype(np.float32)
    per_clip = sigmoid_focal_loss(labels, logits).numpy().mean(axis=1)
    weighted = FocalLoss(reduction="sum")(labels, logits, sample_weight=weight)
    np.testing.assert_allclose(weighted, (per_clip * weight).sum(), rtol=1e-6)


def test_reductions():
    labels, logits = batch()
    per_clip = sigmoid_focal_loss(labels, logits).numpy().mean(axis=1)
    np.testing.assert_allclose(FocalLoss(reduction="none")(labels, logits), per_clip, rtol=1e-6)
    np.testing.assert_allclose(FocalLoss(reduction="sum")(labels, logits), per_clip.sum(), 1e-6)
    np.testing.assert_allclose(FocalLoss()(labels, logits), per_clip.mean(), rtol=1e-6)


def test_config_round_trip_through_keras():
    loss = FocalLoss(3.0, None, label_smoothing=0.1, soft_labels=True, reduction="sum", name="f")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, FocalLoss)
    assert again.get_config() == loss.get_config()
    labels, logits = batch()
    assert float(again(labels, logits)) == float(loss(labels, logits))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    labels, logits = batch()
    half = tf.cast(logits, dtype)
    ours = sigmoid_focal_loss(tf.cast(labels, dtype), half)
    assert ours.dtype == tf.float32
    assert np.array_equal(ours, sigmoid_focal_loss(labels, tf.cast(half, tf.float32)))
    _, gradient = value_and_gradient(tf.cast(labels, dtype), half)
    assert gradient.dtype == dtype.as_numpy_dtype


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_fit_descends(policy):
    keras.utils.set_random_seed(0)
    features = np.random.default_rng(0).normal(size=(64, 5)).astype(np.float32)
    labels = (features[:, :1] > 0).astype(np.float32)
    model = keras.Sequential([keras.layers.Dense(1, dtype=keras.mixed_precision.Policy(policy))])
    optimizer = keras.optimizers.SGD(0.5)
    if policy == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=1024)
    model.compile(optimizer, FocalLoss())
    losses = model.fit(features, labels, batch_size=64, epochs=3, verbose=0).history["loss"]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"gamma": -1.0}, "-1.0"),
        ({"gamma": math.nan}, "nan"),
        ({"gamma": math.inf}, "inf"),
        ({"alpha": 1.5}, "1.5"),
        ({"alpha": -0.1}, "-0.1"),
    ],
)
def test_bad_gamma_or_alpha_is_named(options, named):
    with pytest.raises(ValueError, match=named):
        sigmoid_focal_loss([1.0], [0.0], **options)
    with pytest.raises(ValueError, match=named):
        FocalLoss(**options)


def test_bad_label_smoothing_is_named():
    with pytest.raises(ValueError, match=r"1\.0"):
        FocalLoss(label_smoothing=1.0)


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\(4,\).*\(4, 1\)"):
        sigmoid_focal_loss(np.ones(4), np.zeros((4, 1), np.float32))


def test_prior_bias_gives_the_prior():
    assert 1 / (1 + math.exp(-prior_bias(0.01))) == pytest.approx(0.01)
    assert prior_bias(0.5) == 0.0
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=str(share)):
            prior_bias(share)
