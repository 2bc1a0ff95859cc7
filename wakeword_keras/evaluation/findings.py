"""All that the report says of a run: its exported models on data that trained none of them."""

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.corpus import Clip
from wakeword_keras.data.shards import CONDITIONS, Shards, split_features
from wakeword_keras.evaluation import (
    calibration_coverage,
    clip_evaluation,
    confusables,
    layer_error,
    on_tflite_micro,
    runtime_agreement,
    stream_evaluation,
)
from wakeword_keras.evaluation.scores import ClipBatch, Scores, score
from wakeword_keras.evaluation.thresholds import Thresholds
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.quantization import calibration, fake_quantize, integer_model
from wakeword_keras.streams import scoring
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite.interpreter import micro_installed
from wakeword_keras.tflite.scorers import (
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
      onnx: .onnx files by model name, fp32_onnx and int8_onnx; empty where none were written.
      calibration_set: what set the ranges.
      training_labels: label of every training clip.
    """

    fp32: keras.Model
    qat: keras.Model
    exported: Mapping[str, Path]
    onnx: Mapping[str, Path]
    calibration_set: calibration.CalibrationSet
    training_labels: tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """Thresholds that were chosen before, for clips and, by model, for streams; may be none."""

    clips: Thresholds
    streams: Mapping[str, stream_evaluation.Choice]


@dataclass(frozen=True)
class HeldOut:
    """The data to measure on.

    Attributes:
      shards: clips; validation chooses thresholds, test is reported.
      frontend: the front end.
      ambient: pieces of long recordings without a wake word, of validation and test; may be none.
      max_false_accepts_per_hour: budget for the thresholds in streams.
      chosen: thresholds; without, validation chooses them, with, only test is used.
    """

    shards: Shards
    frontend: FrontendConfig
    ambient: Sequence[Clip]
    max_false_accepts_per_hour: float
    chosen: Chosen | None = None


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
      evaluated: every model on clips, and what quantization cost.
      agreements: whether other runtimes say the same.
      on_device: INT8 files on TFLite Micro; empty without the extra `firmware`.
      layers: error layer by layer: fp32_to_int8, qat_to_int8 (of quantization alone, at the QAT
        model's weights) and fp32_to_int8_ptq.
      coverage: whether the calibration clips stand for the test clips.
      streams: misses and false accepts per hour; None without ambient audio.
      mistaken: labels that fire or come nearest to it, the worst first.
      tensors: how many of each type an exported model holds, by model: {"int8": {"INT8": 60}}.
    """

    evaluated: clip_evaluation.EvaluationReport
    agreements: tuple[runtime_agreement.Agreement, ...]
    on_device: tuple[on_tflite_micro.MicroCheck, ...]
    layers: dict[str, layer_error.LayerErrors]
    coverage: calibration_coverage.Coverage
    streams: stream_evaluation.StreamReport | None
    mistaken: tuple[confusables.Confusable, ...]
    tensors: dict[str, dict[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        streams = {} if self.streams is None else {"streams": self.streams.to_json()}
        return {
            **self.evaluated.to_json(),
            "agreement": [dataclasses.asdict(pair) for pair in self.agreements],
            "tflite_micro": [dataclasses.asdict(check) for check in self.on_device],
            "layers": {step: errors.to_json() for step, errors in self.layers.items()},
            "calibration_coverage": self.coverage.to_json(),
            "confusables": [dataclasses.asdict(label) for label in self.mistaken],
            "tensors": self.tensors,
            **streams,
        }


def measure(models: RunModels, data: HeldOut) -> Findings:
    """Run every model on the same clips and streams; prints tables as they come."""
    evaluated = _clips(models, data)
    print(clip_evaluation.console_table(evaluated), flush=True)
    agreements = _agreements(models, evaluated)
    print(runtime_agreement.table(agreements), flush=True)
    test = _test_set(data)
    on_device = _on_device(models, test.features)
    print(on_tflite_micro.table(on_device), flush=True)
    twin = fake_quantize.float_twin(models.qat, models.fp32)
    layers = _layers(models, twin, test)
    print(layer_error.table(layers["qat_to_int8"], rows=3), flush=True)
    covered = calibration_coverage.measure(
        twin,
        calibration.read_ranges(models.qat),
        data.frontend.input_affine,
        models.calibration_set,
        models.training_labels,
        test,
    )
    for warning in covered.warnings:
        print(f"calibration: {warning}", flush=True)
    streams = _streams(models, data) if data.ambient else None
    if streams is not None:
        print(stream_evaluation.console_table(streams), flush=True)
    mistaken = confusables.measure(
        evaluated.scores,
        {name: metrics.threshold for name, metrics in evaluated.models.items()},
        evaluated.wake_words,
    )
    tensors = {
        name: {kind: len(names) for kind, names in flatbuffer.tensor_types(path).items()}
        for name, path in models.exported.items()
    }
    return Findings(evaluated, agreements, on_device, layers, covered, streams, mistaken, tensors)


def _clips(models: RunModels, data: HeldOut) -> clip_evaluation.EvaluationReport:
    """Every runtime on the same clips; thresholds from validation, figures from test."""
    exported, exported_facts = open_tflite(models.exported)
    in_keras = {"fp32": models.fp32, "qat": integer_model.device_model(models.qat, models.fp32)}
    scorers = {name: keras_scorer(model) for name, model in in_keras.items()}
    facts = {name: keras_facts(model) for name, model in in_keras.items()}
    facts["qat"] = dataclasses.replace(facts["qat"], kernels="keras, as int8 kernels compute")
    scorers, facts = scorers | exported, facts | exported_facts
    for name, path in models.onnx.items():
        scorers[name] = onnx_scorer(path)
        facts[name] = onnx_facts(path)

    def scored(split: str, *conditions: str) -> Scores:
        batches = (clip_batches(data, split, name) for name in conditions)
        return score(itertools.chain.from_iterable(batches), scorers)

    return clip_evaluation.evaluate(
        # The device's front end is warm, a test set's cold: one threshold has to serve both.
        data.chosen.clips if data.chosen else scored("validation", *CONDITIONS),
        scored("test", "cold"),
        scored("test", "warm"),
        facts,
        _logits_per_lsb(models),
        data.shards.wake_words,
    )


def _agreements(
    models: RunModels, evaluated: clip_evaluation.EvaluationReport
) -> tuple[runtime_agreement.Agreement, ...]:
    measured = evaluated.models.items()
    return runtime_agreement.measure(
        evaluated.scores,
        {name: metrics.threshold for name, metrics in measured},
        {name: metrics.bytes for name, metrics in measured},
        _logits_per_lsb(models),
    )


def _logits_per_lsb(models: RunModels) -> float:
    """Step of the INT8 model's output."""
    output = flatbuffer.output_affine(models.exported["int8"])
    assert output is not None, "open_tflite has checked that the model is int8"
    return output.scale


def _on_device(
    models: RunModels, features: NDArray[np.float32]
) -> tuple[on_tflite_micro.MicroCheck, ...]:
    if not micro_installed():
        print("no TFLite Micro: pip install 'wakeword_keras[firmware]', then evaluate again")
        return ()
    spread = np.linspace(0, len(features) - 1, min(on_tflite_micro.CLIPS, len(features)), dtype=int)
    clips = np.asarray(features[spread], np.float32)
    return tuple(
        on_tflite_micro.check(name, models.exported[name], clips) for name in ("int8_ptq", "int8")
    )


def clip_batches(
    data: HeldOut, split: str, condition: str = "cold", batch: int = 256
) -> Iterator[ClipBatch]:
    """The clips of a split, front end cold or warm, in batches to score."""
    whole = split_features(data.shards, split, data.frontend, condition)
    for start in range(0, len(whole.clips), batch):
        clips = whole.clips[start : start + batch]
        yield ClipBatch(
            tuple(clip.clip_id for clip in clips),
            whole.targets[start : start + batch],
            tuple(clip.group for clip in clips),
            tuple(clip.speaker for clip in clips),
            np.asarray(whole.features[start : start + batch]),
            tuple(clip.label for clip in clips),
        )


def _test_set(data: HeldOut) -> calibration.CalibrationSet:
    whole = split_features(data.shards, "test", data.frontend)
    return calibration.CalibrationSet(
        whole.features,
        tuple(clip.clip_id for clip in whole.clips),
        tuple(clip.label for clip in whole.clips),
    )


def _layers(
    models: RunModels, twin: keras.Model, test: calibration.CalibrationSet
) -> dict[str, layer_error.LayerErrors]:
    fp32, int8 = models.exported["fp32_tflite"], models.exported["int8"]
    with tempfile.TemporaryDirectory() as folder:
        qat = Path(folder, "qat.tflite")
        qat.write_bytes(convert.float_model(twin))
        pairs = {
            "fp32_to_int8": (fp32, int8),
            "qat_to_int8": (qat, int8),
            "fp32_to_int8_ptq": (fp32, models.exported["int8_ptq"]),
        }
        return {
            step: layer_error.layer_errors(*paths, test.features) for step, paths in pairs.items()
        }


def _streams(models: RunModels, data: HeldOut) -> stream_evaluation.StreamReport:
    """What is exported, listening to the held-out ambient audio."""

    def audio_of(split: str) -> scoring.SplitAudio:
        return scoring.split_audio(data.shards, data.ambient, split)

    frames = data.frontend.num_frames(data.shards.clip_samples)
    return stream_evaluation.evaluate(
        data.chosen.streams if data.chosen else audio_of("validation"),
        audio_of("test"),
        scoring.open_models(models.exported),
        scoring.StreamSettings(data.frontend, frames, StreamConfig()),
        data.max_false_accepts_per_hour,
    )
