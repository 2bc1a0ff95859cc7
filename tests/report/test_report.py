import csv
import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from wakeword_keras import InputError
from wakeword_keras.data.clips import ClipInfo
from wakeword_keras.evaluation import clip_thresholds, confusables, runtime_agreement
from wakeword_keras.evaluation.calibration_coverage import Coverage, LabelMix, TensorCoverage
from wakeword_keras.evaluation.clip_evaluation import Scores, evaluate
from wakeword_keras.evaluation.findings import Findings
from wakeword_keras.evaluation.layer_error import LayerError, LayerErrors
from wakeword_keras.evaluation.on_tflite_micro import MicroCheck
from wakeword_keras.evaluation.step_equality import StepEquality
from wakeword_keras.evaluation.stream_evaluation import ModelStreams, StreamReport
from wakeword_keras.metrics.stream_rule import StreamConfig
from wakeword_keras.report import report
from wakeword_keras.streams.stream_metrics import Peak, StreamCurve, StreamMetrics, StreamThreshold
from wakeword_keras.tflite.scorers import ModelFacts

MODELS = ("fp32", "fp32_tflite", "qat", "int8_ptq", "int8", "fp32_onnx", "int8_onnx")
STEP = 0.12
SCHEMA = json.loads(Path(report.__file__).with_name("report_schema.json").read_text())


def _scores(seed, words, clips=600, extra=0.0):
    """Logits of five models that agree but for rounding, and for `extra` noise in int8."""
    rng = np.random.default_rng(seed)
    targets = np.where(rng.random(clips) < 0.35, rng.integers(0, words, clips), -1).astype(np.int32)
    clean = rng.normal(-6, 2.2, (clips, words)).astype(np.float32)
    clean[np.flatnonzero(targets >= 0), targets[targets >= 0]] += 11
    noise = {"fp32": 0, "fp32_tflite": 1e-5, "qat": 0.1, "int8_ptq": 0.3, "int8": 0.1 + extra}
    logits = {}
    for name, spread in noise.items():
        noisy = clean + rng.normal(0, 1, clean.shape) * spread
        rounded = STEP * np.round(noisy / STEP) if name.startswith("int8") else noisy
        logits[name] = rounded.astype(np.float32)
    logits |= {"fp32_onnx": logits["fp32_tflite"], "int8_onnx": logits["int8"]}
    return Scores(tuple(_clip(i, int(target)) for i, target in enumerate(targets)), logits)


def _clip(index, target):
    name = f"word{target}" if target >= 0 else ("dog", "_background_noise_")[index % 2]
    group = "positive" if target >= 0 else ("speech", "noise")[index % 2]
    return ClipInfo(f"{name}/{index}.wav", name, target, group, f"s{index % 90}", 1.0)


def report_of(words=("happy",), extra=0.0, warm=True):
    facts = {
        name: ModelFacts(93_000, None, "keras")
        if name in ("fp32", "qat")
        else ModelFacts(38_400, 212.4, "reference", "xnnpack")
        for name in MODELS
    }
    test = _scores(1, len(words), extra=extra)
    shifted = {name: logits + np.float32(0.24) for name, logits in test.logits.items()}
    return evaluate(
        clip_thresholds.choose(_scores(0, len(words)), words),
        test,
        dataclasses.replace(test, logits=shifted) if warm else None,
        facts,
        STEP,
        words,
    )


def _layers(count=12, seed=0):
    rng = np.random.default_rng(seed)
    own = np.sort(rng.uniform(18, 48, count))
    layers = [
        LayerError(
            layer=f"block{i}_conv",
            operator="CONV_2D",
            position=position,
            sqnr_db=float(own[i] - 4),
            own_sqnr_db=float(own[i]),
            cosine=0.999,
            saturated=0.0001,
            at_limits=0.2,
            range_use=0.9,
            bulk_use=0.6,
            channel_spread=3.0,
            rounding_share=0.4,
            scale=0.1,
            zero_point=-128,
            values=6400,
            hint="calibrate on more clips" if i == 0 else "",
        )
        for i, position in enumerate(rng.permutation(count).tolist())
    ]
    return LayerErrors(tuple(layers), (), ("QUANTIZE output",), 64)


def coverage_of(shared=(), warnings=()):
    return Coverage(
        clips_calibration=512,
        clips_checked=600,
        labels=(LabelMix("happy", 200, 2000), LabelMix("dog", 312, 3120)),
        mix_distance=0.01,
        silent_calibration=0.02,
        tensors=(
            TensorCoverage("input", 0.0, 25.9, 0.0, 25.2, 0.0, 0.0, 0.0),
            TensorCoverage("block0_conv", -3.1, 6.2, -3.3, 6.0, 0.0004, 0.0, 0.02),
        ),
        shared_ids=tuple(shared),
        shared_sounds=(),
        calibration_sha256="a" * 64,
        checked_sha256="b" * 64,
        warnings=tuple(warnings),
    )


def _stream_metrics(false_accepts, hours):
    rate = false_accepts / hours
    upper = 3.0 / hours if not false_accepts else 2 * rate
    interval = (0.5 * rate, 2 * rate if false_accepts else upper)
    return StreamMetrics(hours, false_accepts, rate, interval, upper, 40, 3, 3 / 40, (0.02, 0.19))


def streams_of(false_accepts=1, hours=10.0, within_budget=True):
    falling = np.array([40, 10, 0])
    curve = StreamCurve(
        np.array([0.1, 0.5, 0.9]), falling, falling / hours, np.array([0, 2, 9]), falling[::-1] / 40
    )
    model = ModelStreams(
        StreamThreshold(0.62, 0.49, 10_000, within_budget),
        _stream_metrics(2, hours),
        _stream_metrics(false_accepts, hours),
        curve,
        (Peak("reader/<1>.flac", 12.3, "happy", 0.71, True),),
        "reference",
        1000,
        10,
        0.5,
    )
    models = dict.fromkeys(("fp32_tflite", "int8_ptq", "int8"), model)
    return StreamReport(("happy",), StreamConfig(), 0.5, 9, 9, models, ("test: too few hours",))


def findings_of(evaluated=None, layers=12, streams=None, coverage=None):
    evaluated = evaluated or report_of()
    steps = ("fp32_to_int8", "qat_to_int8", "fp32_to_int8_ptq")
    return Findings(
        evaluated,
        runtime_agreement.measure(
            evaluated.scores,
            {name: metrics.threshold for name, metrics in evaluated.models.items()},
            {name: metrics.bytes for name, metrics in evaluated.models.items()},
            STEP,
        ),
        (MicroCheck("int8", 200, 1, 0.99, "pool (MEAN)"),),
        (StepEquality("TFLite Micro", 1, 1300, 1300, 0.0),),
        {step: _layers(layers, seed) for seed, step in enumerate(steps)},
        coverage or coverage_of(),
        streams,
        confusables.measure(
            evaluated.scores,
            {name: metrics.threshold for name, metrics in evaluated.models.items()},
            evaluated.wake_words,
        ),
        {"fp32_tflite": {"FLOAT32": 30}, "int8": {"INT8": 23, "INT32": 12}},
    )


def write_history(path, epochs, start):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for epoch in range(epochs):
        fade = start * 0.75**epoch
        row = {"epoch": epoch, "loss": 0.05 * fade, "val_loss": 0.04 * fade + 0.001}
        row |= {"val_auc": 1 - 0.08 * fade, "val_recall_at_fpr_0_01": 1 - 0.7 * fade}
        row |= {"learning_rate": 1e-3, "seconds": 9.5, "hardest_tenth_weight": 3 + 20 * fade}
        row |= {"hardest_tenth_weight_ce": 1.0, "share_positive": 0.5 - 0.2 * fade}
        row |= {"share_speech": 0.4 + 0.1 * fade, "share_noise": 0.1 + 0.1 * fade}
        rows.append(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


PICTURES = {
    *("roc", "det", "logits", "errors", "confusables"),
    *("layers_qat_to_int8", "layers_fp32_to_int8"),
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    write_history(run / "fp32" / "history.csv", 14, 1.0)
    write_history(run / "qat" / "history.csv", 4, 0.03)
    report.write(findings_of(), run)
    return run


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action")
        ]


def _page(run):
    return (run / "report" / "report.html").read_text()


def test_json_is_the_report_and_holds_no_nan(run_dir):
    def refuse(constant):
        raise AssertionError(constant)

    text = (run_dir / "report" / "report.json").read_text()
    said = json.loads(text, parse_constant=refuse)
    judged = said.pop("verdicts")
    assert said == json.loads(json.dumps(findings_of().to_json()))
    lines = ["accuracy", "detection", "INT8 against QAT", "false accepts", "calibration"]
    lines += ["types", "device", "ONNX"]
    assert [line["line"] for line in judged] == lines
    for name in ("fp32", "qat", "int8_ptq", "int8"):
        assert {"accuracy", "roc_auc", "recall_at_fpr_0_01", "bytes"} <= said["models"][name].keys()


def test_not_a_number_is_refused_rather_than_written(tmp_path):
    good = report_of(warm=False)
    error = dataclasses.replace(good.quantization_error, score_max_abs_error=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        report.write(findings_of(dataclasses.replace(good, quantization_error=error)), tmp_path)
    assert not (tmp_path / "report" / "report.json").exists()


def test_page_fetches_nothing_and_has_no_script(run_dir):
    parser = _Links()
    parser.feed(_page(run_dir))
    assert all(link.startswith(("#", "data:")) for link in parser.links)
    assert "script" not in parser.tags
    assert "link" not in parser.tags
    assert not re.search(r"url\((?!#)|@import", _page(run_dir))


def test_every_picture_is_on_the_page_and_a_png(run_dir):
    pictures = {path.stem for path in (run_dir / "report").glob("*.png")}
    assert pictures == {"loss", "auc", "recall", "focal", "shares", *PICTURES}
    assert _page(run_dir).count("<svg") == len(pictures)
    for path in (run_dir / "report").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_take_the_pages_ink_in_light_and_dark(run_dir):
    svgs = re.findall(r"<svg.*?</svg>", _page(run_dir), flags=re.DOTALL)
    for svg in svgs:
        assert "var(--ink)" in svg
        assert "#2b2f36" not in svg


def test_figures_of_the_table_are_those_of_the_report(run_dir):
    text = re.sub(r"<[^>]*>", " ", _page(run_dir))
    for metrics in report_of().models.values():
        assert f"{100 * metrics.accuracy:.2f} %" in text
        assert f"{metrics.roc_auc:.5f}" in text
        assert f"{metrics.threshold:.3f}" in text
    assert f"{report_of().positives} of them positive" in text


def test_report_without_a_training_has_no_training_pictures(tmp_path):
    report.write(findings_of(report_of(warm=False)), tmp_path)
    assert {p.stem for p in (tmp_path / "report").glob("*.png")} == PICTURES
    assert ">Training<" not in _page(tmp_path)
    assert "warm" not in re.sub(r"<[^>]*>", " ", _page(tmp_path).split("</style>")[1]).lower()


def test_broken_history_is_named(tmp_path):
    path = tmp_path / "fp32" / "history.csv"
    path.parent.mkdir()
    path.write_text("epoch,loss\n1,nonsense\n")
    with pytest.raises(InputError, match=r"history\.csv"):
        report.write(findings_of(report_of(warm=False)), tmp_path)


def test_wake_words_are_escaped(tmp_path):
    report.write(findings_of(report_of(("<b>hey</b> & you",), warm=False)), tmp_path)
    assert "<b>hey" not in _page(tmp_path)
    assert "&lt;b&gt;hey&lt;/b&gt; &amp; you" in _page(tmp_path)


class _Balance(HTMLParser):
    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _checked_page(run):
    """The page as text, its tags found balanced and its JSON found in order."""
    parser = _Balance()
    parser.feed(_page(run))
    assert not parser.open
    jsonschema.validate(json.loads((run / "report" / "report.json").read_text()), SCHEMA)
    body = re.sub(r"<svg.*?</svg>", "", _page(run), flags=re.DOTALL).split("</style>")[1]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_a_report_with_everything(tmp_path):
    write_history(tmp_path / "fp32" / "history.csv", 3, 1.0)
    covered = coverage_of(warnings=("2 tensors clip", "class mix is off"))
    evaluated = report_of(("up", "down"), extra=1.0)
    report.write(findings_of(evaluated, 12, streams_of(), covered), tmp_path)
    text = _checked_page(tmp_path)
    assert "top-1" in text
    assert "nearest to" in text
    assert "Test: too few hours." in text
    assert "reader/<1>.flac" in text
    assert "2 tensors clip" in text
    assert "calibrate on more clips" in text
    assert "QUANTIZE output" in text
    assert (tmp_path / "report" / "det_streams.png").is_file()


def test_no_streams_are_said_to_be_not_measured(run_dir):
    text = _checked_page(run_dir)
    assert "False accepts per hour not measured" in text
    assert "Streams" not in text


def test_zero_flips_are_said_with_what_they_can_show(tmp_path):
    test = _scores(1, 1)
    logits = {name: test.logits["fp32"] for name in MODELS}
    same = dataclasses.replace(test, logits=logits)
    facts = {name: ModelFacts(1, None, "keras") for name in MODELS}
    evaluated = evaluate(
        clip_thresholds.choose(same, ("happy",)), same, None, facts, STEP, ("happy",)
    )
    assert evaluated.quantization_error.decisions_flipped == 0
    report.write(findings_of(evaluated), tmp_path)
    text = _checked_page(tmp_path)
    assert "FP32 and INT8 decide alike on all 600 test clips" in text
    assert "at most 3.8 in so many" in text


def test_flips_stand_hardest_first_and_those_beyond_the_page_are_counted(tmp_path):
    findings = findings_of(report_of(extra=8.0, warm=False))
    flips = findings.evaluated.quantization_error.steps["fp32_to_int8"].flips
    assert len(flips) > 100
    report.write(findings, tmp_path)
    text = _checked_page(tmp_path)
    section = text[text.index("logits to the other decision") :].split("the hardest first")[0]
    shown = [name for name in re.findall(r"\S+/\d+\.wav", section)]
    assert shown == [flip.clip_id for flip in flips[:100]]
    assert f"92 more, all {len(flips)} in report.json" in section


def test_a_hundred_layers_fit(tmp_path):
    report.write(findings_of(report_of(warm=False), layers=101), tmp_path)
    text = _checked_page(tmp_path)
    assert "92 more, all 101 in report.json" in text
    picture = (tmp_path / "report" / "layers_qat_to_int8.png").read_bytes()
    height_px = int.from_bytes(picture[20:24], "big")
    assert height_px < 1300  # 8 inches at 160 dpi


def test_the_schema_notices_what_it_does_not_know(run_dir):
    said = json.loads((run_dir / "report" / "report.json").read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(said, SCHEMA)
    for path in ((), ("models", "int8"), ("quantization_error",), ("calibration_coverage",)):
        drifted = json.loads(json.dumps(said))
        part = drifted
        for key in path:
            part = part[key]
        part["surprise"] = 1
        with pytest.raises(jsonschema.ValidationError, match="surprise"):
            jsonschema.validate(drifted, SCHEMA)
    del said["models"]["int8"]["accuracy"]
    with pytest.raises(jsonschema.ValidationError, match="'accuracy' is a required"):
        jsonschema.validate(said, SCHEMA)


def test_several_wake_words_have_a_report(tmp_path):
    report.write(findings_of(report_of(("up", "down", "go"), extra=1.0)), tmp_path)
    assert "top-1" in _page(tmp_path)
