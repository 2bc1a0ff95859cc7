"""What does QAT cost? Time of a training step of the QAT stage over an FP32 one, by model.

python -m tools.benchmark_qat [--models=ds_cnn,conformer_tiny] [--json FILE]
Both train on one batch that lies ready in memory, taking turns. A step of the QAT stage computes
in the device's arithmetic and asks the FP32 model for the logits to learn.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import flags

from tools import command
from wakeword_keras import models
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.quantization import calibration, fake_quantize, integer_model
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.losses import FocalLoss
from wakeword_keras.training.trainer import MonitoredModel

_MODELS = flags.DEFINE_list(
    "models", ["ds_cnn", "mobilenet_v3_small", "conformer_tiny"], "architectures to time"
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "times each is measured", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 10, "training steps of a round", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file to write the figures to, as JSON, if given")


def main(arguments: Sequence[str]) -> None:
    """Print the table and write the figures."""
    command.refuse_arguments(arguments)
    figures = {}
    print(f"{f'ms a step of {DataConfig.batch}':24}{'fp32':>8}{'qat':>8}{'qat / fp32':>12}")
    for name in _MODELS.value:
        figures[name] = entry = measure(name, _ROUNDS.value, _STEPS.value)
        fp32, qat = (np.median(entry[way]) for way in ("fp32", "qat"))
        print(f"{name:24}{fp32:8.0f}{qat:8.0f}{entry['ratio']:12.2f}", flush=True)
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")


def measure(name: str, rounds: int, steps: int) -> dict:
    """Milliseconds a step, round by round, and the median of the rounds' ratios."""
    frontend = FrontendConfig()
    fp32 = models.build(name, frontend.num_frames(16_000), frontend.channels, 1)
    batch = _batch(fp32, frontend)
    qat = fake_quantize.quantize(fp32, frontend.input_affine)
    calibration.calibrate(qat, fp32, batch[0].numpy())
    exact = integer_model.device_model(qat, fp32)
    ways = {
        "fp32": _stepper(fp32, None, batch),
        "qat": _stepper(exact, fp32, batch),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run(steps)
            taken[way].append(1000 * (time.perf_counter() - start) / steps)
    return {**taken, "ratio": float(np.median(np.divide(taken["qat"], taken["fp32"])))}


def _batch(model: keras.Model, frontend: FrontendConfig) -> tuple[tf.Tensor, ...]:
    rng = np.random.default_rng(0)
    count = DataConfig.batch
    shape = (count, *model.inputs[0].shape[1:])
    features = rng.uniform(0, frontend.input_affine.high, shape).astype(np.float32)
    labels = rng.integers(0, 2, (count, 1)).astype(np.float32)
    weights, groups = np.ones(count, np.float32), rng.integers(0, 3, count).astype(np.int32)
    return tuple(map(tf.constant, (features, labels, weights, groups)))


def _stepper(
    model: keras.Model, teacher: keras.Model | None, batch: tuple[tf.Tensor, ...]
) -> Callable[[int], None]:
    """Trains so many steps; traced and warm."""
    trainer = MonitoredModel(inputs=model.inputs, outputs=model.outputs)
    trainer.compile(keras.optimizers.AdamW(), FocalLoss(), teacher)
    data = tf.data.Dataset.from_tensors(batch).cache().repeat()

    def run(steps: int) -> None:
        trainer.fit(data, steps_per_epoch=steps, verbose=0)

    run(2)
    return run


if __name__ == "__main__":
    command.run(main)
