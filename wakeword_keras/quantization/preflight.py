"""Preflight: what of a model would stay float or be rejected, known before any training."""

from dataclasses import dataclass

import tf_keras as keras
from tf_keras import layers

from wakeword_keras.models import activations, operations
from wakeword_keras.quantization import layer_rules

ACTIVATION_MENDS = {
    "swish": "multiply the input by a sigmoid layer of it with layers.Multiply, or use HardSwish",
    "silu": "multiply the input by a sigmoid layer of it with layers.Multiply, or use HardSwish",
    "gelu": "use ReLU or HardSwish: TFLite Micro has no GELU",
    "hard_sigmoid": "use wakeword_keras.models.activations.hard_sigmoid",
}
LAYER_MENDS = {
    "LayerNormalization": "use wakeword_keras.models.conformer.layer_norm",
    "MultiHeadAttention": "use wakeword_keras.models.conformer.self_attention",
    "Attention": "use wakeword_keras.models.operations.MatMul, layers.Softmax and MatMul again",
    "Conv1D": "reshape to an image and use Conv2D with a kernel of (width, 1)",
    "DepthwiseConv1D": "reshape to an image and use DepthwiseConv2D with a kernel of (width, 1)",
    "SeparableConv2D": "write it as DepthwiseConv2D and Conv2D",
    "MaxPooling1D": "reshape to an image and use MaxPooling2D",
    "AveragePooling1D": "reshape to an image and use AveragePooling2D",
    "GlobalAveragePooling1D": "reshape to an image and use GlobalAveragePooling2D",
    "Rescaling": "scale the features where they are made, or let batch norm do it",
    "TFOpLambda": "write the operation as a layer, such as layers.Add or layers.Multiply",
    "SlicingOpLambda": "take the part you need where the features are made",
    "Lambda": "write the operation as a layer of its own class",
}
SUPPORTED = (
    *layer_rules.FREE_RANGE,
    *layer_rules.SAME_RANGE,
    activations.HardSigmoidScale,
    operations.UnitLength,
    layers.Activation,
    layers.InputLayer,
    layers.Softmax,
)


@dataclass(frozen=True)
class Problem:
    """A layer that would stay float or be rejected, why, and what to write instead."""

    layer: str
    reason: str
    mend: str

    def __str__(self) -> str:
        return f"layer {self.layer!r} {self.reason}: {self.mend}"


def check_quantizable(model: keras.Model) -> list[Problem]:
    """List every layer that would stay float or be rejected by quantization.

    Args:
      model: the float model, before or after training.

    Returns:
      Problems in the model's order, empty if `fake_quantize.quantize` takes the model.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "_is_graph_network", False):
        return [
            Problem(
                getattr(model, "name", str(model)),
                "is no functional model, so its operations cannot be seen",
                "build it with tf_keras.Model(inputs, outputs)",
            )
        ]
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return [
            Problem(
                model.name,
                f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
                "give it one of each, features and logits",
            )
        ]
    found = [_problem(layer, model) for layer in model.layers]
    return [
        Problem(layer.name, *what) for layer, what in zip(model.layers, found, strict=True) if what
    ]


def _problem(layer: layers.Layer, model: keras.Model) -> tuple[str, str] | None:
    """Reason and mend, None if the layer quantizes."""
    if isinstance(layer, keras.Model):
        return "is a model inside the model", "add its layers to the outer model directly"
    if type(layer) not in SUPPORTED:
        kind = type(layer).__name__
        return f"is a {kind}, which has no int8 form here", LAYER_MENDS.get(
            kind, "replace it by layers of " + ", ".join(sorted(_names()))
        )
    if len(layer.inbound_nodes) > 1:
        return (
            "is used more than once, and each use has a range of its own",
            "use a layer for each",
        )
    return _option_problem(layer, model)


def _option_problem(layer: layers.Layer, model: keras.Model) -> tuple[str, str] | None:
    name = layer_rules.activation_name(layer)
    if isinstance(layer, layers.BatchNormalization):
        before = layer.inbound_nodes[0].inbound_layers
        if isinstance(before, list) or not layer_rules.folds_into_next(before, model):
            return (
                "is a batch norm that folds into no kernel",
                "put it directly behind a convolution or Dense layer without activation that "
                "nothing else reads",
            )
    if isinstance(layer, layers.ReLU) and (
        layer.negative_slope or layer.threshold or layer.max_value not in (None, 6)
    ):
        return "is a ReLU that no kernel clamps to", "use layers.ReLU() or layers.ReLU(6.0)"
    if type(layer) in layer_rules.KERNELS and name not in ("linear", *layer_rules.CLAMPS):
        return (
            f"holds an operation and its activation {name}, with no range between",
            "give the activation a layer of its own",
        )
    known = ("linear", *layer_rules.CLAMPS, *layer_rules.FIXED_ACTIVATIONS)
    if isinstance(layer, layers.Activation) and name not in known:
        return (
            f"has the activation {name}, which is no single int8 kernel",
            ACTIVATION_MENDS.get(str(name), "use one of " + ", ".join(known)),
        )
    return None


def _names() -> set[str]:
    return {kind.__name__ for kind in SUPPORTED}
