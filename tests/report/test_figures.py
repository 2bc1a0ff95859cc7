import dataclasses
from pathlib import Path

import numpy as np
import pytest
from test_report import findings_of, report_of, write_history

from wakeword_keras.evaluation.clip_evaluation import detection_scores
from wakeword_keras.evaluation.scores import decisions
from wakeword_keras.report import figures


def test_qat_epochs_count_on_from_fp32(tmp_path):
    write_history(tmp_path / "fp32" / "history.csv", 14, 1.0)
    write_history(tmp_path / "qat" / "history.csv", 4, 0.03)
    history = figures._read_history(tmp_path)
    np.testing.assert_array_equal(history.epochs, np.arange(1, 19))
    assert history.begins == {"QAT": 15}
    assert history.columns["hardest_tenth_weight"].shape == (18,)


def test_one_teacher_comes_before_fp32_which_learns_from_all_of_them(tmp_path):
    for folder, epochs in (("fp32/teacher_1", 6), ("fp32/teacher_2", 6), ("fp32", 8), ("qat", 2)):
        write_history(tmp_path / folder / "history.csv", epochs, 1.0)
    history = figures._read_history(tmp_path)
    np.testing.assert_array_equal(history.epochs, np.arange(1, 17))
    assert history.begins == {"FP32": 7, "QAT": 15}
    loss = dict(figures.figures(findings_of(report_of()), tmp_path))["loss"].axes[0]
    assert [text.get_text() for text in loss.texts] == ["QAT", "FP32"]
    spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in loss.patches)
    assert spans == [(6.5, 14.5), (14.5, 16.5)]


def test_flips_in_the_picture_are_those_of_the_report():
    noisy = report_of(extra=3.0, warm=False)
    logits, models = noisy.scores.logits, noisy.models
    decided = [decisions(logits[n], models[n].threshold) for n in ("fp32", "int8")]
    flipped = int(np.count_nonzero(decided[0] != decided[1]))
    assert flipped == noisy.quantization_error.decisions_flipped > 0


@pytest.mark.parametrize("words", [("happy",), ("up", "down", "go")])
def test_curves_pass_through_the_point_of_the_threshold(words):
    several = report_of(words, extra=1.5, warm=False)
    labels = several.scores.targets
    scores, positive = detection_scores(several.scores, "int8")
    threshold = several.models["int8"].threshold
    decided = decisions(several.scores.logits["int8"], threshold)
    np.testing.assert_array_equal(
        scores[positive] >= threshold, decided[positive] == labels[positive]
    )
    np.testing.assert_array_equal(scores[~positive] >= threshold, decided[~positive] != -1)


def test_the_cross_of_int8_holds_its_point():
    drawn = dict(figures.figures(findings_of(report_of(extra=1.0)), Path("nowhere")))
    lines = drawn["det"].axes[0].get_lines()
    across, up = lines[-2:]
    assert across.get_xdata()[0] < up.get_xdata()[0] < across.get_xdata()[1]
    assert up.get_ydata()[0] < across.get_ydata()[0] < up.get_ydata()[1]


def test_a_point_of_many_misses_is_on_the_picture():
    deaf = report_of(extra=0.0, warm=False)
    models = {n: dataclasses.replace(m, threshold=8.0) for n, m in deaf.models.items()}
    found = findings_of(dataclasses.replace(deaf, models=models))
    axes = dict(figures.figures(found, Path("nowhere")))["det"].axes[0]
    highest = max(line.get_ydata()[0] for line in axes.get_lines() if len(line.get_ydata()) == 1)
    assert 0 < highest < axes.get_ylim()[1]
