"""Training batches: augmented clips, each used several times (data echoing).

Augmentation and the exact front end cost more than the training step of a small model. So a batch
takes only a part of its clips from them and draws the rest from a pool of the last ones, in which
the new clips then replace the oldest. In every batch each clip is shifted anew, by half of the
whole range, in that its frames are cut elsewhere, and masked anew. This is data echoing (Choi et
al. 2019, arXiv:1907.05550) with the echoes spread over the whole pool.

Where there is ambient audio, a stated share of each batch is windows of it (negatives.py); what is
said above is then of the rest, and its speech is mixed before, behind and beneath clips of every
label: a device hears the wake word among other words, and what surrounds it must not tell it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from wakeword_keras.audio.augmentation import (
    AugmentConfig,
    augment_waveform,
    batch_seed,
    spec_augment,
)
from wakeword_keras.audio.features import FrontendConfig, graph_features
from wakeword_keras.data.shards import Shards, parse
from wakeword_keras.errors import InputError
from wakeword_keras.names import TRAIN
from wakeword_keras.training.hard_negatives import Pools
from wakeword_keras.training.negatives import Negatives

_ENDLESS = 1 << 40

Arrays = tuple[NDArray, ...]  # features, labels, sample weights, groups; first axis: examples


@dataclass(frozen=True)
class DataConfig:
    """How clips become batches.

    Attributes:
      batch: examples in a batch.
      echo: times that each augmented clip is used, in about as many epochs; augmentation and front
        end then cost 1 / echo as much. At most the batch.
      shuffle: clips in the shuffle buffer, and augmented clips in the pool that echoes come from.
    """

    batch: int = 128
    echo: int = 16
    shuffle: int = 4096

    def __post_init__(self) -> None:
        for name in ("batch", "echo", "shuffle"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}`={getattr(self, name)}: must be at least 1")
        if self.echo > self.batch:
            raise InputError(f"`echo`={self.echo}: must be at most `batch`={self.batch}")

    @property
    def new_clips(self) -> int:
        """Clips of a batch that come straight from augmentation."""
        return round(self.batch / self.echo)


def steps_per_epoch(shards: Shards, config: DataConfig, negatives: Negatives | None = None) -> int:
    """Batches whose clips are as many as there are training clips; at least 1."""
    return max(1, len(shards.clips[TRAIN]) // clips_in_batch(config, negatives))


def clips_in_batch(config: DataConfig, negatives: Negatives | None) -> int:
    """Examples of a batch that are clips."""
    return config.batch - (negatives.in_batch(config.batch) if negatives else 0)


def negatives_in_epoch(
    shards: Shards, config: DataConfig, negatives: Negatives | None = None
) -> int:
    """Examples of an epoch that are no clips, with every clip in it once."""
    clips = clips_in_batch(config, negatives)
    return round(len(shards.clips[TRAIN]) * (config.batch - clips) / clips)


def training_batches(
    shards: Shards,
    frontend: FrontendConfig,
    augment: AugmentConfig,
    config: DataConfig,
    seed: int,
    first_epoch: int,
    epochs: int,
    impulse_responses: NDArray[np.float32] | None = None,
    negatives: Negatives | None = None,
    pools: Pools | None = None,
) -> tf.data.Dataset:
    """Augmented batches of several epochs in one stream.

    An epoch's batches depend on the seed and the epoch's number alone, so a resumed run sees what
    the interrupted one would have seen. Give `model.fit` `steps_per_epoch` of the same arguments.

    Args:
      shards, frontend, augment, config: what to read and how to make batches of it.
      seed: of shuffling and augmentation.
      first_epoch, epochs: the stream holds epochs `first_epoch` to `epochs - 1`.
      impulse_responses: float32 [responses, taps] of rooms, see `read_impulse_responses`.
      negatives: ambient audio, if any; then pools of hard negatives, too.

    Returns:
      Dataset of (features float32 [batch, frames, channels], labels float32 [batch, wake_words],
      sample weights float32 [batch], groups int32 [batch], an index into EXAMPLES).
    """
    steps = steps_per_epoch(shards, config, negatives)
    first_step = first_epoch * steps
    augmented = _augmentation(shards, frontend, augment, impulse_responses)
    of_clips = replace(config, batch=clips_in_batch(config, negatives))
    groups = functools.partial(_augmented_groups, shards, of_clips, augmented, seed)
    echoes = _Echoes(groups, of_clips, len(shards.clips[TRAIN]), seed, first_step)
    frames = frontend.num_frames(shards.clip_samples)

    def examples(step: int) -> Arrays:
        clips = echoes.batch(step, frames)
        if negatives is None or pools is None:
            return clips
        others = negatives.batch(pools, seed, step, config.batch, len(shards.wake_words))
        return tuple(np.concatenate(pair) for pair in zip(clips, others, strict=True))

    def batch(step: tf.Tensor) -> tuple:
        # Not Dataset.from_generator, which copies so often that it costs a tenth of a step.
        features, labels, weights, groups = tf.numpy_function(
            lambda number: examples(int(number)),
            [step],
            [tf.float32, tf.float32, tf.float32, tf.int32],
        )
        features = tf.ensure_shape(features, [config.batch, frames, frontend.channels])
        mask_seed = batch_seed(seed, 0, step)
        return (
            spec_augment(features, mask_seed, augment, frontend.input_affine.low),
            tf.ensure_shape(labels, [config.batch, len(shards.wake_words)]),
            tf.ensure_shape(weights, [config.batch]),
            tf.ensure_shape(groups, [config.batch]),
        )

    # Fixed, and far below LAG_STEPS: a pool of hard negatives has to be there for its first batch.
    return _untuned(tf.data.Dataset.range(first_step, epochs * steps).map(batch).prefetch(2))


class _Echoes:
    """Batches of new clips and of clips from the pool, to be asked for one step after the other.

    Asked for the first step again it starts anew, so that a dataset of it can be iterated twice.

    Args:
      groups: gives the dataset of groups of augmented clips from the n-th group on; step n takes
        the groups before it into the pool and one more as its new clips.
      config: sizes of batch, pool and groups.
      clips: number of training clips.
      seed: of what is drawn from the pool, and where its clips are cut.
      first_step: of the run or of what is left of it.
    """

    def __init__(
        self,
        groups: Callable[[int], tf.data.Dataset],
        config: DataConfig,
        clips: int,
        seed: int,
        first_step: int,
    ) -> None:
        self._groups, self._seed, self._first_step = groups, seed, first_step
        self._group_clips = config.new_clips
        self._pool_groups = max(1, min(config.shuffle, clips) // config.new_clips)
        self._echoed = config.batch - config.new_clips

    def batch(self, step: int, frames: int) -> Arrays:
        """The batch of a step, its clips cut to so many frames; before masks."""
        if step == self._first_step:
            self._start()
        new = next(self._newest)
        pool_size = self._pool_groups * self._group_clips
        drawn = _drawn(self._seed, step * self._echoed, self._echoed, pool_size)
        features, *others = (
            np.concatenate([part, kept[drawn]]) for part, kept in zip(new, self._pool, strict=True)
        )
        oldest = step % self._pool_groups * self._group_clips
        for kept, part in zip(self._pool, new, strict=True):
            kept[oldest : oldest + self._group_clips] = part
        return _cut(features, frames, np.random.default_rng([self._seed, step])), *others

    def _start(self) -> None:
        """Fill the pool with the groups that a run from the beginning has in it at this step."""
        filling = self._groups(self._first_step).take(self._pool_groups).as_numpy_iterator()
        # A group's place in the pool is its number modulo their count, wherever a run resumes.
        shift = self._first_step % self._pool_groups * self._group_clips
        self._pool = [
            np.roll(np.concatenate(parts), shift, axis=0) for parts in zip(*filling, strict=True)
        ]
        self._newest = self._groups(self._first_step + self._pool_groups).as_numpy_iterator()


def _cut(
    features: NDArray[np.float32], frames: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """So many frames of each clip, from a random one on: float32 [clips, frames, channels]."""
    first = rng.integers(features.shape[1] - frames + 1, size=len(features))
    return np.stack([clip[i : i + frames] for clip, i in zip(features, first, strict=True)])


def _drawn(seed: int, first: int, count: int, size: int) -> NDArray[np.int64]:
    """Numbers `first` to `first + count` of endless shuffles of the pool, one after the other."""
    shuffles = range(first // size, (first + count) // size + 1)
    order = np.concatenate(
        [np.random.default_rng([seed, number]).permutation(size) for number in shuffles]
    )
    return order[first % size :][:count]


def _augmented_groups(
    shards: Shards, config: DataConfig, augmented: Callable, seed: int, first_group: int
) -> tf.data.Dataset:
    """Groups of augmented clips from endless passes over the training clips."""
    clips = len(shards.clips[TRAIN])
    first = first_group * config.new_clips

    def one_pass(number: tf.Tensor) -> tf.data.Dataset:
        # The seed of this function's graph, not the program's: with 0 there, shuffle takes no
        # tensor for its own seed; with another, batches would depend on it.
        tf.random.set_seed(max(seed, 1))
        return _shuffled_clips(shards, config, seed, number)

    passes = tf.data.Dataset.range(first // clips, _ENDLESS).flat_map(one_pass)
    groups = passes.skip(first % clips).batch(config.new_clips)
    seeds = tf.data.Dataset.range(first_group, _ENDLESS).map(lambda i: batch_seed(seed, 0, i))
    return _untuned(tf.data.Dataset.zip(seeds, groups).map(augmented, num_parallel_calls=2))


def _untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset without TensorFlow's tuning, which has nothing to choose here.

    Its thread sleeps twice as long each time, up to a minute, and TensorFlow 2.21 waits for it to
    wake when an iterator is given up before its end, as `fit` does.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _augmentation(
    shards: Shards,
    frontend: FrontendConfig,
    augment: AugmentConfig,
    impulse_responses: NDArray[np.float32] | None,
) -> Callable:
    """A function (seed, a group of clips) -> their features, labels, weights and groups."""
    # Tensors made out here are captured; as constants of the graph they would cost half a minute.
    background, speech = _others(shards)
    rooms = None if impulse_responses is None else tf.constant(impulse_responses)
    # Half of the shift is left to each use: so many frames to spare on either side.
    spare = augment.shift_ms // (2 * frontend.step_ms)
    shifted = replace(augment, shift_ms=augment.shift_ms - spare * frontend.step_ms)
    frames = frontend.num_frames(shards.clip_samples) + 2 * spare
    margin = spare * frontend.step_samples

    def augmented(group_seed: tf.Tensor, clips: dict[str, tf.Tensor]) -> tuple:
        samples = tf.pad(clips["samples"], [[0, 0], [margin, margin]])
        samples, start = augment_waveform(samples, group_seed, shifted, background, rooms, speech)
        features = graph_features(samples, frontend, frames=frames, start=start)
        labels = tf.one_hot(clips["target"], len(shards.wake_words))
        return features, labels, clips["weight"], tf.cast(clips["group"], tf.int32)

    return augmented


def _others(shards: Shards) -> tuple[tf.Tensor | None, tf.Tensor | None]:
    """Noise and other people's speech to mix with clips of every label; None for none."""
    noise, speech = (np.load(shards.directory / f"{name}.npy") for name in ("background", "speech"))
    if len(speech) and not len(noise):
        noise = np.zeros_like(speech[:1])  # speech comes with a background, if only silence
    return _tensor(noise), _tensor(speech)


def _tensor(sound: NDArray[np.int16]) -> tf.Tensor | None:
    return tf.constant(sound) if len(sound) else None


def _shuffled_clips(
    shards: Shards, config: DataConfig, seed: int, number: tf.Tensor
) -> tf.data.Dataset:
    """The training clips as they are stored, in the order of a pass."""
    pair = tf.stack([tf.cast(seed, tf.int64), number])
    paths = tf.random.experimental.stateless_shuffle(tf.constant(shards.paths(TRAIN)), pair)
    clips = tf.data.TFRecordDataset(paths).map(lambda record: parse(record, shards.clip_samples))
    buffer = min(config.shuffle, len(shards.clips[TRAIN]))
    return clips.shuffle(buffer, seed=seed * 100_003 + number)
