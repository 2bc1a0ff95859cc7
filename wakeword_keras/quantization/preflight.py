"""Preflight: what of a model would stay float or be rejected, known before any training."""

from dataclasses import dataclass

import tf_keras as keras
from tf_keras import layers

from wakeword_keras.quantization import layer_rules, shared_ranges


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
    by_layer = [_problem(layer, model) for layer in model.layers]
    found = [problem for problem in by_layer if problem]
    return found or [
        problem for group in shared_ranges.range_groups(model) for problem in _range_problems(group)
    ]


def _problem(layer: layers.Layer, model: keras.Model) -> Problem | None:
    if isinstance(layer, layers.InputLayer):
        return None
    if isinstance(layer, keras.Model):
        return Problem(
            layer.name, "is a model inside the model", "add its layers to the outer model directly"
        )
    if layer_rules.kind(layer) not in layer_rules.RULES:
        return _unknown(layer)
    if len(layer.inbound_nodes) > 1:
        return Problem(
            layer.name,
            "is used more than once, and each use has a range of its own",
            "use a layer for each",
        )
    return _rule_problem(layer, model)


def _unknown(layer: layers.Layer) -> Problem:
    """The problem of a layer type, or of an activation, that has no row."""
    kind = layer_rules.kind(layer)
    title = layer_rules.title(kind)
    known = sorted(layer_rules.title(row) for row in layer_rules.RULES if type(row) is type(kind))
    if isinstance(kind, str):
        reason = f"has the activation {title}, which is no single int8 kernel"
    else:
        reason = f"is a {title}, which has no int8 form here"
    mend = layer_rules.INSTEAD.get(title, "replace it by one of " + ", ".join(known))
    return Problem(layer.name, reason, mend)


def _rule_problem(layer: layers.Layer, model: keras.Model) -> Problem | None:
    """What its row in `layer_rules.RULES` does not allow of a layer."""
    kind = layer_rules.kind(layer)
    rule = layer_rules.RULES[kind]
    if rule.alone and len(layer_rules.fused_chain(layer, model)) == 1:
        title = layer_rules.title(kind)
        return Problem(layer.name, f"is a {title} that folds into no kernel", rule.alone)
    for argument, option in rule.options.items():
        value = getattr(layer, argument)
        value = layer_rules.activation_name(layer) if argument == "activation" else value
        if value not in option.allowed:
            reason = f"has {argument}={value}, which its int8 kernel does not compute"
            return Problem(layer.name, reason, option.mend)
    return None


def _range_problems(group: shared_ranges.RangeGroup) -> list[Problem]:
    """Layers that cannot have the range that is demanded elsewhere: of values beyond, or demands.

    Moving kernels (a concatenation, pooling) and the kernel that demands a range join them.
    """
    if not group.demanded:
        return []
    (first, demand), *others = group.demanded.items()
    torn = [name for name, other in others if other != demand]
    measured = [layer for layer in group.writers if layer.name not in group.demanded]
    torn += [layer.name for layer in measured if not _is_within(layer, demand)]
    reason = f"shares a range with {first!r}, which has {demand}"
    mend = f"put a layer that computes, such as Conv2D or ReLU(6.0), between it and {first!r}"
    return [Problem(name, reason, mend) for name in torn]


def _is_within(layer: layers.Layer, demand) -> bool:
    low, high = layer_rules.clamp(layer)
    return demand != shared_ranges.INPUT and demand[0] <= low and high <= demand[1]
