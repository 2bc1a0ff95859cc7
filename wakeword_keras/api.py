"""The short way, for notebooks: any functional Keras model, any features, no flags and no folders.

int8 = quantize(model, features)                 # a Keras model that computes as the device does
int8.compile(keras.optimizers.Adam(5e-5), "mse")
int8.fit(features, model.predict(features))      # learns what the float model says
export_tflite(int8, "model.tflite")
evaluate(int8, training, validation, test)       # the report, shown in a notebook
"""

import html
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import ArrayLike, NDArray

from wakeword_keras.affine import Affine, from_range
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import clip_evaluation, clip_thresholds, findings, scores
from wakeword_keras.evaluation.run_models import RunModels, open_scorers
from wakeword_keras.files import write_bytes
from wakeword_keras.names import (
    FP32_TFLITE,
    INT8,
    INT8_PTQ,
    POSITIVE,
    SPEECH,
    TEST,
    TFLITE_FILES,
    TRAIN,
    VALIDATION,
)
from wakeword_keras.quantization import (
    calibration,
    fake_quantize,
    integer_model,
    proof,
    tfmot_access,
)
from wakeword_keras.quantization.calibration import ActivationRange
from wakeword_keras.quiet import quiet
from wakeword_keras.report import report
from wakeword_keras.tflite import convert

Data = Any
"""Features as an array [clips, ...], or a tf.data.Dataset whose elements begin with a batch."""
Clips: TypeAlias = ClipFeatures | tuple[Data, ArrayLike]

_GROUP = {True: POSITIVE, False: SPEECH}


@quiet()
def quantize(model: keras.Model, features: Data, input_affine: Affine | None = None) -> keras.Model:
    """The INT8 form of a trained float model: a Keras model in the arithmetic of int8 kernels.

    Its ranges are calibrated on the features; batch norm and ranges stand still from then on.
    `fit` trains its weights in that arithmetic; the float model stays as it is.

    Args:
      model: functional, one input and one output.
      features: float32 [clips, ...] of training clips, or a finite tf.data.Dataset of batches (of
        features, or of tuples that begin with them).
      input_affine: quantization of the input; `FrontendConfig().input_affine` for features of this
        package, so that it is the device's. None: the range of the features.

    Returns:
      Functional model of the same input and output. It saves its weights, not itself: the form to
      keep is the file (`export_tflite`).

    Raises:
      InputError: a layer has no int8 form (the message lists each, with the mend), or the features
        do not fit, are empty, constant, NaN or infinite, or make a layer so.
    """
    fp32 = model
    if isinstance(model, keras.Sequential) and model.built:
        fp32 = keras.Model(model.inputs, model.outputs, name=model.name)
    fake_quantize.refuse_unquantizable(fp32)
    clips = _features(fp32, features)
    qat = fake_quantize.quantize(fp32, input_affine or _range_of(clips))
    int8 = integer_model.device_model(qat, fp32)
    calibrate(int8, clips)
    return int8


@quiet()
def calibrate(int8: keras.Model, features: Data) -> list[ActivationRange]:
    """Set every range of an INT8 model anew, from the float model's activations on other clips.

    Args:
      int8: from `quantize`, changed in place (ranges only).
      features: as `quantize` takes them.

    Returns:
      One ActivationRange for each measured activation, in the model's order.

    Raises:
      InputError: as `quantize`.
    """
    qat, fp32 = _parts(int8)
    clips = _features(fp32, features)
    observed = calibration.observed_ranges(fp32, clips, list(tfmot_access.measured_ranges(qat)))
    for layer, ends in observed.items():
        if not np.isfinite(ends).all():
            raise InputError(
                f"layer {layer!r} gives NaN or infinity on these features: its training diverged"
            )
    return calibration.calibrate(qat, fp32, clips)


def export_tflite(model: keras.Model, path: str | Path, features: Data = None) -> Path:
    """Write a model as a TFLite file of batch 1.

    Args:
      model: from `quantize`: fully int8, with its own ranges. A float model: float32, or with
        `features` int8 by post-training quantization (PTQ).
      path: of the file, replaced if it is there.
      features: for PTQ alone, as `quantize` takes them.

    Returns:
      The path.

    Raises:
      InputError: the model cannot be converted, the features do not fit, or the file of a model
        from `quantize` does not compute what the model does.
    """
    parts = integer_model.parts_of(model)
    try:
        if parts:
            content = _int8_file(*parts)
        elif features is None:
            content = convert.float_model(model)
        else:
            clips = _features(model, features)
            content = convert.int8_model(model, calibration.representative_dataset(clips))
    except InputError:
        raise
    except Exception as error:  # the converter's errors have no base of their own, and pages
        first = str(error).strip().splitlines()[0]
        raise InputError(f"model {model.name!r} cannot be a TFLite file: {first}") from error
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(Path(path), content)
    return Path(path)


def _int8_file(qat: keras.Model, fp32: keras.Model) -> bytes:
    """The file of a QAT model, proven on noise over the whole range of its input."""
    ends = tfmot_access.input_range(qat)
    noise = np.random.default_rng(0).uniform(*ends, (8, *qat.inputs[0].shape[1:]))
    return proof.int8_model(qat, fp32, noise.astype(np.float32))


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What `evaluate` found. A notebook shows it as the report's page, `print` as a table.

    Attributes:
      findings: every number.
      page: the report, HTML, complete in itself.
    """

    findings: findings.Findings
    page: str

    @property
    def models(self) -> dict[str, clip_evaluation.ModelMetrics]:
        """Metrics by model: fp32, qat (`int8` in Keras), fp32_tflite, int8_ptq, int8 (the file)."""
        return self.findings.evaluated.models

    def __str__(self) -> str:
        return clip_evaluation.console_table(self.findings.evaluated)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # In a frame: the page's style is its own.
        return (
            f'<iframe srcdoc="{html.escape(self.page)}" width="100%" height="900" '
            'style="border: 0"></iframe>'
        )


@quiet()
def evaluate(
    int8: keras.Model,
    training: Clips,
    validation: Clips,
    test: Clips,
    wake_words: Sequence[str] = ("wake word",),
) -> Evaluation:
    """Compare an INT8 model with the float model that it was made of, in every runtime.

    Both are exported to a folder that is removed again, and a PTQ file to compare with. Clips are
    (features, labels) with labels 0 or 1, [clips, wake_words] or [clips]; or ClipFeatures, which
    know speakers, so that intervals are drawn over those.

    Args:
      int8: from `quantize`, trained or not.
      training: what the model was calibrated on: PTQ is, too, and the report compares it with test.
      validation: clips that choose each model's threshold.
      test: clips to report; none of them may be in training.
      wake_words: name of each logit.

    Returns:
      Evaluation.

    Raises:
      InputError: clips do not fit the models, or lack a wake word or clips without one.
    """
    qat, fp32 = _parts(int8)
    trained, chosen, held = (
        _labelled(fp32, clips, wake_words, name)
        for name, clips in ((TRAIN, training), (VALIDATION, validation), (TEST, test))
    )
    with tempfile.TemporaryDirectory() as folder:
        exported = {name: Path(folder, file) for name, file in TFLITE_FILES.items()}
        export_tflite(fp32, exported[FP32_TFLITE])
        export_tflite(fp32, exported[INT8_PTQ], trained.features)
        export_tflite(int8, exported[INT8])
        labels = tuple(clip.label for clip in trained.clips)
        models = RunModels(fp32, qat, exported, {}, {}, trained, labels)
        scorers, facts = open_scorers(models)
        evaluated = clip_evaluation.evaluate(
            clip_thresholds.choose(scores.score([chosen], scorers, len(chosen)), wake_words),
            scores.score([held], scorers, len(held)),
            None,
            facts,
            findings.logits_per_lsb(models),
            wake_words,
        )
        affine = from_range(*tfmot_access.input_range(qat))
        found = findings.of_clips(models, evaluated, held, affine, say=lambda _: None)
    return Evaluation(found, report.page_of(found))


def _parts(int8: keras.Model) -> tuple[keras.Model, keras.Model]:
    parts = integer_model.parts_of(int8)
    if parts is None:
        name = getattr(int8, "name", int8)
        raise InputError(f"model {name!r} is not quantized: give what `quantize` returned")
    return parts


def _array(data: Data) -> NDArray[np.float32]:
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise InputError("the dataset has no end: give so many batches of it, dataset.take(n)")
        batches = [batch[0] if isinstance(batch, tuple) else batch for batch in data]
        data = np.concatenate([np.asarray(batch) for batch in batches]) if batches else []
    return np.asarray(data, np.float32)


def _features(model: keras.Model, data: Data) -> NDArray[np.float32]:
    """Features that a model takes, at least one clip, every number finite."""
    features, shape = _array(data), tuple(model.inputs[0].shape[1:])
    if not len(features) or features.shape[1:] != shape:
        raise InputError(
            f"features of shape {list(features.shape)}: model {model.name!r} takes "
            f"[clips, {', '.join(map(str, shape))}], at least one clip"
        )
    if not np.isfinite(features).all():
        clip = np.flatnonzero(~np.isfinite(features.reshape(len(features), -1)).all(axis=1))[0]
        raise InputError(f"features hold NaN or infinity, first in clip {clip}")
    return features


def _range_of(features: NDArray[np.float32]) -> Affine:
    low, high = float(features.min()), float(features.max())
    if low == high:
        raise InputError(f"features are {low:g} throughout: give clips with sound")
    return from_range(low, high)


def _labelled(
    model: keras.Model, clips: Clips, wake_words: Sequence[str], name: str
) -> ClipFeatures:
    if isinstance(clips, ClipFeatures):
        return ClipFeatures(clips.clips, _features(model, clips.features))
    features, labels = _features(model, clips[0]), np.asarray(clips[1])
    labels = labels.reshape(len(labels), -1)
    if labels.shape != (len(features), len(wake_words)):
        raise InputError(
            f"{name}: labels of shape {list(labels.shape)} for {len(features)} clips and "
            f"wake words {', '.join(wake_words)}"
        )
    if not np.isin(labels, (0, 1)).all() or (labels.sum(axis=1) > 1).any():
        raise InputError(f"{name}: labels must be 0 or 1, and one wake word a clip at most")
    targets = np.where(labels.any(axis=1), labels.argmax(axis=1), -1).tolist()
    infos = (
        ClipInfo(f"{name} {i}", wake_words[t] if t >= 0 else "other", t, _GROUP[t >= 0], "", 1.0)
        for i, t in enumerate(targets)
    )
    return ClipFeatures(tuple(infos), features)
