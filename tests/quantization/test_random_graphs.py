"""Functional models made at random: INT8 equals the device model, or the model is refused."""

import collections
import re

import numpy as np
import pytest
import tf_keras as keras
from random_graphs import CHANNELS, FRAMES, random_model
from test_convert import INPUT, run_int8

from wakeword_keras.errors import InputError
from wakeword_keras.quantization import calibration, fake_quantize, integer_model, proof

DEFAULT, ALL, CHUNK = 16, 512, 16


def outcome(seed):
    """What becomes of a random model: why it is refused, "equal", or "within 1 step"."""
    features = np.random.default_rng(0).uniform(0, 26, (24, FRAMES, CHANNELS)).astype(np.float32)
    model = random_model(seed)
    try:
        qat = fake_quantize.quantize(model, INPUT)
        calibration.calibrate(qat, model, features)
        content = proof.int8_model(qat, model, features)
    except InputError as error:
        return str(error)
    written, scale = run_int8(content, features)
    expected = integer_model.device_model(qat, model).predict(features, verbose=0)
    steps = np.abs(written - expected).max() / scale
    assert steps < 1.01, seed
    return "equal" if steps < 0.01 else "within 1 step"


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.slow if first >= DEFAULT else ())
        for first in range(0, ALL, CHUNK)
    ],
)
def test_int8_is_the_device_model_or_the_model_is_refused_with_a_mend(first):
    counts = collections.Counter()
    for seed in range(first, first + CHUNK):
        keras.backend.clear_session()
        found = outcome(seed)
        if found in ("equal", "within 1 step"):
            counts[found] += 1
            continue
        assert re.fullmatch(r"[^\n]*(layer|model) '[^\n]*: [^\n]+", found), "no name, or no mend"
        assert "the INT8 file" not in found, "the proof refused what preflight should have known"
        counts["refused"] += 1
    print(dict(counts))  # shown by -s
    assert counts["refused"] < 0.75 * CHUNK, "the graphs are no test"
