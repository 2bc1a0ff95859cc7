"""One listing for recordings, ambient audio and impulse responses."""

import os

import numpy as np
import pytest
import soundfile

from wakeword_keras import InputError
from wakeword_keras.data.recordings import list_ambient, list_recordings
from wakeword_keras.data.shards import read_impulse_responses


@pytest.fixture
def folder(tmp_path):
    """Two sounds, one in capitals, and what macOS and version control leave beside them."""
    (tmp_path / "one" / ".git").mkdir(parents=True)
    for name, seed in (("one/A.WAV", 1), ("one/b.wav", 2)):
        sound = np.random.default_rng(seed).normal(0, 0.1, 1600)
        soundfile.write(tmp_path / name, sound, 16000, format="WAV")
    for name in ("one/._b.wav", "one/.git/c.wav", "one/.DS_Store"):
        (tmp_path / name).write_bytes(b"no audio")
    return tmp_path


def test_recordings_and_ambient_are_all_suffixes_and_nothing_hidden(folder):
    messages: list[str] = []
    recordings = list_recordings([str(folder)], ("two",), messages)
    assert [r.recording_id for r in recordings] == ["one/A.WAV", "one/b.wav"]
    assert messages == []
    ambient = list_ambient([str(folder)])
    assert [r.recording_id for r in ambient] == ["_ambient_/one/A.WAV", "_ambient_/one/b.wav"]


def test_impulse_responses_are_all_suffixes_and_nothing_hidden(folder):
    assert len(read_impulse_responses(folder)) == 2


def test_a_folder_of_hidden_files_alone_holds_no_audio(tmp_path):
    (tmp_path / "._b.wav").write_bytes(b"no audio")
    with pytest.raises(InputError, match="no audio"):
        read_impulse_responses(tmp_path)
    with pytest.raises(InputError, match="no audio"):
        list_ambient([str(tmp_path)])


def test_a_name_that_is_not_utf_8_is_refused(folder):
    (folder / "one" / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"RIFF")
    for reader in (
        lambda: list_recordings([str(folder)], ("two",), []),
        lambda: list_ambient([str(folder)]),
        lambda: read_impulse_responses(folder),
    ):
        with pytest.raises(InputError, match="is not UTF-8; rename it"):
            reader()
