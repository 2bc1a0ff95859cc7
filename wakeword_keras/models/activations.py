"""Hard activations of MobileNetV3, each operation a layer, so that each can be quantized.

Howard et al. 2019, arXiv:1905.02244, section 5.2:

    hard_sigmoid(x) = ReLU6(x + 3) / 6        hard_swish(x) = x * hard_sigmoid(x)

TFLite has one int8 kernel for the whole hard-swish and none for hard-sigmoid, which is therefore
three layers: the shift folds into the bias of the convolution before it, ReLU6 into its clamp.
"""

import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

_register = keras.saving.register_keras_serializable("wakeword_keras")


SHIFT = 3.0
"""What hard-sigmoid adds first."""


@_register
class HardSwish(layers.Layer):
    """x * ReLU6(x + 3) / 6, of any shape; TFLite makes one HARD_SWISH of it."""

    def call(self, inputs):
        """Values of the input's shape, at least -0.375."""
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@_register
class HardSigmoidShift(layers.Layer):
    """x + 3: the first of hard-sigmoid's three operations."""

    def call(self, inputs):
        """Values of the input's shape."""
        return inputs + SHIFT


@_register
class HardSigmoidScale(layers.Layer):
    """x / 6: the last of hard-sigmoid's three operations, from [0, 6] to [0, 1]."""

    def call(self, inputs):
        """Values of the input's shape."""
        return inputs * (1.0 / 6.0)


def hard_sigmoid(x, name: str):
    """ReLU6(x + 3) / 6 as three layers whose names start with `name`."""
    x = HardSigmoidShift(name=f"{name}_shift")(x)
    x = layers.ReLU(6.0, name=f"{name}_relu6")(x)
    return HardSigmoidScale(name=f"{name}_scale")(x)
