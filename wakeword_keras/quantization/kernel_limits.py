"""What int8 kernels cannot compute, known once ranges are: before any file is written.

A kernel that adds shifts its operands by 20 bits; where the output's step is finer than the coarser
operand's by more, TFLite does not refuse the model but ends the whole process. A bias is 32 bits
wide in steps of the sums; TFLite clips one that does not fit, without a word.
Source: tensorflow/lite/kernels/add.cc (Prepare), internal/quantization_util.cc.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.errors import InputError
from wakeword_keras.quantization import layer_kernels as kernels
from wakeword_keras.quantization import layer_rules, tfmot_access

_ADDING = (kernels.add, kernels.subtract, kernels.add_constant, kernels.shift)
_FINEST = 2.0**-19
_BIAS_STEPS = 2.0**31


def check(qat: keras.Model, fp32: keras.Model) -> None:
    """Refuse a calibrated model that the kernels cannot compute.

    Args:
      qat: model from `fake_quantize.quantize(fp32, ...)`, calibrated.
      fp32: the float model that was quantized.

    Raises:
      InputError: names the layers, why and the mend.
    """
    if problems := list(_problems(qat, layer_rules.functional(fp32))):
        raise InputError("; ".join(problems))


def _problems(qat: keras.Model, fp32: keras.Model) -> Iterator[str]:
    scales: dict[str, float] = {}
    for layer in fp32.layers:
        if isinstance(layer, layers.InputLayer):
            scales[layer.name] = _scale(tfmot_access.input_range(qat))
        elif not layer_rules.folds_into_next(layer, fp32):
            chain = layer_rules.fused_chain(layer, fp32)
            read = [scales[before.name] for before in layer_rules.producers(chain[0], fp32)]
            wrappers = [tfmot_access.wrapper_of(qat, part.name) for part in chain]
            ends = tfmot_access.output_range(wrappers[-1])
            scales[layer.name] = read[0] if ends is None else _scale(ends)
            yield from _chain_problems(wrappers, read, scales[layer.name])


def _chain_problems(
    chain: Sequence[layers.Wrapper], read: Sequence[float], out: float
) -> Iterator[str]:
    head = chain[0].layer
    rule = layer_rules.RULES[layer_rules.kind(head)]
    if rule.kernel in _ADDING and out <= _FINEST * max(read):
        yield (
            f"layer {head.name!r} reads values {max(read) / out:.0e} times coarser than those that "
            "it writes, more than its int8 kernel can shift: scale down what it reads, or clamp "
            "that with ReLU(6.0)"
        )
    if rule.weight and rule.kernel in kernels.SUMS:
        steps = kernels.bias_steps(chain, read[0])
        if not np.all(np.abs(steps) < _BIAS_STEPS):
            yield (
                f"layer {head.name!r} has a bias {np.abs(steps).max():.0e} times as large as a "
                "step of its sums, beyond the 32 bits of the int8 kernel: its inputs or weights "
                "are nearly zero on the calibration clips: calibrate on others, or take it out"
            )


def _scale(ends) -> float:
    return float(kernels.scaling_of(*ends).scale)
