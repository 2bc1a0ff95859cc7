"""What quantization cost, step by step: FP32 to QAT, QAT to INT8, the two together, and PTQ beside.

Every step compares two models on the same test clips, each at its own threshold from validation.
Differences are positive when the later model is worse. Intervals are 95 %, bootstrap over
speakers, both models on the same draws; counts are widened to Wilson's interval, because
resampling cannot see what did not happen. Threshold shifts are drawn over validation speakers
(see thresholds.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.evaluation.clip_thresholds import STEPS, ClipThresholds
from wakeword_keras.evaluation.scores import (
    FALSE_POSITIVE_RATE,
    Interval,
    Scores,
    decisions,
    ranking,
    resample,
    widened_interval,
)
from wakeword_keras.metrics import detection, intervals
from wakeword_keras.names import INT8, QAT

_BINS = 41  # odd: the middle one holds no error


@dataclass(frozen=True)
class Flip:
    """A clip that two models decide differently.

    `severity`, in logits: how far each model would have to move to decide as the other does, added
    up. A flip between two scores close to their thresholds is near 0.
    """

    clip_id: str
    label: str
    speaker: str
    group: str
    reference_logit: float
    model_logit: float
    reference_probability: float
    model_probability: float
    reference_decision: str
    model_decision: str
    severity: float


@dataclass(frozen=True)
class StepError:
    """What became of the clips from one model to another.

    Attributes:
      reference, model: names.
      relative_accuracy_drop: of the reference's accuracy.
      roc_auc_drop: difference, macro mean over wake words.
      delta_miss_rate_at_equal_false_accepts: at a false-positive rate of 1 %.
      threshold_shift: model's threshold minus the reference's, in logits.
      score_mean_abs_error, score_max_abs_error: of logits.
      score_histogram_edges, score_histogram: signed error (model minus reference), all logits.
      decisions_flipped: clips decided differently.
      flips: all of them, the hardest (of the highest severity) first.
    """

    reference: str
    model: str
    clips: int
    relative_accuracy_drop: float
    relative_accuracy_drop_ci95: Interval
    roc_auc_drop: float
    roc_auc_drop_ci95: Interval
    delta_miss_rate_at_equal_false_accepts: float
    delta_miss_rate_ci95: Interval
    threshold_shift: float
    threshold_shift_ci95: Interval
    score_mean_abs_error: float
    score_mean_abs_error_ci95: Interval
    score_max_abs_error: float
    score_max_abs_error_ci95: Interval
    score_histogram_edges: tuple[float, ...]
    score_histogram: tuple[int, ...]
    decisions_flipped: int
    decisions_flipped_ci95: Interval
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class QuantizationError:
    """FP32 (Keras) against INT8, and the QAT model (Keras) against the INT8 exported from it.

    Drops are fractions, positive when INT8 is worse; `score_*` are logits; `*_lsb` are steps of the
    INT8 output, per clip the worst of its wake words. `steps` holds the parts by name.
    """

    relative_accuracy_drop: float
    accuracy_drop_ci95: Interval
    delta_miss_rate_at_equal_false_accepts: float
    score_mean_abs_error: float
    score_max_abs_error: float
    decisions_flipped: int
    clips: int
    positives: int
    negatives: int
    qat_vs_int8_max_lsb: float
    qat_vs_int8_p99_lsb: float
    qat_vs_int8_within_2_lsb: float
    steps: dict[str, StepError]


@dataclass(frozen=True)
class _Model:
    """One model's figures and their draws [resamples], paired with every other model's."""

    logits: NDArray[np.float32]
    threshold: float
    decided: NDArray[np.intp]
    right: NDArray[np.bool_]
    roc_auc: float
    roc_auc_draws: NDArray[np.float64]
    recall: float
    recall_draws: NDArray[np.float64]


def measure(
    thresholds: ClipThresholds,
    test: Scores,
    output_scale: float,
    wake_words: Sequence[str],
) -> QuantizationError:
    """Compare the models of every step on the test clips.

    Args:
      thresholds: of every model in `test`, and how they shift from step to step.
      test: models "fp32", "qat" and "int8"; "int8_ptq" where there is one.
      output_scale: logits per LSB of the INT8 model's output.
      wake_words: names, in the order of the logits.

    Returns:
      QuantizationError.

    Raises:
      ValueError: a step's first model decides no clip right, or the scale is not positive.
    """
    if not output_scale > 0:
        raise ValueError(f"output scale must be positive, got {output_scale}")
    _, resamples = resample(test)
    models = {
        name: _model(test.logits[name], test.targets, thresholds.logits[name], resamples)
        for name in dict.fromkeys(name for step in STEPS for name in step)
        if name in test.logits
    }
    steps = {
        f"{reference}_to_{model}": _step(
            (reference, model), models, thresholds, test, wake_words, resamples
        )
        for reference, model in STEPS
        if model in models
    }
    total = steps["fp32_to_int8"]
    # Both are multiples of the scale in float32: round away what is below a thousandth of a step.
    apart = np.abs(test.logits[QAT].astype(np.float64) - test.logits[INT8])
    lsb = np.round(apart.max(axis=1) / output_scale, 3)
    positives = int(np.count_nonzero(test.targets >= 0))
    return QuantizationError(
        relative_accuracy_drop=total.relative_accuracy_drop,
        accuracy_drop_ci95=total.relative_accuracy_drop_ci95,
        delta_miss_rate_at_equal_false_accepts=total.delta_miss_rate_at_equal_false_accepts,
        score_mean_abs_error=total.score_mean_abs_error,
        score_max_abs_error=total.score_max_abs_error,
        decisions_flipped=total.decisions_flipped,
        clips=total.clips,
        positives=positives,
        negatives=total.clips - positives,
        qat_vs_int8_max_lsb=float(lsb.max()),
        qat_vs_int8_p99_lsb=float(np.quantile(lsb, 0.99, method="higher")),
        qat_vs_int8_within_2_lsb=float((lsb <= 2).mean()),
        steps=steps,
    )


def _model(
    logits: NDArray[np.float32],
    targets: NDArray[np.int32],
    threshold: float,
    resamples: intervals.Resamples,
) -> _Model:
    decided = decisions(logits, threshold)
    right = decided == targets
    roc_auc, recall, draws = ranking(logits, targets, resamples)
    recall_draws = draws.recall
    if logits.shape[1] > 1:  # misses are of any wake word, as false accepts are
        pair = logits.max(axis=1), targets >= 0
        recall = detection.recall_at_false_positive_rate(*pair, FALSE_POSITIVE_RATE)
        recall_draws = detection.resampled_ranking(*pair, FALSE_POSITIVE_RATE, resamples).recall
    return _Model(
        logits,
        threshold,
        decided,
        right,
        roc_auc,
        draws.roc_auc,
        recall,
        recall_draws,
    )


def _step(
    names: tuple[str, str],
    models: Mapping[str, _Model],
    thresholds: ClipThresholds,
    test: Scores,
    wake_words: Sequence[str],
    resamples: intervals.Resamples,
) -> StepError:
    before, after = (models[name] for name in names)
    if not before.right.any():
        raise ValueError(f"{names[0]} decides no test clip right: there is no accuracy to lose")
    drop, drop_ci95 = _relative_drop(before, after, resamples)
    signed = after.logits.astype(np.float64) - before.logits
    absolute = np.abs(signed)
    edges, counts = _histogram(signed)
    flips = _flips(before, after, test, wake_words)
    return StepError(
        *names,
        clips=len(test.clips),
        relative_accuracy_drop=drop,
        relative_accuracy_drop_ci95=drop_ci95,
        roc_auc_drop=before.roc_auc - after.roc_auc,
        roc_auc_drop_ci95=intervals.percentile_interval(before.roc_auc_draws - after.roc_auc_draws),
        delta_miss_rate_at_equal_false_accepts=before.recall - after.recall,
        delta_miss_rate_ci95=intervals.percentile_interval(
            before.recall_draws - after.recall_draws
        ),
        threshold_shift=after.threshold - before.threshold,
        threshold_shift_ci95=thresholds.shift_ci95["{}_to_{}".format(*names)],
        score_mean_abs_error=float(absolute.mean()),
        score_mean_abs_error_ci95=intervals.percentile_interval(
            intervals.resampled_mean(absolute.mean(axis=1), resamples)
        ),
        score_max_abs_error=float(absolute.max()),
        score_max_abs_error_ci95=_max_interval(absolute.max(axis=1), resamples),
        score_histogram_edges=edges,
        score_histogram=counts,
        decisions_flipped=len(flips),
        decisions_flipped_ci95=_flipped_interval(before, after, resamples),
        flips=flips,
    )


def _relative_drop(
    before: _Model, after: _Model, resamples: intervals.Resamples
) -> tuple[float, Interval]:
    """Share of the accuracy that is lost, and its paired interval."""
    lost = before.right.astype(np.float64) - after.right
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = np.divide(*(intervals.resampled_mean(x, resamples) for x in (lost, before.right)))
    drop = float(lost.mean() / before.right.mean())
    return drop, intervals.percentile_interval(draws[np.isfinite(draws)])


def _histogram(errors: NDArray[np.float64]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges of the bins, zero in the middle, and errors in each."""
    limit = float(np.abs(errors).max()) or 1.0
    counts, edges = np.histogram(errors, _BINS, (-limit, limit))
    return tuple(edges.tolist()), tuple(counts.tolist())


def _flipped_interval(before: _Model, after: _Model, resamples: intervals.Resamples) -> Interval:
    """Interval of the number of clips decided differently."""
    flipped = before.decided != after.decided
    draws = intervals.resampled_mean(flipped, resamples)
    low, high = widened_interval(draws, int(flipped.sum()), flipped.size)
    return low * flipped.size, high * flipped.size


def _max_interval(values: NDArray[np.float64], resamples: intervals.Resamples) -> Interval:
    """Interval of the highest value under every draw; the sample's own maximum is its end."""
    by_unit = np.zeros(resamples.draws.shape[1])
    np.maximum.at(by_unit, resamples.unit_of_clip, values)
    order = np.argsort(-by_unit)
    first_drawn = np.argmax(resamples.draws[:, order] > 0, axis=1)
    return intervals.percentile_interval(by_unit[order][first_drawn])


def _flips(
    before: _Model, after: _Model, test: Scores, wake_words: Sequence[str]
) -> tuple[Flip, ...]:
    """Clips decided differently, the hardest first."""
    names = [*wake_words, "none"]  # index -1 is "none"

    def reluctance(model: _Model, clip: int, instead: int) -> float:
        # Against "none" a wake word is weighed by the threshold.
        values = np.append(model.logits[clip].astype(np.float64), model.threshold)
        return float(values[model.decided[clip]] - values[instead])

    found = []
    for clip in np.flatnonzero(before.decided != after.decided).tolist():
        known = test.clips[clip]
        reference_logit, model_logit = (float(m.logits[clip].max()) for m in (before, after))
        severity = reluctance(before, clip, after.decided[clip])
        severity += reluctance(after, clip, before.decided[clip])
        found.append(
            Flip(
                clip_id=known.clip_id,
                label=names[known.target],
                speaker=known.speaker,
                group=known.group,
                reference_logit=reference_logit,
                model_logit=model_logit,
                reference_probability=_probability(reference_logit),
                model_probability=_probability(model_logit),
                reference_decision=names[before.decided[clip]],
                model_decision=names[after.decided[clip]],
                severity=severity,
            )
        )
    return tuple(sorted(found, key=lambda flip: -flip.severity))


def _probability(logit: float) -> float:
    return float(np.exp(-np.logaddexp(0.0, -logit)))
