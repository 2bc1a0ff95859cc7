"""All that the report says of a run: its exported models on data that trained none of them."""

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras import progress
from wakeword_keras.affine import Affine
from wakeword_keras.data.clips import ClipFeatures
from wakeword_keras.data.shards import split_features
from wakeword_keras.evaluation import (
    calibration_coverage,
    clip_evaluation,
    confusables,
    layer_error,
    on_tflite_micro,
    runtime_agreement,
    step_equality,
    stream_evaluation,
)
from wakeword_keras.evaluation.clip_thresholds import ClipThresholds
from wakeword_keras.evaluation.run_models import (
    HeldOut,
    RunModels,
    open_scorers,
    score_clips,
    stream_settings,
)
from wakeword_keras.evaluation.thresholds import Thresholds
from wakeword_keras.names import FP32_TFLITE, INT8, INT8_PTQ, TEST
from wakeword_keras.quantization import calibration, fake_quantize
from wakeword_keras.streams import scoring
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite.interpreter import micro_installed

_CLIPS_STEP_BY_STEP = 40  # some 1,300 steps; tools.prove_streaming takes an hour


@dataclass(frozen=True)
class Findings:
    """What was measured.

    Attributes:
      evaluated: every model on clips, and what quantization cost.
      agreements: whether other runtimes say the same.
      on_device: INT8 files on TFLite Micro; empty without the extra `firmware`.
      step_by_step: the INT8 streaming file against the window file, on each runtime; empty of an
        architecture that does not stream.
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
    step_by_step: tuple[step_equality.StepEquality, ...]
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
            "step_by_step": [dataclasses.asdict(one) for one in self.step_by_step],
            "tflite_micro": [dataclasses.asdict(check) for check in self.on_device],
            "layers": {step: errors.to_json() for step, errors in self.layers.items()},
            "calibration_coverage": self.coverage.to_json(),
            "confusables": [dataclasses.asdict(label) for label in self.mistaken],
            "tensors": self.tensors,
            **streams,
        }


def measure(models: RunModels, data: HeldOut, thresholds: Thresholds) -> Findings:
    """Run every model on the test clips and streams; prints tables as they come.

    Args:
      models: of a run.
      data: clips and streams; only the test split is used.
      thresholds: of every model.

    Returns:
      Findings.

    Raises:
      InputError: the test split lacks a wake word, clips without one, or streams.
      ValueError: a model gives NaN or infinity.
    """
    evaluated = _clips(models, data, thresholds.clips)
    test = split_features(data.shards, TEST, data.frontend)
    found = of_clips(models, evaluated, test, data.frontend.input_affine)
    if not data.ambient:
        return found
    streams = _streams(models, data, thresholds)
    progress.say(stream_evaluation.console_table(streams))
    return dataclasses.replace(found, streams=streams)


def of_clips(
    models: RunModels,
    evaluated: clip_evaluation.EvaluationReport,
    test: ClipFeatures,
    input_affine: Affine,
    say: Callable[[str], None] = progress.say,
) -> Findings:
    """What clips show, without streams.

    Args:
      models: FP32 and what became of it.
      evaluated: all of them on the test clips.
      test: those clips, front end cold.
      input_affine: quantization of the input.
      say: takes tables as they come.
    """
    say(clip_evaluation.console_table(evaluated))
    agreements = _agreements(models, evaluated)
    say(runtime_agreement.table(agreements))
    on_device = _on_device(models, test.features)
    say(on_tflite_micro.table(on_device))
    step_by_step = _step_by_step(models, test.features)
    say(step_equality.table(step_by_step))
    unquantized = fake_quantize.unquantized(models.qat, models.fp32)
    layers = _layers(models, unquantized, test)
    say(layer_error.table(layers["qat_to_int8"], rows=3))
    covered = _coverage(models, unquantized, input_affine, test)
    for warning in covered.warnings:
        say(f"calibration: {warning}")
    mistaken = confusables.measure(
        evaluated.scores, _clip_thresholds(evaluated), evaluated.wake_words
    )
    tensors = {
        name: {kind: len(names) for kind, names in flatbuffer.tensor_types(path).items()}
        for name, path in models.exported.items()
    }
    return Findings(
        evaluated,
        agreements,
        on_device,
        step_by_step,
        layers,
        covered,
        None,
        mistaken,
        tensors,
    )


def _clips(
    models: RunModels, data: HeldOut, thresholds: ClipThresholds
) -> clip_evaluation.EvaluationReport:
    scorers, facts = open_scorers(models)
    return clip_evaluation.evaluate(
        thresholds,
        score_clips(data, TEST, ("cold",), scorers),
        score_clips(data, TEST, ("warm",), scorers),
        facts,
        logits_per_lsb(models),
        data.shards.wake_words,
    )


def _clip_thresholds(evaluated: clip_evaluation.EvaluationReport) -> dict[str, float]:
    return {name: metrics.threshold for name, metrics in evaluated.models.items()}


def _agreements(
    models: RunModels, evaluated: clip_evaluation.EvaluationReport
) -> tuple[runtime_agreement.Agreement, ...]:
    return runtime_agreement.measure(
        evaluated.scores,
        _clip_thresholds(evaluated),
        {name: metrics.bytes for name, metrics in evaluated.models.items()},
        logits_per_lsb(models),
    )


def logits_per_lsb(models: RunModels) -> float:
    """Step of the INT8 model's output."""
    output = flatbuffer.output_affine(models.exported[INT8])
    assert output is not None, "open_tflite has checked that the model is int8"
    return output.scale


def _on_device(
    models: RunModels, features: NDArray[np.float32]
) -> tuple[on_tflite_micro.MicroCheck, ...]:
    if not micro_installed():
        progress.say("no TFLite Micro: pip install 'wakeword_keras[firmware]', then evaluate again")
        return ()
    spread = np.linspace(0, len(features) - 1, min(on_tflite_micro.CLIPS, len(features)), dtype=int)
    clips = np.asarray(features[spread], np.float32)
    return tuple(
        on_tflite_micro.check(name, models.exported[name], clips) for name in (INT8_PTQ, INT8)
    )


def _step_by_step(
    models: RunModels, features: NDArray[np.float32]
) -> tuple[step_equality.StepEquality, ...]:
    """On clips one after the other, in one stretch."""
    if not models.streaming:
        return ()
    stretch = np.concatenate(features[:_CLIPS_STEP_BY_STEP])
    return tuple(
        step_equality.measure(models.exported[INT8], models.streaming[INT8], [stretch], runtime)
        for runtime in step_equality.runtimes()
    )


def _layers(
    models: RunModels, unquantized: keras.Model, test: ClipFeatures
) -> dict[str, layer_error.LayerErrors]:
    fp32, int8 = models.exported[FP32_TFLITE], models.exported[INT8]
    with tempfile.TemporaryDirectory() as folder:
        qat = Path(folder, "qat.tflite")
        qat.write_bytes(convert.float_model(unquantized))
        pairs = {
            "fp32_to_int8": (fp32, int8),
            "qat_to_int8": (qat, int8),
            "fp32_to_int8_ptq": (fp32, models.exported[INT8_PTQ]),
        }
        return {
            step: layer_error.layer_errors(*paths, test.features) for step, paths in pairs.items()
        }


def _coverage(
    models: RunModels, unquantized: keras.Model, input_affine: Affine, test: ClipFeatures
) -> calibration_coverage.Coverage:
    return calibration_coverage.measure(
        unquantized,
        calibration.read_ranges(models.qat),
        input_affine,
        models.calibration_set,
        models.training_labels,
        test,
    )


def _streams(
    models: RunModels, data: HeldOut, thresholds: Thresholds
) -> stream_evaluation.StreamReport:
    return stream_evaluation.evaluate(
        thresholds.streams,
        data.split_audio(TEST),
        scoring.open_models(models.exported, models.streaming),
        stream_settings(models, data),
        data.max_false_accepts_per_hour,
    )
