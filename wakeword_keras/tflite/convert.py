"""TFLite files: truly float, INT8 after training (PTQ), and INT8 from the QAT model."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.quiet import quiet


def float_model(model: keras.Model) -> bytes:
    """Convert a float Keras model to a float32 TFLite flatbuffer with batch 1."""
    with quiet():
        return _converter(model).convert()


def int8_model(
    model: keras.Model, representative_dataset: Callable[[], Iterable[list[np.ndarray]]]
) -> bytes:
    """Convert to a fully INT8 TFLite flatbuffer: int8 in, int8 logits out, batch 1.

    The output is the logit, not the probability: an int8 probability has 256 levels from 0 to 1,
    saturates, and leaves no threshold for rare false accepts.

    Args:
      model: a QAT model (its own ranges are used; the converter then ignores the dataset) or a
        float model (post-training quantization: the dataset sets the ranges).
      representative_dataset: yields lists of one float32 array [1, frames, channels].

    Returns:
      The flatbuffer.

    Raises:
      ValueError: the converter would have to leave an operation in float.
    """
    with quiet():
        return _quantizing(_converter(model), representative_dataset).convert()


def _quantizing(
    converter: tf.lite.TFLiteConverter,
    representative_dataset: Callable[[], Iterable[list[np.ndarray]]],
) -> tf.lite.TFLiteConverter:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_dataset
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return converter


def _converter(model: keras.Model) -> tf.lite.TFLiteConverter:
    # A fixed batch of 1: a dynamic one fills the graph with shape arithmetic.
    signature = tf.TensorSpec([1, *model.inputs[0].shape[1:]], tf.float32, name="features")
    function = tf.function(lambda features: model(features, training=False))
    # The converter saves the object that holds the variables: a Keras model would trace every layer
    # on its own, which takes a minute for a hundred layers and serves nothing.
    holder = tf.Module()
    holder.held = model.variables
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(signature)], holder
    )
