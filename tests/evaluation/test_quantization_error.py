import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from test_clip_evaluation import SCALE, make_scores, random_split

from wakeword_keras.evaluation import quantization_error
from wakeword_keras.evaluation.clip_thresholds import choose
from wakeword_keras.evaluation.scores import decisions
from wakeword_keras.metrics import detection


def measured(validation, test, words=("happy",), limits=None):
    chosen = choose(validation, words)
    if limits:
        chosen = dataclasses.replace(chosen, logits=limits)
    return quantization_error.measure(chosen, test, SCALE, words)


def noisy_split(seed, noise=0.5, words=1, count=300):
    logits, labels = random_split(seed, count, words)
    rng = np.random.default_rng(seed + 100)

    def shaken(scale):
        steps = np.round(rng.normal(0, scale, logits.shape) / SCALE)
        return logits + (SCALE * steps).astype(np.float32)

    return make_scores(
        logits, labels, qat=shaken(noise), int8=shaken(2 * noise), int8_ptq=shaken(3 * noise)
    )


@pytest.fixture(scope="module")
def noisy():
    return noisy_split(0), noisy_split(1)


def test_the_two_parts_and_the_whole_and_ptq_are_each_there(noisy):
    steps = measured(*noisy).steps
    assert list(steps) == ["fp32_to_qat", "qat_to_int8", "fp32_to_int8", "fp32_to_int8_ptq"]
    for name, step in steps.items():
        assert f"{step.reference}_to_{step.model}" == name


def test_without_ptq_its_step_is_left_out(noisy):
    test = dataclasses.replace(
        noisy[1], logits={k: v for k, v in noisy[1].logits.items() if k != "int8_ptq"}
    )
    assert list(measured(noisy[0], test).steps) == ["fp32_to_qat", "qat_to_int8", "fp32_to_int8"]


@given(st.integers(0, 50), st.floats(0, 2), st.sampled_from([1, 3]))
@settings(max_examples=12)
def test_the_parts_add_up_to_the_whole(seed, noise, words):
    names = ("a", "b", "c")[:words]
    validation, test = noisy_split(seed, noise, words), noisy_split(seed + 1000, noise, words)
    steps = measured(validation, test, names).steps
    first, second, whole = (steps[n] for n in ("fp32_to_qat", "qat_to_int8", "fp32_to_int8"))
    for figure in ("roc_auc_drop", "threshold_shift", "delta_miss_rate_at_equal_false_accepts"):
        parts = getattr(first, figure) + getattr(second, figure)
        assert parts == pytest.approx(getattr(whole, figure), abs=1e-9)
    # Relative drops multiply: (1 - d) = (1 - d1)(1 - d2).
    kept = (1 - first.relative_accuracy_drop) * (1 - second.relative_accuracy_drop)
    assert kept == pytest.approx(1 - whole.relative_accuracy_drop, abs=1e-9)
    assert whole.score_max_abs_error <= first.score_max_abs_error + second.score_max_abs_error
    assert whole.decisions_flipped <= first.decisions_flipped + second.decisions_flipped


@given(st.integers(0, 200), st.floats(0, 3))
@settings(max_examples=12)
def test_every_interval_is_ordered_and_holds_what_it_must(seed, noise):
    validation, test = noisy_split(seed, noise), noisy_split(seed + 1000, noise)
    for step in measured(validation, test).steps.values():
        for field in dataclasses.fields(step):
            if field.name.endswith("_ci95"):
                low, high = getattr(step, field.name)
                assert low <= high, field.name
        low, high = step.decisions_flipped_ci95
        assert low <= step.decisions_flipped <= high
        assert high > 0, "no flip seen does not mean that there is none"
        assert step.score_max_abs_error_ci95[1] <= step.score_max_abs_error
        assert sum(step.score_histogram) == step.clips
        assert len(step.flips) == step.decisions_flipped


def test_auc_drop_is_sklearns_difference(noisy):
    validation, test = noisy
    step = measured(validation, test).steps["fp32_to_int8_ptq"]
    expected = roc_auc_score(test.targets >= 0, test.logits["fp32"][:, 0])
    expected -= roc_auc_score(test.targets >= 0, test.logits["int8_ptq"][:, 0])
    assert step.roc_auc_drop == pytest.approx(expected, abs=1e-12)
    low, high = step.roc_auc_drop_ci95
    assert low < expected < high


def test_miss_rate_is_that_of_any_wake_word_at_equal_false_accepts():
    validation, test = (noisy_split(seed, words=3) for seed in (0, 1))
    step = measured(validation, test, ("a", "b", "c")).steps["fp32_to_int8"]
    fp32, int8 = (test.logits[name].max(axis=1) for name in ("fp32", "int8"))
    assert step.delta_miss_rate_at_equal_false_accepts == pytest.approx(
        detection.delta_miss_rate_at_equal_false_accepts(fp32, int8, test.targets >= 0, 0.01)
    )


def test_intervals_are_paired_a_constant_shift_has_no_spread():
    logits, labels = random_split(0)
    moved = make_scores(logits, labels, int8=logits - 1)
    step = measured(moved, moved).steps["fp32_to_int8"]
    assert (step.threshold_shift, step.threshold_shift_ci95) == (-1.0, (-1.0, -1.0))
    assert step.score_mean_abs_error_ci95 == (1.0, 1.0)
    assert step.score_max_abs_error_ci95 == (1.0, 1.0)
    assert (step.roc_auc_drop_ci95, step.delta_miss_rate_ci95) == ((0, 0), (0, 0))
    assert step.decisions_flipped == 0


def test_flips_by_hand_the_hardest_first():
    labels = [0, 0, -1, -1]
    fp32 = np.array([[3.0], [1.0], [-1.0], [-4.0]])
    int8 = np.array([[2.0], [-0.5], [0.1], [5.0]])
    test = make_scores(fp32, labels, int8=int8)
    validation = make_scores(*random_split(0))
    limits = dict.fromkeys(validation.logits, 0.0) | {"int8": -0.25}
    flips = measured(validation, test, limits=limits).steps["fp32_to_int8"].flips
    assert [flip.clip_id for flip in flips] == ["clip3", "clip2", "clip1"]
    first, second, last = flips
    # 4 below FP32's threshold of 0 and 5.25 above INT8's of -0.25.
    assert [flip.severity for flip in flips] == pytest.approx([9.25, 1.35, 1.25])
    assert (first.reference_logit, first.model_logit) == (-4.0, 5.0)
    assert first.model_probability == pytest.approx(1 / (1 + np.exp(-5)))
    assert (first.label, first.reference_decision, first.model_decision) == (
        "none",
        "none",
        "happy",
    )
    assert (last.label, last.reference_decision, last.model_decision) == ("happy", "happy", "none")
    assert (first.speaker, first.group, second.group) == ("s1", "speech", "speech")


def test_severity_of_a_flip_between_two_words_is_weighed_by_their_logits():
    validation = noisy_split(0, words=3)
    others = [[9, 0, 0], [0, 0, 9], [-1, -1, -1]]
    test = make_scores([[3, 1, 0], *others], [1, 0, 2, -1], int8=[[1, 0, 4], *others])
    limits = dict.fromkeys(test.logits, 0.5)
    (flip,) = measured(validation, test, ("a", "b", "c"), limits).steps["fp32_to_int8"].flips
    assert (flip.label, flip.reference_decision, flip.model_decision) == ("b", "a", "c")
    assert flip.severity == (3 - 0) + (4 - 1)


def test_flips_are_exactly_the_clips_decided_differently(noisy):
    validation, test = noisy
    limits = choose(validation, ("happy",)).logits
    for step in measured(validation, test).steps.values():
        decided = [decisions(test.logits[n], limits[n]) for n in (step.reference, step.model)]
        expected = {test.clips[i].clip_id for i in np.flatnonzero(decided[0] != decided[1])}
        assert {flip.clip_id for flip in step.flips} == expected
        severities = [flip.severity for flip in step.flips]
        assert severities == sorted(severities, reverse=True)
        assert min(severities, default=0) >= 0


def test_histogram_is_signed_and_centred_on_no_error():
    labels = [0, -1, -1, 0]
    fp32 = np.zeros((4, 1))
    int8 = np.array([[0.0], [0.0], [2.0], [-0.5]])
    step = measured(
        make_scores(*random_split(0)),
        make_scores(fp32, labels, int8=int8),
        limits=dict.fromkeys(("fp32", "qat", "int8", "int8_ptq", "fp32_tflite"), -9.0),
    ).steps["fp32_to_int8"]
    edges, counts = np.array(step.score_histogram_edges), np.array(step.score_histogram)
    assert (edges[0], edges[-1], len(counts) % 2) == (-2.0, 2.0, 1)
    assert counts[len(counts) // 2] == 2
    assert counts[-1] == 1
    assert counts[np.searchsorted(edges, -0.5, "right") - 1] == 1


def test_the_highest_error_is_seen_in_most_draws_but_not_in_all():
    logits, labels = random_split(0, 400)
    int8 = logits.copy()
    int8[17] += 3
    step = measured(make_scores(*random_split(1)), make_scores(logits, labels, int8=int8)).steps[
        "fp32_to_int8"
    ]
    # One speaker in 200: it is missing from a draw with a chance of 0.37.
    assert step.score_max_abs_error_ci95 == (0.0, 3.0)


def test_all_scores_equal_is_chance_and_no_crash():
    labels = np.array([0, -1] * 30)
    flat = make_scores(np.zeros((60, 1)), labels)
    step = measured(flat, flat).steps["fp32_to_int8"]
    assert (step.roc_auc_drop, step.decisions_flipped, step.threshold_shift) == (0, 0, 0)


def test_a_reference_that_is_never_right_is_refused_and_an_int8_model_has_lost_all():
    right, wrong, labels = [[1.0], [-2.0]] * 5, [[-1.0], [2.0]] * 5, [0, -1] * 5
    validation = make_scores(*random_split(0))
    limits = dict.fromkeys(validation.logits, 0.0)
    broken = measured(
        validation, make_scores(right, labels, int8=wrong, int8_ptq=wrong), limits=limits
    )
    assert broken.relative_accuracy_drop == 1.0
    with pytest.raises(ValueError, match="qat decides no"):
        measured(validation, make_scores(right, labels, qat=wrong), limits=limits)


def test_steps_are_json(noisy):
    content = dataclasses.asdict(measured(*noisy))
    assert json.loads(json.dumps(content, allow_nan=False))["steps"]["fp32_to_qat"]["flips"]
