"""Dropout that a resumed training repeats: what is dropped depends on seed and step alone.

Keras draws from generators whose state no checkpoint holds, so a training that was killed went on
with other draws than one that was not. And none, for a model that learns from a teacher.
"""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf
import tf_keras as keras
from tf_keras import layers


def by_step(
    model: keras.Model, seed: int, step: tf.Variable
) -> contextlib.AbstractContextManager[None]:
    """Within the block, what `layers.Dropout` drops is a function of seed, layer and step.

    Functions that call the model have to be traced within it.

    Args:
      model: functional model whose layers are changed for so long.
      seed: of the training.
      step: int64 variable, the optimizer's `iterations`.
    """
    return _calling(model, lambda number, rate: _stateless(rate, seed * 100_003 + number, step))


def none(model: keras.Model) -> contextlib.AbstractContextManager[None]:
    """Within the block, `layers.Dropout` drops nothing; as `by_step`."""
    return _calling(model, lambda number, rate: lambda inputs, training=None: inputs)


@contextlib.contextmanager
def _calling(model: keras.Model, call_of: Callable[[int, float], Callable]) -> Iterator[None]:
    """Within the block, each dropout layer computes what its number and rate have it compute."""
    dropouts = [
        layer
        for layer in _layers(model)
        if type(layer) is layers.Dropout and layer.noise_shape is None
    ]
    for number, layer in enumerate(dropouts):
        # Not a layer in its place: each other one would belong to two models.
        layer.call = call_of(number, layer.rate)
    try:
        yield
    finally:
        for layer in dropouts:
            del layer.call


def _layers(model: keras.Model) -> Iterator[layers.Layer]:
    """The layers of a model, and of the models that it calls."""
    for layer in model.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else (layer,)


def _stateless(rate: float, seed: int, step: tf.Variable) -> Callable:
    def call(inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not training:
            return inputs
        pair = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync == 1:
            return tf.nn.experimental.stateless_dropout(inputs, rate, pair)
        # A replica has a part of the batch, and drops what one alone would drop of it.
        count, *shape = tf.unstack(tf.shape(inputs))
        whole = tf.ones([count * replica.num_replicas_in_sync, *shape], inputs.dtype)
        factors = tf.nn.experimental.stateless_dropout(whole, rate, pair)
        first = replica.replica_id_in_sync_group * count
        return inputs * factors[first : first + count]

    return call
