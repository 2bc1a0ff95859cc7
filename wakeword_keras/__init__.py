"""Train wake words with Keras whose INT8 model is provably as good as the FP32 model.

tensorflow-model-optimization quantizes Keras 2 (tf-keras) models only. TensorFlow decides which
Keras `tf.keras` is when that name is first touched, by the variable TF_USE_LEGACY_KERAS. Importing
this package first, or right after `import tensorflow as tf`, therefore just works; a program that
has already touched `tf.keras` gets one clear error here instead of a puzzling one from tfmot.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from wakeword_keras.errors import InputError
from wakeword_keras.quiet import quiet

# TensorFlow's start-up chatter (missing GPUs, CPU instructions) would bury our own messages.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _choose_keras_2() -> None:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tensorflow as tf

    if not tf.keras.__name__.startswith("tf_keras"):
        raise ImportError(
            "tf.keras is already Keras 3, which tensorflow-model-optimization cannot quantize: "
            "import wakeword_keras before the first use of tf.keras, "
            "or set TF_USE_LEGACY_KERAS=1 before starting Python."
        )


if "tensorflow" in sys.modules:
    _choose_keras_2()
else:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"

if TYPE_CHECKING:
    from wakeword_keras.api import Evaluation, calibrate, evaluate, export_tflite, quantize
    from wakeword_keras.audio.features import FrontendConfig
    from wakeword_keras.quantization.range_watch import QuantizationRanges
    from wakeword_keras.training.callbacks import DetectionMetrics, ProgressLine
    from wakeword_keras.training.early_warning import EarlyWarning
    from wakeword_keras.training.hardness import LossWeighting
    from wakeword_keras.training.losses import FocalLoss

# Imported when they are first asked for: TensorFlow takes seconds, and tools have none to lose.
_MODULES = {
    "DetectionMetrics": "training.callbacks",
    "EarlyWarning": "training.early_warning",
    "Evaluation": "api",
    "FocalLoss": "training.losses",
    "FrontendConfig": "audio.features",
    "LossWeighting": "training.hardness",
    "ProgressLine": "training.callbacks",
    "QuantizationRanges": "quantization.range_watch",
    "calibrate": "api",
    "evaluate": "api",
    "export_tflite": "api",
    "quantize": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with quiet():  # TensorFlow's start; a notebook would show a page of it
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
        importlib.import_module("tensorflow").config.list_physical_devices()
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
