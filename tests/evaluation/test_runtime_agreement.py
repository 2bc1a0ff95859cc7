import dataclasses

import numpy as np
import pytest

from wakeword_keras.data.clips import ClipInfo
from wakeword_keras.evaluation import runtime_agreement
from wakeword_keras.evaluation.scores import Scores

STEP = 0.5


def scores_of(**logits):
    count = len(next(iter(logits.values())))
    columns = {name: np.array(values, np.float32)[:, None] for name, values in logits.items()}
    return Scores(
        tuple(ClipInfo(str(i), "happy", 0, "positive", str(i), 1.0) for i in range(count)),
        columns,
    )


def measure(scores, thresholds):
    return runtime_agreement.measure(scores, thresholds, dict.fromkeys(scores.logits, 100), STEP)


def test_difference_decisions_and_steps_by_hand():
    scores = scores_of(int8=[0.0, 1.0, 2.0, 3.0], int8_onnx=[0.0, 1.5, 2.0, 2.0])
    (pair,) = measure(scores, {"int8": 1.25, "int8_onnx": 9.0})
    assert (pair.reference, pair.model) == ("int8", "int8_onnx")
    assert pair.max_abs_error == 1.0
    assert pair.max_lsb == 2.0
    assert pair.decisions_equal == 0.75
    low, high = pair.decisions_equal_ci95
    assert low < 0.75 < high
    assert (pair.clips, pair.size_ratio) == (4, 1.0)


def test_a_model_agrees_with_itself_and_floats_have_no_steps():
    scores = scores_of(fp32=[0.1, 2.0], fp32_tflite=[0.1, 2.0])
    (pair,) = measure(scores, dict.fromkeys(scores.logits, 1.0))
    assert (pair.max_abs_error, pair.max_lsb, pair.decisions_equal) == (0.0, None, 1.0)


def test_only_pairs_that_were_scored_are_compared():
    scores = scores_of(fp32=[0.0], int8=[0.0], fp32_tflite=[0.0], fp32_onnx=[0.0])
    pairs = measure(scores, dict.fromkeys(scores.logits, 1.0))
    assert [(pair.reference, pair.model) for pair in pairs] == list(runtime_agreement.PAIRS[:3])


def test_the_table_has_a_line_for_each_pair_that_names_both():
    scores = scores_of(fp32=[0.0], fp32_onnx=[1e-6], int8=[0.5], int8_onnx=[0.0])
    lines = runtime_agreement.table(measure(scores, dict.fromkeys(scores.logits, 9.0))).splitlines()
    assert [line.split()[0] for line in lines] == ["fp32_onnx", "int8_onnx"]
    assert "(1 LSB)" in lines[1]
    assert "100.00 % of 1" in lines[1]


def test_sizes_are_compared_with_the_reference():
    scores = scores_of(int8=[0.0], int8_onnx=[0.0])
    (pair,) = runtime_agreement.measure(
        scores, {"int8": 1.0}, {"int8": 100, "int8_onnx": 130}, STEP
    )
    assert pair.size_ratio == pytest.approx(1.3)
    assert dataclasses.asdict(pair)["size_ratio"] == pair.size_ratio
