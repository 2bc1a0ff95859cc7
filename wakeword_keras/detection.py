"""Detection metrics: misses, false positives, thresholds, intervals, events in a stream.

Conventions. A score is any number that grows with the evidence for the wake word (we use logits).
A clip *fires* when `score >= threshold`. A label is true (1) for the wake word, false (0) for
anything else. False-positive rate: share of the negatives that fire; miss rate: share of the
positives that do not; recall: 1 - miss rate. Rates are fractions in [0, 1], times seconds.

Operating points are those the scores really allow: equal scores fire together, nothing is
interpolated, and "never fires" is a point too. Empty classes and scores that are not finite raise
ValueError: a metric of nothing is no number.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.floating]
Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
# Weights held at once while resampling (float64): bounds memory to some 100 MB.
_WEIGHTS_PER_CHUNK = 2_000_000


class DetCurve(NamedTuple):
    """Every operating point, from never firing to always firing; arrays of one length."""

    false_positive_rate: NDArray[np.float64]
    miss_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class RankingMetrics(NamedTuple):
    """ROC AUC and recall at a false-positive rate, one value per set of weights."""

    roc_auc: NDArray[np.float64]
    recall: NDArray[np.float64]


class Resamples(NamedTuple):
    """Bootstrap draws of whole speakers: unit of each clip [clips], draws [resamples, units]."""

    unit_of_clip: NDArray[np.intp]
    draws: NDArray[np.int64]


class FalseAcceptRate(NamedTuple):
    """False accepts per hour and the one-sided 95 % upper bound of the true rate."""

    per_hour: float
    upper_95_per_hour: float


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
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
        raise ValueError(
            f"need positives and negatives, got {flags.sum()} of {flags.size} positive"
        )
    return values, flags


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"false-positive rate must lie in [0, 1], got {rate}")


def _fired_counts(
    scores: FloatArray, labels: NDArray[np.bool_], weights: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Distinct scores, highest first [k]; weight of positives and of negatives that fire at each.

    Args:
      weights: non-negative [..., clips].

    Returns:
      thresholds [k], fired positives [..., k], fired negatives [..., k].
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_ties = np.append(np.flatnonzero(np.diff(ranked)), ranked.size - 1)
    weights = weights[..., order]
    positives = np.cumsum(weights * labels[order], axis=-1)[..., last_of_ties]
    fired = np.cumsum(weights, axis=-1)[..., last_of_ties]
    return ranked[last_of_ties], positives, fired - positives


def ranking_metrics(
    scores: ArrayLike, labels: ArrayLike, fpr: float, weights: FloatArray
) -> RankingMetrics:
    """ROC AUC and recall at a false-positive rate under many weightings of the clips at once.

    Args:
      scores: float [clips], finite.
      labels: 0/1 or bool [clips], both classes present.
      fpr: allowed false-positive rate in [0, 1].
      weights: non-negative whole numbers [..., clips], such as a bootstrap's multiplicities.

    Returns:
      RankingMetrics, arrays [...]; NaN where the weights leave no positive or no negative.

    Raises:
      ValueError: on degenerate input.
    """
    values, flags = _checked(scores, labels)
    _check_rate(fpr)
    _, positives, negatives = _fired_counts(values, flags, np.asarray(weights, np.float64))
    # A resample without a class has no AUC; 0/0 says so without a branch.
    with np.errstate(invalid="ignore"):
        recall = positives / positives[..., -1:]
        false_positive_rate = negatives / negatives[..., -1:]
    empty = np.isnan(false_positive_rate[..., -1]) | np.isnan(recall[..., -1])
    # Trapezoids from (0, 0): half a win for each tie (Hanley and McNeil 1982).
    steps = np.diff(false_positive_rate, axis=-1, prepend=0.0)
    heights = recall - np.diff(recall, axis=-1, prepend=0.0) / 2
    auc = np.sum(steps * heights, axis=-1)
    allowed = np.where(false_positive_rate <= fpr, recall, 0.0)
    return RankingMetrics(auc, np.where(empty, np.nan, allowed.max(axis=-1)))


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a positive scores above a negative, a tie counting one half.

    Args:
      scores: float [clips], finite.
      labels: 0/1 or bool [clips], both classes present.

    Returns:
      Area under the ROC curve in [0, 1] (Hanley and McNeil 1982).

    Raises:
      ValueError: on degenerate input.
    """
    return float(ranking_metrics(scores, labels, 1.0, np.ones(np.shape(labels))).roc_auc)


def det_curve(scores: ArrayLike, labels: ArrayLike) -> DetCurve:
    """False-positive and miss rate at every threshold that makes a difference.

    Args:
      scores: float [clips], finite.
      labels: 0/1 or bool [clips], both classes present.

    Returns:
      DetCurve from threshold +inf (never fires) down to the lowest score (always fires):
      false-positive rate rises from 0 to 1, miss rate falls from 1 to 0 (Martin et al. 1997).

    Raises:
      ValueError: on degenerate input.
    """
    values, flags = _checked(scores, labels)
    thresholds, positives, negatives = _fired_counts(values, flags, np.ones(values.size))
    return DetCurve(
        np.concatenate([[0.0], negatives / negatives[-1]]),
        np.concatenate([[1.0], 1.0 - positives / positives[-1]]),
        np.concatenate([[np.inf], thresholds]).astype(np.float64),
    )


def recall_at_false_positive_rate(scores: ArrayLike, labels: ArrayLike, fpr: float) -> float:
    """Highest recall of any operating point whose false-positive rate is at most `fpr`.

    Nothing is interpolated: tied scores fire together, so a tie that would cross the budget is
    left out whole, and 0.0 comes out when even the highest score breaks it.

    Args:
      scores: float [clips], finite.
      labels: 0/1 or bool [clips], both classes present.
      fpr: allowed false-positive rate in [0, 1].

    Returns:
      Recall in [0, 1].

    Raises:
      ValueError: on degenerate input.
    """
    return float(ranking_metrics(scores, labels, fpr, np.ones(np.shape(labels))).recall)


def threshold_for_false_positive_rate(scores: ArrayLike, labels: ArrayLike, fpr: float) -> float:
    """Lowest threshold that keeps the measured false-positive rate at or under `fpr`.

    It stands midway between the lowest score that fires and the next lower distinct score, so
    that small shifts of the scores change no decision.

    Args:
      scores: float [clips], finite.
      labels: 0/1 or bool [clips], both classes present.
      fpr: allowed false-positive rate in [0, 1].

    Returns:
      Threshold in units of the scores and exact in their dtype, for `score >= threshold`: just
      above the highest score if no score may fire, the lowest score if all may.

    Raises:
      ValueError: on degenerate input.
    """
    values, flags = _checked(scores, labels)
    _check_rate(fpr)
    distinct, _, negatives = _fired_counts(values, flags, np.ones(values.size))
    # Compared as a ratio: 0.29 * 100 is below 29, 29 / 100 is 0.29.
    firing = int(np.count_nonzero(negatives / negatives[-1] <= fpr))
    if firing == 0:
        return float(np.nextafter(distinct[0], np.asarray(np.inf, distinct.dtype)))
    if firing == distinct.size:
        return float(distinct[-1])
    above, below = distinct[firing - 1], distinct[firing]
    midway = below / 2 + above / 2
    # Neighbouring floats have nothing between them.
    return float(midway if below < midway <= above else above)


def delta_miss_rate_at_equal_false_accepts(
    reference_scores: ArrayLike, scores: ArrayLike, labels: ArrayLike, fpr: float
) -> float:
    """Miss rate of `scores` minus that of `reference_scores`, each at its own threshold for `fpr`.

    Args:
      reference_scores, scores: float [clips], of the same clips.
      labels: 0/1 or bool [clips], both classes present.
      fpr: allowed false-positive rate in [0, 1].

    Returns:
      Difference in [-1, 1]; positive means that `scores` misses more.

    Raises:
      ValueError: on degenerate input.
    """
    reference_recall = recall_at_false_positive_rate(reference_scores, labels, fpr)
    return reference_recall - recall_at_false_positive_rate(scores, labels, fpr)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927), sound also at 0 and all successes.

    Args:
      successes: count in [0, trials].
      trials: count > 0, taken as independent.

    Returns:
      (low, high) in [0, 1].

    Raises:
      ValueError: if the counts are impossible.
    """
    if not (trials > 0 and 0 <= successes <= trials):
        raise ValueError(f"need 0 <= successes <= trials > 0, got {successes} of {trials}")
    share, spread = successes / trials, Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = np.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, float(centre - half))
    high = 1.0 if successes == trials else min(1.0, float(centre + half))
    return low, high


def resample_speakers(speakers: Sequence[str], resamples: int = 1000, seed: int = 0) -> Resamples:
    """Draw speakers with replacement: clips of one voice stand or fall together (Efron 1979).

    Args:
      speakers: speaker of each clip; "" is nobody: each such clip is a unit of its own.
      resamples: number of draws.
      seed: of the random generator.

    Returns:
      Resamples; each row of `draws` sums to the number of units.

    Raises:
      ValueError: if there is no clip.
    """
    if not len(speakers):
        raise ValueError("need at least one clip to resample")
    names = [("speaker", s) if s else ("clip", str(i)) for i, s in enumerate(speakers)]
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    units = np.array([index[name] for name in names], np.intp)
    even = np.full(len(index), 1.0 / len(index))
    draws = np.random.default_rng(seed).multinomial(len(index), even, size=resamples)
    return Resamples(units, draws)


def bootstrap(
    statistic: Callable[[NDArray[np.float64]], FloatArray], resamples: Resamples
) -> NDArray[np.float64]:
    """A statistic under every resample, a bounded number of resamples at a time.

    Args:
      statistic: maps weights of the clips [some, clips] to values [some, ...].
      resamples: from `resample_speakers`.

    Returns:
      float64 [resamples, ...].
    """
    rows = max(1, _WEIGHTS_PER_CHUNK // resamples.unit_of_clip.size)
    parts = [
        statistic(resamples.draws[i : i + rows, resamples.unit_of_clip].astype(np.float64))
        for i in range(0, len(resamples.draws), rows)
    ]
    return np.concatenate(parts).astype(np.float64)


def percentile_interval(values: ArrayLike) -> tuple[float, float]:
    """95 % percentile interval of bootstrap values; NaN draws (a class was absent) are left out.

    Args:
      values: float [resamples].

    Returns:
      (low, high).

    Raises:
      ValueError: if every value is NaN.
    """
    drawn = np.asarray(values, np.float64)
    drawn = drawn[~np.isnan(drawn)]
    if not drawn.size:
        raise ValueError("no resample holds both positives and negatives")
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def smooth(probabilities: ArrayLike, window: int) -> NDArray[np.float64]:
    """Causal moving mean over the last `window` steps, zeros before the first.

    ESPHome's sliding window also starts from zeros, so that a stream cannot fire on its first
    step alone.

    Args:
      probabilities: float [steps] or [steps, wake_words].
      window: steps, at least 1.

    Returns:
      float64 of the same shape.

    Raises:
      ValueError: if the window is not positive or a value is not finite.
    """
    values = np.asarray(probabilities, np.float64)
    if window < 1:
        raise ValueError(f"window must be at least 1 step, got {window}")
    if not np.isfinite(values).all():
        raise ValueError("probabilities are NaN or infinite")
    padded = np.concatenate([np.zeros((window - 1, *values.shape[1:])), values])
    windows = np.lib.stride_tricks.sliding_window_view(padded, window, axis=0)
    return windows.mean(axis=-1)


def detections(
    scores: ArrayLike, threshold: float, step_ms: float, refractory_ms: float
) -> NDArray[np.float64]:
    """Events of a stream: steps that fire at least `refractory_ms` after the event before.

    A score that stays high fires again each time the refractory period is over.

    Args:
      scores: float [steps], finite.
      threshold: a step fires when score >= threshold.
      step_ms: time from one score to the next, > 0.
      refractory_ms: silence after an event, >= 0.

    Returns:
      Times in s of the firing steps, the first score standing at 0; ascending.

    Raises:
      ValueError: on NaN or infinite scores or impossible times.
    """
    values = np.asarray(scores)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"need finite scores of one wake word [steps], got {values.shape}")
    if not (step_ms > 0 and refractory_ms >= 0):
        raise ValueError(f"impossible times: step {step_ms} ms, refractory {refractory_ms} ms")
    firing = np.flatnonzero(values >= threshold)
    # Whole steps: times in floating point would make exact multiples of a step a matter of luck.
    refractory_steps = max(1, int(np.ceil(refractory_ms / step_ms - 1e-9)))
    events: list[int] = []
    next_hit = 0
    while next_hit < firing.size:
        events.append(int(firing[next_hit]))
        next_hit = int(np.searchsorted(firing, events[-1] + refractory_steps))
    return np.array(events, np.float64) * step_ms / 1000.0


def false_accepts_per_hour(events: int, hours: float) -> FalseAcceptRate:
    """Rate of false accepts with its one-sided 95 % Poisson bound; 3 / hours at 0 events.

    The bound is the rate under which so few events have a chance of 5 % (Garwood 1936); for no
    event that is -ln(0.05) = 2.996 per recording, the rule of three.

    Args:
      events: false accepts counted, >= 0.
      hours: of negatives listened to, > 0.

    Returns:
      FalseAcceptRate, both numbers per hour.

    Raises:
      ValueError: if the count is negative or there are no hours.
    """
    if not (events >= 0 and hours > 0):
        raise ValueError(f"need events >= 0 in hours > 0, got {events} in {hours}")
    counts = np.arange(events + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, events + 1)))])
    # At twice the count plus ten the chance of so few events is far below 5 %.
    low, high = float(events), 2.0 * events + 10.0
    while high - low > 1e-9 * high:
        mean = (low + high) / 2
        chance = np.exp(counts * np.log(mean) - mean - log_factorials).sum()
        low, high = (mean, high) if chance > 0.05 else (low, mean)
    return FalseAcceptRate(events / hours, (low + high) / 2 / hours)
