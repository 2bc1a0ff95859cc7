import csv
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from wakeword_keras import InputError, report
from wakeword_keras.evaluation import Scores, evaluate
from wakeword_keras.layer_error import LayerError, LayerErrors
from wakeword_keras.measurement import Findings
from wakeword_keras.quantization.coverage import Coverage, LabelMix, TensorCoverage
from wakeword_keras.runtimes import ModelFacts

MODELS = ("fp32", "fp32_tflite", "qat", "int8_ptq", "int8")
STEP = 0.12


def _scores(seed, words, clips=600, extra=0.0):
    """Logits of five models that agree but for rounding, and for `extra` noise in int8."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(clips) < 0.35, rng.integers(0, words, clips), -1).astype(np.int32)
    clean = rng.normal(-6, 2.2, (clips, words)).astype(np.float32)
    clean[np.flatnonzero(labels >= 0), labels[labels >= 0]] += 11
    noise = {"fp32": 0, "fp32_tflite": 1e-5, "qat": 0.1, "int8_ptq": 0.3, "int8": 0.1 + extra}
    logits = {}
    for name, spread in noise.items():
        noisy = clean + rng.normal(0, 1, clean.shape) * spread
        rounded = STEP * np.round(noisy / STEP) if name.startswith("int8") else noisy
        logits[name] = rounded.astype(np.float32)
    speakers = tuple(f"s{i % 90}" for i in range(clips))
    groups = tuple(
        "positive" if at >= 0 else ("speech", "noise")[i % 2] for i, at in enumerate(labels)
    )
    return Scores(tuple(map(str, range(clips))), labels, groups, speakers, logits)


def _report(words=("happy",), extra=0.0, warm=True):
    facts = {
        name: ModelFacts(93_000, None, "keras")
        if name in ("fp32", "qat")
        else ModelFacts(38_400, 212.4, "reference", "xnnpack")
        for name in MODELS
    }
    test = _scores(1, len(words), extra=extra)
    shifted = {name: logits + np.float32(0.24) for name, logits in test.logits.items()}
    return evaluate(
        _scores(0, len(words)),
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


def _coverage(shared=(), warnings=()):
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


def _findings(evaluated=None, layers=12, streams=None, coverage=None):
    steps = ("fp32_to_int8", "qat_to_int8", "fp32_to_int8_ptq")
    return Findings(
        evaluated or _report(),
        {step: _layers(layers, seed) for seed, step in enumerate(steps)},
        coverage or _coverage(),
        streams,
    )


def _history(path, epochs, start):
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


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    _history(run / "fp32" / "history.csv", 14, 1.0)
    _history(run / "qat" / "history.csv", 4, 0.03)
    report.write(_findings(), run)
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
    assert said == json.loads(json.dumps(_findings().to_json()))
    for name in ("fp32", "qat", "int8_ptq", "int8"):
        assert {"accuracy", "roc_auc", "recall_at_fpr_0_01", "bytes"} <= said["models"][name].keys()


def test_not_a_number_is_refused_rather_than_written(tmp_path):
    good = _report(warm=False)
    error = dataclasses.replace(good.quantization_error, score_max_abs_error=float("nan"))
    with pytest.raises(ValueError, match="JSON"):
        report.write(_findings(dataclasses.replace(good, quantization_error=error)), tmp_path)
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
    assert pictures == {"loss", "auc", "recall", "focal", "shares", "roc", "det", "logits"}
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
    for metrics in _report().models.values():
        assert f"{100 * metrics.accuracy:.2f} %" in text
        assert f"{metrics.roc_auc:.5f}" in text
        assert f"{metrics.threshold:.3f}" in text
    assert f"{_report().positives} of them positive" in text


def test_report_without_a_training_has_no_training_pictures(tmp_path):
    report.write(_findings(_report(warm=False)), tmp_path)
    assert {p.stem for p in (tmp_path / "report").glob("*.png")} == {"roc", "det", "logits"}
    assert "<h2>Training" not in _page(tmp_path)
    assert "warm" not in re.sub(r"<[^>]*>", " ", _page(tmp_path).split("</style>")[1]).lower()


def test_qat_epochs_count_on_from_fp32(run_dir):
    history = report._read_history(run_dir)
    np.testing.assert_array_equal(history.epochs, np.arange(1, 19))
    assert history.qat_from == 15
    assert history.columns["hardest_tenth_weight"].shape == (18,)


def test_broken_history_is_named(tmp_path):
    path = tmp_path / "fp32" / "history.csv"
    path.parent.mkdir()
    path.write_text("epoch,loss\n1,nonsense\n")
    with pytest.raises(InputError, match=r"history\.csv"):
        report.write(_findings(_report(warm=False)), tmp_path)


def test_wake_words_are_escaped(tmp_path):
    report.write(_findings(_report(("<b>hey</b> & you",), warm=False)), tmp_path)
    assert "<b>hey" not in _page(tmp_path)
    assert "&lt;b&gt;hey&lt;/b&gt; &amp; you" in _page(tmp_path)


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
    good = _report(warm=False)
    error = dataclasses.replace(
        good.quantization_error, relative_accuracy_drop=drop, accuracy_drop_ci95=interval
    )
    found = report.verdict(dataclasses.replace(good, quantization_error=error))
    assert found.level == level
    assert headline in found.headline
    assert detail in found.detail


def test_flips_in_the_picture_are_those_of_the_report():
    noisy = _report(extra=3.0, warm=False)
    logits, models = noisy.scores.logits, noisy.models
    decided = [report._decisions(logits[n], models[n].threshold) for n in ("fp32", "int8")]
    flipped = int(np.count_nonzero(decided[0] != decided[1]))
    assert flipped == noisy.quantization_error.decisions_flipped > 0


@pytest.mark.parametrize("words", [("happy",), ("up", "down", "go")])
def test_curves_pass_through_the_point_of_the_threshold(words):
    several = _report(words, extra=1.5, warm=False)
    labels = several.scores.labels
    scores, positive = report._detection_scores(several, "int8")
    threshold = several.models["int8"].threshold
    decided = report._decisions(several.scores.logits["int8"], threshold)
    np.testing.assert_array_equal(
        scores[positive] >= threshold, decided[positive] == labels[positive]
    )
    np.testing.assert_array_equal(scores[~positive] >= threshold, decided[~positive] != -1)


def test_several_wake_words_have_a_report(tmp_path):
    report.write(_findings(_report(("up", "down", "go"), extra=1.0)), tmp_path)
    assert "top-1" in _page(tmp_path)
