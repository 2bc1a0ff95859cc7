"""Small functional models of layers at random, with weights that no training would give."""

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.models import activations, operations

FRAMES, CHANNELS = 12, 8
_MOST_VALUES = 2000  # of a tensor: larger ones take long and show nothing more


class Growing:
    """A graph that grows layer by layer.

    Attributes:
      rng: decides everything.
      tensors: made so far, from any of which the next layer may read.
    """

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.tensors = [layers.Input((FRAMES, CHANNELS), name="features")]

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability):
        return self.rng.random() < probability

    def tensor(self):
        """One of those made so far, the latest most likely."""
        back = min(int(self.rng.geometric(0.6)), len(self.tensors))
        return self.tensors[-back]

    def image(self):
        """One of rank 4, the latest most likely; None if there is none."""
        images = [x for x in self.tensors if x.shape.rank == 4]
        return images[-min(int(self.rng.geometric(0.6)), len(images))] if images else None


def _size(x):
    return int(np.prod(x.shape[1:]))


def _window(g, x):
    """A window that fits into an image, and a padding."""
    height, width = x.shape[1:3]
    window = [int(g.rng.integers(1, min(4, size) + 1)) for size in (height, width)]
    return window, g.pick("same", "valid")


def _strides_or_dilation(g, x, window, padding, equal):
    """Strides or a dilation, of which TensorFlow takes one; the dilated window has to fit."""
    if g.chance(0.5):
        stride = int(g.rng.integers(1, 4))
        other = stride if equal else int(g.rng.integers(1, 4))
        return {"strides": (stride, other)}
    dilation = [int(g.rng.integers(1, 4)) for _ in window]
    fits = all((w - 1) * d < s for w, d, s in zip(window, dilation, x.shape[1:3], strict=True))
    return {"dilation_rate": tuple(dilation)} if fits or padding == "same" else {}


def _activation(g):
    return g.pick(None, None, "linear", "relu", "relu", tf.nn.relu6)


def conv(g):
    if (x := g.image()) is not None:
        window, padding = _window(g, x)
        return layers.Conv2D(
            int(g.rng.integers(1, 7)),
            window,
            padding=padding,
            activation=_activation(g),
            use_bias=g.chance(0.7),
            **_strides_or_dilation(g, x, window, padding, equal=False),
        )(x)


def depthwise(g):
    if (x := g.image()) is not None:
        window, padding = _window(g, x)
        return layers.DepthwiseConv2D(
            window,
            padding=padding,
            depth_multiplier=g.pick(1, 1, 2, 3),
            activation=_activation(g),
            use_bias=g.chance(0.7),
            **_strides_or_dilation(g, x, window, padding, equal=True),
        )(x)


def dense(g):
    return layers.Dense(
        int(g.rng.integers(1, 9)), activation=_activation(g), use_bias=g.chance(0.7)
    )(g.tensor())


def batch_norm_behind_something(g):
    before = g.pick(conv, conv, conv, depthwise, depthwise, depthwise, dense)(g)
    if before is not None:
        axis = g.pick(*range(1, before.shape.rank)) if g.chance(0.15) else -1
        x = layers.BatchNormalization(axis=axis, scale=g.chance(0.8), center=g.chance(0.8))(before)
        return layers.ReLU(g.pick(None, 6))(x) if g.chance(0.5) else x


def clamp(g):
    kind = g.pick(layers.ReLU(), layers.ReLU(6.0), "relu", tf.nn.relu6, "linear")
    return (kind if isinstance(kind, layers.Layer) else layers.Activation(kind))(g.tensor())


def gate(g):
    kind = g.pick("sigmoid", "tanh", "softmax", "Softmax", "HardSwish", "hard_sigmoid")
    x = g.tensor()
    if kind == "Softmax":
        return layers.Softmax(axis=g.pick(-1, -1, -1, 1))(x)
    if kind == "HardSwish":
        return activations.HardSwish()(x)
    if kind == "hard_sigmoid":
        return activations.hard_sigmoid(x, f"gate{len(g.tensors)}")
    return layers.Activation(kind)(x)


def pool(g):
    if (x := g.image()) is not None:
        window, padding = _window(g, x)
        kind = g.pick(layers.MaxPooling2D, layers.AveragePooling2D)
        strides = g.pick(None, (1, 1), (2, 1), (1, 3))
        return kind(window, strides, padding)(x)


def global_pool(g):
    if (x := g.image()) is not None:
        kind = g.pick(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)
        return kind(keepdims=g.chance(0.5))(x)


def pad_or_crop(g):
    x = g.image()
    a, b, c, d = (int(n) for n in g.rng.integers(0, 3, 4))
    if x is None or g.chance(0.2):
        steps = [t for t in g.tensors if t.shape.rank == 3 and t.shape[1] > a + b]
        return layers.Cropping1D((a, b))(steps[-1]) if steps else None
    if g.chance(0.5):
        return layers.ZeroPadding2D(((a, b), (c, d)))(x)
    if x.shape[1] > a + b and x.shape[2] > c + d:
        return layers.Cropping2D(((a, b), (c, d)))(x)


def drop(g):
    x = g.tensor()
    kinds = {3: layers.SpatialDropout1D, 4: layers.SpatialDropout2D}
    return g.pick(layers.Dropout, kinds.get(x.shape.rank, layers.Dropout))(0.2)(x)


def reorder(g):
    x = g.tensor()
    kind = g.pick("permute", "reshape", "reshape", "flatten")
    if kind == "permute":
        return layers.Permute(g.rng.permutation(np.arange(1, x.shape.rank)).tolist())(x)
    return layers.Flatten()(x) if kind == "flatten" else _reshaped(g, x)


def _reshaped(g, x):
    """The same values as a list, a matrix or an image."""
    rest, shape = _size(x), []
    for _ in range(g.pick(1, 2, 3, 3) - 1):
        divisors = [d for d in range(1, rest + 1) if rest % d == 0]
        shape.append(int(g.pick(*divisors)))
        rest //= shape[-1]
    shape.append(g.pick(rest, -1))
    return layers.Reshape(shape)(x)


def image(g):
    """Features as an image, the start of most models."""
    return layers.Reshape((FRAMES, CHANNELS, 1))(g.tensors[0])


def _like(g, x, whole=True):
    """A tensor that can be added to another: of its shape, or one that broadcasts to it."""
    partners = [t for t in g.tensors if _broadcasts(t.shape, x.shape) and (t is not x)]
    if partners and g.chance(0.6):
        return g.pick(*partners)
    if x.shape.rank == 4 and not whole:
        return layers.Dense(x.shape[-1])(layers.GlobalAveragePooling2D(keepdims=g.chance(0.8))(x))
    return layers.Dense(x.shape[-1], activation=_activation(g))(x) if g.chance(0.8) else x


def _broadcasts(a, b):
    if a.rank != b.rank:
        return a.rank == 2 and b.rank == 4 and a[-1] == b[-1]
    return all(m == n or 1 in (m, n) for m, n in zip(a[1:], b[1:], strict=True))


def merge(g):
    x = g.tensor()
    operands = [x, _like(g, x, whole=g.chance(0.6))]
    if g.chance(0.08):
        operands.append(_like(g, x))
    g.rng.shuffle(order := list(range(len(operands))))
    operands = [operands[i] for i in order]
    kinds = [layers.Add, layers.Multiply] + [layers.Subtract] * (len(operands) == 2)
    x = g.pick(*kinds)()(operands)
    return layers.ReLU(g.pick(None, 6))(x) if g.chance(0.3) else x


def concatenate(g):
    x = g.tensor()
    rank = x.shape.rank
    axis = int(g.rng.integers(1, rank))

    def fits(t):
        return t.shape.rank == rank and all(
            i == axis or t.shape[i] == x.shape[i] for i in range(1, rank)
        )

    partners = [t for t in g.tensors if fits(t)]
    chosen = [g.pick(*partners) for _ in range(g.pick(1, 1, 2))]
    if g.chance(0.5):
        chosen[0] = layers.Dense(x.shape[-1])(x)
    return layers.Concatenate(axis=g.pick(axis, axis - rank))([x, *chosen])


def multiply_matrices(g):
    x = g.tensor()
    if x.shape.rank in (3, 4):
        other = layers.Dense(x.shape[-1])(x)
        if g.chance(0.5):
            return operations.MatMul(transpose_b=True)([x, other])
        axes = [*range(1, x.shape.rank - 2), x.shape.rank - 1, x.shape.rank - 2]
        return operations.MatMul()([x, layers.Permute(axes)(other)])


def normalize(g):
    x = g.tensor()
    kind = g.pick("mean", "length", "bias", "layer_norm")
    if kind == "length":
        return operations.UnitLength()(x)
    if kind == "bias":
        return operations.HeadBias()(x) if x.shape.rank == 4 else None
    mean = operations.ChannelMean()(x)
    return mean if kind == "mean" else layers.Subtract()([x, mean])


def odd(g):
    """What has to be refused, or done right."""
    x = g.tensor()
    kind = g.pick("shared", "nested", "slice", "separable", "inside", "lone", "operation")
    if kind == "shared":
        used = layers.Dense(x.shape[-1])
        return used(used(x))
    if kind == "nested":
        inner = layers.Input(x.shape[1:])
        return keras.Model(inner, layers.Dense(3)(inner))(x)
    if kind == "slice":
        return x[:, :1]
    if kind == "separable":
        return layers.SeparableConv2D(3, 1)(x) if x.shape.rank == 4 else None
    if kind == "inside":
        return layers.Dense(3, activation=g.pick("sigmoid", "tanh", "softmax"))(x)
    if kind == "lone":
        return layers.BatchNormalization()(x)
    return x * 0.5


GROW = [
    conv, conv, depthwise, dense, batch_norm_behind_something, batch_norm_behind_something,
    clamp, clamp, gate, gate, pool, global_pool, pad_or_crop, drop, reorder, reorder, merge, merge,
    merge, concatenate, concatenate, concatenate, multiply_matrices, normalize,
]  # fmt: skip


def random_model(seed):
    """A functional model of 3 to 12 layers or so, some of which quantization has to refuse."""
    keras.utils.set_random_seed(seed)
    g = Growing(seed)
    if g.chance(0.8):
        g.tensors.append(image(g))
    for _ in range(int(g.rng.integers(2, 10))):
        x = (odd if g.chance(0.02) else g.pick(*GROW))(g)
        if x is not None and _size(x) <= _MOST_VALUES:
            g.tensors.append(x)
    x = g.tensors[-1]
    x = layers.Flatten(name="flat")(x) if x.shape.rank > 2 else x
    x = layers.Dense(3, name="logit")(x) if g.chance(0.5) else x
    outputs = [x, layers.Dense(1)(x)] if g.chance(0.01) else x
    model = keras.Model(g.tensors[0], outputs, name=f"random{seed}")
    _set_weights(model, g.rng)
    return model


def _set_weights(model, rng):
    """Weights such that no tensor dies, biases and statistics of batch norms unlike their start."""
    draws = {
        "bias": lambda shape: rng.normal(0, 1, shape),
        "beta": lambda shape: rng.normal(0, 1, shape),
        "gamma": lambda shape: rng.normal(0, 1, shape),
        "moving_mean": lambda shape: rng.normal(0, 3, shape),
        "moving_variance": lambda shape: rng.uniform(0.1, 30, shape),
    }
    for weight in model.weights:
        name = weight.name.split("/")[-1].split(":")[0]
        if name in draws:
            weight.assign(draws[name](weight.shape))
