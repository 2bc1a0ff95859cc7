"""Models in ESPHome's form: a manifest of version 2 and the .tflite that it names.

Ours (`firmware.esphome`) and those of microWakeWord, such as the wheel pymicro-wakeword carries.
Source: ESPHome 2026.6, components/micro_wake_word/__init__.py, MANIFEST_SCHEMA_V2.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.errors import InputError
from wakeword_keras.firmware import esphome
from wakeword_keras.metrics.esphome_rule import HIGHEST_CUTOFF

FILE = "wakeword.json"
"""What `firmware.esphome` calls its own."""


@dataclass(frozen=True)
class EsphomeModel:
    """A model and the decision that ships with it.

    Attributes:
      path: .tflite file, int8 [1, frames, 40] to a uint8 probability.
      wake_word: as people say it.
      cutoff: 0 to 255, as ESPHome compares it.
      window: outputs that are summed.
      frontend: the one that it was trained with.
    """

    path: Path
    wake_word: str
    cutoff: int
    window: int
    frontend: FrontendConfig


def read(manifest: str | Path, model: str | Path | None = None) -> EsphomeModel:
    """Read a manifest and check its model.

    Args:
      manifest: .json file.
      model: .tflite file; the one beside the manifest that it names if None.

    Raises:
      InputError: a file is missing or damaged, the manifest is no such one, or ESPHome would not
        take the model.
    """
    path = Path(manifest)
    try:
        said = json.loads(path.read_bytes())
        if (said["type"], said["version"]) != ("micro", 2):
            raise ValueError(f"type {said['type']!r}, version {said['version']!r}")
        found = _model(said, path.parent / said["model"] if model is None else Path(model))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no manifest of ESPHome, type micro, version 2 ({error}): give the .json "
            "file of a microWakeWord model"
        ) from error
    esphome.check(found.path)
    return found


def _model(said: dict[str, Any], path: Path) -> EsphomeModel:
    micro = said["micro"]
    cutoff, window = float(micro["probability_cutoff"]), int(micro["sliding_window_size"])
    if not (0 <= cutoff <= 1 and window >= 1):
        raise ValueError(f"probability_cutoff {cutoff}, sliding_window_size {window}")
    frontend = FrontendConfig(step_ms=int(micro["feature_step_size"]))
    return EsphomeModel(
        path, str(said["wake_word"]), int(cutoff * HIGHEST_CUTOFF), window, frontend
    )
