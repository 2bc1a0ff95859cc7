import numpy as np
import pytest
from mmap_ninja.ragged import RaggedMmap

from wakeword_keras.audio.features import FrontendConfig, compute
from wakeword_keras.data import feature_sets
from wakeword_keras.data.ambient_features import Windows
from wakeword_keras.errors import InputError

MICRO = FrontendConfig()


def arrays(dtype=np.uint16, seed=0):
    """Features of noise of several lengths as microWakeWord keeps them."""
    rng = np.random.default_rng(seed)
    made = []
    for samples in (16_000, 8_000, 24_000):
        audio = rng.normal(0, 2000, (1, samples)).astype(np.int16)
        features = compute(audio, MICRO)[0]
        made.append(np.rint(features * 25.6).astype(dtype) if dtype == np.uint16 else features)
    return made


def write(folder, values):
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two at a time: mmap-ninja appends the third, as its writers do with large sets.
    RaggedMmap.from_generator(folder, iter(values), batch_size=2)
    return folder


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_windows_are_those_of_mmap_ninjas_own_arrays(tmp_path, dtype):
    folder = write(tmp_path / "speech/training/speech_mmap", arrays(dtype))
    (found,) = feature_sets.list_sets([str(tmp_path)])
    assert found == folder
    windows = Windows([feature_sets.open_set(found, MICRO)], 60, MICRO)
    scale = 25.6 if dtype == np.uint16 else 1.0
    expected = [
        array[first : first + 60] / scale
        for array in RaggedMmap(folder)
        for first in range(len(array) - 59)
    ]
    assert {len(array) for array in RaggedMmap(folder)} > {48}  # shorter than a window: none of it
    np.testing.assert_allclose(windows.read(range(len(windows))), expected, rtol=1e-6)
    assert windows.place(0).recording == f"{folder}[0]"
    assert windows.place(len(windows) - 1).recording == f"{folder}[2]"
    assert windows.place(len(windows) - 1).seconds == pytest.approx(1.5, abs=0.02)


def test_what_a_set_holds_out_is_left_alone_and_reading_changes_nothing(tmp_path):
    training = write(tmp_path / "set/training/a_mmap", arrays())
    write(tmp_path / "set/validation_ambient/b_mmap", arrays())
    write(tmp_path / "set/testing/c_mmap", arrays())
    before = sorted(tmp_path.rglob("*"))
    assert feature_sets.list_sets([str(tmp_path)]) == [training]
    feature_sets.open_set(training, MICRO)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_hash_sees_other_features(tmp_path):
    one, other = (
        write(tmp_path / name / "x_mmap", arrays(seed=seed)) for seed, name in enumerate("ab")
    )
    assert feature_sets.sha256([one]) != feature_sets.sha256([other])
    assert feature_sets.sha256([one]) == feature_sets.sha256([one])


def test_bad_sets_are_named(tmp_path):
    with pytest.raises(InputError, match=r"`ambient_feature_dirs`=.*nowhere: no such folder"):
        feature_sets.list_sets([str(tmp_path / "nowhere")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no RaggedMmap"):
        feature_sets.list_sets([str(tmp_path / "empty")])
    folder = write(tmp_path / "set/x_mmap", arrays())
    with pytest.raises(InputError, match=r"`frontend\.kind`"):
        feature_sets.open_set(folder, FrontendConfig(kind="log_mel"))
    content = (folder / "data.ninja").read_bytes()
    for damaged in (content[:-1], content[:-80], b""):
        (folder / "data.ninja").write_bytes(damaged)
        with pytest.raises(InputError, match="x_mmap: damaged"):
            feature_sets.open_set(folder, MICRO)
    (folder / "data.ninja").write_bytes(content)
    (folder / "dtype.ninja").write_text("uint99")
    with pytest.raises(InputError, match="x_mmap: damaged"):
        feature_sets.open_set(folder, MICRO)
    narrow = write(tmp_path / "narrow/x_mmap", [np.zeros((50, 39), np.uint16)])
    with pytest.raises(InputError, match="not of 40 channels"):
        feature_sets.open_set(narrow, MICRO)
