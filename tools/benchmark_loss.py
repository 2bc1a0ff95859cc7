"""What focal loss costs: against cross-entropy, against tf.keras' focal loss, and in an epoch.

A call of a `tf.function` costs many times the loss itself, so a timed call runs STEPS loss-and-
gradient steps in one graph, each on labels of its own and on the logits that the last one moved.
The same call without a loss is timed too and taken off. All take turns in every round, and a ratio
is the median of the ratios within rounds: what else the machine does hits all alike.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import app, flags

from wakeword_keras import models
from wakeword_keras.training.losses import FocalLoss

_JSON = flags.DEFINE_string("json", None, "file to write the figures to, as JSON, if given")
_THREADS = flags.DEFINE_integer(
    "threads", 1, "TensorFlow threads; 0 leaves the choice to TensorFlow", lower_bound=0
)

STEPS = 64
ROUNDS = 50
WARM_UP_ROUNDS = 10
BATCHES = (128, 256, 4096)
TRAIN_BATCH = 128
TRAIN_STEPS = 30
FOCAL, CROSS_ENTROPY, KERAS_FOCAL = "focal", "cross_entropy", "keras_focal"

Step = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]

LOSSES: dict[str, keras.losses.Loss] = {
    FOCAL: FocalLoss(gamma=2.0, alpha=0.25),
    CROSS_ENTROPY: keras.losses.BinaryCrossentropy(from_logits=True),
    KERAS_FOCAL: keras.losses.BinaryFocalCrossentropy(
        apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True
    ),
}


def measure_losses(batch: int) -> dict[str, Any]:
    """Time loss and gradient of every loss at one batch size, in interleaved rounds.

    Args:
      batch: clips, one logit each.

    Returns:
      For each loss the microseconds per step (median and quartiles), and two ratios of focal loss.
    """
    labels = tf.stack([_examples(batch, seed)[0] for seed in range(STEPS)])
    _, logits = _examples(batch)
    runs = {name: _steps(_gradient_step(loss)) for name, loss in LOSSES.items()}
    runs["nothing"] = _steps(lambda labels, logits: (labels[0, 0], labels))
    rounds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(WARM_UP_ROUNDS + ROUNDS):
        for name, run in runs.items():
            started = time.perf_counter()
            run(labels, logits)
            if turn >= WARM_UP_ROUNDS:
                rounds[name].append((time.perf_counter() - started) / STEPS * 1e6)
    call = rounds.pop("nothing")
    overhead = statistics.median(call)
    net = {name: [value - overhead for value in values] for name, values in rounds.items()}
    return {
        **{name: _spread(values) for name, values in net.items()},
        "call_without_loss": _spread(call),
        "focal_over_cross_entropy": _ratio(net[FOCAL], net[CROSS_ENTROPY]),
        "keras_focal_over_focal": _ratio(net[KERAS_FOCAL], net[FOCAL]),
    }


def measure_train_step() -> dict[str, float]:
    """Milliseconds of a DS-CNN training step (98x40 features, batch 128): median and quartiles."""
    model = models.build("ds_cnn", 98, 40, 1)
    model.compile("adam", LOSSES[FOCAL])
    features = tf.random.stateless_normal((TRAIN_BATCH, 98, 40), seed=(0, 0))
    labels, _ = _examples(TRAIN_BATCH)
    milliseconds = []
    for step in range(5 + TRAIN_STEPS):
        started = time.perf_counter()
        model.train_on_batch(features, labels)
        if step >= 5:
            milliseconds.append((time.perf_counter() - started) * 1e3)
    return _spread(milliseconds)


def measure() -> dict[str, Any]:
    """All figures; `epoch_overhead` is focal loss's share of a DS-CNN epoch, as a fraction."""
    losses = {str(batch): measure_losses(batch) for batch in BATCHES}
    step = measure_train_step()
    in_training = losses[str(TRAIN_BATCH)]
    focal_us, cross_entropy_us = (in_training[name]["median"] for name in (FOCAL, CROSS_ENTROPY))
    step_us = step["median"] * 1e3
    return {
        "tensorflow": tf.__version__,
        "threads": _THREADS.value or "TensorFlow's choice",
        "loss_and_gradient_us": losses,
        "train_step_ms": step,
        "epoch_overhead": focal_us / step_us,
        "epoch_overhead_over_cross_entropy": (focal_us - cross_entropy_us) / step_us,
    }


def _examples(batch: int, seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((batch, 1)) < 0.3).astype(np.float32)
    return tf.constant(labels), tf.constant(rng.normal(scale=4.0, size=(batch, 1)), tf.float32)


def _gradient_step(loss: keras.losses.Loss) -> Step:
    def step(labels, logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    return step


def _steps(step: Step) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    def run(labels, logits):
        values = []
        for step_labels in tf.unstack(labels, STEPS):
            value, gradient = step(step_labels, logits)
            values.append(value)
            logits = logits - gradient
        return tf.add_n(values), logits

    return tf.function(run, autograph=False)


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"median": median, "quartile_low": low, "quartile_high": high}


def _ratio(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    return _spread([above / below for above, below in zip(numerator, denominator, strict=True)])


def _print_table(figures: dict[str, Any]) -> None:
    print(
        f"Loss and gradient, threads: {figures['threads']}; median (quartiles) of {ROUNDS} rounds"
    )
    print(f"{'batch':>6}  {'loss':<14} {'microseconds':>22}")
    for batch, measured in figures["loss_and_gradient_us"].items():
        for name in LOSSES:
            print(f"{batch:>6}  {name:<14} {_shown(measured[name], 1):>22}")
        print(
            f"{batch:>6}  focal / cross-entropy {_shown(measured['focal_over_cross_entropy']):>22}"
        )
        print(f"{batch:>6}  keras focal / focal   {_shown(measured['keras_focal_over_focal']):>22}")
    print(f"DS-CNN training step, batch {TRAIN_BATCH}: {_shown(figures['train_step_ms'], 1)} ms")
    more = figures["epoch_overhead_over_cross_entropy"]
    share = figures["epoch_overhead"]
    print(f"Share of an epoch: focal loss {share:.4%}, over cross-entropy {more:+.4%}")


def _shown(spread: dict[str, float], digits: int = 2) -> str:
    low, high = spread["quartile_low"], spread["quartile_high"]
    return f"{spread['median']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main(argv: list[str]) -> None:
    """Measure, print the table, write the JSON."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    figures = measure()
    _print_table(figures)
    if _JSON.value:
        with open(f"{_JSON.value}.partial", "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)
        os.replace(f"{_JSON.value}.partial", _JSON.value)


if __name__ == "__main__":
    app.run(main)
