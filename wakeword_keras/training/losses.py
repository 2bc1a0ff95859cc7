"""Sigmoid focal loss (Lin et al. 2017, arXiv:1708.02002), from logits, with its own gradient.

    p = sigmoid(logit)    p_t = label * p + (1 - label) * (1 - p)
    loss = alpha_t * (1 - p_t)^gamma * cross_entropy        alpha_t = alpha or 1 - alpha

Everything is computed from sigmoids of the logit and of its negative, never as `1 - p` or
`log(p)`: values and gradients are finite at any finite logit and accurate to a few float32 steps.
The gradient is written out because the one that TensorFlow derives computes the exponentials again
and, through `pow(1 - p_t, gamma)`, is NaN where `1 - p_t` underflows.
"""

import functools
import math
import operator
from typing import Any

import tensorflow as tf
import tf_keras as keras

from wakeword_keras.errors import InputError

_LARGEST_PRODUCT_GAMMA = 5
# Grappler fuses a negation with the unary kernel that follows, and Eigen then shards even 4,096
# elements over the threads, which is five times slower. A product is not fused.
_MINUS = -1.0
# Operations behind which a model's last one still shows.
_PASSING = ("Identity", "Cast", "Reshape", "Squeeze")


def sigmoid_focal_loss(
    labels: Any,
    logits: Any,
    *,
    gamma: float = 2.0,
    alpha: float | None = 0.25,
    soft_labels: bool = False,
) -> tf.Tensor:
    """Focal loss of each logit, equations 4 and 5 of Lin et al. 2017.

    With gamma 0 this is (alpha-weighted) binary cross-entropy, bit for bit. Labels between 0 and 1
    follow the module's formula with p_t and alpha_t interpolated by the label, as in tf.keras,
    torchvision and optax. They take longer and are announced by `soft_labels`.

    Args:
      labels: any numeric dtype, the shape of `logits`; 0 or 1, or [0, 1] with `soft_labels`.
      logits: float [...]. float16 and bfloat16 are computed in float32.
      gamma: focusing exponent, >= 0.
      alpha: weight in [0, 1] of positives, 1 - alpha of negatives; None weighs both by 1.
      soft_labels: whether labels may lie between 0 and 1 (label smoothing, mixup).

    Returns:
      Losses >= 0 with the shape of `logits`, float32 (float64 for float64 logits). Differentiable
      twice with respect to `logits`, not with respect to `labels` (gamma > 0).

    Raises:
      ValueError: gamma, alpha or the shapes are out of their domain, or labels are soft that were
        not announced. That last one is seen in eager calls only: inside a graph the check would
        cost a fifth of the loss.
    """
    gamma, alpha = _checked(gamma, alpha)
    labels, logits = _as_floats(labels, logits)
    if gamma == 0.0:
        return _alpha_t(labels, alpha) * tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    if tf.executing_eagerly() and not soft_labels:
        _refuse_soft(labels)
    focal = _soft_focal if soft_labels else _hard_focal
    return focal(labels, logits, gamma, alpha)


def focal_weight(
    labels: Any, logits: Any, gamma: float = 2.0, alpha: float | None = 0.25
) -> tf.Tensor:
    """What focal loss multiplies each cross-entropy by: alpha_t * (1 - p_t)^gamma.

    Args:
      labels, logits, gamma, alpha: as for `sigmoid_focal_loss`; labels anywhere in [0, 1].

    Returns:
      Weights in [0, 1] with the shape of `logits`, float32 (float64 for float64 logits).
    """
    gamma, alpha = _checked(gamma, alpha)
    labels, logits = _as_floats(labels, logits)
    if gamma == 0.0:
        return tf.ones_like(logits) * _alpha_t(labels, alpha)
    wrong = labels * tf.sigmoid(-logits) + (1.0 - labels) * tf.sigmoid(logits)
    return _alpha_t(labels, alpha) * _power(wrong, lambda: tf.math.log(wrong), gamma)


def prior_bias(positive_share: float) -> float:
    """Bias of the last layer that starts every probability at the prior, Lin et al. 2017, 4.1.

    Args:
      positive_share: share of positives in (0, 1).

    Returns:
      The logit of the share, -log((1 - share) / share).

    Raises:
      ValueError: the share is not strictly between 0 and 1.
    """
    if not 0.0 < positive_share < 1.0:
        raise ValueError(f"positive_share must lie strictly in (0, 1), got {positive_share}")
    return -math.log((1.0 - positive_share) / positive_share)


@keras.saving.register_keras_serializable(package="wakeword_keras")
class FocalLoss(keras.losses.Loss):
    """Sigmoid focal loss as a Keras loss: the mean over wake words, then Keras' reduction.

    `sample_weight`, one per clip, multiplies a clip's loss once. Formula and domains: see
    `sigmoid_focal_loss`. Probabilities in the logits' place are noticed when `fit` traces its step,
    labels out of their domain in every batch (not under `jit_compile`, which has no assertions).

    Args:
      gamma: focusing exponent, >= 0.
      alpha: weight in [0, 1] of positives, 1 - alpha of negatives; None weighs both by 1.
      label_smoothing: in [0, 1); labels become `label * (1 - s) + s / 2`.
      soft_labels: whether the labels themselves may lie between 0 and 1 (mixup).
      reduction: a `keras.losses.Reduction`.
      name: name of the loss.

    Raises:
      ValueError: gamma, alpha or label_smoothing is out of its domain.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: float | None = 0.25,
        label_smoothing: float = 0.0,
        soft_labels: bool = False,
        reduction: str = keras.losses.Reduction.AUTO,
        name: str = "focal_loss",
    ) -> None:
        super().__init__(reduction=reduction, name=name)
        self.gamma, self.alpha = _checked(gamma, alpha)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing = float(label_smoothing)
        self.soft_labels = bool(soft_labels)

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Loss of each clip: [clips, wake_words] labels and logits -> float32 [clips].

        Raises:
          InputError: `y_pred` comes out of a sigmoid or softmax.
          ValueError, in a graph InvalidArgumentError: labels out of their domain.
        """
        labels, logits = _as_floats(y_true, y_pred)
        _refuse_probabilities(y_pred)
        _assert_domain(labels, self.soft_labels)
        if self.label_smoothing:
            labels = labels * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing
        losses = sigmoid_focal_loss(
            labels,
            logits,
            gamma=self.gamma,
            alpha=self.alpha,
            soft_labels=self.soft_labels or self.label_smoothing > 0.0,
        )
        # The mean of one wake word would cost a fifth of the loss at batch 4096.
        one_word = losses.shape[-1] == 1
        return tf.squeeze(losses, axis=-1) if one_word else tf.reduce_mean(losses, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments that build this loss again."""
        return super().get_config() | {
            "gamma": self.gamma,
            "alpha": self.alpha,
            "label_smoothing": self.label_smoothing,
            "soft_labels": self.soft_labels,
        }


def _hard_focal(labels, logits, gamma: float, alpha: float | None) -> tf.Tensor:
    """Labels 0 or 1: 1 - p_t = sigmoid(u) with u = -logit for positives, logit for negatives."""

    @tf.custom_gradient
    def focal(logits):
        sign = 1.0 - 2.0 * labels
        u = sign * logits
        wrong = tf.sigmoid(u)
        right = 1.0 - wrong
        # log(max(wrong, right)) = -log1p(exp(-|u|)) without its cancellation near 1.
        log_larger = tf.math.log1p(_MINUS * tf.minimum(wrong, right))
        cross_entropy = tf.nn.relu(u) - log_larger
        # alpha_t with the sign of u: 1 - alpha for negatives and -alpha for positives.
        signed_alpha = sign if alpha is None else (1.0 - alpha) - labels
        weight = signed_alpha * _power(wrong, lambda: tf.minimum(u, 0.0) + log_larger, gamma)

        def gradient(upstream):
            # d/du of q^gamma ce is q^gamma (q + gamma (1 - q) ce), with q = 1 - p_t = sigmoid(u).
            return upstream * (weight * (wrong + gamma * (right * cross_entropy)))

        return tf.abs(weight * cross_entropy), gradient

    return focal(logits)


def _soft_focal(labels, logits, gamma: float, alpha: float | None) -> tf.Tensor:
    """Labels in [0, 1]: 1 - p_t = (1 - y) p + y (1 - p), both parts kept free of cancellation."""

    @tf.custom_gradient
    def focal(logits):
        p, q = tf.sigmoid(logits), tf.sigmoid(_MINUS * logits)
        wrong_as_negative, wrong_as_positive = (1.0 - labels) * p, labels * q
        wrong = wrong_as_negative + wrong_as_positive
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        weight = _alpha_t(labels, alpha) * _power(wrong, lambda: tf.math.log(wrong), gamma)

        def gradient(upstream):
            # d ce/dx = p - y and d(1 - p_t)/dx = (1 - 2y) p (1 - p), written with the two parts.
            wrong_slope = wrong_as_negative * q - wrong_as_positive * p
            relative = tf.math.divide_no_nan(wrong_slope, wrong)
            slope = gamma * cross_entropy * relative + (wrong_as_negative - wrong_as_positive)
            return upstream * (weight * slope)

        return weight * cross_entropy, gradient

    return focal(logits)


def _power(base, log_base, gamma: float) -> tf.Tensor:
    """base^gamma for a base in [0, 1]: by products where it pays, tf.pow costs ten times more."""
    if gamma.is_integer() and gamma <= _LARGEST_PRODUCT_GAMMA:
        return functools.reduce(operator.mul, [base] * int(gamma))
    return tf.exp(gamma * log_base())


def _refuse_probabilities(predicted: Any) -> None:
    """Look at what computes a prediction, for nothing while a graph is traced."""
    squashed = hasattr(predicted, "_keras_logits")  # how Keras' own losses find out
    if tf.is_tensor(predicted) and not hasattr(predicted, "numpy"):
        operation = predicted.op
        while operation.type in _PASSING:
            operation = operation.inputs[0].op
        squashed |= operation.type in ("Sigmoid", "Softmax")
    if squashed:
        raise InputError(
            "FocalLoss takes logits, but the model ends in probabilities: leave the sigmoid or "
            "softmax out of its last layer"
        )


def _assert_domain(labels: tf.Tensor, soft: bool) -> None:
    squares = tf.square(labels)
    inside = labels >= squares if soft else tf.equal(labels, squares)
    told = "between 0 and 1" if soft else "0 or 1 (between them only with soft_labels=True)"
    tf.debugging.Assert(tf.reduce_all(inside), [f"FocalLoss: labels must be {told}"], 1)


def _refuse_soft(labels: tf.Tensor) -> None:
    soft = tf.boolean_mask(labels, (labels != 0.0) & (labels != 1.0)).numpy()
    if soft.size:
        raise ValueError(f"labels must be 0 or 1, got {soft[0]:g}: else pass soft_labels=True")


def _alpha_t(labels, alpha: float | None):
    return 1.0 if alpha is None else (1.0 - alpha) + (2.0 * alpha - 1.0) * labels


def _as_floats(labels: Any, logits: Any) -> tuple[tf.Tensor, tf.Tensor]:
    logits = tf.convert_to_tensor(logits)
    if not logits.dtype.is_floating:
        raise InputError(f"logits must be floats, got {logits.dtype.name}")
    if logits.dtype in (tf.float16, tf.bfloat16):
        logits = tf.cast(logits, tf.float32)
    labels = tf.cast(labels, logits.dtype)
    if not labels.shape.is_compatible_with(logits.shape):
        raise InputError(f"labels of shape {labels.shape} for logits of shape {logits.shape}")
    return labels, logits


def _checked(gamma: float, alpha: float | None) -> tuple[float, float | None]:
    if not 0.0 <= gamma < math.inf:
        raise ValueError(f"gamma must be a finite number of at least 0, got {gamma}")
    if alpha is not None and not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie in [0, 1] or be None, got {alpha}")
    return float(gamma), None if alpha is None else float(alpha)
