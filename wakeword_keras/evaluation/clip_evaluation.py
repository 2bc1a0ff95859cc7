"""What quantization cost: every model on the same clips, FP32 against INT8.

Conventions. A clip's target is the index of its wake word, or -1 for none. A model decides for the
wake word of the highest logit if that logit reaches the model's threshold, else for none; accuracy
is the share of clips decided right. Each model has one threshold, chosen on validation clips at a
clip-level false-positive rate of 1 % (a clip without wake word fires when any logit reaches the
threshold) and used unchanged on test clips. ROC AUC and recall at 1 % false-positive rate need no
threshold of ours; with several wake words they are the mean over words of one against the rest.

Intervals are 95 %: bootstrap over speakers, for the accuracy drop paired (both models on the same
draws); for accuracy and recall widened to Wilson's interval where that reaches further, because
resampling cannot see errors that did not happen.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import quantization_error
from wakeword_keras.evaluation.clip_thresholds import ClipThresholds
from wakeword_keras.evaluation.quantization_error import QuantizationError
from wakeword_keras.evaluation.scores import (
    FALSE_POSITIVE_RATE,
    Interval,
    Scores,
    decisions,
    ranking,
    resample,
    score,
    widened_interval,
)
from wakeword_keras.metrics import detection, intervals
from wakeword_keras.names import FP32, INT8, QAT
from wakeword_keras.tflite.scorers import ModelFacts

__all__ = ["EvaluationReport", "ModelMetrics", "Scores", "evaluate", "score"]


@dataclass(frozen=True)
class ModelMetrics:
    """One model on one set of clips; rates are fractions, the threshold is a logit."""

    accuracy: float
    accuracy_ci95: Interval
    top1_accuracy: float | None  # of the clips with a wake word, no threshold; several words only
    roc_auc: float
    roc_auc_ci95: Interval
    recall_at_fpr_0_01: float
    recall_ci95: Interval
    threshold: float
    threshold_probability: float
    bytes: int
    latency_us: float | None
    kernels: str  # behind the scores
    latency_kernels: str | None
    clips: int
    positives: int
    negatives: int


@dataclass(frozen=True)
class EvaluationReport:
    """All models on the test clips; `warm`: the same clips, front end warmed on background."""

    wake_words: tuple[str, ...]
    clips: dict[str, int]  # by group
    positives: int
    synthetic_positives: int  # of them spoken by a synthesiser
    speakers: int
    interval_units: str  # what the bootstrap drew: "speakers", or "clips" with fewer than two
    validation_positives: int
    validation_negatives: int
    models: dict[str, ModelMetrics]
    quantization_error: QuantizationError
    warm: dict[str, ModelMetrics]
    scores: Scores

    def to_json(self) -> dict[str, Any]:
        """The report without the scores, as plain JSON types."""
        # Not asdict of the whole: it would copy every logit.
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del fields["scores"]
        return {
            **fields,
            "wake_words": list(self.wake_words),
            "false_positive_rate": FALSE_POSITIVE_RATE,
            "models": {name: dataclasses.asdict(m) for name, m in self.models.items()},
            "quantization_error": dataclasses.asdict(self.quantization_error),
            "warm": {name: dataclasses.asdict(m) for name, m in self.warm.items()},
            "det": {name: _det_corners(self.scores, name) for name in self.models},
        }


def evaluate(
    thresholds: ClipThresholds,
    test: Scores,
    warm_test: Scores | None,
    facts: Mapping[str, ModelFacts],
    output_scale: float,
    wake_words: Iterable[str],
) -> EvaluationReport:
    """Measure every model and what became of it from FP32 to INT8.

    Args:
      thresholds: chosen on validation clips.
      test: scores that are reported; models "fp32", "qat" and "int8" at least.
      warm_test: scores of the same test clips with a warmed front end, or None.
      facts: size and latency of every model in `test`.
      output_scale: logits per LSB of the INT8 model's output.
      wake_words: names, in the order of the logits.

    Returns:
      EvaluationReport.

    Raises:
      InputError: a split lacks positives, negatives or clips of a wake word.
      ValueError: models, clips or facts do not belong together.
    """
    words = tuple(wake_words)
    _check_together(thresholds, test, warm_test, facts, words)
    units, resamples = resample(test)

    def measured(scores: Scores) -> dict[str, ModelMetrics]:
        return {
            name: _metrics(logits, scores.targets, thresholds.logits[name], facts[name], resamples)
            for name, logits in scores.logits.items()
        }

    return EvaluationReport(
        wake_words=words,
        clips=dict(sorted(Counter(clip.group for clip in test.clips).items())),
        positives=int(np.count_nonzero(test.targets >= 0)),
        synthetic_positives=sum(clip.synthetic for clip in test.clips if clip.target >= 0),
        speakers=len(set(test.speakers) - {""}),
        interval_units=units,
        validation_positives=thresholds.positives,
        validation_negatives=thresholds.negatives,
        models=measured(test),
        quantization_error=quantization_error.measure(thresholds, test, output_scale, words),
        warm=measured(warm_test) if warm_test is not None else {},
        scores=test,
    )


def _check_together(
    thresholds: ClipThresholds,
    test: Scores,
    warm_test: Scores | None,
    facts: Mapping[str, ModelFacts],
    words: tuple[str, ...],
) -> None:
    names = test.logits.keys()
    missing = {FP32, QAT, INT8} - names
    missing |= names - facts.keys() | names - thresholds.logits.keys()
    if missing:
        raise ValueError(f"test scores, thresholds or facts lack {sorted(missing)}")
    if warm_test is not None and warm_test.clips != test.clips:
        raise ValueError("warm test scores are not of the test clips")
    if warm_test is not None and not warm_test.logits.keys() <= names:
        raise ValueError(
            f"warm test scores hold models that test does not: {set(warm_test.logits)}"
        )
    shapes = {logits.shape for logits in test.logits.values()}
    if shapes != {(len(test.targets), len(words))}:
        raise ValueError(f"test: logits {shapes} for {len(test.targets)} clips, {words}")
    if not (test.targets < 0).any():
        raise InputError("the test split has no clip without a wake word: add negatives")
    for index, word in enumerate(words):
        if not (test.targets == index).any():
            raise InputError(f"the test split has no clip of {word!r}: add recordings or speakers")


def _metrics(
    logits: NDArray[np.float32],
    targets: NDArray[np.int32],
    threshold: float,
    facts: ModelFacts,
    resamples: intervals.Resamples,
) -> ModelMetrics:
    right = decisions(logits, threshold) == targets
    accuracies = intervals.resampled_mean(right, resamples)
    roc_auc, recall, draws = ranking(logits, targets, resamples)
    positive = targets >= 0
    positives = int(positive.sum())
    top1 = float((logits.argmax(axis=1) == targets)[positive].mean())
    return ModelMetrics(
        accuracy=float(right.mean()),
        accuracy_ci95=widened_interval(accuracies, int(right.sum()), right.size),
        top1_accuracy=top1 if logits.shape[1] > 1 else None,
        roc_auc=roc_auc,
        roc_auc_ci95=intervals.percentile_interval(draws.roc_auc),
        recall_at_fpr_0_01=recall,
        recall_ci95=widened_interval(draws.recall, round(recall * positives), positives),
        threshold=threshold,
        threshold_probability=float(np.exp(-np.logaddexp(0.0, -threshold))),
        **dataclasses.asdict(facts),
        clips=right.size,
        positives=positives,
        negatives=right.size - positives,
    )


def detection_scores(scores: Scores, model: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A score per clip for which `score >= threshold` on a positive is a detection, and positives.

    A positive whose highest logit is another word's is missed at every threshold: it gets a score
    below all others.
    """
    logits = scores.logits[model]
    highest, positive = logits.max(axis=1), scores.targets >= 0
    confused = positive & (logits.argmax(axis=1) != scores.targets)
    return np.where(confused, highest.min() - 1, highest), positive


def _det_corners(scores: Scores, model: str) -> dict[str, list[float]]:
    """The DET curve of a model at the points where it turns, but for that of never firing."""
    curve = detection.det_curve(*detection_scores(scores, model))
    rates = np.stack([curve.false_positive_rate, curve.miss_rate])
    moved = np.diff(rates, axis=1) != 0
    turns = np.append((moved[:, 1:] != moved[:, :-1]).any(axis=0) | moved[:, 1:].all(axis=0), True)
    return {
        "threshold": curve.thresholds[1:][turns].tolist(),
        "false_positive_rate": rates[0, 1:][turns].tolist(),
        "miss_rate": rates[1, 1:][turns].tolist(),
    }


def console_table(report: EvaluationReport) -> str:
    """The report as text: a row for each model, then what quantization cost.

    Args:
      report: from `evaluate`.

    Returns:
      Lines without a newline at the end.
    """
    head = f"{'model':<12}{'accuracy %':>19}{'ROC AUC':>9}{'recall % at 1 % FPR':>20}"
    lines = [f"{head}{'threshold':>10}{'KiB':>5}{'us':>5}"]
    for name, m in report.models.items():
        accuracy = _percent(m.accuracy, m.accuracy_ci95)
        recall = _percent(m.recall_at_fpr_0_01, m.recall_ci95)
        latency = "-" if m.latency_us is None else f"{m.latency_us:.0f}"
        lines.append(
            f"{name:<12}{accuracy:>19}{m.roc_auc:>9.5f}{recall:>20}"
            f"{m.threshold:>10.3f}{m.bytes / 1024:>5.0f}{latency:>5}"
        )
    q = report.quantization_error
    low, high = (100 * bound for bound in q.accuracy_drop_ci95)
    return "\n".join(
        [
            *lines,
            f"{q.clips} test clips, {q.positives} positive, {report.speakers} speakers; "
            f"95 % intervals over {report.interval_units}",
            f"INT8 against FP32: accuracy drop {100 * q.relative_accuracy_drop:.3f} % "
            f"({low:.3f} to {high:.3f}), {q.decisions_flipped} decisions flipped,",
            f"  miss rate {100 * q.delta_miss_rate_at_equal_false_accepts:+.3f} points at equal "
            "false accepts,",
            f"  logits off by {q.score_mean_abs_error:.3f} (at most {q.score_max_abs_error:.3f})",
            f"INT8 against QAT: {100 * q.qat_vs_int8_within_2_lsb:.2f} % of clips within 2 LSB, "
            f"99 % within {q.qat_vs_int8_p99_lsb:g}, at most {q.qat_vs_int8_max_lsb:g}",
            *(_step_line(name, step) for name, step in q.steps.items()),
        ]
    )


def _step_line(name: str, step: quantization_error.StepError) -> str:
    low, high = (100 * bound for bound in step.relative_accuracy_drop_ci95)
    return (
        f"  {name:<17} drop {100 * step.relative_accuracy_drop:+.2f} % "
        f"({low:+.2f} to {high:+.2f}), threshold {step.threshold_shift:+.3f}, "
        f"{step.decisions_flipped} flipped"
    )


def _percent(share: float, interval: Interval) -> str:
    return f"{100 * share:.2f} ({100 * interval[0]:.1f}-{100 * interval[1]:.1f})"
