"""Train wake words with Keras whose INT8 model is provably as good as the FP32 model.

tensorflow-model-optimization quantizes Keras 2 (tf-keras) models only. TensorFlow decides which
Keras `tf.keras` is when that name is first touched, by the variable TF_USE_LEGACY_KERAS. Importing
this package first, or right after `import tensorflow as tf`, therefore just works; a program that
has already touched `tf.keras` gets one clear error here instead of a puzzling one from tfmot.
"""

import os
import sys

from wakeword_keras.errors import InputError

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

__all__ = ["InputError"]
