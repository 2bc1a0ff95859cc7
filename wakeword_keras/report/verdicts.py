"""A verdict for every line that a finished model is accepted by, each with its evidence."""

from collections.abc import Sequence
from dataclasses import dataclass

from wakeword_keras.evaluation.calibration_coverage import Coverage
from wakeword_keras.evaluation.clip_evaluation import EvaluationReport
from wakeword_keras.evaluation.findings import Findings
from wakeword_keras.evaluation.on_tflite_micro import MicroCheck
from wakeword_keras.evaluation.quantization_error import QuantizationError
from wakeword_keras.evaluation.runtime_agreement import Agreement
from wakeword_keras.evaluation.stream_evaluation import RULE_OF_THREE, StreamReport
from wakeword_keras.metrics import intervals
from wakeword_keras.names import FP32, FP32_ONNX, FP32_TFLITE, INT8, INT8_ONNX

DROP_LIMIT = 0.02
DROP_AIM = 0.002
PARITY_LIMIT_LSB = 2.0
"""99 % of clips within so many output steps of the QAT model: good."""
PARITY_FAIR_LSB = 3.0
MICRO_LIMIT_LSB = 2
"""TFLite Micro against the reference kernels, every clip."""
ONNX_FLOAT_LIMIT = 1e-5
"""Logits of FP32 in ONNX against Keras."""
ONNX_DECISIONS_LIMIT = 0.995
"""Share of clips that INT8 decides alike in ONNX and TFLite."""
ONNX_SIZE_LIMIT = 1.3
"""Bytes of an ONNX file over those of the TFLite file."""
RECALL_AIM, RECALL_LIMIT = 0.95, 0.85
"""Share of the wake words that INT8 hears at its threshold: good from the first, poor below the
second. Released models of the field hear 93 to 97 % of people at 0.5 false accepts per hour."""


@dataclass(frozen=True)
class Verdict:
    """One line of acceptance.

    Attributes:
      line: what is judged.
      level: "good"; "fair" (acceptable, with something to know), "poor", or "open" (not measured).
      headline: the figure in a sentence.
      detail: limit, interval and number of clips or hours.
    """

    line: str
    level: str
    headline: str
    detail: str


def verdicts(findings: Findings) -> tuple[Verdict, ...]:
    """Judge a run: the accuracy that INT8 lost first, then whether it hears its wake words.

    Args:
      findings: from `findings.measure`.

    Returns:
      A Verdict for accuracy, detection, parity, false accepts, calibration, the INT8 file's types,
      TFLite Micro and ONNX.
    """
    return (
        accuracy(findings.evaluated),
        detection(findings.evaluated, findings.streams),
        parity(findings.evaluated.quantization_error),
        false_accepts(findings.streams),
        calibrated(findings.coverage),
        fully_int8(findings.tensors[INT8]),
        same_on_device(findings.on_device),
        same_in_onnx(findings.agreements),
    )


def accuracy(report: EvaluationReport) -> Verdict:
    """Hold the accuracy that INT8 lost against the limit of 2 % and the aim of 0.2 %.

    Args:
      report: from `clip_evaluation.evaluate`.

    Returns:
      Verdict on the measured drop; the detail says whether its 95 % interval agrees. Where no
      decision differs the drop's own interval has no width: it reaches up to as many flipped
      decisions as could have gone unseen.
    """
    error = report.quantization_error
    drop, (low, high) = error.relative_accuracy_drop, error.accuracy_drop_ci95
    if not error.decisions_flipped:
        unseen = error.steps["fp32_to_int8"].decisions_flipped_ci95[1] / error.clips
        high = max(high, unseen / report.models[FP32].accuracy)
    if drop <= DROP_AIM:
        level, judged = "good", f"Within the aim of {percent(DROP_AIM, 1)}."
    elif drop <= DROP_LIMIT:
        level, judged = (
            "fair",
            f"Within the limit of {percent(DROP_LIMIT, 0)}, short of our {percent(DROP_AIM, 1)}.",
        )
    else:
        level, judged = "poor", f"Over the limit of {percent(DROP_LIMIT, 0)}."
    if low <= DROP_LIMIT < high:
        certainty = (
            f"reaches across the limit of {percent(DROP_LIMIT, 0)}: more clips would settle it"
        )
    else:
        side = "over" if low > DROP_LIMIT else "within"
        certainty = f"lies {side} the limit of {percent(DROP_LIMIT, 0)}"
    if drop > 0:
        headline = f"INT8 loses {percent(drop)} of FP32's accuracy"
    elif drop < 0:
        headline = f"INT8 gains {percent(-drop)} on FP32's accuracy"
    else:
        headline = "INT8 keeps all of FP32's accuracy"
    interval = f"95 % interval of the drop, {between((low, high))}, over {error.clips} clips,"
    return Verdict("accuracy", level, headline, f"{judged} The {interval} {certainty}.")


def parity(error: QuantizationError) -> Verdict:
    """Whether the INT8 file says what the QAT model said, in steps (LSB) of its output."""
    p99, worst = error.qat_vs_int8_p99_lsb, error.qat_vs_int8_max_lsb
    level = "good" if p99 <= PARITY_LIMIT_LSB else "fair" if p99 <= PARITY_FAIR_LSB else "poor"
    within = error.qat_vs_int8_within_2_lsb
    interval = between(intervals.wilson_interval(round(within * error.clips), error.clips))
    return Verdict(
        "INT8 against QAT",
        level,
        f"99 % of clips within {p99:.3g} LSB of the QAT model",
        f"Limit: {PARITY_LIMIT_LSB:g} LSB. {percent(within)} of {error.clips} clips (95 %: "
        f"{interval}) are within 2, the farthest is {worst:.3g} LSB off.",
    )


def detection(report: EvaluationReport, streams: StreamReport | None) -> Verdict:
    """Whether INT8 hears the wake words of people; synthetic voices say nothing of that.

    Args:
      report: from `clip_evaluation.evaluate`.
      streams: at the operating threshold; without them the recall at 1 % false positives of clips
        is judged, and never called good.
    """
    int8 = report.models[INT8]
    if streams is None:
        recall, interval = int8.recall_at_fpr_0_01, int8.recall_ci95
        at = "where 1 % of other clips fire; how often it wakes for nothing in an hour is not known"
    else:
        test = streams.models[INT8].test
        recall, interval = (
            1 - test.miss_rate,
            (1 - test.miss_rate_ci95[1], 1 - test.miss_rate_ci95[0]),
        )
        at = (
            f"in noise, at the threshold for {streams.max_false_accepts_per_hour:g} false accepts "
            "per hour"
        )
    heard = (
        f"{percent(recall, 1)} of {int8.positives} wake words (95 %: {between(interval, 1)}) {at}"
    )
    if report.synthetic_positives == report.positives:
        return Verdict(
            "detection",
            "open",
            "Whether it hears people is not known",
            "All test clips of the wake word are a synthesiser's voices: of those it hears "
            f"{heard}, which says nothing of people. Recordings of people will tell: "
            "give them to tools.evaluate as `data_dir`.",
        )
    level = "good" if recall >= RECALL_AIM else "fair" if recall >= RECALL_LIMIT else "poor"
    if streams is None and level == "good":
        level = "fair"
    voices = ""
    if report.synthetic_positives:
        voices = f" {report.synthetic_positives} of them are synthetic voices."
    return Verdict(
        "detection",
        level,
        f"Hears {percent(recall, 1)} of the wake words",
        f"{heard[:1].upper()}{heard[1:]}.{voices} Good from {percent(RECALL_AIM, 0)}, poor below "
        f"{percent(RECALL_LIMIT, 0)}.",
    )


def false_accepts(streams: StreamReport | None) -> Verdict:
    """INT8's false accepts per hour on test streams against the budget."""
    line = "false accepts"
    if streams is None:
        detail = "No stream was scored: train with ambient audio to know."
        return Verdict(line, "open", "False accepts per hour not measured", detail)
    budget, test = streams.max_false_accepts_per_hour, streams.models[INT8].test
    # None in too few hours shows less than it seems: the upper bound has to keep the budget.
    if test.false_accepts_per_hour_upper95 <= budget:
        level, judged = "good", f"within the budget of {budget:g} with 95 % confidence"
    elif test.false_accepts_per_hour <= budget:
        level = "fair"
        judged = (
            f"within the budget of {budget:g}, but these hours cannot prove it: "
            f"that takes {RULE_OF_THREE / budget:.1f} h without one, "
            f"{max(0.0, RULE_OF_THREE / budget - test.hours):.1f} h more than these"
        )
    else:
        level, judged = "poor", f"over the budget of {budget:g}"
    if not streams.models[INT8].threshold.within_budget:
        level, judged = "poor", f"{judged}; no threshold kept it on validation"
    low, high = test.false_accepts_per_hour_ci95
    return Verdict(
        line,
        level,
        f"{test.false_accepts_per_hour:.2f} false accepts per hour",
        f"{test.false_accepts} in {test.hours:.2f} h (95 %: {low:.2f} to {high:.2f} per hour), "
        f"{judged}.{_threshold_hours(streams)}",
    )


def _threshold_hours(streams: StreamReport) -> str:
    """What validation lacks to be trusted with the choice of a threshold, as a sentence."""
    budget, hours = streams.max_false_accepts_per_hour, streams.models[INT8].validation.hours
    missing = RULE_OF_THREE / budget - hours
    if missing <= 0:
        return ""
    return (
        f" The threshold rests on {hours:.2f} h of validation audio; to trust it at {budget:g} per "
        f"hour takes {missing:.1f} h more."
    )


def calibrated(coverage: Coverage) -> Verdict:
    """Whether calibration is apart from the test and like it."""
    sets = f"{coverage.clips_calibration} calibration and {coverage.clips_checked} test clips"
    warnings = " ".join(f"{warning[:1].upper()}{warning[1:]}." for warning in coverage.warnings)
    if not coverage.disjoint:
        return Verdict("calibration", "poor", "Calibration used test clips", warnings)
    apart = f"{sets} share no clip, neither by name nor by sound."
    if warnings:
        count = len(coverage.warnings)
        headline = f"Calibration is disjoint, with {count} warning{'s' if count > 1 else ''}"
        return Verdict("calibration", "fair", headline, f"{apart} {warnings}")
    headline = "Calibration is disjoint and covers the test"
    return Verdict("calibration", "good", headline, apart)


def fully_int8(tensors: dict[str, int]) -> Verdict:
    """Whether the INT8 file holds no float tensor.

    Args:
      tensors: how many of each TFLite type.
    """
    floats = {kind: count for kind, count in tensors.items() if "FLOAT" in kind}
    held = ", ".join(f"{count} {kind}" for kind, count in sorted(tensors.items()))
    detail = f"Tensors, weights included: {held}."
    if floats:
        return Verdict("types", "poor", "The INT8 model holds float tensors", detail)
    return Verdict("types", "good", "The INT8 model is fully INT8", detail)


def same_on_device(checks: Sequence[MicroCheck]) -> Verdict:
    """Whether TFLite Micro gives what the reference kernels gave, on which the report rests."""
    found = next((check for check in checks if check.model == INT8), None)
    if found is None:
        detail = "Needs: pip install 'wakeword_keras[firmware]', then evaluate again."
        return Verdict("device", "open", "Not run on TFLite Micro", detail)
    if found.refused:
        return Verdict("device", "poor", "TFLite Micro cannot run the model", f"{found.refused}.")
    level = "good" if found.max_lsb <= MICRO_LIMIT_LSB else "poor"
    where = "" if found.first_layer is None else f" The first layer to differ: {found.first_layer}."
    return Verdict(
        "device",
        level,
        f"TFLite Micro gives {percent(found.equal)} of outputs bit for bit",
        f"At most {found.max_lsb} LSB from the reference kernels (limit {MICRO_LIMIT_LSB}) on "
        f"{found.clips} test clips.{where}",
    )


def same_in_onnx(agreements: Sequence[Agreement]) -> Verdict:
    """Whether the ONNX files are the models that they were translated from."""
    line, pairs = "ONNX", {(pair.reference, pair.model): pair for pair in agreements}
    if (INT8, INT8_ONNX) not in pairs:
        detail = "Export needs: pip install 'wakeword_keras[onnx]'."
        return Verdict(line, "open", "No ONNX files", detail)
    exact, int8 = pairs[FP32, FP32_ONNX], pairs[INT8, INT8_ONNX]
    size = max(pairs[FP32_TFLITE, FP32_ONNX].size_ratio, int8.size_ratio)
    held = (
        int8.decisions_equal >= ONNX_DECISIONS_LIMIT,
        exact.max_abs_error <= ONNX_FLOAT_LIMIT,
        size <= ONNX_SIZE_LIMIT,
    )
    level = "good" if all(held) else "fair" if held[0] else "poor"
    return Verdict(
        line,
        level,
        f"{percent(int8.decisions_equal)} of INT8's decisions are the same in ONNX",
        f"Limit: {percent(ONNX_DECISIONS_LIMIT, 1)}; {int8.clips} clips (95 %: "
        f"{between(int8.decisions_equal_ci95)}), logits within {int8.max_lsb:.3g} LSB. FP32: "
        f"logits within {exact.max_abs_error:.1e} of Keras (limit {ONNX_FLOAT_LIMIT:.0e}). "
        f"At most {size:.2f} times the TFLite file's size (limit {ONNX_SIZE_LIMIT:g}).",
    )


def percent(share: float, digits: int = 2) -> str:
    """A share as text, such as "1.25 %"."""
    return f"{100 * share:.{digits}f} %"


def between(interval: tuple[float, float], digits: int = 2) -> str:
    """An interval of shares as text, such as "1.25 to 3.50 %"."""
    low, high = interval
    return f"{100 * low:.{digits}f} to {percent(high, digits)}"
