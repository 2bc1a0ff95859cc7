"""Detection metrics on clips: misses, false positives, thresholds.

Conventions. A score is any number that grows with the evidence for the wake word (we use logits).
A clip *fires* when `score >= threshold`. A label is true (1) for the wake word, false (0) for
anything else. False-positive rate: share of the negatives that fire; miss rate: share of the
positives that do not; recall: 1 - miss rate. Rates are fractions in [0, 1].

Operating points are those the scores really allow: equal scores fire together, nothing is
interpolated, and "never fires" is a point too. Input is degenerate, and raises ValueError, when a
class is absent, a score is not finite, or shapes differ: a metric of nothing is no number.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wakeword_keras.metrics import intervals

FloatArray = NDArray[np.floating]
Float64s = NDArray[np.float64]


class DetCurve(NamedTuple):
    """Every operating point, from never firing to always firing; arrays of one length."""

    false_positive_rate: Float64s
    miss_rate: Float64s
    thresholds: Float64s


class RankingMetrics(NamedTuple):
    """ROC AUC and recall at a false-positive rate, one value of each per resample."""

    roc_auc: Float64s
    recall: Float64s


def _checked(
    scores: ArrayLike, labels: ArrayLike, fpr: float = 0.0
) -> tuple[FloatArray, NDArray[np.bool_]]:
    if not 0.0 <= fpr <= 1.0:
        raise ValueError(f"false-positive rate must lie in [0, 1], got {fpr}")
    values = np.asarray(scores)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    flags = np.asarray(labels)
    if values.ndim != 1 or values.shape != flags.shape:
        raise ValueError(f"scores {values.shape} and labels {flags.shape} must be equally long 1-D")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} scores are NaN or infinite")
    if not np.isin(flags, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    flags = flags.astype(bool)
    if not flags.any() or flags.all():
        raise ValueError(f"need positives and negatives, {flags.sum()} of {flags.size} positive")
    return values, flags


def _fired_counts(
    scores: FloatArray, labels: NDArray[np.bool_]
) -> tuple[FloatArray, Float64s, Float64s]:
    """Distinct scores, highest first, and how many positives and negatives fire at each."""
    thresholds, group = np.unique(-scores, return_inverse=True)
    positives, negatives = (np.bincount(group, weights=of) for of in (labels, ~labels))
    return -thresholds, np.cumsum(positives), np.cumsum(negatives)


def _ranking(positives: Float64s, negatives: Float64s, fpr: float) -> RankingMetrics:
    """ROC AUC and recall from counts that fire at falling thresholds, [..., thresholds]."""
    # A resample may lack a class; 0 / 0 = NaN says so without a branch.
    with np.errstate(invalid="ignore"):
        recall = positives / positives[..., -1:]
        false_positive_rate = negatives / negatives[..., -1:]
    # Trapezoids from (0, 0): half a win for each tie (Hanley and McNeil 1982).
    widths = np.diff(false_positive_rate, axis=-1, prepend=0.0)
    heights = recall - np.diff(recall, axis=-1, prepend=0.0) / 2
    auc = np.sum(widths * heights, axis=-1)
    best = np.where(false_positive_rate <= fpr, recall, 0.0).max(axis=-1)
    return RankingMetrics(auc, np.where(np.isnan(auc), np.nan, best))


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a positive scores above a negative, a tie counting one half.

    Args:
      scores, labels: float and 0/1 or bool, both [clips].

    Returns:
      Area under the ROC curve in [0, 1] (Hanley and McNeil 1982).

    Raises:
      ValueError: on degenerate input.
    """
    _, positives, negatives = _fired_counts(*_checked(scores, labels))
    return float(_ranking(positives, negatives, 1.0).roc_auc)


def det_curve(scores: ArrayLike, labels: ArrayLike) -> DetCurve:
    """False-positive and miss rate at every threshold that makes a difference.

    Args:
      scores, labels: float and 0/1 or bool, both [clips].

    Returns:
      DetCurve from threshold +inf (never fires) down to the lowest score (always fires):
      false-positive rate rises from 0 to 1, miss rate falls from 1 to 0 (Martin et al. 1997).

    Raises:
      ValueError: on degenerate input.
    """
    thresholds, positives, negatives = _fired_counts(*_checked(scores, labels))
    false_positive_rate = np.append(0.0, negatives / negatives[-1])
    miss_rate = np.append(1.0, 1.0 - positives / positives[-1])
    return DetCurve(false_positive_rate, miss_rate, np.append(np.inf, thresholds))


def recall_at_false_positive_rate(scores: ArrayLike, labels: ArrayLike, fpr: float) -> float:
    """Highest recall of any operating point whose false-positive rate is at most `fpr`.

    Nothing is interpolated: a tie that would cross the budget is left out whole.

    Args:
      scores, labels: float and 0/1 or bool, both [clips].
      fpr: allowed false-positive rate in [0, 1].

    Returns:
      Recall in [0, 1]; 0.0 when even the highest score breaks the budget.

    Raises:
      ValueError: on degenerate input.
    """
    _, positives, negatives = _fired_counts(*_checked(scores, labels, fpr))
    return float(_ranking(positives, negatives, fpr).recall)


def midway(scores: ArrayLike, threshold: float) -> float:
    """The threshold midway between the scores around another, all of which decide as they do there.

    Small shifts of scores change no decision then. A score that equals the threshold lies below.

    Args:
      scores: float [clips].
      threshold: at least the lowest score.

    Returns:
      Threshold in units of the scores and exact in their dtype, for `score >= threshold`: just
      above the highest score if that lies below `threshold`.
    """
    distinct = np.unique(np.asarray(scores))
    place = int(np.searchsorted(distinct, threshold, side="right"))
    below = distinct[place - 1]
    if place == distinct.size:
        return float(np.nextafter(below, np.asarray(np.inf, distinct.dtype)))
    above = distinct[place]
    between = below / 2 + above / 2
    # Neighbouring floats have nothing between them.
    return float(between if below < between <= above else above)


def delta_miss_rate_at_equal_false_accepts(
    reference_scores: ArrayLike, scores: ArrayLike, labels: ArrayLike, fpr: float
) -> float:
    """Miss rate of `scores` minus that of `reference_scores`, each at its own threshold for `fpr`.

    Args and Raises as in `recall_at_false_positive_rate`, both scores of the same clips.

    Returns:
      Difference in [-1, 1]; positive means that `scores` misses more.
    """
    reference_recall = recall_at_false_positive_rate(reference_scores, labels, fpr)
    return reference_recall - recall_at_false_positive_rate(scores, labels, fpr)


def resampled_ranking(
    scores: ArrayLike, labels: ArrayLike, fpr: float, resamples: intervals.Resamples
) -> RankingMetrics:
    """ROC AUC and recall at a false-positive rate under every draw of speakers.

    Args:
      scores, labels: float and 0/1 or bool, both [clips].
      fpr: allowed false-positive rate in [0, 1].
      resamples: from `intervals.resample_speakers` over the same clips.

    Returns:
      RankingMetrics of arrays [resamples]; NaN where a draw holds no positive or no negative.

    Raises:
      ValueError: on degenerate input.
    """
    values, flags = _checked(scores, labels, fpr)
    _, group = np.unique(-values, return_inverse=True)
    positive = np.bincount(group, weights=flags) > 0
    # Scores of negatives only, with none of a positive between, act as one threshold: the lowest.
    starts = positive.copy()
    starts[1:] |= positive[:-1]
    column = (np.cumsum(starts) - starts[0])[group]
    columns = int(column.max()) + 1
    positives = intervals.resampled_counts(column, columns, flags.astype(np.float64), resamples)
    negatives = intervals.resampled_counts(column, columns, (~flags).astype(np.float64), resamples)
    return _ranking(np.cumsum(positives, axis=1), np.cumsum(negatives, axis=1), fpr)


def resampled_thresholds(
    scores: ArrayLike, labels: ArrayLike, fpr: float, resamples: intervals.Resamples
) -> Float64s:
    """Thresholds for a false-positive rate under every draw of speakers.

    Each is midway from the last negative that may fire to the first that may not, or the highest
    where none may. Positives have no part in it: the next score above may be a far one of theirs.

    Args, Raises: as in `resampled_ranking`.

    Returns:
      float64 [resamples]; NaN where a draw holds no negative.
    """
    values, flags = _checked(scores, labels, fpr)
    falling = np.argsort(-values[~flags])
    negatives = values[~flags][falling].astype(np.float64)
    unit = resamples.unit_of_clip[~flags][falling]
    thresholds = np.full(len(resamples.draws), np.nan)
    for i, draw in enumerate(resamples.draws):
        firing = np.cumsum(draw[unit])
        if firing[-1]:
            # Not 28 of 100 at a rate of 0.29, whose product is below 29.
            allowed = int(fpr * firing[-1] + 1e-9)
            places = np.searchsorted(firing, [max(allowed, 1), min(allowed + 1, firing[-1])])
            thresholds[i] = negatives[places].mean()
    return thresholds
