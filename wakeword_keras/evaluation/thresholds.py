"""The thresholds stage: what each model decides with, for clips and for streams.

Validation data choose them; the report and the bundle read them, and so does a run on other
recordings. They lie in thresholds.json.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wakeword_keras.data.shards import CONDITIONS
from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import clip_thresholds, stream_thresholds
from wakeword_keras.evaluation.clip_thresholds import ClipThresholds
from wakeword_keras.evaluation.run_models import (
    HeldOut,
    RunModels,
    open_scorers,
    score_clips,
    stream_settings,
)
from wakeword_keras.evaluation.stream_thresholds import StreamChoice
from wakeword_keras.files import write_json
from wakeword_keras.names import VALIDATION
from wakeword_keras.streams import scoring
from wakeword_keras.streams.stream_metrics import StreamMetrics, StreamThreshold


@dataclass(frozen=True)
class Thresholds:
    """Of every model, for clips and, by model name, for streams (empty without ambient audio)."""

    clips: ClipThresholds
    streams: Mapping[str, StreamChoice]


def choose(models: RunModels, data: HeldOut) -> Thresholds:
    """Choose every model's thresholds on the validation split.

    Args:
      models: all of them.
      data: the held-out data.

    Returns:
      Thresholds.

    Raises:
      InputError: the split lacks a wake word, clips without one or, where there is ambient audio,
        streams.
      ValueError: a model gives NaN or infinity.
    """
    scorers, _ = open_scorers(models)
    # The device's front end is warm, a test set's cold: one threshold has to serve both.
    validation = score_clips(data, VALIDATION, CONDITIONS, scorers)
    clips = clip_thresholds.choose(validation, data.shards.wake_words)
    if not data.ambient:
        return Thresholds(clips, {})
    streams = stream_thresholds.choose(
        data.split_audio(VALIDATION),
        scoring.open_models(models.exported, models.streaming),
        stream_settings(models, data),
        data.max_false_accepts_per_hour,
    )
    return Thresholds(clips, streams)


def write(thresholds: Thresholds, path: Path) -> None:
    """Write thresholds.json, atomically."""
    write_json(path, dataclasses.asdict(thresholds))


def read(path: Path) -> Thresholds:
    """Read thresholds.json.

    Raises:
      InputError: it is missing, damaged, or holds a threshold that is no finite number.
    """
    try:
        content = json.loads(path.read_text())
        streams = {name: _stream_choice(choice) for name, choice in content["streams"].items()}
        thresholds = Thresholds(_clip_thresholds(content["clips"]), streams)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: repeat the command that began the run") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): delete it and repeat the command that began the run"
        ) from error
    return thresholds


def _clip_thresholds(content: Mapping[str, Any]) -> ClipThresholds:
    return ClipThresholds(
        {name: _finite(logit) for name, logit in content["logits"].items()},
        {step: (float(low), float(high)) for step, (low, high) in content["shift_ci95"].items()},
        int(content["positives"]),
        int(content["negatives"]),
    )


def _stream_choice(content: Mapping[str, Any]) -> StreamChoice:
    threshold = StreamThreshold(**content["threshold"])
    _finite(threshold.logit)
    if not (0 <= _finite(threshold.probability) <= 1 and isinstance(threshold.sum, int)):
        raise ValueError(f"impossible threshold {content['threshold']}")
    validation: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content["validation"].items()
    }
    return StreamChoice(
        **{**content, "threshold": threshold, VALIDATION: StreamMetrics(**validation)}
    )


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"threshold {value} is no finite number")
    return float(value)
