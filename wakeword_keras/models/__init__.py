"""Base architectures, one file each, as functional Keras models that return logits."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import tf_keras as keras

from wakeword_keras.errors import InputError
from wakeword_keras.models import mixed_conv
from wakeword_keras.models.conformer import conformer_s, conformer_tiny
from wakeword_keras.models.ds_cnn import ds_cnn
from wakeword_keras.models.mixed_conv import (
    mixed_conv_large,
    mixed_conv_medium,
    mixed_conv_small,
)
from wakeword_keras.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small

ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "ds_cnn": ds_cnn,
    "mobilenet_v3_small": mobilenet_v3_small,
    "mobilenet_v3_large": mobilenet_v3_large,
    "mixed_conv_small": mixed_conv_small,
    "mixed_conv_medium": mixed_conv_medium,
    "mixed_conv_large": mixed_conv_large,
    "conformer_tiny": conformer_tiny,
    "conformer_s": conformer_s,
}


STREAMING = {"mixed_conv_small": 98, "mixed_conv_medium": 146, "mixed_conv_large": 182}
"""Architectures that `tflite.streaming` rewires to run step by step; frames that a logit sees."""


@dataclass(frozen=True)
class Description:
    """What a streaming architecture sees and costs.

    Attributes:
      name: key of STREAMING.
      frames, ms: that a logit depends on, of features and of audio.
      step_frames: new ones a step.
      macs: multiply-accumulates a step.
      parameters: weights and biases, batch norms folded.
      int8_bytes: that these take: 1 for each weight, 4 for each bias.
    """

    name: str
    frames: int
    ms: int
    step_frames: int
    macs: int
    parameters: int
    int8_bytes: int

    def __str__(self) -> str:
        """A line for people."""
        return (
            f"{self.name}: sees {self.frames} frames, {self.ms / 1000:.2f} s; a step of "
            f"{self.step_frames} frames takes {self.macs / 1000:.1f} kMAC; {self.parameters:,} "
            f"parameters, {self.int8_bytes:,} bytes in INT8"
        )


def describe(name: str, channels: int = 40, wake_words: int = 1, members: int = 1) -> Description:
    """Describe a streaming architecture; times are those of a 30 ms window each 10 ms.

    Args:
      name: a key of STREAMING.
      channels: of the features.
      wake_words: number of logits.
      members: models side by side.

    Raises:
      InputError: the architecture does not stream.
    """
    if name not in STREAMING:
        raise InputError(f"{name} does not stream: choose one of {', '.join(STREAMING)}")
    frames = STREAMING[name]
    layers = build(name, frames, channels, wake_words, members).layers
    kernels = [
        weights.shape
        for layer in layers
        for weights in layer.weights
        if weights.name.endswith("kernel:0")
    ]
    # A step computes one row of each layer, so that each weight is used once.
    macs = sum(math.prod(shape) for shape in kernels)
    computing = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
    biases = sum(layer.output_shape[-1] for layer in layers if isinstance(layer, computing))
    step = mixed_conv.STRIDE
    return Description(name, frames, 10 * frames + 20, step, macs, macs + biases, macs + 4 * biases)


def build(name: str, frames: int, channels: int, wake_words: int, members: int = 1) -> keras.Model:
    """Build an architecture by name.

    Args:
      name: a key of ARCHITECTURES.
      frames, channels: shape of the feature input, [batch, frames, channels].
      wake_words: number of sigmoid logits of the output, [batch, wake_words].
      members: models side by side, whose mean logits are the model's; above 1 for a key of
        STREAMING alone.

    Returns:
      An unbuilt-state (freshly initialised) functional model, float32 in, float32 logits out.

    Raises:
      InputError: the name is not an architecture.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"unknown model {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    if members == 1:
        return ARCHITECTURES[name](frames, channels, wake_words)
    if name not in STREAMING:
        raise InputError(f"{name} has one member only: choose one of {', '.join(STREAMING)}")
    return ARCHITECTURES[name](frames, channels, wake_words, members)
