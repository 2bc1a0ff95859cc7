"""Dropout that a resumed training repeats: what is dropped depends on seed and step alone.

Keras draws from generators whose state no checkpoint holds, so a training that was killed went on
with other draws than one that was not.
"""

import tensorflow as tf
import tf_keras as keras
from tf_keras import layers


class StepDropout(layers.Layer):
    """`layers.Dropout` with draws that are a function of a seed and a step.

    Args:
      rate: share of the values that are dropped, 0 to 1.
      seed: int; layers of one model need different ones.
      step: int64 variable, the optimizer's `iterations`.
    """

    def __init__(self, rate: float, seed: int, step: tf.Variable, **kwargs) -> None:
        super().__init__(**kwargs)
        self._rate, self._seed = rate, seed
        self._now = lambda: step  # in a function Keras does not take it for a weight

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops values, and scales the others so that their mean stays; only in training."""
        if not training:
            return inputs
        seed = tf.stack([tf.constant(self._seed, tf.int64), tf.cast(self._now(), tf.int64)])
        return tf.nn.experimental.stateless_dropout(inputs, self._rate, seed)


def by_step(model: keras.Model, seed: int, step: tf.Variable) -> keras.Model:
    """A model on the same layers, its `layers.Dropout` replaced by StepDropout.

    Args:
      model: functional model; stays as it is.
      seed: of the training.
      step: int64 variable.

    Returns:
      The model itself if it has no dropout.
    """
    numbers = {
        layer.name: number
        for number, layer in enumerate(model.layers)
        if type(layer) is layers.Dropout and layer.noise_shape is None
    }
    if not numbers:
        return model

    def kept_or_replaced(layer: layers.Layer) -> layers.Layer:
        if layer.name not in numbers:
            return layer
        own_seed = seed * 100_003 + numbers[layer.name]
        return StepDropout(layer.rate, own_seed, step, name=layer.name)

    return keras.models.clone_model(model, clone_function=kept_or_replaced)
