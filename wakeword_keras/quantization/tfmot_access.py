"""tensorflow-model-optimization (tfmot): the one module that knows it, its private parts included.

tfmot wraps each layer of a model in another named `quant_<name>`, which fake-quantizes the weights
and the output. What is quantized, and in which range, its own registry would decide; here a
`LayerQuantization` for every layer does, put in through its `QuantizeScheme`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_config,
    quantize_layout_transform,
    quantize_registry,
    quantize_scheme,
    quantizers,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_transforms,
)
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import (
    model_transformer,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import (
    QuantizeLayer,
)
from tf_keras import layers

Range = tuple[float, float]
Quantizer: TypeAlias = quantizers.Quantizer


NARROWEST = 1e-6
"""Width of the narrowest range that the TFLite converter keeps; others it widens to it."""


class _WeightQuantizer(quantizers.LastValueQuantizer):
    """Symmetric int8 weights.

    tfmot takes the last axis of a depthwise kernel, [height, width, channels, multiplier], for the
    channels: one range for all, while its channels differ most. And it gives a filter of zeros a
    range of no width, at whose scale no bias fits into 32 bits: here it has its layer's widest.

    Args:
      channel_axes: how many of the weight's last axes have a range for each index; 0: one for all.
    """

    def __init__(self, channel_axes: int):
        super().__init__(num_bits=8, per_axis=channel_axes > 0, symmetric=True, narrow_range=True)
        self.channel_axes = channel_axes

    def build(self, tensor_shape, name, layer):
        """Create the range variables."""
        return self._add_range_weights(layer, name, self.per_axis, self._by_channel(tensor_shape))

    def __call__(self, inputs, training, weights, **kwargs):
        """The weight, fake-quantized; in training, by a range that its values decide."""
        by_channel = tf.reshape(inputs, self._by_channel(inputs.shape))
        if training:
            self._set_range(by_channel, weights)
        quantized = super().__call__(by_channel, False, weights, **kwargs)
        return tf.reshape(quantized, inputs.shape)

    def _set_range(self, by_channel, weights):
        sizes = tf.abs(by_channel)
        widest = tf.reduce_max(sizes)
        ends = tf.reduce_max(sizes, range(len(sizes.shape) - 1)) if self.per_axis else widest
        ends = tf.where(ends < NARROWEST / 2, tf.where(widest > 0, widest, 1.0), ends)
        weights["min_var"].assign(-ends)
        weights["max_var"].assign(ends)

    def _by_channel(self, shape):
        if self.channel_axes < 2:
            return shape
        return (1, *shape[: -self.channel_axes], math.prod(shape[-self.channel_axes :]))


class _ConstantQuantizer(quantizers.LastValueQuantizer):
    """One asymmetric range for what the device holds of a weight, a function of it."""

    def __init__(self, held: Callable[[tf.Tensor], tf.Tensor]):
        super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        self.held = held

    def __call__(self, inputs, training, weights, **kwargs):
        """The constant, fake-quantized."""
        return super().__call__(self.held(inputs), training, weights, **kwargs)


def per_channel() -> Quantizer:
    """Symmetric int8 weights, a range for every index of the last axis."""
    return _WeightQuantizer(channel_axes=1)


def per_depthwise_channel() -> Quantizer:
    """The same for every channel of a depthwise kernel."""
    return _WeightQuantizer(channel_axes=2)


def per_tensor() -> Quantizer:
    """Symmetric int8 weights of one range."""
    return _WeightQuantizer(channel_axes=0)


def constant(held: Callable[[tf.Tensor], tf.Tensor] = tf.identity) -> Quantizer:
    """Asymmetric int8 values of one range.

    Args:
      held: what the device holds instead of the weight, computed from it.
    """
    return _ConstantQuantizer(held)


class _MeasuredRange(quantizers.MovingAverageQuantizer):
    """An activation's range in variables, the same ones for every layer that it is given to."""

    def __init__(self):
        super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        self.variables = None

    def build(self, tensor_shape, name, layer):
        """Create the range variables, or give those of the first layer."""
        if self.variables is None:
            self.variables = super().build(tensor_shape, name, layer)
        return self.variables


def measured_range() -> Quantizer:
    """A range in variables, +-6 until they are set; layers that share it share the quantizer."""
    return _MeasuredRange()


def fixed_range(low: float, high: float) -> Quantizer:
    """An activation whose range a kernel or a contract demands."""
    return quantizers.FixedQuantizer(num_bits=8, init_min=low, init_max=high, narrow_range=False)


@dataclass(frozen=True)
class LayerQuantization(quantize_config.QuantizeConfig):
    """What of a layer is quantized.

    Attributes:
      weight: attribute of the weight that is, None where there is none.
      weight_quantizer: its quantizer.
      held_as: attribute that takes the quantized weight, "" where it is the weight's own.
      output_quantizer: None if the output is no tensor of the int8 graph, or has its input's range.
    """

    weight: str | None = None
    weight_quantizer: Quantizer | None = None
    held_as: str = ""
    output_quantizer: Quantizer | None = None

    def get_weights_and_quantizers(self, layer):
        """The weight and its quantizer."""
        return [(getattr(layer, self.weight), self.weight_quantizer)] if self.weight else []

    def set_quantize_weights(self, layer, quantize_weights):
        """Let the layer compute with the fake-quantized weight."""
        if self.weight:
            setattr(layer, self.held_as or self.weight, quantize_weights[0])

    def get_activations_and_quantizers(self, layer):
        """None: activations inside a layer fuse with it."""
        return []

    def set_quantize_activations(self, layer, quantize_activations):
        """Nothing to set."""
        return None  # a body, or AutoGraph warns

    def get_output_quantizers(self, layer):
        """The quantizer of the output, in a list."""
        return [self.output_quantizer] if self.output_quantizer else []

    def get_config(self):
        """tfmot clones models by configuration; ours are created again each time."""
        return {}


def wrap(
    model: keras.Model, quantizations: Mapping[str, LayerQuantization], features: Range
) -> keras.Model:
    """Wrap every layer of a float model, its weights copied.

    Args:
      model: functional model.
      quantizations: by layer name, input layers left out.
      features: range of the input, fixed: tfmot's own input quantizer widens with every loud clip.

    Returns:
      Functional model of the same inputs and outputs, layers named `quant_<name>`.
    """
    annotated = tfmot.quantization.keras.quantize_annotate_model(model)
    scheme = _Scheme(quantizations)
    qat = tfmot.quantization.keras.quantize_apply(annotated, scheme=scheme)
    _input_layer(qat).quantizer = fixed_range(*features)
    return qat


def wrapper_of(qat: keras.Model, name: str) -> layers.Wrapper:
    """The wrapped layer whose float layer has this name; its attribute `layer` is that layer."""
    return qat.get_layer(f"quant_{name}")


def input_range(qat: keras.Model) -> Range:
    """The pinned range of a wrapped model's input."""
    quantizer = _input_layer(qat).quantizer
    return quantizer.init_min, quantizer.init_max


def output_range(wrapper: layers.Wrapper) -> tuple[tf.Tensor, tf.Tensor] | Range | None:
    """Lowest and highest value of a wrapped layer's output: variables, numbers where fixed.

    Returns:
      None if the output is not quantized.
    """
    quantizer = wrapper.quantize_config.output_quantizer
    if quantizer is None:
        return None
    variables = wrapper._output_quantizer_vars
    if not variables:
        return quantizer.init_min, quantizer.init_max
    return variables["min_var"], variables["max_var"]


def measured_ranges(qat: keras.Model) -> dict[str, tuple[tf.Variable, tf.Variable]]:
    """Low and high of every output that is not fixed, by the float layer's name."""
    ranges = {
        layer.layer.name: output_range(layer)
        for layer in qat.layers
        if isinstance(layer, layers.Wrapper)
    }
    return {
        name: ends for name, ends in ranges.items() if ends and isinstance(ends[0], tf.Variable)
    }


def quantized_weight(wrapper: layers.Wrapper) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A wrapped layer's weight, fake-quantized, and the low and high of its ranges."""
    ((weight, quantizer, variables),) = wrapper._weight_vars
    quantized = quantizer(weight, False, weights=variables)
    return quantized, variables["min_var"], variables["max_var"]


def set_weight_ranges(qat: keras.Model) -> None:
    """Set the range of every weight from its values."""
    for layer in qat.layers:
        for weight, quantizer, variables in getattr(layer, "_weight_vars", ()):
            quantizer(weight, True, weights=variables)


def symmetric_weights(qat: keras.Model) -> dict[str, tf.Variable]:
    """Every weight whose integers are symmetric, by the float layer's name."""
    return {
        layer.layer.name: weight
        for layer in qat.layers
        for weight, quantizer, _ in getattr(layer, "_weight_vars", ())
        if quantizer.symmetric
    }


def _input_layer(qat: keras.Model) -> QuantizeLayer:
    (layer,) = (layer for layer in qat.layers if isinstance(layer, QuantizeLayer))
    return layer


class _Layout(quantize_layout_transform.QuantizeLayoutTransform):
    """Quantize the input, and give every layer its LayerQuantization."""

    def __init__(self, quantizations: Mapping[str, LayerQuantization]):
        self.quantizations = quantizations

    def apply(self, model, layer_quantize_map):
        for name, quantization in self.quantizations.items():
            layer_quantize_map[name]["quantize_config"] = quantization
        return model_transformer.ModelTransformer(
            model,
            [default_8bit_transforms.InputLayerQuantize()],
            set(layer_quantize_map),
            layer_quantize_map,
        ).transform()


class _NoDefaults(quantize_registry.QuantizeRegistry):
    """Nothing by layer type: `_Layout` has decided by then."""

    def supports(self, layer):
        return False

    def get_quantize_config(self, layer):
        return None


class _Scheme(quantize_scheme.QuantizeScheme):
    def __init__(self, quantizations: Mapping[str, LayerQuantization]):
        self.quantizations = quantizations

    def get_layout_transformer(self):
        return _Layout(self.quantizations)

    def get_quantize_registry(self):
        return _NoDefaults()
