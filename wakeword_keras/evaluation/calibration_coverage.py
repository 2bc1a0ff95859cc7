"""Calibration coverage: whether the clips that set the ranges stand for those the device meets.

Ranges are those that the QAT model holds now; activations are its float twin's
(`fake_quantize.unquantized`), because fine-tuning moves weights.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.affine import Affine
from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration

OUTSIDE_LIMIT = 0.001
"""Share of values outside a range above which a tensor is worth a warning."""
OUTPUT_LIMIT = 0.05
"""The same for the model's output: scores beyond its range are far from any threshold."""
WIDE_LIMIT = 4.0
"""A range so many times wider than anything seen wastes two of its eight bits."""
MIX_LIMIT = 0.1
"""Total variation between the class mixes above which the mix is worth a warning."""
SILENT_LIMIT = 0.25
"""Share of silent calibration clips above which they are worth a warning."""


@dataclass(frozen=True)
class LabelMix:
    """Clips of a label in the calibration set and in the training split."""

    label: str
    calibration: int
    training: int


@dataclass(frozen=True)
class TensorCoverage:
    """One quantized tensor: its range, and what the checked clips show.

    Attributes:
      layer: whose output it is; "input" for the features.
      low, high: range of the int8 model.
      seen_low, seen_high: lowest and highest value on the checked clips, zero included.
      outside: share of the checked clips' values outside the range: what int8 clips.
      outside_calibration: the same on the calibration clips.
      overshoot: how far the farthest value lies outside, in widths of the range.
    """

    layer: str
    low: float
    high: float
    seen_low: float
    seen_high: float
    outside: float
    outside_calibration: float
    overshoot: float


@dataclass(frozen=True)
class Coverage:
    """How well the calibration set covers the checked clips.

    Attributes:
      clips_calibration, clips_checked: counts.
      labels: class mix.
      mix_distance: total variation between the two class mixes, 0 (equal) to 1.
      silent_calibration: share of calibration clips whose features are all the same number.
      tensors: in the model's order, the input first.
      shared_ids: clips that are in both sets.
      shared_sounds: pairs (calibration clip, checked clip) of equal features, silent clips left
        out; equal sound gives equal features, whatever the clip is called.
      calibration_sha256, checked_sha256: over ids and features, to repeat the proof.
      warnings: what is wrong and the mend, one line each.
    """

    clips_calibration: int
    clips_checked: int
    labels: tuple[LabelMix, ...]
    mix_distance: float
    silent_calibration: float
    tensors: tuple[TensorCoverage, ...]
    shared_ids: tuple[str, ...]
    shared_sounds: tuple[tuple[str, str], ...]
    calibration_sha256: str
    checked_sha256: str
    warnings: tuple[str, ...] = ()

    @property
    def disjoint(self) -> bool:
        """Whether no clip, by id or by sound, is in both sets."""
        return not (self.shared_ids or self.shared_sounds)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self) | {
            "disjoint": self.disjoint,
            "labels": [dataclasses.asdict(label) for label in self.labels],
            "tensors": [dataclasses.asdict(tensor) for tensor in self.tensors],
            "shared_ids": list(self.shared_ids),
            "shared_sounds": [list(pair) for pair in self.shared_sounds],
            "warnings": list(self.warnings),
        }


def measure(
    model: keras.Model,
    ranges: Mapping[str, tuple[float, float]],
    input_affine: Affine,
    calibration_set: ClipFeatures,
    training_labels: Sequence[str],
    checked: ClipFeatures,
) -> Coverage:
    """Compare a calibration set with the training mix and with clips it must not contain.

    Args:
      model: `fake_quantize.unquantized(qat, fp32)`, a float model with the layers that `ranges`
        names.
      ranges: from `calibration.read_ranges(qat)`.
      input_affine: quantization of the input.
      calibration_set: what calibration saw.
      training_labels: label of every clip of the training split.
      checked: clips of the validation or test split.

    Returns:
      Coverage.

    Raises:
      InputError: there are no clips to check or to compare with.
    """
    if not (len(calibration_set.features) and len(checked.features) and training_labels):
        raise InputError("calibration coverage needs calibration, training and test clips")
    labels = _label_mix([clip.label for clip in calibration_set.clips], training_labels)
    found = Coverage(
        clips_calibration=len(calibration_set),
        clips_checked=len(checked),
        labels=labels,
        mix_distance=_mix_distance(labels),
        silent_calibration=float(np.mean(_silent(calibration_set.features))),
        tensors=_tensors(model, ranges, input_affine, calibration_set.features, checked.features),
        shared_ids=tuple(sorted(_ids(calibration_set) & _ids(checked))),
        shared_sounds=_shared_sounds(calibration_set, checked),
        calibration_sha256=calibration.sha256(calibration_set),
        checked_sha256=calibration.sha256(checked),
    )
    return dataclasses.replace(
        found, warnings=(*_set_warnings(found), *_range_warnings(found, model.output_names))
    )


def _label_mix(chosen: Sequence[str], training: Sequence[str]) -> tuple[LabelMix, ...]:
    ours, theirs = Counter(chosen), Counter(training)
    return tuple(LabelMix(name, ours[name], theirs[name]) for name in sorted(ours | theirs))


def _mix_distance(labels: Sequence[LabelMix]) -> float:
    counts = np.array([(label.calibration, label.training) for label in labels], np.float64)
    shares = counts / counts.sum(axis=0)
    return float(np.abs(shares[:, 0] - shares[:, 1]).sum() / 2)


def _silent(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.ptp(features.reshape(len(features), -1), axis=1) == 0


def _tensors(
    model: keras.Model,
    ranges: Mapping[str, tuple[float, float]],
    input_affine: Affine,
    calibrated: NDArray[np.float32],
    checked: NDArray[np.float32],
) -> tuple[TensorCoverage, ...]:
    # The input layer's output is the features, so that one pass serves all.
    name = model.layers[0].name
    bounds = {name: (input_affine.low, input_affine.high), **ranges}
    seen = calibration.observed_ranges(model, checked, list(bounds))
    outside = calibration.clipped_fractions(model, checked, bounds)
    before = calibration.clipped_fractions(model, calibrated, bounds)
    tensors = []
    for layer, (low, high) in bounds.items():
        seen_low, seen_high = seen[layer]
        beyond = max(low - seen_low, seen_high - high, 0.0)
        tensors.append(
            TensorCoverage(
                "input" if layer == name else layer,
                low,
                high,
                seen_low,
                seen_high,
                outside[layer],
                before[layer],
                # A range that calibration left empty (silence) is infinitely far from any value.
                min(beyond / max(high - low, 1e-12), 1e6),
            )
        )
    return tuple(tensors)


def _ids(clips: ClipFeatures) -> set[str]:
    return {clip.clip_id for clip in clips.clips}


def _shared_sounds(one: ClipFeatures, other: ClipFeatures) -> tuple[tuple[str, str], ...]:
    def hashes(clips: ClipFeatures) -> dict[bytes, str]:
        # Digital silence is equal to digital silence and proves nothing.
        return {
            hashlib.sha256(np.ascontiguousarray(sound, np.float32).tobytes()).digest(): clip.clip_id
            for sound, clip, silent in zip(
                clips.features, clips.clips, _silent(clips.features), strict=True
            )
            if not silent
        }

    ours, theirs = hashes(one), hashes(other)
    return tuple(sorted((ours[key], theirs[key]) for key in ours.keys() & theirs.keys()))


def _set_warnings(found: Coverage) -> list[str]:
    warnings = []
    if not found.disjoint:
        names = [*found.shared_ids, *(f"{a} = {b}" for a, b in found.shared_sounds)]
        warnings.append(
            f"{len(names)} calibration clips are among the checked ones (such as {names[0]}): "
            "remove the duplicates from one split, the figures are too good otherwise"
        )
    missing = [label.label for label in found.labels if label.training and not label.calibration]
    if missing:
        warnings.append(
            f"no calibration clip of {', '.join(missing)}: raise `calibration_clips` or choose "
            "the clips by label"
        )
    if found.mix_distance > MIX_LIMIT:
        warnings.append(
            f"class mix is {100 * found.mix_distance:.0f} % off the training split's: draw the "
            "calibration clips in proportion"
        )
    if found.silent_calibration > SILENT_LIMIT:
        warnings.append(
            f"{100 * found.silent_calibration:.0f} % of the calibration clips are silent: "
            "calibrate on clips with sound, ranges of silence clip speech"
        )
    return warnings


def _range_warnings(found: Coverage, outputs: Sequence[str]) -> list[str]:
    warnings = []
    outside = [
        t
        for t in found.tensors
        if t.outside > (OUTPUT_LIMIT if t.layer in outputs else OUTSIDE_LIMIT)
    ]
    if outside:
        worst = max(outside, key=lambda t: t.outside)
        # Ranges start at the calibration clips' extremes: what clips those is fine-tuning's doing.
        if worst.outside_calibration > worst.outside / 2:
            mend = "fine-tuning moved its values out of its range: lower `qat_learning_rate`"
        else:
            mend = "calibrate on more clips, as loud and varied as these"
        warnings.append(
            f"{len(outside)} of {len(found.tensors)} tensors clip too many of their values, "
            f"{worst.layer} {100 * worst.outside:.2f} % ({worst.seen_low:.4g} to "
            f"{worst.seen_high:.4g} in a range of {worst.low:.4g} to {worst.high:.4g}): {mend}"
        )
    wide = [t for t in found.tensors if _too_wide(t)]
    if wide:
        worst = max(wide, key=lambda t: (t.high - t.low) / max(t.seen_high - t.seen_low, 1e-12))
        warnings.append(
            f"{len(wide)} tensors have ranges over {WIDE_LIMIT:g} times wider than anything seen, "
            f"{worst.layer} {worst.low:.4g} to {worst.high:.4g} for values from "
            f"{worst.seen_low:.4g} to {worst.seen_high:.4g}: calibrate without outliers"
        )
    return warnings


def _too_wide(tensor: TensorCoverage) -> bool:
    seen = tensor.seen_high - tensor.seen_low
    return tensor.layer != "input" and tensor.high - tensor.low > WIDE_LIMIT * seen
