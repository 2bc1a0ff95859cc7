"""Preflight: what of a model would stay float or be rejected, known before any training."""

from dataclasses import dataclass

import tensorflow as tf
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.models import operations
from wakeword_keras.quantization import layer_rules, shared_ranges

_RESHAPING: tuple[layer_rules.Kind, ...] = (layers.Reshape, layers.Flatten)
_PASSING: tuple[layer_rules.Kind, ...] = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.Permute,
    "linear",
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
    problem = _whole_problem(model)
    if problem:
        return [problem]
    model = layer_rules.functional(model)
    by_layer = [_problem(layer, model) for layer in model.layers]
    found = [problem for problem in by_layer if problem]
    return found or [
        problem for group in shared_ranges.range_groups(model) for problem in _range_problems(group)
    ]


def _whole_problem(model: keras.Model) -> Problem | None:
    """What is wrong with a model before any of its layers is looked at."""
    name = getattr(model, "name", str(model))
    if not isinstance(model, keras.Model) or not getattr(model, "_is_graph_network", False):
        mend = "build it with tf_keras.Model(inputs, outputs)"
        if isinstance(model, keras.Sequential):
            mend = "begin it with layers.Input(shape)"
        return Problem(name, "is no functional model, so its operations cannot be seen", mend)
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return Problem(
            name,
            f"has {len(model.inputs)} inputs and {len(model.outputs)} outputs",
            "give it one of each, features and logits",
        )
    if isinstance(model.output, list | tuple | dict):
        return Problem(
            name,
            f"gives its output in a {type(model.output).__name__}",
            "build it with the tensor itself, tf_keras.Model(inputs, logits)",
        )
    return None


def _problem(layer: layers.Layer, model: keras.Model) -> Problem | None:
    if isinstance(layer, layers.InputLayer):
        return _input_problem(layer)
    if isinstance(layer, keras.Model):
        return Problem(
            layer.name, "is a model inside the model", "add its layers to the outer model directly"
        )
    if layer_rules.kind(layer) not in layer_rules.RULES:
        return _unknown(layer)
    if len(layer_rules.calls(layer, model)) > 1:
        return Problem(
            layer.name,
            "is used more than once, and each use has a range of its own",
            "use a layer for each",
        )
    return _rule_problem(layer, model) or _argument_problem(layer)


def _input_problem(layer: layers.InputLayer) -> Problem | None:
    (tensor,) = tf.nest.flatten(layer.output)
    if layer.sparse or layer.ragged or tensor.dtype != tf.float32:
        return Problem(
            layer.name, f"is an input of {tensor.dtype.name}", "give it dense float32 features"
        )
    if None in tensor.shape[1:]:
        return Problem(
            layer.name,
            f"is an input of shape {list(tensor.shape[1:])}",
            "give every size but the batch's: int8 kernels take no other",
        )
    return None


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
    """What its row in `layer_rules.RULES` does not allow of where a layer stands."""
    kind = layer_rules.kind(layer)
    rule = layer_rules.RULES[kind]
    title = layer_rules.title(kind)
    if rule.alone and len(layer_rules.fused_chain(layer, model)) == 1:
        return Problem(layer.name, f"is a {title} that folds into no kernel", rule.alone)
    (call,) = layer_rules.calls(layer, model)
    given = [n for n, value in call.call_kwargs.items() if value is not None and value is not False]
    if given or call.call_args[1:]:
        reason = f"is called with {', '.join(given) or 'more than its input'}"
        return Problem(layer.name, reason, "call it with its input alone")
    read = len(layer_rules.producers(layer, model))
    if rule.inputs not in (None, read):
        reason = f"reads {read} tensors, its int8 kernel {rule.inputs}"
        return Problem(layer.name, reason, f"use a {title} for two, and another for the next")
    return _miscomputed(layer, model)


def _miscomputed(layer: layers.Layer, model: keras.Model) -> Problem | None:
    """What the converter, or TensorFlow 2.21 itself, gets wrong of a layer that the rules allow."""
    if len(layer_rules.producers(layer, model)) == 2 and _reads_one_reshaped(layer, model):
        reason = (
            "reads one tensor twice, reshaped: the converter mixes up its scale and the result's"
        )
        return Problem(layer.name, reason, "put the Reshape or Flatten layer behind it")
    if isinstance(layer, operations.ChannelMean) and layer.input_shape[-1] == 1:
        reason = "averages one channel, which the converter leaves out"
        return Problem(layer.name, reason, "leave it out, too")
    if layer_rules.kind(layer) is layers.Conv2D and _steps_beyond_one_column(layer):
        reason = "reads one channel and writes one column at strides above 1: TensorFlow gives NaN"
        mend = "take off what it does not read with layers.Cropping2D and give strides of 1 there"
        return Problem(layer.name, reason, mend)
    return None


def _steps_beyond_one_column(layer: layers.Conv2D) -> bool:
    # oneDNN's AVX-512 kernels read beyond the tensor, so now and then. Found by trying shapes.
    return layer.input_shape[-1] == 1 and layer.output_shape[2] == 1 and layer.strides[1] > 1


def _reads_one_reshaped(layer: layers.Layer, model: keras.Model) -> bool:
    """Whether all that a layer reads is one tensor, which a RESHAPE of the file has written."""
    paths = [_path(before, model) for before in layer_rules.producers(layer, model)]
    sources = {path[-1].name for path in paths}
    reshapes = any(layer_rules.kind(part) in _RESHAPING for path in paths for part in path)
    return len(sources) == 1 and reshapes


def _strides_for_nothing(layer: layers.Conv2D) -> bool:
    """Whether TensorFlow 2.21's AVX-512 kernels compute a convolution wrongly, now and then."""
    return layer.input_shape[-1] == 1 and layer.output_shape[2] == 1 and layer.strides[1] > 1


def _path(layer: layers.Layer, model: keras.Model) -> list[layers.Layer]:
    """A layer and those before it, back to the one that gives the values that they pass on."""
    path = [layer]
    while layer_rules.kind(path[-1]) in (*_RESHAPING, *_PASSING):
        path += layer_rules.producers(path[-1], model)
    return path


def _argument_problem(layer: layers.Layer) -> Problem | None:
    """What its row does not allow of a layer's arguments, or does not know."""
    rule = layer_rules.RULES[layer_rules.kind(layer)]
    free = {*rule.free, *layer_rules.FREE_EVERYWHERE}
    options = {**layer_rules.EVERYWHERE, **rule.options}
    for argument, value in layer.get_config().items():
        if argument in free or argument.endswith(layer_rules.FREE_ENDINGS):
            continue
        if argument == "activation":
            value = layer_rules.activation_name(layer)
        if isinstance(layer, layers.Activation) and argument == "activation":
            continue  # it is what chose the row
        reason = f"has {argument}={value}, which its int8 kernel does not compute"
        if argument not in options:
            return Problem(layer.name, reason, f"leave {argument} out: nothing here knows it")
        if not options[argument].allows(value, layer):
            return Problem(layer.name, reason, options[argument].mend)
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
