"""MobileNetV3, Small and Large (Howard et al. 2019, arXiv:1905.02244, tables 1 and 2).

Shapes and parameters are those of `tf_keras.applications`, and so are the outputs for the same
weights. Only the expression differs: padding is the convolution's own, every operation is one
layer, and batch norm has the momentum of a short training.
"""

from dataclasses import dataclass

import tf_keras as keras
from tf_keras import layers

from wakeword_keras.models.activations import HardSwish, hard_sigmoid


@dataclass(frozen=True)
class Block:
    """A row of the paper's tables: an inverted residual, before the width multiplier.

    Attributes:
      expansion: channels inside the block, as a multiple of those that enter it; 1: the block has
        no convolution that expands them.
      filters: channels that leave it.
      kernel: size of the depthwise kernel.
      stride: of the depthwise convolution, in time and frequency.
      squeeze: whether squeeze-and-excite weighs the channels.
      hard_swish: hard-swish instead of ReLU.
    """

    expansion: float
    filters: int
    kernel: int
    stride: int
    squeeze: bool
    hard_swish: bool


SMALL = (
    Block(1, 16, 3, 2, True, False),
    Block(72 / 16, 24, 3, 2, False, False),
    Block(88 / 24, 24, 3, 1, False, False),
    Block(4, 40, 5, 2, True, True),
    Block(6, 40, 5, 1, True, True),
    Block(6, 40, 5, 1, True, True),
    Block(3, 48, 5, 1, True, True),
    Block(3, 48, 5, 1, True, True),
    Block(6, 96, 5, 2, True, True),
    Block(6, 96, 5, 1, True, True),
    Block(6, 96, 5, 1, True, True),
)

LARGE = (
    Block(1, 16, 3, 1, False, False),
    Block(4, 24, 3, 2, False, False),
    Block(3, 24, 3, 1, False, False),
    Block(3, 40, 5, 2, True, False),
    Block(3, 40, 5, 1, True, False),
    Block(3, 40, 5, 1, True, False),
    Block(6, 80, 3, 2, False, True),
    Block(2.5, 80, 3, 1, False, True),
    Block(2.3, 80, 3, 1, False, True),
    Block(2.3, 80, 3, 1, False, True),
    Block(6, 112, 3, 1, True, True),
    Block(6, 112, 3, 1, True, True),
    Block(6, 160, 5, 2, True, True),
    Block(6, 160, 5, 1, True, True),
    Block(6, 160, 5, 1, True, True),
)


def mobilenet_v3_small(
    frames: int,
    channels: int,
    wake_words: int,
    *,
    width: float = 0.5,
    minimalistic: bool = False,
    head_channels: int = 0,
) -> keras.Model:
    """MobileNetV3-Small.

    Args:
      frames, channels: shape of the feature input, [batch, frames, channels].
      wake_words: number of logits.
      width: multiplier of every layer's channels, the paper's alpha.
      minimalistic: ReLU for hard-swish, 3x3 for 5x5, no squeeze-and-excite.
      head_channels: channels of the layer that the paper puts between pooling and logits, 1024
        for ImageNet's 1000 classes; 0, for a handful of wake words, leaves it out.

    Returns:
      Functional model: float32 [batch, frames, channels] -> float32 logits [batch, wake_words].
    """
    return _mobilenet_v3(
        "mobilenet_v3_small",
        SMALL,
        frames,
        channels,
        wake_words,
        width,
        minimalistic,
        head_channels,
    )


def mobilenet_v3_large(
    frames: int,
    channels: int,
    wake_words: int,
    *,
    width: float = 0.35,
    minimalistic: bool = False,
    head_channels: int = 0,
) -> keras.Model:
    """MobileNetV3-Large, as `mobilenet_v3_small`; the paper's head has 1280 channels."""
    return _mobilenet_v3(
        "mobilenet_v3_large",
        LARGE,
        frames,
        channels,
        wake_words,
        width,
        minimalistic,
        head_channels,
    )


def _mobilenet_v3(
    name: str,
    blocks: tuple[Block, ...],
    frames: int,
    channels: int,
    wake_words: int,
    width: float,
    minimalistic: bool,
    head_channels: int,
) -> keras.Model:
    features = layers.Input((frames, channels), name="features")
    x = layers.Reshape((frames, channels, 1), name="image")(features)
    x = layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="first")(x)
    x = _activate(_normalize(x, "first"), "first", not minimalistic)
    for index, block in enumerate(blocks):
        x = _inverted_residual(x, block, f"block{index}", width, minimalistic)
    x = layers.Conv2D(divisible(6 * x.shape[-1]), 1, use_bias=False, name="last")(x)
    x = _activate(_normalize(x, "last"), "last", not minimalistic)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if head_channels:
        head = divisible(head_channels * width) if width > 1 else head_channels
        x = _activate(layers.Dense(head, name="head")(x), "head", not minimalistic)
    x = layers.Dropout(0.2, name="dropout")(x)
    logits = layers.Dense(wake_words, name="logit")(x)
    return keras.Model(features, logits, name=name)


def divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 8 and no more than a tenth below `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _inverted_residual(x, block: Block, name: str, width: float, minimalistic: bool):
    shortcut = x
    filters, entering = divisible(block.filters * width), x.shape[-1]
    hard_swish = block.hard_swish and not minimalistic
    if block.expansion != 1:
        inside = divisible(entering * block.expansion)
        x = layers.Conv2D(inside, 1, use_bias=False, name=f"{name}_expand")(x)
        x = _activate(_normalize(x, f"{name}_expand"), f"{name}_expand", hard_swish)
    depthwise, project = f"{name}_depthwise", f"{name}_project"
    x = layers.DepthwiseConv2D(
        3 if minimalistic else block.kernel,
        block.stride,
        padding="same",
        use_bias=False,
        name=depthwise,
    )(x)
    x = _activate(_normalize(x, depthwise), depthwise, hard_swish)
    if block.squeeze and not minimalistic:
        x = _squeeze_excite(x, f"{name}_squeeze")
    x = layers.Conv2D(filters, 1, use_bias=False, name=project)(x)
    x = _normalize(x, project)
    if block.stride == 1 and entering == filters:
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def _squeeze_excite(x, name: str):
    """Weigh every channel by a gate in [0, 1] computed from all channels' means."""
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_pool")(x)
    gate = layers.Conv2D(divisible(channels / 4), 1, name=f"{name}_reduce")(gate)
    gate = layers.ReLU(name=f"{name}_reduce_relu")(gate)
    gate = layers.Conv2D(channels, 1, name=f"{name}_gate")(gate)
    gate = hard_sigmoid(gate, f"{name}_gate")
    return layers.Multiply(name=f"{name}_weigh")([x, gate])


def _normalize(x, name: str):
    # Momentum 0.9: at the paper's 0.997 the statistics of a short training do not converge.
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


def _activate(x, name: str, hard_swish: bool):
    if hard_swish:
        return HardSwish(name=f"{name}_hard_swish")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
