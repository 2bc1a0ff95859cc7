"""Confusables: which labels fire though they must not, and which come nearest to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.evaluation.scores import Interval, Scores, decisions, share_interval
from wakeword_keras.names import FP32, INT8, INT8_PTQ

MODELS = (FP32, INT8_PTQ, INT8)


@dataclass(frozen=True)
class LabelScores:
    """One model on the clips of one label; a clip's score is its highest probability.

    `nearest_*` are of the clip of the highest score: its id and the wake word it is nearest to.
    """

    false_accepts: int
    false_accept_rate_ci95: Interval
    mean_probability: float
    highest_probability: float
    nearest_clip_id: str
    nearest_wake_word: str


@dataclass(frozen=True)
class Confusable:
    """A label, the group and number of its clips, and what each of MODELS makes of it."""

    label: str
    group: str
    clips: int
    models: dict[str, LabelScores]


def measure(
    scores: Scores, thresholds: Mapping[str, float], wake_words: Sequence[str]
) -> tuple[Confusable, ...]:
    """Look at the clips label by label.

    A false accept is a clip decided for a wake word that is not its own. Scores leave the clip's
    own wake word out, so that with several of them each is a confusable of the others; with one,
    its own clips are no candidates.

    Args:
      scores: of the test clips; "int8" among the models.
      thresholds: in logits, by model.
      wake_words: in the order of the logits.

    Returns:
      Confusables, the highest share of INT8 false accepts first, then the highest INT8 score.
    """
    names = np.array([clip.label for clip in scores.clips])
    chosen = scores.targets < 0 if len(wake_words) == 1 else np.ones(len(names), bool)
    found = [
        _confusable(scores, np.flatnonzero(chosen & (names == label)), thresholds, wake_words)
        for label in sorted(set(names[chosen].tolist()))
    ]

    def rank(label: Confusable) -> tuple[float, float]:
        int8 = label.models[INT8]
        return int8.false_accepts / label.clips, int8.highest_probability

    return tuple(sorted(found, key=rank, reverse=True))


def _confusable(
    scores: Scores,
    clips: NDArray[np.intp],
    thresholds: Mapping[str, float],
    wake_words: Sequence[str],
) -> Confusable:
    own = scores.targets[clips]
    speakers = [scores.clips[i].speaker for i in clips]
    models = {}
    for name in MODELS:
        if name not in scores.logits:
            continue
        decided = decisions(scores.logits[name][clips], thresholds[name])
        wrong = (decided >= 0) & (decided != own)
        logits = scores.logits[name][clips].astype(np.float64)
        logits[own >= 0, own[own >= 0]] = -np.inf
        highest = logits.max(axis=1)
        nearest = int(highest.argmax())
        probabilities = np.exp(-np.logaddexp(0.0, -highest))
        models[name] = LabelScores(
            int(wrong.sum()),
            share_interval(wrong, speakers),
            float(probabilities.mean()),
            float(probabilities[nearest]),
            scores.clips[clips[nearest]].clip_id,
            wake_words[logits[nearest].argmax()],
        )
    first = scores.clips[clips[0]]
    return Confusable(first.label, first.group, len(clips), models)
