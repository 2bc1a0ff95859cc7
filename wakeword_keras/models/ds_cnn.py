"""DS-CNN, the depthwise-separable network of "Hello Edge" (Zhang et al. 2017, arXiv:1711.07128)."""

import tf_keras as keras
from tf_keras import layers


def ds_cnn(
    frames: int,
    channels: int,
    wake_words: int,
    *,
    filters: int = 96,
    blocks: int = 4,
    first_kernel: tuple[int, int] = (10, 4),
    first_stride: tuple[int, int] = (4, 4),
) -> keras.Model:
    """A strided convolution, `blocks` depthwise-separable ones, average pooling, logits.

    `filters=64, first_stride=(2, 2)` on a 49x10 input is the MLPerf Tiny keyword-spotting network.
    The first stride is (4, 4) by default because our input is 98x40: the same time resolution.

    Args:
      frames, channels: shape of the feature input, [batch, frames, channels].
      wake_words: number of logits.
      filters: width of every layer; the paper has 64 (S), 172 (M) and 276 (L).
      blocks: depthwise-separable blocks after the first convolution.
      first_kernel, first_stride: (time, frequency) of the first convolution.

    Returns:
      Functional model: float32 [batch, frames, channels] -> float32 logits [batch, wake_words].
    """
    features = layers.Input((frames, channels), name="features")
    x = layers.Reshape((frames, channels, 1), name="image")(features)
    x = layers.Conv2D(
        filters, first_kernel, first_stride, padding="same", use_bias=False, name="first"
    )(x)
    x = _normalize(x, "first")
    for block in range(1, blocks + 1):
        depthwise, pointwise = f"block{block}_depthwise", f"block{block}_pointwise"
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=depthwise)(x)
        x = _normalize(x, depthwise)
        x = layers.Conv2D(filters, 1, use_bias=False, name=pointwise)(x)
        x = _normalize(x, pointwise)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    logits = layers.Dense(wake_words, name="logit")(x)
    return keras.Model(features, logits, name="ds_cnn")


def _normalize(x, name: str):
    # Momentum 0.9: at Keras' 0.99 the statistics of a run of a few hundred steps do not converge.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
