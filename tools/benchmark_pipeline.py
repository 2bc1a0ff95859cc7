"""Does the input pipeline starve training? Examples per second of `fit`, with it and without.

python -m tools.benchmark_pipeline --data_dir=DIR --wake_words=happy [--json FILE]
Without recordings, --wake_phrase synthesises some. Both train the same model on as many batches,
taking turns; the second repeats one batch that lies ready in memory.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import flags

from flags import run_flags
from tools import command
from wakeword_keras import models
from wakeword_keras.data.shards import Shards, write_shards
from wakeword_keras.run import corpus as run_corpus
from wakeword_keras.run.config import RunConfig
from wakeword_keras.training import batches
from wakeword_keras.training.trainer import MonitoredModel

# Of the run's flags, those that --helpshort is to list here, too.
flags.declare_key_flag("data_dir")
flags.declare_key_flag("wake_words")
flags.declare_key_flag("wake_phrase")
flags.declare_key_flag("model")
flags.declare_key_flag("cache_dir")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "times each of the two is measured", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file to write the figures to, as JSON, if given")
_WARM_UP = 2  # epochs


def main(arguments: Sequence[str]) -> None:
    """Print the table and write the figures."""
    config = run_flags.read()
    corpus = run_corpus.gather(config)
    shards = write_shards(corpus, config.corpus.clip_ms, config.cache_dir)
    figures = measure(config, shards, _ROUNDS.value)
    print(f"{'':24}{'examples/s':>12}{'quartiles':>18}")
    for name in ("full_pipeline", "constant_batch"):
        low, middle, high = np.percentile(figures[name], [25, 50, 75])
        print(f"{name:24}{middle:12.0f}{f'{low:.0f} to {high:.0f}':>18}")
    print(f"{'ratio of paired rounds':24}{figures['ratio']:12.3f}")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")


def measure(config: RunConfig, shards: Shards, rounds: int) -> dict:
    """Examples per second of both, round by round, and the median of the rounds' ratios."""
    steps = batches.steps_per_epoch(shards, config.data)
    frames = config.frontend.num_frames(shards.clip_samples)
    model = models.build(config.model, frames, config.frontend.channels, len(shards.wake_words))
    trainer = MonitoredModel(inputs=model.inputs, outputs=model.outputs)
    trainer.compile(keras.optimizers.AdamW(), config.loss.build())
    # As many epochs as one clip's echoes last, so that every cost comes in its true share.
    epochs = _WARM_UP + config.data.echo

    def pipeline_from(epoch: int) -> tf.data.Dataset:
        return batches.training_batches(
            shards, config.frontend, config.augment, config.data, config.seed, epoch, epoch + epochs
        )

    constant = pipeline_from(0).take(1).cache().repeat()
    trainer.fit(constant, steps_per_epoch=3, verbose=0)  # traces
    clock = _Clock()
    seconds: dict[str, list[float]] = {"full_pipeline": [], "constant_batch": []}
    for number in range(rounds):
        for name, source in (
            ("full_pipeline", pipeline_from(number * epochs)),
            ("constant_batch", constant),
        ):
            trainer.fit(source, steps_per_epoch=steps, epochs=epochs, verbose=0, callbacks=[clock])
            seconds[name].append(clock.seconds)
    examples = steps * config.data.batch * config.data.echo
    rates = {name: [examples / s for s in taken] for name, taken in seconds.items()}
    ratio = np.median(np.divide(rates["full_pipeline"], rates["constant_batch"]))
    return {**rates, "ratio": float(ratio), "batch": config.data.batch, "model": config.model}


class _Clock(keras.callbacks.Callback):
    """Seconds of all epochs but the first ones, which fill buffers."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start after the warm-up."""
        if epoch == _WARM_UP:
            self._start = time.monotonic()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Stop."""
        self.seconds = time.monotonic() - self._start


if __name__ == "__main__":
    command.run(main)
