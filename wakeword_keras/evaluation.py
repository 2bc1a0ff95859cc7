"""What quantization cost: every model on the same clips, FP32 against INT8.

Conventions. A clip's label is the index of its wake word, or -1 for none. A model decides for the
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
from tqdm import tqdm

from wakeword_keras import detection
from wakeword_keras.errors import InputError
from wakeword_keras.runtimes import ModelFacts, Scorer

FALSE_POSITIVE_RATE = 0.01
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClipBatch:
    """Clips: labels int32 [n] (wake word or -1), features float32 [n, frames, channels]."""

    clip_ids: tuple[str, ...]
    labels: NDArray[np.int32]
    groups: tuple[str, ...]
    speakers: tuple[str, ...]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Scores:
    """Logits of every model on the same clips: float32 [n, wake_words] by model name."""

    clip_ids: tuple[str, ...]
    labels: NDArray[np.int32]
    groups: tuple[str, ...]
    speakers: tuple[str, ...]
    logits: dict[str, NDArray[np.float32]]


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
class QuantizationError:
    """FP32 (Keras) against INT8, and the QAT model (Keras) against the INT8 exported from it.

    Drops are fractions, positive when INT8 is worse; `score_*` are logits; `*_lsb` are steps of the
    INT8 output, per clip the worst of its wake words.
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


@dataclass(frozen=True)
class EvaluationReport:
    """All models on the test clips; `warm`: the same clips, front end warmed on background."""

    wake_words: tuple[str, ...]
    clips: dict[str, int]  # by group
    positives: int
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
        }


def score(batches: Iterable[ClipBatch], scorers: Mapping[str, Scorer]) -> Scores:
    """Run every model over the same clips; only scores are kept, features pass through.

    Args:
      batches: clips, at least one.
      scorers: features [n, frames, channels] -> logits [n, wake_words], by model name.

    Returns:
      Scores in the order of the batches.

    Raises:
      InputError: there are no clips or no models.
      ValueError: a model gives logits of another shape than the others, or NaN or infinity.
    """
    seen: list[ClipBatch] = []
    logits: dict[str, list[NDArray[np.float32]]] = {name: [] for name in scorers}
    for batch in tqdm(batches, desc="scoring", unit="batch", disable=None):
        for name, scorer in scorers.items():
            logits[name].append(_checked_logits(scorer(batch.features), batch, name))
        seen.append(dataclasses.replace(batch, features=np.zeros((0, 0, 0), np.float32)))
    if not logits or not sum(len(batch.labels) for batch in seen):
        raise InputError("nothing to score: no test clips, or no models")
    joined = {name: np.concatenate(parts) for name, parts in logits.items()}
    widths = {name: values.shape[1] for name, values in joined.items()}
    if len(set(widths.values())) != 1:
        raise ValueError(f"models differ in their number of wake words: {widths}")
    return Scores(
        tuple(i for batch in seen for i in batch.clip_ids),
        np.concatenate([batch.labels for batch in seen]).astype(np.int32),
        tuple(g for batch in seen for g in batch.groups),
        tuple(s for batch in seen for s in batch.speakers),
        joined,
    )


def _checked_logits(logits: NDArray, batch: ClipBatch, name: str) -> NDArray[np.float32]:
    if logits.ndim != 2 or len(logits) != len(batch.labels):
        raise ValueError(f"{name}: logits {logits.shape} for {len(batch.labels)} clips")
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if broken.size:
        raise ValueError(
            f"{name}: logits of clip {batch.clip_ids[broken[0]]!r} are NaN or infinite"
        )
    return np.asarray(logits, np.float32)


def evaluate(
    validation: Scores,
    test: Scores,
    warm_test: Scores | None,
    facts: Mapping[str, ModelFacts],
    output_scale: float,
    wake_words: Iterable[str],
) -> EvaluationReport:
    """Measure every model and what became of it from FP32 to INT8.

    Args:
      validation: scores that choose the thresholds.
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
    _check_together(validation, test, warm_test, facts, words)
    thresholds = {
        name: detection.threshold_for_false_positive_rate(
            validation.logits[name].max(axis=1), validation.labels >= 0, FALSE_POSITIVE_RATE
        )
        for name in test.logits
    }
    # Drawing one speaker again and again would give an interval of no width.
    units = "speakers" if len(set(test.speakers)) > 1 else "clips"
    clips = ("",) * len(test.labels)
    resamples = detection.resample_speakers(test.speakers if units == "speakers" else clips)

    def measured(scores: Scores) -> dict[str, ModelMetrics]:
        return {
            name: _metrics(logits, scores.labels, thresholds[name], facts[name], resamples)
            for name, logits in scores.logits.items()
        }

    return EvaluationReport(
        wake_words=words,
        clips=dict(sorted(Counter(test.groups).items())),
        positives=int(np.count_nonzero(test.labels >= 0)),
        speakers=len(set(test.speakers) - {""}),
        interval_units=units,
        validation_positives=int(np.count_nonzero(validation.labels >= 0)),
        validation_negatives=int(np.count_nonzero(validation.labels < 0)),
        models=measured(test),
        quantization_error=_quantization_error(test, thresholds, output_scale, resamples),
        warm=measured(warm_test) if warm_test is not None else {},
        scores=test,
    )


def _check_together(
    validation: Scores,
    test: Scores,
    warm_test: Scores | None,
    facts: Mapping[str, ModelFacts],
    words: tuple[str, ...],
) -> None:
    names = test.logits.keys()
    missing = {"fp32", "qat", "int8"} - names
    missing |= names - facts.keys() | names - validation.logits.keys()
    if missing:
        raise ValueError(f"test scores, validation scores or facts lack {sorted(missing)}")
    if warm_test is not None and warm_test.clip_ids != test.clip_ids:
        raise ValueError("warm test scores are not of the test clips")
    if warm_test is not None and not warm_test.logits.keys() <= names:
        raise ValueError(
            f"warm test scores hold models that test does not: {set(warm_test.logits)}"
        )
    for split, scores in (("validation", validation), ("test", test)):
        shapes = {logits.shape for logits in scores.logits.values()}
        if shapes != {(len(scores.labels), len(words))}:
            raise ValueError(f"{split}: logits {shapes} for {len(scores.labels)} clips, {words}")
        if not (scores.labels < 0).any():
            raise InputError(f"the {split} split has no clip without a wake word: add negatives")
    for index, word in enumerate(words):
        if not (test.labels == index).any():
            raise InputError(f"the test split has no clip of {word!r}: add recordings or speakers")
    if not (validation.labels >= 0).any():
        raise InputError(f"the validation split has no clip of {', '.join(words)}: add speakers")


def _decisions(logits: NDArray[np.float32], threshold: float) -> NDArray[np.intp]:
    return np.where(logits.max(axis=1) >= threshold, logits.argmax(axis=1), -1)


def _metrics(
    logits: NDArray[np.float32],
    labels: NDArray[np.int32],
    threshold: float,
    facts: ModelFacts,
    resamples: detection.Resamples,
) -> ModelMetrics:
    right = _decisions(logits, threshold) == labels
    accuracies = detection.resampled_mean(right, resamples)
    roc_auc, recall, draws = _ranking(logits, labels, resamples)
    positive = labels >= 0
    positives = int(positive.sum())
    top1 = float((logits.argmax(axis=1) == labels)[positive].mean())
    return ModelMetrics(
        accuracy=float(right.mean()),
        accuracy_ci95=_widened(accuracies, int(right.sum()), right.size),
        top1_accuracy=top1 if logits.shape[1] > 1 else None,
        roc_auc=roc_auc,
        roc_auc_ci95=detection.percentile_interval(draws.roc_auc),
        recall_at_fpr_0_01=recall,
        recall_ci95=_widened(draws.recall, round(recall * positives), positives),
        threshold=threshold,
        threshold_probability=float(np.exp(-np.logaddexp(0.0, -threshold))),
        **dataclasses.asdict(facts),
        clips=right.size,
        positives=positives,
        negatives=right.size - positives,
    )


def _widened(draws: NDArray[np.float64], successes: int, trials: int) -> Interval:
    low, high = detection.percentile_interval(draws)
    wilson_low, wilson_high = detection.wilson_interval(successes, trials)
    return min(low, wilson_low), max(high, wilson_high)


def _ranking(
    logits: NDArray[np.float32], labels: NDArray[np.int32], resamples: detection.Resamples
) -> tuple[float, float, detection.RankingMetrics]:
    """ROC AUC, recall and their draws [resamples], means over words of one against the rest."""
    words = range(logits.shape[1])
    pairs = [(logits[:, word], labels == word) for word in words]
    auc = [detection.roc_auc(*pair) for pair in pairs]
    recall = [detection.recall_at_false_positive_rate(*pair, FALSE_POSITIVE_RATE) for pair in pairs]
    draws = [detection.resampled_ranking(*pair, FALSE_POSITIVE_RATE, resamples) for pair in pairs]
    # A draw that lacks one word is a mean over the others.
    held = np.ma.masked_invalid([[draw.roc_auc, draw.recall] for draw in draws])
    means = held.mean(axis=0).filled(np.nan)
    return float(np.mean(auc)), float(np.mean(recall)), detection.RankingMetrics(*means)


def _quantization_error(
    test: Scores,
    thresholds: Mapping[str, float],
    output_scale: float,
    resamples: detection.Resamples,
) -> QuantizationError:
    if not output_scale > 0:
        raise ValueError(f"output scale must be positive, got {output_scale}")
    fp32, qat, int8 = (test.logits[name] for name in ("fp32", "qat", "int8"))
    fp32_decisions = _decisions(fp32, thresholds["fp32"])
    int8_decisions = _decisions(int8, thresholds["int8"])
    fp32_right, int8_right = fp32_decisions == test.labels, int8_decisions == test.labels
    if not fp32_right.any():
        raise ValueError("fp32 decides no test clip right: there is no accuracy to lose")
    lost = fp32_right.astype(np.float64) - int8_right
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = np.divide(*(detection.resampled_mean(x, resamples) for x in (lost, fp32_right)))
    error = np.abs(fp32.astype(np.float64) - int8)
    # Both are multiples of the scale in float32: round away what is below a thousandth of a step.
    lsb = np.round(np.abs(qat.astype(np.float64) - int8).max(axis=1) / output_scale, 3)
    positive = test.labels >= 0
    return QuantizationError(
        relative_accuracy_drop=float(lost.mean() / fp32_right.mean()),
        accuracy_drop_ci95=detection.percentile_interval(draws[np.isfinite(draws)]),
        delta_miss_rate_at_equal_false_accepts=detection.delta_miss_rate_at_equal_false_accepts(
            fp32.max(axis=1), int8.max(axis=1), positive, FALSE_POSITIVE_RATE
        ),
        score_mean_abs_error=float(error.mean()),
        score_max_abs_error=float(error.max()),
        decisions_flipped=int(np.count_nonzero(fp32_decisions != int8_decisions)),
        clips=len(test.labels),
        positives=int(positive.sum()),
        negatives=int((~positive).sum()),
        qat_vs_int8_max_lsb=float(lsb.max()),
        qat_vs_int8_p99_lsb=float(np.quantile(lsb, 0.99, method="higher")),
        qat_vs_int8_within_2_lsb=float((lsb <= 2).mean()),
    )


def console_table(report: EvaluationReport) -> str:
    """The report as text: a row for each model, then what quantization cost.

    Args:
      report: from `evaluate`.

    Returns:
      Lines of at most 100 characters, without a newline at the end.
    """
    head = f"{'model':<12}{'accuracy %':>22}{'ROC AUC':>10}{'recall % at 1 % FPR':>27}"
    lines = [f"{head}{'threshold':>10}{'KiB':>8}{'us':>8}"]
    for name, m in report.models.items():
        accuracy = _percent(m.accuracy, m.accuracy_ci95)
        recall = _percent(m.recall_at_fpr_0_01, m.recall_ci95)
        latency = "-" if m.latency_us is None else f"{m.latency_us:.0f}"
        lines.append(
            f"{name:<12}{accuracy:>22}{m.roc_auc:>10.5f}{recall:>27}"
            f"{m.threshold:>10.3f}{m.bytes / 1024:>8.1f}{latency:>8}"
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
            f"false accepts, logits off by {q.score_mean_abs_error:.3f} "
            f"(at most {q.score_max_abs_error:.3f})",
            f"INT8 against QAT: {100 * q.qat_vs_int8_within_2_lsb:.2f} % of clips within 2 LSB, "
            f"99 % within {q.qat_vs_int8_p99_lsb:g}, at most {q.qat_vs_int8_max_lsb:g}",
        ]
    )


def _percent(share: float, interval: Interval) -> str:
    return f"{100 * share:.2f} ({100 * interval[0]:.2f}-{100 * interval[1]:.2f})"
