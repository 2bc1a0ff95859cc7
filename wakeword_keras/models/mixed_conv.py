"""Mixed convolutions over time: small enough to run at every step on a microcontroller.

The family of microWakeWord's models (https://github.com/kahrendt/microWakeWord), after MixConv (Tan
and Le 2019, arXiv:1907.09595): a strided convolution over a few frames, then blocks of depthwise
convolutions with kernels of several lengths. Valid padding in time throughout, so that
`tflite.streaming` can rewire a trained model to compute only what is new.
"""

from collections.abc import Sequence

import numpy as np
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.errors import InputError

FIRST_KERNEL, STRIDE = 5, 3  # frames under a row, and from one row to the next
HEAD_ROWS = 10  # that the logits see at once: 0.3 s of agreement


def mixed_conv_small(frames: int, channels: int, wake_words: int, members: int = 1) -> keras.Model:
    """Sees 98 frames, a second; see `mixed_conv`."""
    kernels = ((3,), (3, 5), (5, 9), (9,))
    return mixed_conv(frames, channels, wake_words, members, kernels=kernels, filters=48)


def mixed_conv_medium(frames: int, channels: int, wake_words: int, members: int = 1) -> keras.Model:
    """Sees 146 frames, one and a half seconds; see `mixed_conv`."""
    kernels = ((5,), (5, 9), (9, 13), (15,))
    return mixed_conv(frames, channels, wake_words, members, kernels=kernels, filters=48)


def mixed_conv_large(frames: int, channels: int, wake_words: int, members: int = 1) -> keras.Model:
    """Sees 182 frames, nearly two seconds, as microWakeWord's models; see `mixed_conv`."""
    kernels = ((5,), (7, 11), (9, 15), (23,))
    return mixed_conv(frames, channels, wake_words, members, kernels=kernels, filters=64)


def receptive_frames(kernels: Sequence[Sequence[int]], head_rows: int = HEAD_ROWS) -> int:
    """Frames that a logit depends on."""
    rows = head_rows + sum(max(lengths) - 1 for lengths in kernels)
    return FIRST_KERNEL + STRIDE * (rows - 1)


def mixed_conv(
    frames: int,
    channels: int,
    wake_words: int,
    members: int = 1,
    *,
    kernels: Sequence[Sequence[int]],
    filters: int = 64,
    first_filters: int = 32,
    head_rows: int = HEAD_ROWS,
) -> keras.Model:
    """A strided convolution over all channels, mixed blocks, logits of the last rows.

    Each block has a branch for each length of kernel: a pointwise convolution to its share of the
    filters, a depthwise one over time, then all are joined; a last pointwise one mixes them. Of
    more frames than it depends on, the oldest are left out.

    Members lie side by side in the channels: what convolves over time does so for all at once, so
    that there are as many rings of state as one alone has; each mixes its own channels only.

    Args:
      frames, channels: shape of the feature input, [batch, frames, channels].
      wake_words: number of logits.
      members: models side by side, at least 1, whose mean logits are the model's; see `join`.
      kernels: lengths in rows, of each block's branches.
      filters: of each block of a member.
      first_filters: of the first convolution of a member.
      head_rows: last rows that the logits see.

    Returns:
      Functional model: float32 [batch, frames, channels] -> float32 logits [batch, wake_words].

    Raises:
      InputError: it depends on more frames than these.
    """
    needed = receptive_frames(kernels, head_rows)
    if frames < needed:
        raise InputError(
            f"{frames} frames are too few for this model, it sees {needed}: "
            f"`clip_ms`={10 * needed + 20} or more, or a smaller mixed_conv"
        )
    features = layers.Input((frames, channels), name="features")
    x = layers.Reshape((frames, 1, channels), name="rows")(features)
    if frames > needed:
        x = layers.Cropping2D(((frames - needed, 0), (0, 0)), name="newest")(x)
    x = layers.Conv2D(
        members * first_filters, (FIRST_KERNEL, 1), (STRIDE, 1), use_bias=False, name="first"
    )(x)
    parts = _apart([_normalize(x, "first")], members, "first")
    for number, lengths in enumerate(kernels, 1):
        parts = _block(parts, lengths, filters, f"block{number}")
    x = layers.Flatten(name="flatten")(_pointwise(parts, filters, "last"))
    x = layers.Dropout(0.2, name="dropout")(x)
    logits = layers.Dense(wake_words, name="logit")(x)
    return keras.Model(features, logits, name="mixed_conv")


def join(model: keras.Model, members: Sequence[keras.Model]) -> None:
    """Give a model of several members their weights: its logits are the mean of theirs.

    Args:
      model: from `mixed_conv`, of as many members; changed in place.
      members: each from `mixed_conv` with the same arguments, of one member.
    """
    own = {layer.name for layer in model.layers}
    for layer in members[0].layers:
        for number, member in enumerate(members, 1):
            if (name := _of_member(layer.name, number, len(members))) in own:
                model.get_layer(name).set_weights(member.get_layer(layer.name).get_weights())
        if layer.name in own:
            # Of each weight, what each member has.
            each = zip(*(m.get_layer(layer.name).get_weights() for m in members), strict=True)
            model.get_layer(layer.name).set_weights(_side_by_side(layer, list(each), members[0]))


def _side_by_side(layer: layers.Layer, each: list, member: keras.Model) -> list:
    """The weights of a layer that all members share, of those of each."""
    if isinstance(layer, layers.Dense):
        kernels, biases = each
        rows = member.get_layer("flatten").input_shape[1]
        parts = [kernel.reshape(rows, -1, kernel.shape[-1]) for kernel in kernels]
        kernel = np.concatenate(parts, axis=1).reshape(-1, kernels[0].shape[-1])
        return [kernel / len(kernels), np.mean(biases, axis=0)]
    axis = 2 if isinstance(layer, layers.DepthwiseConv2D) else -1
    return [np.concatenate(weights, axis) for weights in each]


def _block(parts: list, lengths: Sequence[int], filters: int, name: str) -> list:
    # A branch has pointwise weights of its own: splitting one output would compute the same.
    longest, branches = max(lengths), []
    for share, length in zip(_shares(filters, len(lengths)), lengths, strict=True):
        branch = name if len(lengths) == 1 else f"{name}_{length}"
        y = _pointwise(parts, share, f"{branch}_pointwise")
        if length < longest:
            y = layers.Cropping2D(((longest - length, 0), (0, 0)), name=f"{branch}_newest")(y)
        branches.append(
            layers.DepthwiseConv2D((length, 1), use_bias=False, name=f"{branch}_depthwise")(y)
        )
    return _apart(branches, len(parts), name)


def _pointwise(parts: list, filters: int, name: str):
    """Each member's channels mixed by weights of its own; the members side by side."""
    mixed = []
    for number, part in enumerate(parts, 1):
        own = _of_member(name, number, len(parts))
        x = layers.Conv2D(filters, 1, use_bias=False, name=own)(part)
        mixed.append(_normalize(x, own))
    return mixed[0] if len(mixed) == 1 else layers.Concatenate(name=f"{name}_members")(mixed)


def _apart(branches: list, members: int, name: str) -> list:
    """All branches' channels of each member."""
    if members > 1:
        branches = [
            layers.Reshape((x.shape[1], members, -1), name=f"{name}_apart{number}")(x)
            for number, x in enumerate(branches, 1)
        ]
    x = branches[0] if len(branches) == 1 else layers.Concatenate(name=f"{name}_mix")(branches)
    if members == 1:
        return [x]
    return [
        layers.Cropping2D(((0, 0), (i, members - 1 - i)), name=f"{name}_of_member{i + 1}")(x)
        for i in range(members)
    ]


def _of_member(name: str, number: int, members: int) -> str:
    return name if members == 1 else f"member{number}_{name}"


def _shares(filters: int, branches: int) -> list[int]:
    return [(filters + i) // branches for i in range(branches)]


def _normalize(x, name: str):
    # Momentum 0.9: at Keras' 0.99 the statistics of a run of a few hundred steps do not converge.
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
