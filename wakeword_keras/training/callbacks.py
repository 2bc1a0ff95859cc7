"""Keras callbacks for a training that is watched, logged, resumed and judged by detection metrics.

Each works with any compiled Keras model, in a notebook too. Order matters in `model.fit`: what
writes into the epoch's logs (`DetectionMetrics`) comes before what reads them.
"""

import csv
import hashlib
import io
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.errors import InputError
from wakeword_keras.files import write_bytes
from wakeword_keras.metrics import detection
from wakeword_keras.names import EXAMPLES
from wakeword_keras.progress import Progress, say
from wakeword_keras.training import weights

# Ranking a few hundred positives tells no finer differences of AUC apart.
AUC_TIE = 1e-4
HEARD_COLUMNS = (
    "val_stream_recall",
    "val_stream_mean_recall",
    "train_false_accepts_per_hour",
    "hardest_window",
    "hardest_clip",
)
"""What the model hears in streams, where there is ambient audio."""
COLUMNS = (
    "epoch",
    "loss",
    "val_loss",
    "val_auc",
    "val_recall_at_fpr_0_01",
    *HEARD_COLUMNS,
    "learning_rate",
    "seconds",
    "hardest_tenth_weight",
    "hardest_tenth_weight_ce",
    *(f"share_{group}" for group in EXAMPLES),
    "logit_error",
)


class DetectionMetrics(keras.callbacks.Callback):
    """Adds val_loss, val_auc and val_recall_at_fpr_0_01 of validation clips to each epoch's logs.

    Attributes:
      labels: float32 [clips, wake_words], of all conditions.
      logits: float32, the same shape: those of the last epoch; None before the first ends.

    Args:
      model: from features to logits, the one to judge (its weights as they are trained).
      features: arrays float32 [clips, frames, channels] of the same clips under different
        conditions, all judged together; memory maps are read in batches.
      labels: float32 [clips, wake_words]; several wake words are averaged.
      loss: of logits; val_loss is its mean over the clips.
      batch: clips a step.
    """

    def __init__(
        self,
        model: keras.Model,
        features: Sequence[np.ndarray],
        labels: np.ndarray,
        loss: keras.losses.Loss,
        batch: int = 256,
    ) -> None:
        super().__init__()
        self._predict = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        self._features = features
        self.labels = np.concatenate([labels] * len(features))
        self.logits: np.ndarray | None = None
        self._loss = loss
        self._batch = batch

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Score the validation clips."""
        logits = np.concatenate(
            [
                self._predict(tf.constant(condition[start : start + self._batch])).numpy()
                for condition in self._features
                for start in range(0, len(condition), self._batch)
            ]
        )
        if not np.isfinite(logits).all():
            raise InputError(
                f"epoch {epoch + 1}: training diverged, a logit is not finite: "
                "lower `learning_rate`"
            )
        self.logits = logits
        words = [(logits[:, word], self.labels[:, word]) for word in range(self.labels.shape[1])]
        auc = [detection.roc_auc(scores, labels) for scores, labels in words]
        recall = [
            detection.recall_at_false_positive_rate(scores, labels, 0.01)
            for scores, labels in words
        ]
        assert logs is not None
        # Not the loss itself, which averages in no strategy but through `fit`.
        losses = self._loss.call(self.labels, logits)
        logs["val_loss"] = float(tf.reduce_sum(losses) / len(losses))
        logs["val_auc"] = float(np.mean(auc))
        logs["val_recall_at_fpr_0_01"] = float(np.mean(recall))


class HistoryCsv(keras.callbacks.Callback):
    """Writes one row of COLUMNS an epoch to a CSV file; a resumed training goes on in it.

    Args:
      path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.rows: list[dict[str, float]] = []
        self._start = 0.0

    def restore(self, table: NDArray[np.float64]) -> None:
        """Take over the rows of an interrupted training, [epochs, COLUMNS]; write the file."""
        self.rows = [dict(zip(COLUMNS, row, strict=True)) for row in table.tolist()]
        self._write()

    def table(self) -> NDArray[np.float64]:
        """The rows as [epochs, COLUMNS], nan where nothing was logged."""
        rows = [[row[name] for name in COLUMNS] for row in self.rows]
        return np.array(rows, np.float64).reshape(-1, len(COLUMNS))

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start the clock."""
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Append the epoch's row."""
        optimizer = self.model.optimizer
        said = {
            **(logs or {}),
            "epoch": epoch + 1,
            "seconds": time.monotonic() - self._start,
            "learning_rate": float(optimizer.learning_rate.numpy()),
        }
        self.rows.append({name: float(f"{said.get(name, math.nan):.7g}") for name in COLUMNS})
        self._write()

    def _write(self) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        for row in self.rows:
            writer.writerow(["" if math.isnan(v) else f"{v:.7g}" for v in row.values()])
        write_bytes(self.path, text.getvalue().encode())


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights of the best epoch, and stops a training that no longer improves.

    Where the model listened to validation streams, best is, of the epochs in which it did, that of
    the highest val_stream_recall; of equal ones that of the highest val_stream_mean_recall, and of
    equal ones again the latest. Elsewhere it is the highest val_auc; among those within AUC_TIE of
    it the latest, whose learning rate is the lowest.

    Unless it `chooses` the last is kept and nothing stops: where only a synthesiser validates, what
    it makes of an epoch says nothing of people.

    Args:
      model: whose weights to keep.
      history: the training's history, listed before this callback.
      patience: epochs without a better one before training stops.
      chooses: whether the best epoch is kept, and not the last.
    """

    def __init__(
        self,
        model: keras.Model,
        history: HistoryCsv,
        patience: int,
        chooses: bool = True,
    ) -> None:
        super().__init__()
        self.weights: list[NDArray] = model.get_weights()
        self._kept = model
        self._history = history
        self._patience = patience
        self._chooses = chooses

    def best_epoch(self) -> int | None:
        """Number (from 1) of the best epoch so far, None before the first."""
        rows = self._history.rows
        heard = [row for row in rows if not math.isnan(row["val_stream_recall"])]
        if heard:
            return int(max(heard, key=_stream_rank)["epoch"])
        best, highest = None, -math.inf
        for row in rows:
            highest = max(highest, row["val_auc"])
            if row["val_auc"] >= highest - AUC_TIE:
                best = int(row["epoch"])
        return best

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        best = self.best_epoch()
        if best is None or not self._chooses:
            return False
        return self._history.rows[-1]["epoch"] - best >= self._patience

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Keep the weights if this epoch is the best, or the last."""
        if not self._chooses or self.best_epoch() == epoch + 1:
            self.weights = self._kept.get_weights()
        if self.exhausted:
            self.model.stop_training = True

    def restore(self) -> None:
        """Give the model its best weights back."""
        self._kept.set_weights(self.weights)


class Resume(keras.callbacks.Callback):
    """Saves all that a training is after each epoch, so that a killed one goes on from there.

    That is the model, the optimizer, the history and the best weights, in one file: whenever it is
    killed, they are of the same epoch.

    Args:
      path: the file.
      made_from: text that another training does not have; a file of another one is refused.
      optimizer: what trains the model, or its copy; built here unless it is.
      history, keep_best: of the training, listed before this callback.
      model: what is trained.
    """

    def __init__(
        self,
        path: Path,
        made_from: str,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        history: HistoryCsv,
        keep_best: KeepBest,
    ) -> None:
        super().__init__()
        optimizer.build(model.trainable_variables)
        self.path = path
        self._made_from = np.frombuffer(hashlib.sha256(made_from.encode()).digest(), np.uint8)
        self._variables = {"model": model.weights, "optimizer": optimizer.variables}
        self._history = history
        self._keep_best = keep_best

    def restore(self) -> int:
        """Restore what was saved, if anything was.

        Returns:
          How many epochs are done: the epoch to go on with, from 0.

        Raises:
          InputError: the file is damaged or of another training.
        """
        if not self.path.exists():
            return 0
        saved = weights.read_arrays(self.path)
        table = saved.pop("history", [np.empty(0)])[0]
        now = self._state()
        now.pop("history")
        weights.check_shapes(self.path, saved, now)
        if table.shape[1:] != (len(COLUMNS),) or (saved["made_from"][0] != self._made_from).any():
            raise InputError(
                f"{self.path} is of a training with other settings or on other recordings: "
                "delete it, or give another `run_dir`"
            )
        for group, variables in self._variables.items():
            for variable, value in zip(variables, saved[group], strict=True):
                variable.assign(value)
        self._history.restore(table)
        self._keep_best.weights = saved["best"]
        return len(table)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Save."""
        weights.write_arrays(self.path, self._state())

    def _state(self) -> dict[str, list[NDArray]]:
        variables = {
            group: [variable.numpy() for variable in variables]
            for group, variables in self._variables.items()
        }
        return {
            "made_from": [self._made_from],
            "history": [self._history.table()],
            "best": self._keep_best.weights,
            **variables,
        }


class ProgressLine(keras.callbacks.Callback):
    """One line an epoch: loss, detection metrics, focal weighting, time; steps as in `Progress`.

    Args:
      epochs: of the whole training, for the time left.
      steps: batches of an epoch.
      title: what is trained.
    """

    def __init__(self, epochs: int, steps: int, title: str) -> None:
        super().__init__()
        self._epochs = epochs
        self._steps = steps
        self._title = title
        self._seconds: list[float] = []
        self._progress: Progress

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Forget an earlier training."""
        self._seconds = []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Start the clock, and with the first epoch, not always number 0, the count of steps."""
        self._start = time.monotonic()
        if not self._seconds:
            self._progress = Progress(self._title, (self._epochs - epoch) * self._steps, "steps")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Count the step."""
        self._progress.update()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Print the epoch's line."""
        self._seconds.append(time.monotonic() - self._start)
        left = (self._epochs - epoch - 1) * float(np.median(self._seconds))
        say(
            f"{self._title} {epoch + 1}/{self._epochs}  {_described(logs or {})}  "
            f"{self._seconds[-1]:.0f} s, {left / 60:.1f} min left"
        )

    def on_train_end(self, logs: dict | None = None) -> None:
        """Take the bar away."""
        self._progress.close()


def _stream_rank(row: dict[str, float]) -> tuple[float, float, float]:
    return row["val_stream_recall"], row["val_stream_mean_recall"], row["epoch"]


def _described(logs: dict[str, float]) -> str:
    parts = [f"loss {logs['loss']:.4f}"]
    if "logit_error" in logs:
        parts.append(f"logits {logs['logit_error']:.3f} from the teacher's")
    if "val_auc" in logs:
        parts.append(f"val AUC {logs['val_auc']:.5f}")
        parts.append(f"recall at 1 % FPR {logs['val_recall_at_fpr_0_01']:.3f}")
    if "val_stream_recall" in logs:
        parts.append(
            f"streams: recall {logs['val_stream_recall']:.3f} at the budget, "
            f"{logs['val_stream_mean_recall']:.3f} over 0 to 2 per hour"
        )
    if "hardest_tenth_weight" in logs:
        parts.append(f"hardest tenth weighs {logs['hardest_tenth_weight']:.1f}x")
    shares = [
        f"{group} {logs[f'share_{group}']:.0%}" for group in EXAMPLES if logs.get(f"share_{group}")
    ]
    return "  ".join(parts + ([f"loss from {', '.join(shares)}"] if shares else []))
