import dataclasses
import json

import numpy as np
import pytest

from wakeword_keras import InputError
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.evaluation import clip_thresholds
from wakeword_keras.evaluation.clip_evaluation import (
    Scores,
    console_table,
    evaluate,
    score,
)
from wakeword_keras.metrics import detection
from wakeword_keras.tflite.scorers import ModelFacts

NAMES = ("fp32", "fp32_tflite", "qat", "int8_ptq", "int8")
FACTS = {name: ModelFacts(1000 + i, None, "reference") for i, name in enumerate(NAMES)}
SCALE = 0.125


def make_scores(logits, targets, speakers=None, **others):
    logits = np.asarray(logits, np.float32)
    return Scores(
        tuple(
            clip_info(f"clip{i}", target, speakers[i] if speakers else f"s{i // 2}")
            for i, target in enumerate(targets)
        ),
        {name: np.asarray(others.get(name, logits), np.float32) for name in NAMES},
    )


def clip_info(clip_id, target, speaker):
    if target < 0:
        return ClipInfo(clip_id, "other", -1, "speech", speaker, 1.0)
    return ClipInfo(clip_id, f"word{target}", int(target), "positive", speaker, 1.0)


def random_split(seed, count=400, words=1):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, words, count)
    target = np.eye(words + 1)[labels][:, :words]  # -1 is the last row: none
    # On the int8 grid, as the outputs of "qat" and "int8" are.
    logits = np.round((rng.normal(size=(count, words)) + 5 * target - 2.5) / SCALE) * SCALE
    return logits.astype(np.float32), labels.astype(np.int32)


def run(validation, test, warm=None, words=("happy",), scale=SCALE):
    return evaluate(clip_thresholds.choose(validation, words), test, warm, FACTS, scale, words)


@pytest.mark.parametrize("words", [("happy",), ("up", "down", "left")])
def test_identical_models_have_no_quantization_error(words):
    validation, test = (make_scores(*random_split(seed, words=len(words))) for seed in (0, 1))
    report = run(validation, test, words=words)
    q = report.quantization_error
    assert (q.relative_accuracy_drop, q.accuracy_drop_ci95) == (0.0, (0.0, 0.0))
    assert (q.score_mean_abs_error, q.score_max_abs_error, q.decisions_flipped) == (0, 0, 0)
    assert (q.qat_vs_int8_max_lsb, q.qat_vs_int8_within_2_lsb) == (0.0, 1.0)
    assert q.delta_miss_rate_at_equal_false_accepts == 0.0
    assert len({m.accuracy for m in report.models.values()}) == 1


def test_every_number_by_hand():
    # 100 negatives at 0.00 ... 0.99 on validation: 1 % fires at 0.985, in the mean of draws, which
    # repeat some and lack others, between 0.97 and 0.98.
    ladder = np.arange(100)[:, np.newaxis] / 100
    validation = make_scores(np.concatenate([ladder, [[5.0]]]), [-1] * 100 + [0])
    labels = [0] * 8 + [-1] * 12
    fp32 = np.array([2.0] * 7 + [0.0] + [-1.0] * 11 + [1.0])[:, np.newaxis]  # a miss, a false one
    int8 = fp32.copy()
    int8[0] -= 4  # one more miss
    int8[19] -= 1  # the false accept is gone
    int8[8] += 0.25  # no decision changes
    test = make_scores(fp32, labels, int8=int8)
    report = run(validation, test)
    assert report.models["fp32"].threshold == pytest.approx(0.975, abs=1e-6)
    assert report.models["fp32"].accuracy == 18 / 20
    assert report.models["int8"].accuracy == 18 / 20
    # fp32: the false accept at 1.0 lies under 2.0, so 7 of 8 are found without any false positive.
    assert report.models["fp32"].recall_at_fpr_0_01 == 7 / 8
    # int8: -2 for one positive, 0.0 ties with the former false accept: 6 of 8.
    assert report.models["int8"].recall_at_fpr_0_01 == 6 / 8
    # Of 8 * 12 pairs fp32 loses one (0.0 against 1.0).
    assert report.models["fp32"].roc_auc == pytest.approx(95 / 96)
    q = report.quantization_error
    assert q.decisions_flipped == 2
    assert q.relative_accuracy_drop == 0.0
    assert q.accuracy_drop_ci95[0] < 0 < q.accuracy_drop_ci95[1]
    assert q.delta_miss_rate_at_equal_false_accepts == 1 / 8
    assert q.score_max_abs_error == 4.0
    assert q.score_mean_abs_error == pytest.approx(5.25 / 20)
    # qat equals fp32 here: 4.0, 1.0 and 0.25 are 32, 8 and 2 steps of 0.125.
    assert (q.qat_vs_int8_max_lsb, q.qat_vs_int8_p99_lsb) == (32.0, 32.0)
    assert q.qat_vs_int8_within_2_lsb == 18 / 20
    assert (q.clips, q.positives, q.negatives) == (20, 8, 12)
    assert report.clips == {"positive": 8, "speech": 12}
    assert (report.validation_positives, report.validation_negatives) == (1, 100)


def test_relative_drop_is_positive_when_int8_is_worse_and_its_interval_is_paired():
    logits, labels = random_split(3, 2000)
    validation = make_scores(*random_split(4, 2000))
    worse = logits.copy()
    hit = np.flatnonzero((labels == 0) & (logits[:, 0] > 1.5))[:20]
    worse[hit] = -5
    report = run(validation, make_scores(logits, labels, int8=worse))
    fp32, int8 = report.models["fp32"], report.models["int8"]
    q = report.quantization_error
    assert q.relative_accuracy_drop == pytest.approx(20 / 2000 / fp32.accuracy)
    low, high = q.accuracy_drop_ci95
    assert 0 < low < q.relative_accuracy_drop < high
    # Unpaired, the same 20 clips would drown in the intervals of two accuracies.
    assert fp32.accuracy_ci95[0] < int8.accuracy_ci95[1]


def test_threshold_comes_from_validation_alone():
    validation = make_scores(*random_split(0))
    logits, labels = random_split(1)
    one = run(validation, make_scores(logits, labels)).models["fp32"]
    other = run(validation, make_scores(logits + 3, labels)).models["fp32"]
    assert one.threshold == other.threshold
    assert one.roc_auc == other.roc_auc
    assert one.accuracy > other.accuracy
    fires = validation.logits["fp32"][validation.targets < 0] >= one.threshold
    assert fires.mean() <= 0.01
    assert one.threshold_probability == pytest.approx(1 / (1 + np.exp(-one.threshold)))


def test_several_words_need_the_right_word_to_be_right():
    validation = make_scores([[-5, -5, -5]] * 50 + [[-5, -5, 5]], [-1] * 50 + [2])  # threshold 0
    logits = [[3, 1, 0], [1, 3, 0], [-1, -2, -3], [-1, -2, -3], [0, 1, 4], [0, 2, 1]]
    report = run(validation, make_scores(logits, [0, 0, 0, -1, 2, 1]), words=("a", "b", "c"))
    m = report.models["int8"]
    assert m.threshold == 0.0
    # Right: 0 (a), 3 (none), 4 (c), 5 (b). Wrong: 1 says b, 2 stays under the threshold.
    assert m.accuracy == pytest.approx(4 / 6)
    # Without a threshold clip 2 is an "a" too: 4 of 5 positives.
    assert m.top1_accuracy == 4 / 5
    expected = np.mean(
        [
            detection.roc_auc(report.scores.logits["int8"][:, k], report.scores.targets == k)
            for k in range(3)
        ]
    )
    assert m.roc_auc == pytest.approx(expected)


def test_a_flip_from_one_wrong_word_to_another_counts():
    validation = make_scores([[-5, -5, -5]] * 50 + [[-5, -5, 5]], [-1] * 50 + [2])
    logits = np.array([[3, 1, 0], [1, 3, 0], [0, 1, 4], [-2, -2, -2]])
    int8 = logits.copy()
    int8[0] = [1, 0, 3]  # the clip says "b": "a" and "c" are both wrong
    test = make_scores(logits, [1, 0, 2, -1], int8=int8)
    q = run(validation, test, words=("a", "b", "c")).quantization_error
    assert q.decisions_flipped == 1
    assert q.relative_accuracy_drop == 0.0


def test_each_model_decides_by_its_own_threshold():
    logits, labels = random_split(0)
    split = make_scores(logits, labels, int8=logits - 2)
    report = run(split, split)
    assert report.models["fp32"].threshold == report.models["int8"].threshold + 2
    assert report.quantization_error.decisions_flipped == 0


def test_one_word_has_no_top1_accuracy():
    report = run(make_scores(*random_split(0)), make_scores(*random_split(1)))
    assert report.models["fp32"].top1_accuracy is None


def test_intervals_hold_the_figures_and_are_never_a_point_for_accuracy():
    validation = make_scores(*random_split(0))
    for test in (
        make_scores(*random_split(1)),
        make_scores([[4.0]] * 9 + [[-4.0]] * 9, [0] * 9 + [-1] * 9),
    ):
        for m in run(validation, test).models.values():
            for value, (low, high) in (
                (m.accuracy, m.accuracy_ci95),
                (m.roc_auc, m.roc_auc_ci95),
                (m.recall_at_fpr_0_01, m.recall_ci95),
            ):
                assert low <= value <= high
            assert m.accuracy_ci95[0] < m.accuracy_ci95[1]
            assert m.recall_ci95[0] < m.recall_ci95[1]


def test_a_single_speaker_is_not_drawn_again_and_again():
    logits, labels = random_split(1)
    validation = make_scores(*random_split(0))
    alone = run(validation, make_scores(logits, labels, speakers=["me"] * len(labels)))
    assert (alone.interval_units, alone.speakers) == ("clips", 1)
    low, high = alone.models["fp32"].roc_auc_ci95
    assert low < high
    many = run(validation, make_scores(logits, labels))
    assert (many.interval_units, many.speakers) == ("speakers", 200)


def test_warm_metrics_use_the_cold_thresholds():
    validation, test = (make_scores(*random_split(seed)) for seed in (0, 1))
    warm = dataclasses.replace(test, logits={"int8": test.logits["int8"] - 1})
    report = run(validation, test, warm)
    assert set(report.warm) == {"int8"}
    assert report.warm["int8"].threshold == report.models["int8"].threshold
    assert report.warm["int8"].accuracy != report.models["int8"].accuracy
    with pytest.raises(ValueError, match="not of the test clips"):
        run(validation, test, dataclasses.replace(warm, clips=test.clips[::-1]))


def test_json_is_plain_and_has_the_keys_of_the_contract():
    validation, test = (make_scores(*random_split(seed)) for seed in (0, 1))
    report = run(validation, test, test)
    read = json.loads(json.dumps(report.to_json(), allow_nan=False))
    for model in ("fp32", "qat", "int8_ptq", "int8"):
        keys = {"accuracy", "roc_auc", "recall_at_fpr_0_01", "threshold", "bytes", "latency_us"}
        counts = {"clips", "positives", "negatives"}
        assert keys | counts <= read["models"][model].keys()
        assert read["models"][model]["positives"] == report.positives
    assert {
        "relative_accuracy_drop",
        "accuracy_drop_ci95",
        "delta_miss_rate_at_equal_false_accepts",
        "score_mean_abs_error",
        "score_max_abs_error",
        "decisions_flipped",
        "clips",
        "qat_vs_int8_max_lsb",
        "qat_vs_int8_p99_lsb",
    } <= read["quantization_error"].keys()
    assert "scores" not in read
    assert read["warm"]["fp32"] == read["models"]["fp32"]


def test_console_table_has_a_row_for_each_model_and_fits_the_screen():
    validation, test = (make_scores(*random_split(seed)) for seed in (0, 1))
    table = console_table(run(validation, test)).splitlines()
    assert [line.split()[0] for line in table[1:6]] == list(NAMES)
    assert max(map(len, table)) <= 80
    assert "400 test clips" in table[6]
    steps = ["fp32_to_qat", "qat_to_int8", "fp32_to_int8", "fp32_to_int8_ptq"]
    assert [line.split()[0] for line in table[-4:]] == steps


def clip_batches(features, size):
    for i in range(0, len(features), size):
        part = features[i : i + size]
        infos = tuple(clip_info(str(j), -1, f"s{j}") for j in range(i, i + len(part)))
        yield ClipFeatures(infos, part)


def test_score_in_batches_equals_score_at_once():
    features = np.random.default_rng(0).normal(size=(25, 4, 3)).astype(np.float32)
    scorers = {
        "fp32": lambda x: x.sum(axis=(1, 2))[:, np.newaxis],
        "int8": lambda x: x[:, :1, 0],
    }
    whole = score(clip_batches(features, 25), scorers, 25)
    parts = score(clip_batches(features, 4), scorers, 25)
    assert parts.clips == whole.clips
    assert [clip.clip_id for clip in whole.clips] == [str(i) for i in range(25)]
    for name in scorers:
        np.testing.assert_array_equal(parts.logits[name], whole.logits[name])
        assert whole.logits[name].shape == (25, 1)


def test_score_names_the_model_and_clip_of_a_nan():
    features = np.zeros((10, 4, 3), np.float32)
    features[7] = np.nan
    with pytest.raises(ValueError, match=r"qat.*'7'"):
        score(clip_batches(features, 4), {"qat": lambda x: x[:, :1, 0]}, 10)


def test_score_refuses_nothing_and_models_that_disagree_in_shape():
    with pytest.raises(InputError, match="nothing to score"):
        score([], {"fp32": lambda x: x}, 0)
    features = np.zeros((5, 4, 3), np.float32)
    with pytest.raises(ValueError, match=r"\(3, 1\) for 5 clips"):
        score(clip_batches(features, 5), {"fp32": lambda x: x[:3, :1, 0]}, 5)
    scorers = {"fp32": lambda x: x[:, :1, 0], "int8": lambda x: x[:, :2, 0]}
    with pytest.raises(ValueError, match="'int8': 2"):
        score(clip_batches(features, 5), scorers, 5)


def test_empty_classes_name_split_and_word():
    good, (logits, labels) = make_scores(*random_split(0)), random_split(1)
    with pytest.raises(InputError, match="validation split has no clip without"):
        run(make_scores(logits, np.zeros_like(labels)), good)
    with pytest.raises(InputError, match="test split has no clip of 'happy'"):
        run(good, make_scores(logits, np.full_like(labels, -1)))
    with pytest.raises(InputError, match="validation split has no clip of happy"):
        run(make_scores(logits, np.full_like(labels, -1)), good)


def test_missing_models_are_named():
    good = make_scores(*random_split(0))
    lacking = {name: good.logits[name] for name in NAMES if name != "qat"}
    with pytest.raises(ValueError, match="qat"):
        run(good, dataclasses.replace(good, logits=lacking))
    facts = {name: FACTS[name] for name in NAMES if name != "int8_ptq"}
    with pytest.raises(ValueError, match="int8_ptq"):
        evaluate(clip_thresholds.choose(good, NAMES), good, None, facts, SCALE, ("happy",))
    with pytest.raises(ValueError, match="output scale"):
        run(good, good, scale=0.0)


def test_all_scores_equal_is_chance_for_every_model():
    flat = make_scores(np.zeros((40, 1)), [0, -1] * 20)
    report = run(flat, flat)
    for m in report.models.values():
        assert (m.roc_auc, m.recall_at_fpr_0_01, m.accuracy) == (0.5, 0.0, 0.5)
    assert report.quantization_error.decisions_flipped == 0


def test_the_corners_of_the_det_curve_hold_the_area_under_it_and_end_where_all_fires():
    report = run(*(make_scores(*random_split(seed)) for seed in (0, 1)))
    for name, corners in report.to_json()["det"].items():
        rate = np.array([0.0, *corners["false_positive_rate"]])
        heard = 1 - np.array([1.0, *corners["miss_rate"]])
        assert np.trapezoid(heard, rate) == pytest.approx(report.models[name].roc_auc, abs=1e-12)
        assert (rate[-1], heard[-1]) == (1.0, 1.0)
        assert len(corners["threshold"]) < len(report.scores.targets) / 2
        assert np.all(np.diff(corners["threshold"]) < 0)
