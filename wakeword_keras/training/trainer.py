"""The Keras model that trains: its step is watched (hardness.py), and can learn from a teacher."""

import tensorflow as tf
import tf_keras as keras

from wakeword_keras.training.hardness import LossWeighting


class MonitoredModel(keras.Model):
    """A functional model that logs where its training loss comes from (LossWeighting).

    Its batches are (features, labels, sample weights, groups), groups int32 [batch], numbers of
    EXAMPLES. It shares its layers with the model it is made of, which stays the one to save:
    `MonitoredModel(inputs=model.inputs, outputs=model.outputs)`. Of several logits for each wake
    word, [batch, members * wake_words] member by member, every one learns the labels.

    Compiled with a `teacher`, a model of the same input and output, it learns the teacher's logits:
    it minimises their mean squared difference (Ba and Caruana 2014, arXiv:1312.6184, section 2.2),
    and logs its root as `logit_error`; the loss of the labels is only logged.
    """

    def train_step(self, data: tuple) -> dict[str, tf.Tensor]:
        """Keras' training step; the loss's weighting gets the groups, too."""
        features, labels, weights, groups = data
        with tf.GradientTape() as tape:
            logits = self(features, training=True)
            labels = tf.tile(labels, [1, logits.shape[-1] // labels.shape[-1]])
            loss = self.compute_loss(features, labels, logits, weights)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        losses = self.loss.call(labels, logits) * weights
        self._weighting.update_state(labels, logits, groups, losses)
        metrics = self.compute_metrics(features, labels, logits, weights)
        return metrics | self._weighting.result()

    def compute_loss(self, x, y, y_pred, sample_weight) -> tf.Tensor:
        """The compiled loss, or the teacher's squared difference, which a clip's weight scales."""
        loss = super().compute_loss(x, y, y_pred, sample_weight)
        if self._taught is None:
            return loss
        logits = self._taught(x)
        self._logit_error.update_state(logits, y_pred, sample_weight)
        squares = tf.reduce_mean(tf.square(logits - y_pred), axis=-1)
        # Gradients of replicas are added up; Keras divides its own loss likewise.
        return (
            tf.reduce_mean(squares * sample_weight) / self.distribute_strategy.num_replicas_in_sync
        )

    def compile(self, optimizer, loss, teacher=None, **kwargs) -> None:  # noqa: D102
        super().compile(optimizer, loss, **kwargs)
        self._weighting = LossWeighting(loss.gamma)
        self._taught = None
        if teacher is not None:
            self._logit_error = keras.metrics.RootMeanSquaredError("logit_error")
            # In a function Keras does not find it: a teacher's weights are not to be trained.
            self._taught = lambda x: teacher(x, training=False)
