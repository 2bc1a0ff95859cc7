"""The FP32 stage: a model learns the labels by focal loss, or the mean of models that did so.

Trainings that differ by chance alone agree on what they are trained on, and far less on voices that
they never heard: each fires at other sounds, and misses other people. The mean of their logits is
better than any of them, and one model of the same size can learn it (Hinton, Vinyals and Dean 2015,
arXiv:1503.02531; on logits, Ba and Caruana 2014, arXiv:1312.6184).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from wakeword_keras.errors import InputError
from wakeword_keras.models import mixed_conv
from wakeword_keras.progress import say
from wakeword_keras.training import loop
from wakeword_keras.training.losses import prior_bias
from wakeword_keras.training.workers import ALONE, Workers

_SEEDS_APART = 1000  # of a stage's teachers: runs of seeds 1, 2, 3 share none


@dataclass(frozen=True)
class TrainConfig:
    """The FP32 stage.

    Attributes:
      epochs: passes over the training clips at most.
      learning_rate: peak of the schedule: linear warm-up over one epoch, then cosine to zero.
      weight_decay: decoupled weight decay of AdamW, >= 0.
      patience: epochs without a better validation metric before training stops.
      prior_bias: start the last layer's bias at the positives' share (Lin et al. 2017, 4.1).
      teachers: models, 2 or more, that learn the labels first, each from weights and batches of its
        own; the model then learns their mean logits. 0 for none: it learns the labels itself.
      teacher_epochs: passes of each teacher, 0 for as many as `epochs`: it takes longer to learn
        from teachers than to become one (Beyer et al. 2021, arXiv:2106.05237).
    """

    epochs: int = 96
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    patience: int = 96
    prior_bias: bool = True
    teachers: int = 0
    teacher_epochs: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}`={getattr(self, name)}: must be at least 1")
        if not self.learning_rate > 0:
            raise InputError(f"`learning_rate`={self.learning_rate}: must be positive")
        if not self.weight_decay >= 0:
            raise InputError(f"`weight_decay`={self.weight_decay}: must not be negative")
        if self.teachers < 0 or self.teachers == 1:
            raise InputError(f"`teachers`={self.teachers}: must be 0, or at least 2")
        if self.teacher_epochs < 0:
            raise InputError(f"`teacher_epochs`={self.teacher_epochs}: must not be negative")


def train(
    model: keras.Model,
    data: loop.TrainingData,
    loss: loop.LossConfig,
    config: TrainConfig,
    directory: Path,
    workers: Workers = ALONE,
    members: Sequence[keras.Model] = (),
) -> None:
    """Train a float model; it ends with the weights that `KeepBest` keeps.

    A model of several members is made of them when they have learnt: each learns the labels by
    itself, on the batches of all, and their mean logits are judged.

    Args:
      model: functional Keras model from features to logits, changed in place.
      data: clips and how they become batches.
      loss: what to minimise; with teachers, what they minimise.
      config: how long and how fast.
      directory: takes checkpoint.npz, history.csv and TensorBoard logs; of teachers in teacher_1
        and on. A training that was interrupted goes on from its last whole epoch.
      workers: that train together. Each calls this with the same arguments; the chief alone
        judges, writes, and ends with the weights that are kept.
      members: those of the model, freshly initialised; none for a model that learns itself.
    """
    teacher = _teacher(model, data, loss, config, directory, workers) if config.teachers else None
    learners = list(members) or [model]
    if config.prior_bias:
        for learner in learners:
            set_prior_bias(learner, data.targets(), len(data.shards.wake_words))
    schedule = loop.Schedule(
        config.epochs, config.learning_rate, config.weight_decay, config.patience
    )

    def copies() -> tuple[keras.Model, keras.Model]:
        whole = _with_whole_batch
        return _together([keras.models.clone_model(m, clone_function=whole) for m in learners])

    mean, apart = _together(learners)
    models = loop.Models(kept=mean, learning=apart, judged=mean, copies=copies)
    loop.fit(models, data, loss, schedule, directory, teacher=teacher, workers=workers)
    if members:
        mixed_conv.join(model, members)


def mean_of(models: Sequence[keras.Model]) -> keras.Model:
    """A model whose logits are the mean of those of several models of one input shape."""
    return _together(models)[0]


def set_prior_bias(model: keras.Model, targets: np.ndarray, wake_words: int) -> None:
    """Start each logit at the log-odds of its wake word among the training examples.

    Args:
      model: functional model whose last layer is a Dense with bias.
      targets: int [examples], index of the wake word, -1 for none.
      wake_words: number of logits.
    """
    shares = [(np.sum(targets == word) + 1) / (len(targets) + 2) for word in range(wake_words)]
    model.layers[-1].bias.assign([prior_bias(share) for share in shares])


def _teacher(
    model: keras.Model,
    data: loop.TrainingData,
    loss: loop.LossConfig,
    config: TrainConfig,
    directory: Path,
    workers: Workers,
) -> keras.Model:
    """The mean of models like this one that have learnt the labels."""
    alone = replace(config, teachers=0, epochs=config.teacher_epochs or config.epochs)
    members = []
    for number in range(1, config.teachers + 1):
        say(f"teacher {number} of {config.teachers} learns the labels")
        own = replace(data, seed=data.seed + _SEEDS_APART * number)
        # An interrupted stage begins its next teacher with the weights it would have had.
        keras.utils.set_random_seed(own.seed)
        member = keras.models.clone_model(model)
        train(member, own, loss, alone, directory / f"teacher_{number}", workers)
        workers.share_variables(member.weights)
        members.append(member)
    return mean_of(members)


def _together(models: Sequence[keras.Model]) -> tuple[keras.Model, keras.Model]:
    """What is judged, the mean logits, and what learns, all logits side by side."""
    if len(models) == 1:
        return models[0], models[0]
    features = keras.layers.Input(models[0].input_shape[1:], name="features")
    # Each has a name of its own in the whole, which one architecture's models have not.
    named = [keras.Model(m.inputs, m.outputs, name=f"of_{i}") for i, m in enumerate(models, 1)]
    logits = [model(features) for model in named]
    mean = keras.layers.Average(name="mean")(logits)
    apart = keras.layers.Concatenate(name="apart")(logits)
    return keras.Model(features, mean, name="mean_of"), keras.Model(features, apart, name="all_of")


def _with_whole_batch(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A copy of a layer whose statistics are of the whole batch, not of a replica's part of it."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.BatchNormalization):
        config["synchronized"] = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return layer.__class__.from_config(config)
