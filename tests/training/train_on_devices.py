"""Train both stages on so many logical CPUs; run by test_workers, which compares the checkpoints.

train_on_devices.py DEVICES FOLDER
"""

import os
import sys
from pathlib import Path

import tensorflow as tf
import tf_keras as keras
from small_recordings import CLIP_MS, write_recordings
from tf_keras import layers

from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.corpus import CorpusConfig, read_corpus
from wakeword_keras.data.shards import split_features, write_shards
from wakeword_keras.quantization import calibration, fake_quantize, finetuning
from wakeword_keras.quantization.finetuning import QatConfig
from wakeword_keras.training import fp32_stage
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.loop import LossConfig, TrainingData
from wakeword_keras.training.workers import Workers


def dropping_model(frames):
    """Batch norm, dropout and no kink: a rounding error stays one."""
    x = inputs = layers.Input((frames, 40), name="features")
    x = layers.Reshape((frames, 40, 1), name="image")(x)
    x = layers.Conv2D(4, (8, 8), (8, 8), use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = layers.Activation("sigmoid", name="bend")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.5, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(1, name="logit")(x))


def main(devices, folder):
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, parts)
    names = [f"CPU:{number}" for number in range(devices)]
    workers = Workers(tf.distribute.MirroredStrategy(names)) if devices > 1 else Workers()
    root = write_recordings(folder / "words")
    corpus = read_corpus([str(root)], CorpusConfig(wake_words=("yes",), clip_ms=CLIP_MS))
    shards = write_shards(corpus, CLIP_MS, folder / "cache")
    frontend = FrontendConfig()
    validation = split_features(shards, "validation", frontend)
    config = DataConfig(batch=4, echo=2, shuffle=32)
    data = TrainingData(shards, (validation,), frontend, AugmentConfig(), config, seed=1)
    keras.utils.set_random_seed(1)
    fp32 = dropping_model(frontend.num_frames(shards.clip_samples))
    run = folder / str(devices)
    fp32_stage.train(fp32, data, LossConfig(), TrainConfig(epochs=2), run / "fp32", workers)
    qat = fake_quantize.quantize(fp32, frontend.input_affine)
    calibration.calibrate(qat, fp32, validation.features)
    finetuning.finetune(qat, fp32, data, LossConfig(), QatConfig(1), run / "qat", workers)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # see tools/command
