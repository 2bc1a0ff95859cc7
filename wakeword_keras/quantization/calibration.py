"""Calibration: activation statistics on training clips, before anything is quantized.

tfmot's observers start at +-6 and follow the data with a decay of 0.999 a step, so a short
fine-tuning would end with ranges that nobody measured. Here every range is set from the float
model's activations on a representative dataset. Only ranges change: weights and batch-norm
statistics stay untouched.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import kernel_limits, layer_rules, tfmot_access
from wakeword_keras.quantization.tfmot_access import NARROWEST

BATCH = 64


@dataclass(frozen=True)
class ActivationRange:
    """Range of one quantized activation, and the share of values outside it.

    `before` is what tfmot starts with, `after` the lowest and highest value on the calibration set,
    on which both shares are counted.
    """

    layer: str
    before: tuple[float, float]
    after: tuple[float, float]
    clipped_before: float
    clipped_after: float


def representative_dataset(features: NDArray[np.float32]) -> Callable[[], Iterator[list]]:
    """What the TFLite converter asks for: a function that gives one [1, frames, channels] a clip.

    Args:
      features: float32 [clips, frames, channels], of the calibration clips.
    """

    def clips() -> Iterator[list]:
        for clip in features:
            yield [clip[np.newaxis]]

    return clips


def sha256(calibrated: ClipFeatures) -> str:
    """Hash of the clip ids in order and of their features."""
    digest = hashlib.sha256("\n".join(clip.clip_id for clip in calibrated.clips).encode())
    digest.update(np.ascontiguousarray(calibrated.features).tobytes())
    return digest.hexdigest()


def choose_clips(labels: Sequence[str], clips: int, seed: int) -> NDArray[np.int64]:
    """Choose clips so that every label is represented in proportion, and at least once.

    Args:
      labels: label of every clip one may choose from (the training split).
      clips: how many to choose at most.
      seed: of the draw; the same seed chooses the same clips.

    Returns:
      int64 indices into `labels`, sorted.
    """
    rng = np.random.default_rng(seed)
    names, label_of = np.unique(np.asarray(labels), return_inverse=True)
    share = min(1.0, clips / len(labels))
    chosen = []
    for label in range(len(names)):
        members = np.flatnonzero(label_of == label)
        count = max(1, round(share * len(members)))
        chosen.append(rng.choice(members, count, replace=False))
    return np.sort(np.concatenate(chosen))


def calibrate(
    qat: keras.Model, fp32: keras.Model, features: NDArray[np.float32]
) -> list[ActivationRange]:
    """Set every range of a fake-quantized model from the float model's activations.

    Weight ranges are set from the weights by their quantizers. Ranges that a kernel demands (of
    sigmoid, say) have no variables and stay as they are.

    Args:
      qat: model from `fake_quantize.quantize(fp32, ...)`, changed in place (ranges only).
      fp32: the float model that was quantized.
      features: float32 [clips, frames, channels], the representative dataset.

    Returns:
      One ActivationRange for each measured activation, in the model's order.

    Raises:
      InputError: a quantizer has no float layer of the same name to measure; there are no clips, of
        another shape, or holding NaN or infinity; a layer's values do, or no int8
        kernel computes them.
    """
    fp32 = layer_rules.functional(fp32)
    variables = tfmot_access.measured_ranges(qat)
    unknown = [name for name in variables if name not in {layer.name for layer in fp32.layers}]
    if unknown:
        raise InputError(
            f"layers {', '.join(unknown)} are not in the float model: "
            "give the one that was quantized"
        )
    _check_clips(fp32, features)
    _check_weights(qat)
    before = read_ranges(qat)
    clipped = clipped_fractions(fp32, features, before)
    observed = observed_ranges(fp32, features, list(variables))
    _check_observed(observed)
    for low, high in variables.values():
        low.assign(0.0)
        high.assign(0.0)
    for name, (low, high) in variables.items():  # a range that layers share holds the values of all
        low.assign(min(float(low), observed[name][0]))
        high.assign(max(float(high), observed[name][1]))
    for low, high in variables.values():
        if low == high:  # always zero, at any scale; the converter's is too fine for biases
            high.assign(1.0)
    tfmot_access.set_weight_ranges(qat)
    kernel_limits.check_sums(qat, fp32)
    after = read_ranges(qat)
    return [
        ActivationRange(name, before[name], after[name], clipped[name], 0.0) for name in variables
    ]


def _check_clips(fp32: keras.Model, features: NDArray[np.float32]) -> None:
    shape = tuple(fp32.inputs[0].shape[1:])
    if not len(features) or np.shape(features)[1:] != shape:
        raise InputError(
            f"calibration: {len(features)} clips of features {list(np.shape(features)[1:])}: "
            f"give at least one, of {list(shape)}"
        )
    finite = np.isfinite(features).reshape(len(features), -1).all(axis=1)
    if not finite.all():
        raise InputError(
            f"calibration: clip {np.flatnonzero(~finite)[0]}, counted from 0, holds NaN or "
            f"infinity ({np.count_nonzero(~finite)} of {len(features)} clips do): leave it out"
        )


def _check_observed(observed: dict[str, tuple[float, float]]) -> None:
    for name, ends in observed.items():
        if not np.isfinite(ends).all():
            raise InputError(
                f"layer {name!r} gives NaN or infinity on the calibration clips: its weights, or "
                "those before it, have diverged: train the model again"
            )


def _check_weights(qat: keras.Model) -> None:
    for name, weight in tfmot_access.symmetric_weights(qat).items():
        largest = np.abs(weight.numpy()).max()
        if not np.isfinite(largest):
            raise InputError(f"layer {name!r} has weights of NaN or infinity: train it again")
        if 0 < largest < NARROWEST / 2:
            raise InputError(
                f"layer {name!r} has weights of at most {largest:.1g}, too small for int8 "
                f"({NARROWEST / 2:.0e}): scale them up, or take the layer out"
            )


def read_ranges(qat: keras.Model) -> dict[str, tuple[float, float]]:
    """The activation ranges that a fake-quantized model holds now, by float layer name."""
    return {
        name: (float(low), float(high))
        for name, (low, high) in tfmot_access.measured_ranges(qat).items()
    }


def clipped_fractions(
    fp32: keras.Model, features: NDArray[np.float32], ranges: dict[str, tuple[float, float]]
) -> dict[str, float]:
    """Share of each layer's float activations outside the given ranges, on the given features."""
    shares = _clipped_fractions(_probe(fp32, list(ranges)), features, list(ranges.values()))
    return dict(zip(ranges, shares, strict=True))


def observed_ranges(
    fp32: keras.Model, features: NDArray[np.float32], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each named layer's float output, zero always within."""
    return dict(zip(names, _observe(_probe(fp32, names), features), strict=True))


def _probe(fp32: keras.Model, names: Sequence[str]) -> keras.Model:
    return keras.Model(fp32.inputs, [layer_rules.output_of(name, fp32) for name in names])


def _batches(probe: keras.Model, features: NDArray[np.float32]) -> Iterator[list[NDArray]]:
    if not probe.outputs:  # of a model without a measured range
        return
    for start in range(0, len(features), BATCH):
        outputs = probe.predict_on_batch(features[start : start + BATCH])
        yield outputs if isinstance(outputs, list) else [outputs]


def _observe(probe: keras.Model, features: NDArray[np.float32]) -> list[tuple[float, float]]:
    low = np.zeros(len(probe.outputs))  # a quantized range always holds zero
    high = np.zeros(len(probe.outputs))
    for outputs in _batches(probe, features):
        low = np.minimum(low, [output.min() for output in outputs])
        high = np.maximum(high, [output.max() for output in outputs])
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def _clipped_fractions(
    probe: keras.Model, features: NDArray[np.float32], ranges: list[tuple[float, float]]
) -> list[float]:
    outside = np.zeros(len(ranges))
    for outputs in _batches(probe, features):
        shares = [
            np.mean((output < low) | (output > high))
            for output, (low, high) in zip(outputs, ranges, strict=True)
        ]
        outside += np.asarray(shares) * len(outputs[0])
    return [float(share) for share in outside / len(features)]
