import ctypes

import numpy as np
import pytest
from compilers import build
from hypothesis import given, settings
from hypothesis import strategies as st

from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.firmware.c_source import SOURCES
from wakeword_keras.firmware.front_end_tables import front_end_tables

SECOND = 16000


@pytest.fixture(scope="module")
def front_end(bundle, tmp_path_factory):
    """int16 samples -> uint16 features by front_end.c."""
    out = tmp_path_factory.mktemp("c") / "front_end.so"
    build("gcc C99", [SOURCES / "front_end.c"], out, "-O2", "-shared", "-fPIC", f"-I{bundle}")
    library = ctypes.CDLL(str(out))

    def features(audio):
        state = ctypes.create_string_buffer(1 << 15)
        library.wakeword_front_end_reset(state)
        frame, frames = np.zeros(40, np.uint16), []
        for start in range(0, len(audio) - 159, 160):
            step = np.ascontiguousarray(audio[start : start + 160])
            pointers = (ctypes.c_void_p(array.ctypes.data) for array in (step, frame))
            if library.wakeword_front_end_step(state, *pointers):
                frames.append(frame.copy())
        return np.array(frames, np.uint16).reshape(-1, 40)

    return features


def _of_training(audio):
    return np.rint(StreamingFrontend(FrontendConfig()).process(audio) * 25.6)


def _sound(kind, samples):
    random, at = np.random.default_rng(0), np.arange(samples)
    return {
        "speech-like": random.normal(size=samples) * 4000 * np.abs(np.sin(at / 3000)),
        "full scale": random.integers(-32768, 32768, samples),
        "tone": 32767 * np.sin(at * 2 * np.pi * 440 / SECOND),
        "square": np.where(at % 36 < 18, 32767, -32768),
        "one step": random.integers(-1, 2, samples),
        "lowest": np.full(samples, -32768),
        "silence": np.zeros(samples),
    }[kind].astype(np.int16)


@pytest.mark.parametrize(
    "kind",
    ["speech-like", "full scale", "tone", "square", "one step", "lowest", "silence"],
)
def test_c_front_end_gives_the_features_of_training_bit_for_bit(front_end, kind):
    audio = _sound(kind, 5 * SECOND)
    np.testing.assert_array_equal(front_end(audio), _of_training(audio))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 32767), st.integers(1, 4000)), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_c_front_end_follows_any_loudness(front_end, stretches, seed):
    random = np.random.default_rng(seed)
    audio = np.concatenate(
        [random.integers(-level - 1, level + 1, length) for level, length in stretches]
    ).astype(np.int16)
    np.testing.assert_array_equal(front_end(audio), _of_training(audio))


def test_filterbank_weights_share_each_bin_between_two_channels():
    tables = front_end_tables(FrontendConfig())
    total = tables.weights.astype(int) + tables.unweights
    # Rounded apart, a half goes up in both.
    assert set(np.unique(total)) <= {0, 4096, 4097}
    assert np.count_nonzero(total) == tables.last_bin - tables.first_bin


def test_only_the_devices_front_end_has_tables():
    with pytest.raises(ValueError, match="log_mel"):
        front_end_tables(FrontendConfig(kind="log_mel"))
