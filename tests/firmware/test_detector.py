import numpy as np
import pytest
from compilers import build, run
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import LISTENING, STEPS, write

from wakeword_keras.affine import Affine
from wakeword_keras.firmware.decision import detected
from wakeword_keras.firmware.manifest import read_manifest
from wakeword_keras.metrics.stream_rule import StreamConfig

HARNESS = """
#include <stdio.h>
#include "detector.h"
int main(void) {
  static wakeword_detector detector;
  int8_t outputs[WAKEWORD_COUNT];
  wakeword_detector_reset(&detector);
  while (fread(outputs, 1, WAKEWORD_COUNT, stdin) == WAKEWORD_COUNT) {
    putchar(wakeword_detector_step(&detector, outputs) & 0xFF);
  }
  return 0;
}
"""
RULES = {
    "default": StreamConfig(),
    "no average": StreamConfig(average_ms=50),
    "long average": StreamConfig(stride_ms=20, average_ms=500, refractory_ms=90),
    "no refractory time": StreamConfig(refractory_ms=0),
    "widest": StreamConfig(stride_ms=10, average_ms=2550, refractory_ms=10),
    "streaming": LISTENING,
}


@pytest.fixture(scope="module", params=RULES.values(), ids=RULES)
def device(request, model_path, streaming_path, tmp_path_factory):
    """(outputs -> what detector.h returns, the same by the report's rule), threshold middling."""
    folder = tmp_path_factory.mktemp("detector")
    config = request.param
    path, warm_up = (streaming_path, STEPS - 1) if config is LISTENING else (model_path, 0)
    bundle = write(path, folder / "firmware", listening=config, stream_sum=config.one // 2)
    (folder / "main.c").write_text(HARNESS)
    program = build(
        "gcc C99",
        [folder / "main.c"],
        folder / "detector",
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        f"-I{bundle}",
    )
    said = read_manifest(bundle)["model"]["output"]
    output = Affine(said["scale"], said["zero_point"])

    def in_c(scores):
        return np.frombuffer(run(program, stdin=scores.tobytes()), np.int8)

    return in_c, lambda scores: detected(scores, output, config, config.one // 2, warm_up)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-128, 127), st.integers(-128, 127), st.integers(1, 400)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 2**32 - 1),
)
def test_detector_in_c_decides_as_the_report_does(device, stretches, seed):
    in_c, in_report = device
    random = np.random.default_rng(seed)
    scores = np.concatenate(
        [random.integers(min(a, b), max(a, b) + 1, (steps, 2)) for a, b, steps in stretches]
    ).astype(np.int8)
    np.testing.assert_array_equal(in_c(scores), in_report(scores))


def test_held_output_fires_again_each_time_the_refractory_time_is_over(device):
    in_c, in_report = device
    scores = np.full((1200, 2), 127, np.int8)
    assert (in_report(scores) >= 0).sum() > 1
    np.testing.assert_array_equal(in_c(scores), in_report(scores))


def test_what_a_streaming_model_says_before_its_first_window_does_not_count():
    output, config = Affine(0.1, 0), LISTENING
    scores = np.full((40, 1), 127, np.int8)
    warm = detected(scores[STEPS - 1 :], output, config, config.one // 2)
    cold = detected(scores, output, config, config.one // 2, STEPS - 1)
    np.testing.assert_array_equal(cold, [*[-1] * (STEPS - 1), *warm])
    assert (warm >= 0).any()
