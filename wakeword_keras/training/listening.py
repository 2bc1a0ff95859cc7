"""The model listens to streams while it trains, as the device will: at its stride, by its rule.

To validation streams for recall at the budget of false accepts, which chooses the best epoch; to
training streams for the negatives that come nearest to firing, which then train more often. A peak
counts once: windows within the refractory time of a higher one are left out.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.ambient_features import Windows
from wakeword_keras.data.clips import targets_of
from wakeword_keras.errors import InputError
from wakeword_keras.metrics import stream_recall, stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.progress import say
from wakeword_keras.training.hard_negatives import LAG_STEPS, Heard, Pool, Pools
from wakeword_keras.training.negatives import Negatives

WORST = 20  # of windows, and of clips, that are named
_CHUNK_S = 60  # streams take turns in such pieces where not all can be heard
_BATCH = 512

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class ValidationStreams:
    """What chooses the best epoch.

    Attributes:
      windows: of the ambient validation streams.
      spoken: float32 [wake words, frames, channels], each wake word in noise, front end warm.
      targets: int32 [wake words], which word each is.
      clip_from_ms: where its clip begins.
      max_false_accepts_per_hour: budget, > 0.
    """

    windows: Windows
    spoken: NDArray[np.float32]
    targets: NDArray[np.int32]
    clip_from_ms: int
    max_false_accepts_per_hour: float


@dataclass(frozen=True)
class StreamRecall:
    """Recall within the budget, its mean over 0 to 2 false accepts per hour, lowest such sum."""

    recall: float
    mean: float
    threshold: int


def validate(predict: Predict, streams: ValidationStreams, config: StreamConfig) -> StreamRecall:
    """Recall of a model on validation streams.

    Args:
      predict: features float32 [windows, frames, channels] to logits [windows, wake_words].
      streams: to listen to.
      config: stride, average and refractory time.

    Raises:
      InputError: the front end's step does not fit the stride.
    """
    windows, stride = streams.windows, _stride(streams.windows.frontend, config)
    spans = list(zip(windows.edges[:-1].tolist(), windows.edges[1:].tolist(), strict=True))
    tracks = [_sums(track, config) for track in _hear(predict, windows, spans, stride)]
    peaks = _spoken_peaks(predict, streams, stride, config)
    apart = config.refractory_steps
    # A budget of 0.29 in 100 hours is 29: see stream_metrics.allowed_events.
    most = int(streams.max_false_accepts_per_hour * windows.hours * (1 + 1e-12))
    return StreamRecall(
        stream_recall.recall(peaks, tracks, most, apart),
        stream_recall.mean_recall(peaks, tracks, windows.hours, apart),
        stream_rule.budget_range(tracks, most, apart)[1],
    )


def find_hard(
    predict: Predict,
    negatives: Negatives,
    config: StreamConfig,
    *,
    seed: int,
    epoch: int,
    from_step: int,
    threshold: int,
) -> Pool:
    """The negatives that come nearest to firing.

    Args:
      predict: as `validate` takes it.
      negatives: streams and clips to hear.
      config: stride, average and refractory time.
      seed: of the order in which streams take turns.
      epoch: after which this is, from 1.
      from_step: the first step that may draw from the pool.
      threshold: sum to count false accepts at.
    """
    windows, stride = negatives.windows, _stride(negatives.windows.frontend, config)
    turn = epoch // negatives.config.listen_every
    spans = _turn(windows, negatives.config.listen_hours, seed, turn, stride)
    logits = _hear(predict, windows, spans, stride)
    most = negatives.config.hard_windows // 2
    highest = [track.max(axis=1) for track in logits]
    found = [
        (spans[track][0] + step * stride, float(highest[track][step]))
        for track, step in _peaks(highest, config.refractory_steps, most)
    ]
    clips = _hard_clips(predict, negatives, most)
    sums = [_sums(track, config) for track in logits]
    events = stream_rule.event_counts(sums, np.asarray([threshold]), config.refractory_steps)
    return Pool(
        epoch,
        from_step,
        tuple(number for number, _ in found),
        tuple(index for index, _ in clips),
        sum(map(len, logits)) * config.stride_ms / 3_600_000,
        threshold / config.one,
        int(events[0]),
        tuple(_heard_window(windows, *entry) for entry in found[:WORST]),
        tuple(_heard_clip(negatives, *entry) for entry in clips[:WORST]),
    )


@dataclass(frozen=True)
class When:
    """Epochs of a training, batches of an epoch, and epochs from one listening to the next."""

    epochs: int
    steps: int
    every: int

    def due(self, done: int) -> bool:
        """Whether the model listens after so many epochs: it always does after the last."""
        return done % self.every == 0 or done == self.epochs


class Listening(keras.callbacks.Callback):
    """Adds what the model hears in streams to an epoch's logs, and finds hard negatives.

    Args:
      model: from features to logits, the one to judge.
      validation: streams that choose the best epoch; None for none.
      negatives: streams and clips that train.
      pools: takes what was found.
      when: it listens.
      seed: of the training.
      title: what is trained.
      average_ms: how far the device averages scores.
    """

    def __init__(
        self,
        model: keras.Model,
        validation: ValidationStreams | None,
        negatives: Negatives,
        pools: Pools,
        when: When,
        seed: int,
        title: str,
        average_ms: int = StreamConfig.average_ms,
    ) -> None:
        super().__init__()
        compiled = tf.function(lambda x: model(x, training=False), reduce_retracing=True)
        self._predict = lambda features: compiled(tf.constant(features)).numpy()
        self._validation, self._negatives, self._pools = validation, negatives, pools
        self._when, self._seed, self._title = when, seed, title
        self._config = stream_rule.of_steps(StreamConfig.stride_ms, average_ms)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Listen, if it is time."""
        assert logs is not None
        done = epoch + 1
        if not self._when.due(done):
            return
        start = time.monotonic()
        threshold = self._config.one // 2
        if self._validation is not None:
            found = validate(self._predict, self._validation, self._config)
            logs["val_stream_recall"] = found.recall
            logs["val_stream_mean_recall"] = found.mean
            threshold = found.threshold
        if self._negatives.config.hard_share:
            said = self._find_hard(done, threshold, logs)
            seconds = time.monotonic() - start
            say(f"{self._title} {done}/{self._when.epochs} heard {said}  {seconds:.0f} s")

    def _find_hard(self, done: int, threshold: int, logs: dict) -> str:
        pool = find_hard(
            self._predict,
            self._negatives,
            self._config,
            seed=self._seed,
            epoch=done,
            from_step=done * self._when.steps + LAG_STEPS,
            threshold=threshold,
        )
        self._pools.add(pool)
        logs["train_false_accepts_per_hour"] = pool.per_hour
        logs["hardest_window"] = pool.worst_windows[0].probability
        logs["hardest_clip"] = pool.worst_clips[0].probability
        return described(pool, self._negatives.windows.hours)


def described(pool: Pool, hours: float) -> str:
    """A pool in a line of the log; `hours` of training streams are there."""
    names = ", ".join(
        f"{heard.recording} at {heard.seconds:.1f} s ({heard.probability:.3f})"
        for heard in pool.worst_windows[:2]
    )
    clip = pool.worst_clips[0]
    return (
        f"{pool.hours:.2f} of {hours:.2f} h of training streams, "
        f"{pool.per_hour:.1f} false accepts per hour at {pool.threshold:.3f}; "
        f"nearest to firing: {names}; clip {clip.recording} ({clip.probability:.3f})"
    )


def _stride(frontend: FrontendConfig, config: StreamConfig) -> int:
    if config.stride_ms % frontend.step_ms:
        raise InputError(
            f"`frontend.step_ms`={frontend.step_ms}: the detector's stride of {config.stride_ms} "
            "ms is not a multiple of it"
        )
    return config.stride_ms // frontend.step_ms


def _turn(windows: Windows, hours: float, seed: int, turn: int, stride: int) -> Spans:
    """Spans of window numbers, so many hours of them; the next turn goes on with others."""
    chunk = _CHUNK_S * 1000 // windows.frontend.step_ms // stride * stride
    chunks = [
        (first, min(first + chunk, end))
        for start, end in zip(windows.edges[:-1].tolist(), windows.edges[1:].tolist(), strict=True)
        for first in range(start, end, chunk)
    ]
    order = np.random.default_rng(seed).permutation(len(chunks))
    most = hours * 3_600_000 / windows.frontend.step_ms
    lengths = np.asarray([end - first for first, end in chunks])
    if lengths.sum() <= most:
        return chunks
    count = max(1, int(most / lengths.mean()))
    chosen = np.take(order, np.arange(turn * count, (turn + 1) * count), mode="wrap")
    return [chunks[number] for number in np.sort(chosen)]


def _hear(
    predict: Predict, windows: Windows, spans: Spans, stride: int
) -> list[NDArray[np.float32]]:
    """Logits [steps, wake_words] of each span, a window every so many frames."""
    numbers = [np.arange(first, end, stride) for first, end in spans if end > first]
    flat = np.concatenate(numbers)
    scored = [
        predict(windows.read(flat[start : start + _BATCH])) for start in range(0, len(flat), _BATCH)
    ]
    ends = np.cumsum([len(some) for some in numbers])
    return np.split(np.concatenate(scored), ends[:-1])


def _sums(logits: NDArray[np.float32], config: StreamConfig) -> NDArray[np.int64]:
    return stream_rule.probability_sums(logits, config.windows).max(axis=1)


def _spoken_peaks(
    predict: Predict, streams: ValidationStreams, stride: int, config: StreamConfig
) -> NDArray[np.int64]:
    """The highest sum of each wake word where it is the highest word, -1 if it never is."""
    windows = streams.windows
    frontend, frames = windows.frontend, windows.frames
    window_ms = frontend.window_ms + (frames - 1) * frontend.step_ms
    noise_ms = streams.clip_from_ms - window_ms
    first = noise_ms // config.stride_ms + 1 if noise_ms >= 0 else 0
    peaks = []
    for spoken, target in zip(streams.spoken, streams.targets.tolist(), strict=True):
        view = np.lib.stride_tricks.sliding_window_view(spoken, frames, axis=0)[::stride]
        logits = predict(np.ascontiguousarray(view.transpose(0, 2, 1)))
        sums = stream_rule.probability_sums(logits, config.windows)[first:]
        own = sums[sums.argmax(axis=1) == target, target]
        peaks.append(int(own.max(initial=-1)))
    return np.asarray(peaks, np.int64)


def _peaks(scores: Sequence[NDArray], apart: int, most: int) -> list[tuple[int, int]]:
    """(track, step) of the highest scores, at least so many steps apart, the highest first."""
    tracks = np.repeat(np.arange(len(scores)), [len(track) for track in scores])
    steps = np.concatenate([np.arange(len(track)) for track in scores])
    near = [np.zeros(len(track), bool) for track in scores]
    found: list[tuple[int, int]] = []
    for index in np.argsort(-np.concatenate(scores), kind="stable").tolist():
        track, step = int(tracks[index]), int(steps[index])
        if near[track][step]:
            continue
        found.append((track, step))
        near[track][max(0, step - apart + 1) : step + apart] = True
        if len(found) == most:
            break
    return found


def _hard_clips(predict: Predict, negatives: Negatives, most: int) -> list[tuple[int, float]]:
    """(index, logit) of the negative clips with the highest scores, the highest first."""
    others = np.flatnonzero(targets_of(negatives.clips.clips) < 0)
    scored = [
        predict(np.asarray(negatives.clips.features[others[start : start + _BATCH]]))
        for start in range(0, len(others), _BATCH)
    ]
    highest = np.concatenate(scored).max(axis=1)
    order = np.argsort(-highest, kind="stable")[:most]
    return [(int(others[index]), float(highest[index])) for index in order]


def _probability(logit: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -logit)))


def _heard_window(windows: Windows, number: int, logit: float) -> Heard:
    place = windows.place(number)
    return Heard(place.recording, place.path, round(place.seconds, 3), _probability(logit))


def _heard_clip(negatives: Negatives, index: int, logit: float) -> Heard:
    return Heard(negatives.clips.clips[index].clip_id, "", 0.0, _probability(logit))
