"""Which tensors of the int8 graph share a range, and what decides it.

A kernel that only moves values demands that what it reads and what it writes have one scale. So a
range follows a tensor through every such kernel, forward and back, until nothing more is joined.
"""

from dataclasses import dataclass

import tf_keras as keras
from tf_keras import layers

from wakeword_keras.quantization import layer_rules, tfmot_access

INPUT = "the pinned range of the model's input"


@dataclass(frozen=True)
class RangeGroup:
    """Tensors of one range.

    Attributes:
      writers: layers that compute them, those that only move values left out.
      demanded: ranges that kernels demand, or INPUT, by the name of the layer that does; where
        there is none, the writers' values decide.
    """

    writers: tuple[layers.Layer, ...]
    demanded: dict[str, tfmot_access.Range | str]


def range_groups(model: keras.Model) -> list[RangeGroup]:
    """Join the tensors of a model that share a range.

    Args:
      model: functional model of layers that have a rule.

    Returns:
      Groups, each tensor of the int8 graph in one of them.
    """
    written = [layer for layer in model.layers if not layer_rules.folds_into_next(layer, model)]
    joined = {layer.name: {layer.name} for layer in written}
    for layer in written:
        if _range(layer) == layer_rules.SAME:
            names = [layer.name, *(before.name for before in layer_rules.producers(layer, model))]
            together = set().union(*(joined[name] for name in names))
            joined |= dict.fromkeys(together, together)
    groups = {id(names): names for names in joined.values()}.values()
    return [_group([layer for layer in written if layer.name in names], model) for names in groups]


def _group(members: list[layers.Layer], model: keras.Model) -> RangeGroup:
    demanded = {
        layer.name: _range(layer)
        for layer in members
        if _range(layer) not in (layer_rules.FREE, layer_rules.SAME)
    }
    for layer in members:
        for reader in layer_rules.consumers(layer, model):
            if reads := layer_rules.RULES[layer_rules.kind(reader)].reads:
                demanded[reader.name] = reads
    writers = tuple(layer for layer in members if _range(layer) != layer_rules.SAME)
    return RangeGroup(writers, demanded)


def _range(layer: layers.Layer) -> tfmot_access.Range | str:
    if isinstance(layer, layers.InputLayer):
        return INPUT
    return layer_rules.RULES[layer_rules.kind(layer)].range
