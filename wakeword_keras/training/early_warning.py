"""Early warning: what validation logits show after a few epochs that more epochs will not mend."""

from collections.abc import Iterator, Sequence

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.affine import INT8_MAX, INT8_MIN
from wakeword_keras.progress import say
from wakeword_keras.training.callbacks import DetectionMetrics

COLLAPSED_LOGITS = 1e-3
"""Logits of all clips within so much of each other: the model does not look at its input."""
DEAD_EPOCHS = 3
"""Epochs after which some clip of every wake word has a probability above one half."""
COARSE_STEP_LOGITS = 0.5
"""A step of INT8 above which the logits near a threshold are a handful of values."""


def faults(
    logits: NDArray[np.float32],
    labels: NDArray[np.float32],
    epochs: int,
    wake_words: Sequence[str] = (),
) -> Iterator[tuple[str, str]]:
    """What is wrong with a model, and what mends it.

    Args:
      logits: float32 [clips, wake_words] of validation clips.
      labels: 0 or 1, the same shape.
      epochs: that the model has trained, from 1.
      wake_words: names; numbers from 1 where there are none.

    Yields:
      (kind and word, one line): "collapsed", "dead" or "exploding".
    """
    for word in range(logits.shape[1]):
        name = wake_words[word] if wake_words else str(word + 1)
        scores, spoken = logits[:, word], labels[:, word] == 1
        low, high = float(scores.min()), float(scores.max())
        step = (max(high, 0.0) - min(low, 0.0)) / (INT8_MAX - INT8_MIN)
        if high - low < COLLAPSED_LOGITS:
            yield (
                f"collapsed {name}",
                f"wake word {name}: every clip has the logit {scores[0]:.3f}: lower the learning "
                "rate, or look whether the features are all the same",
            )
        elif epochs >= DEAD_EPOCHS and spoken.any() and scores[spoken].max() < 0:
            yield (
                f"dead {name}",
                f"wake word {name}: after {epochs} epochs none of its {int(spoken.sum())} clips "
                "has a probability above 50 %: raise the positives' weight (alpha) or their number",
            )
        if step > COARSE_STEP_LOGITS:
            yield (
                f"exploding {name}",
                f"wake word {name}: logits from {low:.0f} to {high:.0f}, a step of INT8 would be "
                f"{step:.1f}: lower the learning rate or add weight decay",
            )


class EarlyWarning(keras.callbacks.Callback):
    """Prints a line when a training goes wrong, once for each fault (see `faults`).

    Args:
      metrics: listed before this callback; its logits are looked at, so nothing is scored twice.
      wake_words: names for the messages.
    """

    def __init__(self, metrics: DetectionMetrics, wake_words: Sequence[str] = ()) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._metrics = metrics
        self._wake_words = wake_words

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Look at the epoch's logits."""
        assert self._metrics.logits is not None, "metrics are listed before"
        for kind, line in faults(
            self._metrics.logits, self._metrics.labels, epoch + 1, self._wake_words
        ):
            if kind not in self.found:
                self.found[kind] = line
                say(f"warning: {line}")
