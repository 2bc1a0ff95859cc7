"""Conformer (Gulati et al. 2020, arXiv:2005.08100), every operation a layer that quantizes.

A sequence is an image of width 1, [steps, 1, channels]: a convolution over time is one of
(kernel, 1), and a linear map of the channels a 1x1 convolution, whose weights have a range for each
channel and whose rounding is the same in TFLite and TFLite Micro (a FULLY_CONNECTED's is not).
Constant factors of the paper's equations (1/2 of a half-step, 1/sqrt(channels) of the
scores, sqrt(channels) of a layer norm) are part of the weights of the linear map beside them: they
scale its initial values, and the device computes nothing for them.
"""

import math

import tf_keras as keras
from tf_keras import layers

from wakeword_keras.models.operations import (
    ChannelMean,
    HeadBias,
    MatMul,
    RelativePositions,
    RelativeShift,
    UnitLength,
)


def conformer_s(frames: int, channels: int, wake_words: int) -> keras.Model:
    """The paper's S encoder (table 1): 16 blocks, width 144, 4 heads, kernel 32."""
    return conformer(
        frames, channels, wake_words, name="conformer_s", blocks=16, width=144, heads=4, kernel=32,
        subsampling=144, dropout=0.1,
    )  # fmt: skip


def conformer_tiny(frames: int, channels: int, wake_words: int) -> keras.Model:
    """A Conformer for microcontrollers: 3 blocks, width 40, 4 heads, kernel 9."""
    return conformer(
        frames, channels, wake_words, name="conformer_tiny", blocks=3, width=40, heads=4, kernel=9,
        subsampling=16, dropout=0.1,
    )  # fmt: skip


def conformer(
    frames: int,
    channels: int,
    wake_words: int,
    *,
    blocks: int,
    width: int,
    heads: int,
    kernel: int,
    subsampling: int,
    expansion: int = 4,
    dropout: float = 0.1,
    name: str = "conformer",
) -> keras.Model:
    """Convolution subsampling by 4, Conformer blocks, mean over time, logits.

    Args:
      frames, channels: shape of the feature input, [batch, frames, channels].
      wake_words: number of logits.
      blocks: Conformer blocks.
      width: channels between the blocks, a multiple of `heads`.
      heads: of the self-attention.
      kernel: steps of the convolution module's depthwise kernel. An even one sees one step more
        of the future than of the past.
      subsampling: channels of the two strided convolutions.
      expansion: width inside the feed-forward modules, as a multiple of `width`.
      dropout: share of values dropped from what each module adds.
      name: of the model.

    Returns:
      Functional model: float32 [batch, frames, channels] -> float32 logits [batch, wake_words].
    """
    features = layers.Input((frames, channels), name="features")
    x = layers.Reshape((frames, channels, 1), name="image")(features)
    for part in ("first", "second"):
        x = layers.Conv2D(subsampling, 3, 2, padding="same", use_bias=False, name=part)(x)
        x = layers.ReLU(name=f"{part}_relu")(_batch_norm(x, part))
    x = layers.Reshape((x.shape[1], 1, x.shape[2] * x.shape[3]), name="sequence")(x)
    x = _linear(x, width, "embed")
    for index in range(blocks):
        x = conformer_block(x, f"block{index}", heads, kernel, expansion, dropout)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    logits = layers.Dense(wake_words, name="logit")(x)
    return keras.Model(features, logits, name=name)


def conformer_block(x, name: str, heads: int, kernel: int, expansion: int, dropout: float):
    """Half a feed-forward, self-attention, convolution, half a feed-forward, layer norm.

    Args:
      x: float32 [batch, steps, 1, width].
      name: start of the layers' names.
      heads, kernel, expansion, dropout: as in `conformer`.

    Returns:
      float32 [batch, steps, 1, width].
    """
    x = _residual(x, feed_forward(x, f"{name}_in", expansion), f"{name}_in", dropout)
    x = _residual(x, self_attention(x, f"{name}_attend", heads), f"{name}_attend", dropout)
    x = _residual(x, convolution(x, f"{name}_convolve", kernel), f"{name}_convolve", dropout)
    x = _residual(x, feed_forward(x, f"{name}_out", expansion), f"{name}_out", dropout)
    return layer_norm(x, f"{name}_norm")


def normalize(x, name: str):
    """Layer normalization but for a factor sqrt(channels), gamma and beta (Ba et al. 2016).

        gamma * (x - mean) / sqrt(variance) + beta = gamma * sqrt(channels) * c / ||c|| + beta

    with c = x - mean. The three are linear, so a linear map behind this one absorbs them.

    Args:
      x: [..., channels].
      name: start of the layers' names.

    Returns:
      Values of x's shape, each vector over the channels of mean 0 and length 1.
    """
    mean = ChannelMean(name=f"{name}_mean")(x)
    centred = layers.Subtract(name=f"{name}_centre")([x, mean])
    return UnitLength(name=f"{name}_unit")(centred)


def layer_norm(x, name: str):
    """Layer normalization of an image; gamma, beta and the sqrt(channels) are one 1x1 kernel."""
    gain = keras.initializers.Constant(math.sqrt(x.shape[-1]))
    return layers.DepthwiseConv2D(1, depthwise_initializer=gain, name=f"{name}_affine")(
        normalize(x, name)
    )


def feed_forward(x, name: str, expansion: int):
    """The half-step feed-forward module (figure 4): 1/2 W_2 swish(W_1 norm(x))."""
    width = x.shape[-1]
    normal = normalize(x, f"{name}_norm")
    inside = _linear(normal, expansion * width, f"{name}_expand", math.sqrt(width))
    return _linear(_swish(inside, f"{name}_expand"), width, f"{name}_project", 0.5)


def self_attention(x, name: str, heads: int):
    """Multi-head self-attention with relative positions (figure 3; Dai et al. 2019, 3.3).

        softmax(((q_i + u) k_j + (q_i + v) W_R r_(i-j)) / sqrt(channels of a head)) v_j

    u absorbs the bias of q; one of k would add the same to all scores of a query, and one of the
    values passes unchanged to the output, which has its own: so the three have none.
    """
    steps, _, width = x.shape[1:]
    normal = normalize(x, f"{name}_norm")

    def by_head(part: str, factor: float = 1.0):
        y = _linear(normal, width, f"{name}_{part}", factor * math.sqrt(width), use_bias=False)
        y = layers.Reshape((steps, heads, width // heads), name=f"{name}_{part}_split")(y)
        return layers.Permute((2, 1, 3), name=f"{name}_{part}_heads")(y)

    query = by_head("query", 1 / math.sqrt(width // heads))
    content = MatMul(transpose_b=True, name=f"{name}_content")(
        [HeadBias(name=f"{name}_content_bias")(query), by_head("key")]
    )
    position = RelativePositions(name=f"{name}_position")(
        HeadBias(name=f"{name}_position_bias")(query)
    )
    position = RelativeShift(name=f"{name}_shift")(position)
    score = layers.Add(name=f"{name}_score")([content, position])
    weight = layers.Softmax(name=f"{name}_softmax")(score)
    y = MatMul(name=f"{name}_weigh")([weight, by_head("value")])
    y = layers.Permute((2, 1, 3), name=f"{name}_steps")(y)
    y = layers.Reshape((steps, 1, width), name=f"{name}_join")(y)
    return _linear(y, width, f"{name}_project")


def convolution(x, name: str, kernel: int):
    """The convolution module (figure 2): gated linear unit, depthwise over time, swish, linear."""
    width = x.shape[-1]
    normal = normalize(x, f"{name}_norm")
    value = _linear(normal, width, f"{name}_value", math.sqrt(width))
    gate = _linear(normal, width, f"{name}_gate", math.sqrt(width))
    gate = layers.Activation("sigmoid", name=f"{name}_gate_sigmoid")(gate)
    y = layers.Multiply(name=f"{name}_gated")([value, gate])
    depthwise = f"{name}_depthwise"
    y = layers.DepthwiseConv2D((kernel, 1), padding="same", use_bias=False, name=depthwise)(y)
    y = _swish(_batch_norm(y, depthwise), depthwise)
    return _linear(y, width, f"{name}_project")


def _linear(x, units: int, name: str, factor: float = 1.0, *, use_bias: bool = True):
    """A linear map of the channels; a constant `factor` of the paper's is in the first weights."""
    glorot = keras.initializers.VarianceScaling(factor**2, "fan_avg", "uniform")
    return layers.Conv2D(units, 1, use_bias=use_bias, kernel_initializer=glorot, name=name)(x)


def _swish(x, name: str):
    gate = layers.Activation("sigmoid", name=f"{name}_sigmoid")(x)
    return layers.Multiply(name=f"{name}_swish")([x, gate])


def _batch_norm(x, name: str):
    # Momentum 0.9: at Keras' 0.99 the statistics of a run of a few hundred steps do not converge.
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


def _residual(x, y, name: str, dropout: float):
    y = layers.Dropout(dropout, name=f"{name}_dropout")(y)
    return layers.Add(name=f"{name}_add")([x, y])
