"""A run's models and the held-out data they are measured on: every runtime on the same clips."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tf_keras as keras

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.data.corpus import Clip
from wakeword_keras.data.shards import Shards, split_features
from wakeword_keras.evaluation.scores import Scores, score
from wakeword_keras.metrics import stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.names import FP32, INT8, QAT
from wakeword_keras.quantization import integer_model
from wakeword_keras.streams import scoring, stepwise
from wakeword_keras.tflite.scorers import (
    ModelFacts,
    Scorer,
    keras_facts,
    keras_scorer,
    onnx_facts,
    onnx_scorer,
    open_tflite,
)


@dataclass(frozen=True)
class RunModels:
    """The models of a run.

    Attributes:
      fp32, qat: in Keras.
      exported: .tflite files by model name: fp32_tflite, int8_ptq, int8.
      streaming: the same models step by step; empty of an architecture that does not stream.
      onnx: .onnx files by model name, fp32_onnx and int8_onnx; empty where none were written.
      calibration_set: what set the ranges.
      training_labels: label of every training clip.
    """

    fp32: keras.Model
    qat: keras.Model
    exported: Mapping[str, Path]
    streaming: Mapping[str, Path]
    onnx: Mapping[str, Path]
    calibration_set: ClipFeatures
    training_labels: tuple[str, ...]


@dataclass(frozen=True)
class HeldOut:
    """The data to measure on.

    Attributes:
      shards: clips; validation chooses thresholds, test is reported.
      frontend: the front end.
      ambient: pieces of long recordings without a wake word, of validation and test; may be none.
      max_false_accepts_per_hour: budget for the thresholds in streams.
      average_ms: how far the device averages scores.
    """

    shards: Shards
    frontend: FrontendConfig
    ambient: Sequence[Clip]
    max_false_accepts_per_hour: float
    average_ms: int

    def split_audio(self, split: str) -> scoring.SplitAudio:
        """The streams and wake words of a split; raises InputError where one is missing."""
        return scoring.split_audio(self.shards, self.ambient, split)


def stream_settings(models: RunModels, data: HeldOut) -> scoring.StreamSettings:
    """How the streams are listened to: a streaming model gives a score each step, no other does.

    Raises:
      InputError: a streaming file is missing or no such model.
    """
    frames, step_ms = data.frontend.num_frames(data.shards.clip_samples), data.frontend.step_ms
    if not models.streaming:
        config = stream_rule.of_steps(StreamConfig.stride_ms, data.average_ms)
        return scoring.StreamSettings(data.frontend, frames, config)
    step = stepwise.step_frames(models.streaming[INT8])
    config = stream_rule.of_steps(step * step_ms, data.average_ms)
    return scoring.StreamSettings(data.frontend, -(-frames // step) * step, config)


def open_scorers(models: RunModels) -> tuple[dict[str, Scorer], dict[str, ModelFacts]]:
    """Scorers and facts of every model in every runtime, by model name.

    Raises:
      InputError: a file is missing or not what its name says.
    """
    in_keras = {FP32: models.fp32, QAT: integer_model.device_model(models.qat, models.fp32)}
    scorers = {name: keras_scorer(model) for name, model in in_keras.items()}
    facts = {name: keras_facts(model) for name, model in in_keras.items()}
    facts[QAT] = dataclasses.replace(facts[QAT], kernels="keras, as int8 kernels compute")
    exported, exported_facts = open_tflite(models.exported)
    scorers, facts = scorers | exported, facts | exported_facts
    for name, path in models.onnx.items():
        scorers[name] = onnx_scorer(path)
        facts[name] = onnx_facts(path)
    return scorers, facts


def score_clips(
    data: HeldOut, split: str, conditions: Sequence[str], scorers: Mapping[str, Scorer]
) -> Scores:
    """Every model on the clips of a split, once for each condition of the front end.

    Args:
      data: clips.
      split: "validation" or "test".
      conditions: of `shards.CONDITIONS`.
      scorers: by model name.

    Raises:
      InputError: there are no clips.
      ValueError: a model gives NaN or infinity.
    """
    batches = (clip_batches(data, split, condition) for condition in conditions)
    total = len(conditions) * len(data.shards.clips[split])
    return score(itertools.chain.from_iterable(batches), scorers, total)


def clip_batches(
    data: HeldOut, split: str, condition: str = "cold", batch: int = 256
) -> Iterator[ClipFeatures]:
    """The clips of a split, front end cold or warm, in batches to score."""
    whole = split_features(data.shards, split, data.frontend, condition)
    for start in range(0, len(whole), batch):
        yield whole[start : start + batch]
