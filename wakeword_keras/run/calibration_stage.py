"""The calibration stage: what the ranges of activations are measured on, and what they came to."""

from dataclasses import asdict

import numpy as np
import tf_keras as keras

from wakeword_keras.audio.features import compute
from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.data.shards import Shards, read_audio
from wakeword_keras.files import write_json
from wakeword_keras.names import TRAIN
from wakeword_keras.quantization import calibration, kernel_limits
from wakeword_keras.run.config import RunConfig
from wakeword_keras.run.directory import RunDirectory
from wakeword_keras.training import batches
from wakeword_keras.training.negatives import Negatives


def choose(config: RunConfig, shards: Shards, negatives: Negatives | None) -> ClipFeatures:
    """A stratified choice of training clips, and windows of ambient audio in a batch's share.

    Args:
      config: the run, which says how many examples.
      shards: its clips.
      negatives: its ambient audio, if any.

    Returns:
      ClipFeatures: clips from the front end's beginning, windows as it ran through.
    """
    clips = shards.clips[TRAIN]
    in_batch = batches.clips_in_batch(config.data, negatives)
    of_clips = max(1, round(config.calibration_clips * in_batch / config.data.batch))
    chosen = calibration.choose_clips([clip.label for clip in clips], of_clips, config.seed)
    wanted = set(chosen.tolist())
    audio = (clip for i, clip in enumerate(read_audio(shards, TRAIN)) if i in wanted)
    features = np.concatenate([compute(clip[None], config.frontend) for clip in audio])
    found = ClipFeatures(tuple(clips[i] for i in chosen), features)
    if negatives is None:
        return found
    windows = negatives.sample(config.calibration_clips - of_clips, config.seed)
    return ClipFeatures(
        found.clips + windows.clips, np.concatenate([found.features, windows.features])
    )


def calibrate(
    run: RunDirectory,
    qat: keras.Model,
    fp32: keras.Model,
    calibration_set: ClipFeatures,
) -> None:
    """Set the ranges that QAT starts from, and write them with what they rest on.

    Args:
      run: takes `calibration.json`.
      qat: gets the ranges.
      fp32: whose activations are measured.
      calibration_set: examples to run through it.

    Raises:
      InputError: a layer's values hold NaN or infinity, or no INT8 kernel computes them or its
        biases; the message names it.
    """
    ranges = calibration.calibrate(qat, fp32, calibration_set.features)
    kernel_limits.check_biases(qat, fp32)  # not only after fine-tuning
    write_json(run.path("calibration.json"), _record(calibration_set, ranges))


def _record(calibration_set: ClipFeatures, ranges: list[calibration.ActivationRange]) -> dict:
    labels, counts = np.unique([clip.label for clip in calibration_set.clips], return_counts=True)
    return {
        "split": "train",
        "clips": len(calibration_set),
        "clips_by_label": dict(zip(labels.tolist(), counts.tolist(), strict=True)),
        "sha256": calibration.sha256(calibration_set),
        "activations": [asdict(activation) for activation in ranges],
        "clip_ids": [clip.clip_id for clip in calibration_set.clips],
    }
