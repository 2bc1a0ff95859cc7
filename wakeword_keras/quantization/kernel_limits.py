"""What int8 kernels cannot compute, known once ranges are: before any file is written.

A kernel that adds shifts its operands by 20 bits; where the output's step is finer than the coarser
operand's by more, TFLite does not refuse the model but ends the whole process. A bias is 32 bits
wide in steps of the sums; TFLite clips one that does not fit, without a word. And it quantizes
biases that are all equal by the scale of the first channel.
Source: tensorflow/lite/kernels/add.cc (Prepare), internal/quantization_util.cc.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tf_keras as keras
from tf_keras import layers

from wakeword_keras.errors import InputError
from wakeword_keras.quantization import layer_kernels as kernels
from wakeword_keras.quantization import layer_rules, tfmot_access

_ADDING = (kernels.add, kernels.subtract, kernels.add_constant, kernels.shift)
_FINEST = 2.0**-19
_BIAS_STEPS = 2.0**31


def check_sums(qat: keras.Model, fp32: keras.Model) -> None:
    """Refuse a calibrated model at which TFLite would end the process, on conversion already.

    Args:
      qat: model from `fake_quantize.quantize(fp32, ...)`, its ranges set.
      fp32: the float model that was quantized.

    Raises:
      InputError: names the layers, why and the mend.
    """
    _raise(_sum_problem(*kernel) for kernel in _kernels(qat, layer_rules.functional(fp32)))


def check_biases(qat: keras.Model, fp32: keras.Model) -> None:
    """Refuse a model whose biases the file cannot hold; an untrained one may have such.

    Args:
      qat, fp32: as for `check_sums`.

    Raises:
      InputError: names the layers, why and the mend.
    """
    _raise(
        _bias_problem(chain, read[0])
        for chain, read, _ in _kernels(qat, layer_rules.functional(fp32))
        if layer_rules.RULES[layer_rules.kind(chain[0].layer)].kernel in kernels.SUMS
    )


def _raise(problems: Iterable[str]) -> None:
    if found := [problem for problem in problems if problem]:
        raise InputError("; ".join(found))


def _kernels(
    qat: keras.Model, fp32: keras.Model
) -> Iterator[tuple[Sequence[layers.Wrapper], Sequence[float], float]]:
    """The layers that each kernel computes, the scales that it reads and the one that it writes."""
    scales: dict[str, float] = {}
    for chain in layer_rules.kernel_chains(fp32):
        if isinstance(chain[0], layers.InputLayer):
            scales[chain[0].name] = _scale(tfmot_access.input_range(qat))
        else:
            read = [scales[before.name] for before in layer_rules.producers(chain[0], fp32)]
            wrappers = [tfmot_access.wrapper_of(qat, part.name) for part in chain]
            ends = tfmot_access.output_range(wrappers[-1])
            scales[chain[-1].name] = read[0] if ends is None else _scale(ends)
            yield wrappers, read, scales[chain[-1].name]


def _sum_problem(chain: Sequence[layers.Wrapper], read: Sequence[float], out: float) -> str:
    layer = chain[0].layer
    adds = layer_rules.RULES[layer_rules.kind(layer)].kernel in _ADDING
    if not adds or out > _FINEST * max(read):
        return ""
    return (
        f"layer {layer.name!r} reads values {max(read) / out:.0e} times coarser than those that it "
        "writes, more than its int8 kernel can shift: scale down what it reads, or clamp that with "
        "ReLU(6.0)"
    )


def _bias_problem(chain: Sequence[layers.Wrapper], read: float) -> str:
    name = chain[0].layer.name
    _, bias, unit = (np.asarray(part) for part in kernels.integer_weights(chain, read))
    steps = np.abs(bias / unit)
    if not np.all(steps < _BIAS_STEPS):
        return (
            f"layer {name!r} has a bias of {steps.max():.0e} steps of its sums, beyond the 32 bits "
            "of the int8 kernel: what it reads on the calibration clips, its weights or its batch "
            "norm's gamma are nearly zero: train the model further, or take those channels out"
        )
    if unit.size > 1 and bias.size > 1 and np.ptp(unit) and not np.ptp(bias) and bias[0]:
        return (
            f"layer {name!r} has the bias {bias[0]:.3g} in every channel, which the TFLite "
            "converter rounds by the first channel's scale alone: train the model, or let its "
            "biases begin at zero"
        )
    return ""


def _scale(ends) -> float:
    return float(kernels.scaling_of(*ends).scale)
