"""tensorflow-model-optimization (tfmot): the one module that knows it, its private parts included.

tfmot wraps each layer of a model in another named `quant_<name>`, which fake-quantizes the weights
and the output. What is quantized, and in which range, its own registry would decide; here a
`LayerQuantization` for every layer does, put in through its `QuantizeScheme`.
"""

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
    default_8bit_quantizers,
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


class _DepthwiseQuantizer(default_8bit_quantizers.Default8BitConvWeightsQuantizer):
    """Symmetric int8 weights, a range for every channel of [height, width, channels, multiplier].

    tfmot takes the last axis for the channels, which is the multiplier, of size 1: one range for
    all channels, while channels of a depthwise kernel differ most.
    """

    def build(self, tensor_shape, name, layer):
        """Create the range variables of every channel."""
        return super().build((tensor_shape[2] * tensor_shape[3],), name, layer)

    def __call__(self, inputs, training, weights, **kwargs):
        """The kernel, fake-quantized."""
        shape = inputs.shape
        by_channel = tf.reshape(inputs, (1, shape[0], shape[1], shape[2] * shape[3]))
        quantized = super().__call__(by_channel, training, weights, **kwargs)
        return tf.reshape(quantized, shape)


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
    return default_8bit_quantizers.Default8BitConvWeightsQuantizer()


def per_depthwise_channel() -> Quantizer:
    """The same for every channel of a depthwise kernel."""
    return _DepthwiseQuantizer()


def per_tensor() -> Quantizer:
    """Symmetric int8 weights of one range."""
    return quantizers.LastValueQuantizer(
        num_bits=8, per_axis=False, symmetric=True, narrow_range=True
    )


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
