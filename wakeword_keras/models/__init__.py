"""Base architectures, one file each, as functional Keras models that return logits."""

from collections.abc import Callable

import tf_keras as keras

from wakeword_keras.errors import InputError
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


STREAMING = ("mixed_conv_small", "mixed_conv_medium", "mixed_conv_large")
"""Architectures that `tflite.streaming` rewires to run step by step."""


def build(name: str, frames: int, channels: int, wake_words: int) -> keras.Model:
    """Build an architecture by name.

    Args:
      name: a key of ARCHITECTURES.
      frames, channels: shape of the feature input, [batch, frames, channels].
      wake_words: number of sigmoid logits of the output, [batch, wake_words].

    Returns:
      An unbuilt-state (freshly initialised) functional model, float32 in, float32 logits out.

    Raises:
      InputError: the name is not an architecture.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"unknown model {name!r}: choose one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](frames, channels, wake_words)
