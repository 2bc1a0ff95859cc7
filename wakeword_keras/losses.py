"""Sigmoid focal loss from logits (Lin et al. 2017, arXiv:1708.02002, equation 5).

With the margin `s` (the logit of a positive, minus the logit of a negative) and `q = sigmoid(-s)`,
the probability given to the wrong outcome:

    FL = w * q^gamma * CE          CE = softplus(-s) = -log(1 - q)
    dFL/ds = -w * q^gamma * (q + gamma * (1 - q) * CE)

`w` is alpha for positives and 1 - alpha for negatives. gamma 0 is cross-entropy. Neither line takes
the logarithm or a negative power of a probability, so values and gradients stay finite at any
logit; automatic differentiation of `pow(1 - p, gamma)` gives NaN.
"""

import math

import tensorflow as tf
import tf_keras as keras


def sigmoid_focal_loss(
    labels: tf.Tensor,
    logits: tf.Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """Focal loss of each element.

    Args:
      labels: 0 or 1, any dtype, the shape of `logits`.
      logits: float, any shape; float16 is computed in float32.
      gamma: focusing, >= 0; 0 is cross-entropy.
      alpha: weight of the positives, 0 to 1; negatives get 1 - alpha. None weighs both with 1.
      label_smoothing: in [0, 1): a label counts as the mixture of both outcomes in which the other
        one has half this share.

    Returns:
      float32 (or float64 for float64 logits) losses, >= 0, the shape of `logits`. Differentiable
      once with respect to `logits`.

    Raises:
      ValueError: a parameter is out of its range.
    """
    _check(gamma, alpha, label_smoothing)
    logits = tf.convert_to_tensor(logits)
    if logits.dtype != tf.float64:
        logits = tf.cast(logits, tf.float32)
    labels = tf.cast(labels, logits.dtype)
    if label_smoothing == 0:
        return _weighted(labels, logits, gamma, alpha)
    other = label_smoothing / 2
    return (1 - other) * _weighted(labels, logits, gamma, alpha) + other * _weighted(
        1 - labels, logits, gamma, alpha
    )


def focal_weight(labels: tf.Tensor, logits: tf.Tensor, gamma: float) -> tf.Tensor:
    """How much focal loss weighs each element relative to cross-entropy: `q^gamma`, 0 to 1.

    Args:
      labels: 0 or 1, the shape of `logits`.
      logits: float32.
      gamma: focusing, >= 0; 0 gives 1 everywhere.

    Returns:
      float32, the shape of `logits`, without alpha.
    """
    return _power(tf.sigmoid((1 - 2 * labels) * logits), gamma)


def prior_bias(share: float) -> float:
    """The bias at which a logit says that this share of clips is positive (Lin et al., 4.1).

    Args:
      share: prior probability of the wake word, between 0 and 1.

    Returns:
      The log-odds, log(share / (1 - share)).
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    return math.log(share / (1 - share))


@keras.saving.register_keras_serializable(package="wakeword_keras")
class FocalLoss(keras.losses.Loss):
    """Sigmoid focal loss from logits as a Keras loss: the mean over wake words, then `reduction`.

    Args:
      gamma: focusing, >= 0; 0 is cross-entropy.
      alpha: weight of the positives, 0 to 1, None for none.
      label_smoothing: in [0, 1), see `sigmoid_focal_loss`.
      reduction: a keras.losses.Reduction.
      name: of the loss.

    Raises:
      ValueError: a parameter is out of its range.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        label_smoothing: float = 0.0,
        reduction: str = keras.losses.Reduction.AUTO,
        name: str = "focal_loss",
    ) -> None:
        super().__init__(reduction=reduction, name=name)
        _check(gamma, alpha, label_smoothing)
        self.gamma = gamma
        self.alpha = alpha
        self.label_smoothing = label_smoothing

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Losses float32 [batch] of labels and logits [batch, wake_words]."""
        losses = sigmoid_focal_loss(
            y_true,
            y_pred,
            gamma=self.gamma,
            alpha=self.alpha,
            label_smoothing=self.label_smoothing,
        )
        return tf.reduce_mean(losses, axis=-1)

    def get_config(self) -> dict:
        """What `from_config` needs to build the same loss."""
        return super().get_config() | {
            "gamma": self.gamma,
            "alpha": self.alpha,
            "label_smoothing": self.label_smoothing,
        }


def _check(gamma: float, alpha: float | None, label_smoothing: float) -> None:
    if not (math.isfinite(gamma) and gamma >= 0):
        raise ValueError(f"gamma must be a finite number >= 0, got {gamma}")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie between 0 and 1, or be None, got {alpha}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")


def _weighted(labels: tf.Tensor, logits: tf.Tensor, gamma: float, alpha: float | None) -> tf.Tensor:
    if gamma == 0:
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    else:
        losses = _focal(labels, logits, gamma)
    if alpha is None:
        return losses
    return losses * (labels * (2 * alpha - 1) + (1 - alpha))


def _focal(labels: tf.Tensor, logits: tf.Tensor, gamma: float) -> tf.Tensor:
    @tf.custom_gradient
    def focal(logits: tf.Tensor):
        sign = 1 - 2 * labels
        wrong = sign * logits  # minus the margin
        cross_entropy = tf.nn.softplus(wrong)
        q = tf.sigmoid(wrong)
        weight = _power(q, gamma)

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            slope = q + gamma * (cross_entropy - q * cross_entropy)
            return upstream * sign * weight * slope

        return weight * cross_entropy, gradient

    return focal(logits)


def _power(q: tf.Tensor, gamma: float) -> tf.Tensor:
    if gamma == 1:
        return q
    return tf.square(q) if gamma == 2 else tf.pow(q, gamma)
