"""Logits of every model on the same clips, and what follows from them: decisions and rankings.

A clip's target is the index of its wake word, or -1 for none. A model decides for the wake word of
the highest logit if that logit reaches the model's threshold, else for none. Rankings of several
wake words are the mean over words of one against the rest.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.data.clips import ClipFeatures, ClipInfo, targets_of
from wakeword_keras.errors import InputError
from wakeword_keras.metrics import detection, intervals
from wakeword_keras.progress import Progress
from wakeword_keras.tflite.scorers import Scorer

FALSE_POSITIVE_RATE = 0.01
Interval = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """Logits of every model on the same clips: float32 [clips, wake_words] by model name."""

    clips: tuple[ClipInfo, ...]
    logits: dict[str, NDArray[np.float32]]

    @property
    def targets(self) -> NDArray[np.int32]:
        """int32 [clips]: index of the wake word, -1 for none."""
        return targets_of(self.clips)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who speaks in each clip, "" where nobody knows."""
        return tuple(clip.speaker for clip in self.clips)


def score(batches: Iterable[ClipFeatures], scorers: Mapping[str, Scorer], total: int) -> Scores:
    """Run every model over the same clips; only scores are kept, features pass through.

    Args:
      batches: clips, at least one.
      scorers: features [n, frames, channels] -> logits [n, wake_words], by model name.
      total: clips of all batches, to say how far it is.

    Returns:
      Scores in the order of the batches.

    Raises:
      InputError: there are no clips or no models.
      ValueError: a model gives logits of another shape than the others, or NaN or infinity.
    """
    clips: list[ClipInfo] = []
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in scorers}
    with Progress("scoring", total, "clips") as progress:
        for batch in batches:
            for name, scorer in scorers.items():
                logits[name].append(_checked_logits(scorer(batch.features), batch.clips, name))
                progress.update(len(batch) / len(scorers))
            clips.extend(batch.clips)
    if not (logits and clips):
        raise InputError("nothing to score: no test clips, or no models")
    joined = {name: np.concatenate(parts) for name, parts in logits.items()}
    widths = {name: values.shape[1] for name, values in joined.items()}
    if len(set(widths.values())) != 1:
        raise ValueError(f"models differ in their number of wake words: {widths}")
    return Scores(tuple(clips), joined)


def _checked_logits(logits: NDArray, clips: tuple[ClipInfo, ...], name: str) -> NDArray[np.float32]:
    if logits.ndim != 2 or len(logits) != len(clips):
        raise ValueError(f"{name}: logits {logits.shape} for {len(clips)} clips")
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if broken.size:
        raise ValueError(f"{name}: logits of clip {clips[broken[0]].clip_id!r} are NaN or infinite")
    return np.asarray(logits, np.float32)


def decisions(logits: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    """Index of the wake word that each clip is decided for, -1 for none: intp [clips]."""
    return np.where(logits.max(axis=1) >= threshold, logits.argmax(axis=1), -1)


def widened_interval(draws: NDArray[np.float64], successes: int, trials: int) -> Interval:
    """Percentile interval of a share, Wilson's where it reaches further.

    Resampling cannot see errors that did not happen.
    """
    low, high = intervals.percentile_interval(draws)
    wilson_low, wilson_high = intervals.wilson_interval(successes, trials)
    return min(low, wilson_low), max(high, wilson_high)


def ranking(
    logits: NDArray[np.float32], targets: NDArray[np.int32], resamples: intervals.Resamples
) -> tuple[float, float, detection.RankingMetrics]:
    """ROC AUC, recall and their draws [resamples], means over words of one against the rest."""
    words = range(logits.shape[1])
    pairs = [(logits[:, word], targets == word) for word in words]
    auc = [detection.roc_auc(*pair) for pair in pairs]
    recall = [detection.recall_at_false_positive_rate(*pair, FALSE_POSITIVE_RATE) for pair in pairs]
    draws = [detection.resampled_ranking(*pair, FALSE_POSITIVE_RATE, resamples) for pair in pairs]
    # A draw that lacks one word is a mean over the others.
    held = np.ma.masked_invalid([[draw.roc_auc, draw.recall] for draw in draws])
    means = held.mean(axis=0).filled(np.nan)
    return float(np.mean(auc)), float(np.mean(recall)), detection.RankingMetrics(*means)


def resample(scores: Scores) -> tuple[str, intervals.Resamples]:
    """Draws of speakers, or of clips where fewer than two speakers are known, and which it is.

    The same scores give the same draws, so that everything measured on them is paired.
    """
    return _resample(scores.speakers)


def share_interval(found: NDArray[np.bool_], speakers: Sequence[str]) -> Interval:
    """95 % interval of the share of clips found: bootstrap over speakers, Wilson's if wider.

    Args:
      found: bool [clips], at least one clip.
      speakers: of each clip.
    """
    draws = intervals.resampled_mean(found, _resample(speakers)[1])
    return widened_interval(draws, int(found.sum()), found.size)


def _resample(speakers: Sequence[str]) -> tuple[str, intervals.Resamples]:
    # Drawing one speaker again and again would give an interval of no width.
    if len(set(speakers)) > 1:
        return "speakers", intervals.resample_speakers(speakers)
    return "clips", intervals.resample_speakers(("",) * len(speakers))
