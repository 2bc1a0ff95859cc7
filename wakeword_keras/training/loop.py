"""The one training loop, of the FP32 stage and of QAT."""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.clips import ClipFeatures, targets_of
from wakeword_keras.data.shards import Shards
from wakeword_keras.errors import InputError
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.names import TRAIN
from wakeword_keras.training import batches, callbacks, dropout
from wakeword_keras.training.early_warning import EarlyWarning
from wakeword_keras.training.hard_negatives import Pools
from wakeword_keras.training.listening import Listening, ValidationStreams, When
from wakeword_keras.training.losses import FocalLoss
from wakeword_keras.training.negatives import Negatives
from wakeword_keras.training.trainer import MonitoredModel
from wakeword_keras.training.workers import ALONE, CopyBack, FollowChief, Workers

HARD_NEGATIVES = "hard_negatives.json"


@dataclass(frozen=True)
class LossConfig:
    """What training minimises.

    Attributes:
      loss: focal loss or plain binary cross-entropy.
      gamma: exponent of the focal loss, >= 0: how little easy examples weigh; 0 is cross-entropy.
      alpha: weight of the positives in the focal loss, 0 to 1, negatives get the rest; none for
        equal weights of 1.
      label_smoothing: share of every label that is spread over both outcomes, 0 to below 1.
      class_weights: weigh positives and negatives so that both sum to the same; not together with
        alpha, which does the same.
    """

    loss: Literal["focal", "bce"] = "focal"
    gamma: float = 2.0
    alpha: float | None = None
    label_smoothing: float = 0.0
    class_weights: bool = False

    def __post_init__(self) -> None:
        if self.class_weights and self.alpha is not None:
            raise InputError(
                f"`class_weights` and `alpha`={self.alpha} both weigh the positives: give only one"
            )
        try:
            self.build()
        except ValueError as error:
            # The loss is a researcher's too: its message begins with the argument's name.
            name, _, fault = str(error).partition(" ")
            raise InputError(f"`{name}` {fault}") from error

    def build(self) -> keras.losses.Loss:
        """The Keras loss."""
        if self.loss == "bce":
            return FocalLoss(gamma=0.0, alpha=None, label_smoothing=self.label_smoothing)
        return FocalLoss(self.gamma, self.alpha, self.label_smoothing)


@dataclass(frozen=True)
class TrainingData:
    """Everything a stage trains and validates on.

    With `negatives` the model listens to them and to `streams`; hard ones are drawn from the last
    pool in `first_pools` until the stage has one of its own. It listens as the device will, which
    averages scores over `average_ms`.
    """

    shards: Shards
    validation: tuple[ClipFeatures, ...]
    frontend: FrontendConfig
    augment: AugmentConfig
    config: batches.DataConfig
    seed: int
    impulse_responses: NDArray[np.float32] | None = None
    negatives: Negatives | None = None
    streams: ValidationStreams | None = None
    first_pools: Path | None = None
    average_ms: int = StreamConfig.average_ms

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return batches.steps_per_epoch(self.shards, self.config, self.negatives)

    @property
    def people_validate(self) -> bool:
        """Whether a wake word of validation is said by a person."""
        clips = self.validation[0].clips
        return any(clip.target >= 0 and not clip.synthetic for clip in clips)

    def targets(self) -> NDArray[np.int32]:
        """int32 [examples], in the shares of a batch: index of the wake word, -1 for none."""
        others = batches.negatives_in_epoch(self.shards, self.config, self.negatives)
        clips = targets_of(self.shards.clips[TRAIN])
        return np.concatenate([clips, np.full(others, -1, np.int32)])


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage trains."""

    epochs: int
    learning_rate: float
    weight_decay: float
    patience: int


@dataclass(frozen=True)
class Models:
    """What a training has of its model, all on the same variables.

    Attributes:
      kept: takes part in checkpoints, and ends with the weights that `KeepBest` keeps.
      learning: computes the logits that learn; where they are several for each wake word, one of
        each member of the model, each member learns all labels.
      judged: computes the logits that an epoch is judged by.
      copies: makes kept and learning anew, in the scope of a strategy: they train in their place,
        and after each epoch kept gets their weights.
    """

    kept: keras.Model
    learning: keras.Model
    judged: keras.Model
    copies: Callable[[], tuple[keras.Model, keras.Model]]


def fit(
    models: Models,
    data: TrainingData,
    loss: LossConfig,
    schedule: Schedule,
    directory: Path,
    *,
    teacher: keras.Model | None = None,
    workers: Workers = ALONE,
) -> None:
    """The training loop of both stages: resumable, logged, ending with the weights of `KeepBest`.

    With a `teacher` its logits are learnt instead of the labels, and nothing is dropped: they need
    not be kept from being learnt by heart.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = models.kept
    with workers.scope():
        trained, learning = models.copies() if workers.strategy else (model, models.learning)
        optimizer = _optimizer(schedule, data.steps)
        optimizer.build(trained.trainable_variables)
    history = callbacks.HistoryCsv(directory / "history.csv")
    keep_best = callbacks.KeepBest(model, history, schedule.patience, data.people_validate)
    made_from = _made_from(model, data, loss, schedule, teacher)
    resume = callbacks.Resume(
        directory / "checkpoint.npz", made_from, model, optimizer, history, keep_best
    )
    pools = Pools(directory / HARD_NEGATIVES, data.first_pools)
    first_epoch = 0
    if workers.is_chief:
        done = _restored(resume, pools, data, schedule)
        first_epoch = schedule.epochs if keep_best.exhausted else done
    first_epoch, found = workers.share((first_epoch, pools.content()))
    if first_epoch < schedule.epochs:
        watchers: list[keras.callbacks.Callback] = []
        if workers.is_chief:
            kept = [history, keep_best, resume]
            watchers = _watchers(models.judged, data, loss, schedule, directory, pools, kept)
        if workers.strategy:
            pools.take(found)
            workers.share_variables([*model.weights, *optimizer.variables])
            trained.set_weights(model.get_weights())
            watchers = [CopyBack(trained, model), *watchers, FollowChief(workers, pools)]
        with workers.scope():
            trainer = MonitoredModel(inputs=learning.inputs, outputs=learning.outputs)
            trainer.compile(optimizer, loss.build(), teacher)
        with _dropping(learning, data.seed, optimizer.iterations, teacher):
            trainer.fit(
                _stream(data, loss, pools, first_epoch, schedule.epochs),
                steps_per_epoch=data.steps,
                initial_epoch=first_epoch,
                epochs=schedule.epochs,
                callbacks=watchers,
                verbose=0,
            )
    keep_best.restore()


def _dropping(
    model: keras.Model, seed: int, step: tf.Variable, teacher: keras.Model | None
) -> contextlib.AbstractContextManager[None]:
    return dropout.none(model) if teacher is not None else dropout.by_step(model, seed, step)


def _watchers(
    model: keras.Model,
    data: TrainingData,
    loss: LossConfig,
    schedule: Schedule,
    directory: Path,
    pools: Pools,
    kept: list[keras.callbacks.Callback],
) -> list[keras.callbacks.Callback]:
    """What judges an epoch, says so and keeps it, in the order that each needs."""
    metrics = _metrics(model, data, loss)
    return [
        metrics,  # first: the others read its logs
        *_listening(model, data, pools, schedule.epochs, directory.name),
        EarlyWarning(metrics, data.shards.wake_words),
        callbacks.ProgressLine(schedule.epochs, data.steps, directory.name),
        *kept,
        keras.callbacks.TensorBoard(str(directory / "tensorboard"), write_graph=False),
    ]


def _restored(
    resume: callbacks.Resume, pools: Pools, data: TrainingData, schedule: Schedule
) -> int:
    """Epochs that are done; their weights and hard negatives are there again.

    Raises:
      InputError: the hard negatives that batches draw from are lost.
    """
    epochs = resume.restore()
    if epochs and data.negatives is not None and data.negatives.config.hard_share:
        found = epochs >= min(data.negatives.config.listen_every, schedule.epochs)
        if found and not pools.path.exists():
            raise InputError(
                f"{pools.path} is missing, which training draws from: delete {resume.path} and "
                "repeat the command: this stage trains anew"
            )
    pools.keep(epochs)
    return epochs


def _made_from(
    model: keras.Model,
    data: TrainingData,
    loss: LossConfig,
    schedule: Schedule,
    teacher: keras.Model | None,
) -> str:
    """All that decides what a training learns, but the weights that it starts from."""
    taught = b"".join(weight.tobytes() for weight in teacher.get_weights()) if teacher else b""
    rooms = b"" if data.impulse_responses is None else data.impulse_responses.tobytes()
    # Not names: Keras counts them up in a process.
    shapes = [tuple(weight.shape) for weight in model.weights]
    negatives = data.negatives and (data.negatives.config, len(data.negatives.windows))
    settings = (data.frontend, data.augment, data.config, data.seed, negatives, loss, schedule)
    digests = [hashlib.sha256(content).digest() for content in (rooms, taught)]
    return repr((shapes, data.shards.directory.name, *digests, *settings))


def _metrics(
    model: keras.Model, data: TrainingData, loss: LossConfig
) -> callbacks.DetectionMetrics:
    labels = data.validation[0].one_hot(len(data.shards.wake_words))
    features = [condition.features for condition in data.validation]
    return callbacks.DetectionMetrics(model, features, labels, loss.build())


def _listening(
    model: keras.Model, data: TrainingData, pools: Pools, epochs: int, title: str
) -> list[keras.callbacks.Callback]:
    if data.negatives is None:
        return []
    when = When(epochs, data.steps, data.negatives.config.listen_every)
    return [
        Listening(
            model, data.streams, data.negatives, pools, when, data.seed, title, data.average_ms
        )
    ]


def _stream(
    data: TrainingData, loss: LossConfig, pools: Pools, start: int, end: int
) -> tf.data.Dataset:
    """Batches of epochs `start` to `end - 1`, weighed by class if the loss asks for it."""
    stream = batches.training_batches(
        data.shards,
        data.frontend,
        data.augment,
        data.config,
        data.seed,
        start,
        end,
        data.impulse_responses,
        data.negatives,
        pools,
    )
    if loss.class_weights:
        # Prefetched again: at an end without it tf.data would look ahead as far as it likes.
        stream = stream.map(_class_weighted(data)).prefetch(1)
    # Under a strategy each worker makes every batch, and each replica takes its part of it.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return stream.with_options(options)


def _optimizer(schedule: Schedule, steps: int) -> keras.optimizers.Optimizer:
    """AdamW; the learning rate rises over the first epoch and falls to zero along a cosine."""
    learning_rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, steps * (schedule.epochs - 1)),
        warmup_target=schedule.learning_rate,
        warmup_steps=steps,
    )
    return keras.optimizers.AdamW(learning_rate, weight_decay=schedule.weight_decay)


def _class_weighted(data: TrainingData) -> Callable:
    """A map over batches: positives and negatives get weights that sum to the same."""
    positive_share = float(np.mean(data.targets() >= 0))

    def weigh(features, labels, weights, groups):
        positive = tf.reduce_max(labels, axis=-1)
        factor = positive * 0.5 / positive_share + (1 - positive) * 0.5 / (1 - positive_share)
        return features, labels, weights * factor, groups

    return weigh
