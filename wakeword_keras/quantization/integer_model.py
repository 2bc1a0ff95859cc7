"""The QAT model as the device computes it: forward in the kernels' arithmetic, gradients straight.

Fake quantization rounds every tensor once, in float32; kernels round several times
(`int8_kernels`). In a deep network two such arithmetics drift apart by several steps of the output,
although no layer differs by more than one. So what is trained and judged is this model, and what is
exported has no other arithmetic: nothing is left to go wrong between QAT and INT8.

Which layer has which kernel says its row in `layer_rules`.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray
from tf_keras import layers

from wakeword_keras.quantization import int8_kernels, layer_rules, tfmot_access
from wakeword_keras.quantization.layer_kernels import Scaling, Tensor, scaling_of


def device_model(qat: keras.Model, fp32: keras.Model) -> keras.Model:
    """The QAT model in the arithmetic of the int8 kernels, on the same variables.

    Batch norm and ranges stand still, as they do in the exported file. Training it trains `qat`.

    Args:
      qat: model from `fake_quantize.quantize(fp32, ...)`.
      fp32: the float model that was quantized: its layers say what TFLite fuses.

    Returns:
      Functional model of the same input and output.
    """
    fp32 = layer_rules.functional(fp32)
    features = layers.Input(qat.inputs[0].shape[1:], name="features")
    return keras.Model(features, _Device(qat, fp32)(features), name=f"device_{fp32.name}")


def parts_of(device: keras.Model) -> tuple[keras.Model, keras.Model] | None:
    """The QAT model and the float model of a device model; None of any other model."""
    found = [layer for layer in getattr(device, "layers", ()) if isinstance(layer, _Device)]
    return (found[0].qat, found[0]._structure()) if found else None


def layer_steps(
    qat: keras.Model, fp32: keras.Model, features: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """What every int8 kernel writes, in steps, by the name of the last layer that it computes.

    Args:
      qat, fp32: as for `device_model`.
      features: float32 [clips, frames, channels].
    """
    tensors = _Device(qat, layer_rules.functional(fp32)).tensors(tf.constant(features))
    return {name: tensor.steps.numpy() for name, tensor in tensors.items()}


class _Device(layers.Layer):
    """The whole graph as one layer: it needs every tensor's scale beside its values."""

    def __init__(self, qat: keras.Model, fp32: keras.Model):
        super().__init__(name="device")
        self.qat = qat
        # In a function Keras does not find it: the float model has weights of its own.
        self._structure = lambda: fp32

    def call(self, inputs):
        """Logits [batch, wake_words] of features [batch, frames, channels]."""
        # No branch here depends on a tensor's value; converting them all would take minutes.
        return tf.autograph.experimental.do_not_convert(self._logits)(inputs)

    def _logits(self, inputs):
        return self.tensors(inputs)[self._structure().output_names[0]].real

    def tensors(self, inputs) -> dict[str, Tensor]:
        """What every kernel writes, by the name of the last layer that it computes."""
        fp32 = self._structure()
        tensors: dict[str, Tensor] = {}
        for chain in layer_rules.kernel_chains(fp32):
            if isinstance(chain[0], layers.InputLayer):
                tensors[chain[0].name] = self._input(inputs)
            else:
                before = layer_rules.producers(chain[0], fp32)
                tensors[chain[-1].name] = self._layer(chain, [tensors[b.name] for b in before])
        return tensors

    def _input(self, inputs) -> Tensor:
        scaling = scaling_of(*tfmot_access.input_range(self.qat))
        scale = tf.cast(scaling.scale, tf.float32)
        steps = int8_kernels.half_away(tf.cast(inputs / scale, tf.float64))
        steps = tf.cast(tf.clip_by_value(steps, scaling.low, scaling.high), tf.float32)
        return Tensor(steps * scale, steps, scaling)

    def _layer(self, chain: Sequence[layers.Layer], read: Sequence[Tensor]) -> Tensor:
        """The tensor that the kernel of a chain writes."""
        wrappers = [tfmot_access.wrapper_of(self.qat, layer.name) for layer in chain]
        real = _fake_quantized(wrappers, read)
        ends = tfmot_access.output_range(wrappers[-1])
        scaling = read[0].scaling if ends is None else scaling_of(*ends)
        scale = tf.cast(scaling.scale, tf.float32)
        kernel = layer_rules.RULES[layer_rules.kind(chain[0])].kernel
        steps = kernel(wrappers, read, scaling) if kernel else None
        if steps is None:
            return Tensor(real, tf.stop_gradient(tf.round(real / scale)), scaling)
        # Steps beyond what float32 holds are clipped anyway.
        steps = tf.reshape(tf.cast(steps, tf.float32), (-1, *real.shape[1:]))
        steps = tf.clip_by_value(steps, *_steps_within(layer_rules.clamp(chain[-1]), scaling))
        return Tensor(_straight_through(steps * scale, real), steps, scaling)


def _fake_quantized(wrappers: Sequence[layers.Wrapper], read: Sequence[Tensor]) -> tf.Tensor:
    """What the fake-quantized layers of a chain compute, in real values."""
    real = read[0].real if len(read) == 1 else [tensor.real for tensor in read]
    for wrapper in wrappers:
        real = wrapper(real, training=False)
    return real


@tf.custom_gradient
def _straight_through(exact, real):
    """The device's value forward, backward the gradient of fake quantization."""
    return tf.identity(exact), lambda gradient: (None, gradient)


def _steps_within(clamp: tfmot_access.Range, scaling: Scaling) -> tuple[tf.Tensor, tf.Tensor]:
    """The lowest and the highest step that a kernel writes, float32, by the clamp it ends with."""
    low, high = (int8_kernels.half_away(end / scaling.scale) for end in clamp)
    low, high = tf.maximum(scaling.low, low), tf.minimum(scaling.high, high)
    return tf.cast(low, tf.float32), tf.cast(high, tf.float32)
