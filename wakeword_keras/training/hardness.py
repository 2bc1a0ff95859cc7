"""Who gets the weight: what focal loss gives the hardest tenth, and each group's share of the loss.

Measured on the training batches themselves, from logits that the step has computed anyway.
"""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from wakeword_keras.names import EXAMPLES
from wakeword_keras.training.losses import focal_weight

_BINS = 512


@keras.saving.register_keras_serializable(package="wakeword_keras")
class LossWeighting(keras.metrics.Metric):
    """Weight of the hardest tenth of an epoch's examples, and groups' shares of the loss.

    An example's hardness is the probability that its logit gives to the wrong outcome; its weight
    is what the loss multiplies its cross-entropy by, `hardness^gamma` (focal_weight). A histogram
    over hardness holds what is needed to find the hardest tenth at the end of an epoch.

    In plain Keras: `model.compile(optimizer, FocalLoss(2.0), metrics=[LossWeighting(2.0)])`; there
    are no groups then, and no shares.

    Args:
      gamma: of the focal loss; 0 for cross-entropy.
      name: of the metric.
    """

    def __init__(self, gamma: float, name: str = "weighting", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._gamma = gamma
        self._grouped = False
        self._count = self.add_weight("count", (_BINS,), initializer="zeros")
        self._weight = self.add_weight("weight", (_BINS,), initializer="zeros")
        self._loss = self.add_weight("loss", (len(EXAMPLES),), initializer="zeros")

    def update_state(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        groups: tf.Tensor | None = None,
        losses: tf.Tensor | None = None,
        sample_weight: tf.Tensor | None = None,
    ) -> None:
        """Add a batch: labels and logits [batch, wake_words], groups int32 and losses [batch].

        Keras passes `sample_weight`, too: what an example weighs elsewhere is no matter here.
        """
        hardness = tf.reshape(focal_weight(y_true, y_pred, 1.0, None), [-1])
        weight = tf.reshape(focal_weight(y_true, y_pred, self._gamma, None), [-1])
        bins = tf.cast(tf.minimum(hardness * _BINS, _BINS - 1), tf.int32)
        self._count.assign_add(tf.math.unsorted_segment_sum(tf.ones_like(weight), bins, _BINS))
        self._weight.assign_add(tf.math.unsorted_segment_sum(weight, bins, _BINS))
        if groups is not None:
            self._grouped = True
            self._loss.assign_add(tf.math.unsorted_segment_sum(losses, groups, len(EXAMPLES)))

    def reset_state(self) -> None:
        """Start a new epoch."""
        for variable in self.variables:
            variable.assign(tf.zeros_like(variable))

    def result(self) -> dict[str, tf.Tensor]:
        """hardest_tenth_weight, the same under cross-entropy, and share_<group> of the loss."""
        tenth = tf.reduce_sum(self._count) / 10
        harder = tf.cumsum(self._count, reverse=True, exclusive=True)
        # The bin in which the tenth ends counts in part.
        part = tf.clip_by_value(tf.math.divide_no_nan(tenth - harder, self._count), 0.0, 1.0)

        def ratio(weight: tf.Tensor) -> tf.Tensor:
            hardest, rest = tf.reduce_sum(part * weight), tf.reduce_sum((1 - part) * weight)
            return tf.math.divide_no_nan(9 * hardest, rest)

        found = {
            "hardest_tenth_weight": ratio(self._weight),
            "hardest_tenth_weight_ce": ratio(self._count),  # cross-entropy weighs each with 1
        }
        if not self._grouped:
            return found
        total = tf.reduce_sum(self._loss)
        shares = tf.unstack(tf.math.divide_no_nan(self._loss, total))
        return found | {
            f"share_{group}": share for group, share in zip(EXAMPLES, shares, strict=True)
        }

    def get_config(self) -> dict[str, Any]:
        """The arguments that build this metric again."""
        return super().get_config() | {"gamma": self._gamma}
