import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.losses import FocalLoss, focal_weight, prior_bias, sigmoid_focal_loss

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
LOGITS = np.linspace(-30, 30, 1201).astype(np.float32)


def value_and_gradient(labels, logits, **parameters):
    logits = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = sigmoid_focal_loss(labels, logits, **parameters)
    return loss.numpy(), tape.gradient(loss, logits).numpy()


def exact(label, logits, gamma, alpha):
    """Value and gradient in float64 from the definition, p_t and log p_t written out."""
    s = np.asarray(logits, np.float64) * (2 * label - 1)
    w = 1.0 if alpha is None else alpha if label else 1 - alpha
    log_pt, log_q = -np.logaddexp(0, -s), -np.logaddexp(0, s)
    modulating = np.exp(gamma * log_q)
    slope = gamma * np.exp(log_pt) * log_pt - np.exp(log_q)
    return -w * modulating * log_pt, (2 * label - 1) * w * modulating * slope


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_gamma_zero_is_cross_entropy_to_the_last_bit(label):
    labels = np.full_like(LOGITS, label)
    loss, gradient = value_and_gradient(labels, LOGITS, gamma=0.0, alpha=None)
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        expected = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(gradient, tape.gradient(expected, logits))


def test_a_value_derived_by_hand():
    # logit ln 3, positive: p = 3/4, q = 1/4: 0.25 * (1/4)^2 * ln(4/3) = 0.0044950324
    # the same, negative:   q = 3/4:         0.75 * (3/4)^2 * ln 4     = 0.58484294
    logits = np.full(2, np.log(3), np.float32)
    loss, gradient = value_and_gradient([1.0, 0.0], logits, gamma=2.0, alpha=0.25)
    np.testing.assert_allclose(loss, [0.0044950324, 0.58484294], rtol=2e-7)
    # -0.25/16 * (1/4 + 2 * 3/4 * ln(4/3)) and 0.75 * 9/16 * (3/4 + 2 * 1/4 * ln 4)
    np.testing.assert_allclose(gradient, [-0.010648799, 0.60882772], rtol=2e-7)


def test_alpha_one_silences_negatives_and_alpha_zero_positives():
    loss, gradient = value_and_gradient(np.zeros_like(LOGITS), LOGITS, alpha=1.0)
    assert not loss.any()
    assert not gradient.any()
    loss, gradient = value_and_gradient(np.ones_like(LOGITS), LOGITS, alpha=0.0)
    assert not loss.any()
    assert not gradient.any()


def test_alpha_a_half_is_half_of_no_alpha():
    labels = (np.arange(len(LOGITS)) % 2).astype(np.float32)
    half = sigmoid_focal_loss(labels, LOGITS, alpha=0.5)
    whole = sigmoid_focal_loss(labels, LOGITS, alpha=None)
    np.testing.assert_allclose(half, 0.5 * whole, rtol=1e-6)


def test_swapping_label_sign_and_alpha_changes_nothing():
    ones = np.ones_like(LOGITS)
    one = sigmoid_focal_loss(ones, LOGITS, alpha=0.3)
    other = sigmoid_focal_loss(1 - ones, -LOGITS, alpha=0.7)
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_values_and_gradients_equal_float64_over_thirty_either_way(gamma, label, alpha):
    labels = np.full_like(LOGITS, label)
    loss, gradient = value_and_gradient(labels, LOGITS, gamma=gamma, alpha=alpha)
    value, slope = exact(label, LOGITS, gamma, alpha)
    # q^gamma carries gamma times the relative error of q. Cross-entropy itself (gamma 0) is
    # TensorFlow's and loses a small gradient in 1 - p, so only its absolute error is bounded.
    relative = 2e-6 * (1 + gamma)
    tiny = 1e-37 if gamma else 1e-7
    np.testing.assert_allclose(loss, value, rtol=relative, atol=tiny)
    np.testing.assert_allclose(gradient, slope, rtol=relative, atol=tiny)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_the_gradient_is_the_slope_of_the_loss(gamma):
    logits = np.linspace(-6, 6, 49)
    labels = (np.arange(49) % 2).astype(np.float64)
    _, gradient = value_and_gradient(labels, logits, gamma=gamma)
    step = 1e-5
    up = sigmoid_focal_loss(labels, logits + step, gamma=gamma).numpy()
    down = sigmoid_focal_loss(labels, logits - step, gamma=gamma).numpy()
    np.testing.assert_allclose(gradient, (up - down) / (2 * step), rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_everything_is_finite_at_a_hundred(gamma):
    logits = np.array([-1e4, -100, -89, -17, 0, 17, 89, 100, 1e4], np.float32)
    for label in (0.0, 1.0):
        loss, gradient = value_and_gradient(np.full_like(logits, label), logits, gamma=gamma)
        assert np.isfinite(loss).all()
        assert np.isfinite(gradient).all()


def test_keras_own_focal_loss_agrees_where_it_is_finite_and_fails_where_ours_does_not():
    logits = np.linspace(-9, 9, 37).astype(np.float32)[:, None]
    labels = (np.arange(37) % 3 == 0).astype(np.float32)[:, None]
    theirs = keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True
    )
    ours = FocalLoss(gamma=2.0, alpha=0.25)
    assert float(ours(labels, logits)) == pytest.approx(float(theirs(labels, logits)), rel=1e-5)
    extreme = tf.constant([[20.0]])
    naive = keras.losses.BinaryFocalCrossentropy(gamma=0.5, from_logits=True)
    with tf.GradientTape() as tape:
        tape.watch(extreme)
        loss = naive([[1.0]], extreme)
    assert np.isnan(tape.gradient(loss, extreme).numpy()).all()


def test_hard_examples_weigh_more_and_gamma_sharpens():
    labels = tf.ones_like(LOGITS)
    weights = [focal_weight(labels, LOGITS, gamma).numpy() for gamma in (1.0, 2.0, 5.0)]
    for weight in weights:
        assert (np.diff(weight) <= 0).all()
        assert weight[0] == pytest.approx(1.0)
    assert (weights[0] >= weights[1]).all()
    assert (weights[1] >= weights[2]).all()
    np.testing.assert_array_equal(focal_weight(labels, LOGITS, 0.0), np.ones_like(LOGITS))


def test_label_smoothing_is_a_mixture_of_both_outcomes():
    labels = (np.arange(len(LOGITS)) % 2).astype(np.float32)
    smooth = sigmoid_focal_loss(labels, LOGITS, gamma=2.0, alpha=None, label_smoothing=0.2)
    one = sigmoid_focal_loss(labels, LOGITS, gamma=2.0, alpha=None)
    other = sigmoid_focal_loss(1 - labels, LOGITS, gamma=2.0, alpha=None)
    np.testing.assert_allclose(smooth, 0.9 * one + 0.1 * other, rtol=1e-5)


def test_smoothed_gamma_zero_is_keras_smoothed_cross_entropy():
    labels = (np.arange(32) % 2).astype(np.float32)[:, None]
    logits = np.linspace(-5, 5, 32).astype(np.float32)[:, None]
    ours = FocalLoss(gamma=0.0, alpha=None, label_smoothing=0.1)
    theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    assert float(ours(labels, logits)) == pytest.approx(float(theirs(labels, logits)), rel=1e-6)


def test_sample_weight_counts_once_and_reductions_reduce():
    labels, logits = np.ones((4, 2), np.float32), np.zeros((4, 2), np.float32)
    weights = np.array([1.0, 2.0, 0.0, 1.0], np.float32)
    each = 0.25 * 0.25 * np.log(2)
    per_clip = FocalLoss(reduction="none")(labels, logits, sample_weight=weights)
    np.testing.assert_allclose(per_clip, each * weights, rtol=1e-6)
    total = FocalLoss(reduction="sum")(labels, logits, sample_weight=weights)
    assert float(total) == pytest.approx(4 * each)
    mean = FocalLoss()(labels, logits, sample_weight=weights)
    assert float(mean) == pytest.approx(each)


def test_the_configuration_survives_saving():
    loss = FocalLoss(gamma=1.5, alpha=None, label_smoothing=0.05, reduction="sum", name="mine")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, FocalLoss)
    assert again.get_config() == loss.get_config()


def test_half_precision_logits_are_computed_in_float32():
    logits = np.array([-12.0, 0.5, 12.0], np.float16)
    loss, gradient = value_and_gradient(np.ones(3), logits, gamma=2.0)
    value, slope = exact(1, logits, 2.0, 0.25)
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    np.testing.assert_allclose(gradient.astype(np.float64), slope, rtol=1e-3, atol=1e-7)


def test_integer_labels_are_taken():
    as_int = sigmoid_focal_loss(np.array([0, 1]), np.array([0.3, -0.2], np.float32))
    as_float = sigmoid_focal_loss(np.array([0.0, 1.0]), np.array([0.3, -0.2], np.float32))
    np.testing.assert_array_equal(as_int, as_float)


@pytest.mark.parametrize(
    "wrong",
    [{"gamma": -1}, {"gamma": float("nan")}, {"alpha": 1.5}, {"label_smoothing": 1.0}],
)
def test_a_parameter_out_of_range_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        FocalLoss(**wrong)


def test_prior_bias_gives_the_share_back():
    for share in (0.01, 0.3, 0.9):
        assert 1 / (1 + np.exp(-prior_bias(share))) == pytest.approx(share)
    with pytest.raises(ValueError, match="share"):
        prior_bias(0.0)


def test_it_trains_a_model():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    y = (x[:, :1] > 0).astype(np.float32)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.05), FocalLoss())
    history = model.fit(x, y, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.3 * history[0]
