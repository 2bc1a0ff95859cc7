"""Operations of a Conformer that Keras has no layer of their own for: one layer, one int8 kernel.

Channels are last. A layer that rounds in two places on the device could not be given one range, so
normalising and attending are several layers here; `conformer` puts them together.
"""

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

_register = keras.saving.register_keras_serializable("wakeword_keras")


@_register
class ChannelMean(layers.Layer):
    """The mean over the last axis, which stays with size 1; TFLite's MEAN."""

    def call(self, inputs):
        """Values of the input's shape but for a last axis of 1."""
        return tf.reduce_mean(inputs, axis=-1, keepdims=True)


@_register
class UnitLength(layers.Layer):
    """x / ||x|| over the last axis, 0 for x = 0; TFLite's L2_NORMALIZATION.

    Args:
      epsilon: added to the squared length, far below any that a trained model meets.
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def call(self, inputs):
        """Values of the input's shape in [-1, 1]."""
        squared_length = tf.reduce_sum(tf.square(inputs), axis=-1, keepdims=True)
        return inputs * tf.math.rsqrt(squared_length + self.epsilon)

    def get_config(self):
        """The layer's arguments."""
        return super().get_config() | {"epsilon": self.epsilon}


@_register
class HeadBias(layers.Layer):
    """x + a learned vector for every head: [batch, heads, steps, channels]; TFLite's ADD."""

    def build(self, input_shape):
        """Create the vectors, zero at first."""
        _, heads, _, channels = input_shape
        self.kernel = self.add_weight("kernel", (heads, 1, channels), initializer="zeros")

    def call(self, inputs):
        """Values of the input's shape."""
        return inputs + self.kernel


@_register
class MatMul(layers.Layer):
    """a @ b over the last two axes; TFLite's BATCH_MATMUL.

    Args:
      transpose_b: a @ b^T.
    """

    def __init__(self, transpose_b: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.transpose_b = transpose_b

    def call(self, inputs):
        """The product of a list of two tensors of equal leading axes."""
        return tf.matmul(*inputs, transpose_b=self.transpose_b)

    def get_config(self):
        """The layer's arguments."""
        return super().get_config() | {"transpose_b": self.transpose_b}


def relative_encodings(steps: int, channels: int) -> np.ndarray:
    """Sinusoids of every distance between two of `steps` steps (Vaswani et al. 2017, 3.5).

    Args:
      steps: steps of the sequence.
      channels: even; the first half are sines, the second cosines (Dai et al. 2019's code).

    Returns:
      float32 [2 * steps, channels]: zeros, then distances steps - 1 down to 1 - steps. The zeros
      are the column that the relative shift would otherwise have to pad with.
    """
    distance = np.arange(steps - 1, -steps, -1)[:, None]
    frequency = 10000.0 ** (-np.arange(0, channels, 2) / channels)
    sinusoids = np.hstack([np.sin(distance * frequency), np.cos(distance * frequency)])
    return np.vstack([np.zeros((1, channels)), sinusoids]).astype(np.float32)


@_register
class RelativePositions(layers.Layer):
    """queries @ (projected sinusoids of every distance)^T; TFLite's BATCH_MATMUL with a constant.

    Dai et al. 2019 (Transformer-XL, arXiv:1901.02860), section 3.3: the term q_i W_R r_(i-j),
    before the shift. The projected sinusoids do not depend on the input, so the device holds them
    and not W_R, and they are what fake quantization rounds (`projected`).
    """

    projected: tf.Tensor | None = None

    def build(self, input_shape):
        """Create W_R, [channels of all heads, channels of all heads].

        Raises:
          ValueError: there is one head.
        """
        _, heads, _, channels = input_shape
        if heads < 2:
            # Its matrix would be multiplied with every clip's: see layer_kernels.fully_connected.
            raise ValueError("one head: TensorFlow 2.21 multiplies it wrongly; give two or more")
        self.kernel = self.add_weight("kernel", (heads * channels, heads * channels))

    def call(self, inputs):
        """[batch, heads, steps, channels] to [batch, heads, steps, 2 * steps]."""
        projected = self.projected
        if projected is None:
            projected = project(self.kernel, inputs.shape[1], inputs.shape[2])
        return tf.matmul(inputs, projected)


def project(kernel, heads: int, steps: int):
    """The keys of every distance, transposed: [heads, channels of a head, 2 * steps].

    Args:
      kernel: W_R of `RelativePositions`.
      heads: of the attention.
      steps: of the sequence.
    """
    channels = kernel.shape[0]
    by_head = tf.reshape(kernel, (channels, heads, channels // heads))
    return tf.einsum("dc,chk->hkd", relative_encodings(steps, channels), by_head)


@_register
class RelativeShift(layers.Layer):
    """From scores by distance to scores by key; nothing is computed, values only move.

    Dai et al. 2019, appendix B: rows of 2n values, the first of which is not used and the others
    are for distances n - 1 to 1 - n, are read as if they were rows of n, so that each row starts
    one value later than the last.
    """

    def call(self, inputs):
        """[batch, heads, n, 2 * n] to [batch, heads, n queries, n keys]."""
        _, heads, steps, columns = inputs.shape
        x = tf.reshape(inputs, (-1, heads, columns, steps))[:, :, 1:]
        return tf.reshape(x, (-1, heads, steps, columns - 1))[..., :steps]
