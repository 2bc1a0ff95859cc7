import dataclasses

import pytest
from test_report import coverage_of, findings_of, report_of, streams_of

from wakeword_keras.evaluation import runtime_agreement
from wakeword_keras.evaluation.on_tflite_micro import MicroCheck
from wakeword_keras.report import verdicts


@pytest.mark.parametrize(
    ("drop", "interval", "level", "headline", "detail"),
    [
        (0.001, (-0.001, 0.004), "good", "loses 0.10 %", "lies within the limit"),
        (-0.002, (-0.004, 0.0), "good", "gains 0.20 %", "lies within the limit"),
        (0.0, (0.0, 0.0), "good", "keeps all", "lies within the limit"),
        (0.002, (-0.01, 0.03), "good", "loses 0.20 %", "more clips"),
        (0.0021, (0.001, 0.02), "fair", "loses 0.21 %", "lies within the limit"),
        (0.03, (0.01, 0.05), "poor", "loses 3.00 %", "more clips"),
        (0.03, (0.021, 0.05), "poor", "loses 3.00 %", "lies over the limit"),
    ],
)
def test_verdict_holds_the_drop_against_aim_and_limit(drop, interval, level, headline, detail):
    good = report_of(extra=0.5, warm=False)
    error = dataclasses.replace(
        good.quantization_error, relative_accuracy_drop=drop, accuracy_drop_ci95=interval
    )
    found = verdicts.accuracy(dataclasses.replace(good, quantization_error=error))
    assert found.level == level
    assert headline in found.headline
    assert detail in found.detail


def test_no_flip_in_few_clips_leaves_the_limit_open():
    good = report_of(warm=False)
    steps = {
        "fp32_to_int8": dataclasses.replace(
            good.quantization_error.steps["fp32_to_int8"], decisions_flipped_ci95=(0.0, 3.3)
        )
    }
    for clips, certainty in ((22, "more clips would settle it"), (2000, "lies within")):
        error = dataclasses.replace(
            good.quantization_error,
            relative_accuracy_drop=0.0,
            accuracy_drop_ci95=(0.0, 0.0),
            decisions_flipped=0,
            clips=clips,
            steps=steps,
        )
        found = verdicts.accuracy(dataclasses.replace(good, quantization_error=error))
        assert certainty in found.detail
        assert f"over {clips} clips" in found.detail


@pytest.mark.parametrize(
    ("p99", "level"), [(1.0, "good"), (2.0, "good"), (3.0, "fair"), (4, "poor")]
)
def test_parity_is_judged_where_99_percent_of_the_clips_are(p99, level):
    error = report_of(warm=False).quantization_error
    found = verdicts.parity(dataclasses.replace(error, qat_vs_int8_p99_lsb=p99))
    assert found.level == level
    assert f"99 % of clips within {p99:g} LSB" in found.headline
    assert "600 clips (95 %:" in found.detail


@pytest.mark.parametrize(
    ("events", "hours", "level", "said"),
    [
        (0, 10.0, "good", "with 95 % confidence"),
        (0, 1.0, "fair", "takes 6.0 h"),
        (4, 10.0, "fair", "cannot prove it"),
        (6, 10.0, "poor", "over the budget of 0.5"),
    ],
)
def test_false_accepts_are_judged_by_what_the_hours_can_show(events, hours, level, said):
    found = verdicts.false_accepts(streams_of(events, hours))
    assert found.level == level
    assert said in found.detail
    assert f"{events} in {hours:.2f} h" in found.detail


def test_hours_missing_under_a_threshold_are_said():
    found = verdicts.false_accepts(streams_of(0, 2.0))
    assert "4.0 h more than these" in found.detail
    assert "rests on 2.00 h of validation audio; to trust it at 0.5 per hour takes 4.0 h more" in (
        found.detail
    )
    assert "rests on" not in verdicts.false_accepts(streams_of(0, 10.0)).detail


@pytest.mark.parametrize(
    ("missed", "level"),
    [(0.0, "good"), (0.05, "good"), (0.06, "fair"), (0.15, "fair"), (0.16, "poor")],
)
def test_detection_is_judged_by_the_wake_words_heard_in_streams(missed, level):
    streams = streams_of(0, 10.0)
    int8 = streams.models["int8"]
    test = dataclasses.replace(int8.test, miss_rate=missed, miss_rate_ci95=(0.0, 0.2))
    streams = dataclasses.replace(
        streams, models=streams.models | {"int8": dataclasses.replace(int8, test=test)}
    )
    found = verdicts.detection(report_of(warm=False), streams)
    assert found.level == level
    assert f"Hears {100 * (1 - missed):.1f} %" in found.headline
    assert "80.0 to 100.0 %" in found.detail


def test_detection_of_synthetic_voices_alone_is_open_however_good():
    report = report_of(extra=0.5, warm=False)
    for streams in (None, streams_of(0, 10.0)):
        all_synthetic = dataclasses.replace(report, synthetic_positives=report.positives)
        found = verdicts.detection(all_synthetic, streams)
        assert found.level == "open"
        assert "says nothing of people" in found.detail
    some = dataclasses.replace(report, synthetic_positives=3)
    assert "3 of them are synthetic voices" in verdicts.detection(some, None).detail


def test_detection_without_streams_is_never_good():
    report = report_of(extra=0.5, warm=False)
    int8 = dataclasses.replace(report.models["int8"], recall_at_fpr_0_01=1.0)
    report = dataclasses.replace(report, models=report.models | {"int8": int8})
    found = verdicts.detection(report, None)
    assert (found.level, "is not known" in found.detail) == ("fair", True)


def test_a_model_without_a_threshold_in_the_budget_is_poor():
    found = verdicts.false_accepts(streams_of(0, 10.0, within_budget=False))
    assert found.level == "poor"
    assert "no threshold kept it on validation" in found.detail


def test_streams_that_nobody_scored_are_open():
    assert verdicts.false_accepts(None).level == "open"


def test_calibration_on_test_clips_is_poor_and_a_warning_fair():
    assert verdicts.calibrated(coverage_of()).level == "good"
    warned = verdicts.calibrated(coverage_of(warnings=("one thing", "another")))
    assert (warned.level, "2 warnings" in warned.headline) == ("fair", True)
    assert "One thing. Another." in warned.detail
    shared = verdicts.calibrated(coverage_of(shared=("a",), warnings=("1 clip is shared",)))
    assert (shared.level, shared.detail) == ("poor", "1 clip is shared.")


def test_a_float_tensor_is_not_fully_int8():
    assert verdicts.fully_int8({"INT8": 20, "INT32": 9}).level == "good"
    found = verdicts.fully_int8({"INT8": 20, "FLOAT32": 1})
    assert (found.level, "1 FLOAT32, 20 INT8" in found.detail) == ("poor", True)


def test_every_line_is_judged_once_and_accuracy_leads():
    lines = [v.line for v in verdicts.verdicts(findings_of())]
    assert lines[0] == "accuracy"
    assert lines[1] == "detection"
    assert len(set(lines)) == len(lines) == 8


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "good"),
        ({"max_abs_error": 2e-5}, "fair"),
        ({"size_ratio": 1.31}, "fair"),
        ({"decisions_equal": 0.994}, "poor"),
    ],
)
def test_onnx_is_held_to_its_decisions_its_logits_and_its_size(changes, level):
    exact = runtime_agreement.Agreement("fp32", "fp32_onnx", 5e-6, None, 1.0, (0.99, 1.0), 600, 0.4)
    file = dataclasses.replace(exact, reference="fp32_tflite", size_ratio=1.01)
    int8 = runtime_agreement.Agreement("int8", "int8_onnx", 0.12, 1.0, 1.0, (0.99, 1.0), 600, 1.02)
    pairs = (exact, file, int8)
    changed = [
        dataclasses.replace(pair, **{k: v for k, v in changes.items() if k in kinds})
        for pair, kinds in zip(
            pairs, ({"max_abs_error"}, {"size_ratio"}, {"decisions_equal"}), strict=True
        )
    ]
    assert verdicts.same_in_onnx(changed).level == level


def test_without_onnx_files_the_line_is_open_and_says_how_to_get_them():
    found = verdicts.same_in_onnx(())
    assert found.level == "open"
    assert "pip install" in found.detail


@pytest.mark.parametrize(("max_lsb", "level"), [(0, "good"), (2, "good"), (3, "poor")])
def test_the_device_is_held_to_two_steps(max_lsb, level):
    first = "pool (MEAN)" if max_lsb else None
    found = verdicts.same_on_device([MicroCheck("int8", 200, max_lsb, 0.9, first)])
    assert found.level == level
    assert ("pool" in found.detail) == bool(max_lsb)


def test_without_tflite_micro_the_line_is_open_and_says_how_to_get_it():
    found = verdicts.same_on_device(())
    assert found.level == "open"
    assert "pip install" in found.detail


def test_a_model_that_the_device_refuses_is_poor():
    found = verdicts.same_on_device([MicroCheck("int8", 0, 0, 0.0, None, "too many buffers")])
    assert found.level == "poor"
    assert "too many buffers" in found.detail
