"""Recordings with noise added: how loud, which noise, and what else is kept."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from small_recordings import write_recordings

from wakeword_keras import InputError
from wakeword_keras.audio import audio_file
from wakeword_keras.data import noisy_copy
from wakeword_keras.data.recordings import list_recordings

ROOT = Path(__file__).resolve().parents[2]
TONE = (8000 * np.sin(0.3 * np.arange(16_000))).astype(np.int16)
PAUSE = np.random.default_rng(0).normal(0, 20, 24_000).astype(np.int16)


def write_wav(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, 16_000)


@pytest.fixture
def noise_dir(tmp_path):
    rng = np.random.default_rng(1)
    for name, level in (("fan", 300), ("tap", 3000)):
        write_wav(tmp_path / "noise" / f"{name}.wav", rng.normal(0, level, 32_000).astype(np.int16))
    return str(tmp_path / "noise")


def level_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def test_pauses_do_not_lower_the_level_of_speech():
    whole = 20 * np.log10(noisy_copy.speech_level(TONE))
    paused = 20 * np.log10(noisy_copy.speech_level(np.concatenate([PAUSE, TONE, PAUSE])))
    assert whole == pytest.approx(level_db(TONE), abs=0.01)
    assert paused == pytest.approx(whole, abs=0.1)


def test_silence_and_less_than_a_block_have_no_level():
    assert noisy_copy.speech_level(np.zeros(16_000, np.int16)) == 0
    assert noisy_copy.speech_level(TONE[:100]) == 0


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 25.0])
def test_noise_lies_so_many_db_below_the_speech(tmp_path, noise_dir, snr_db):
    spoken = np.concatenate([PAUSE, TONE, PAUSE])
    write_wav(tmp_path / "data" / "yes" / "a.wav", spoken)
    assert noisy_copy.write([str(tmp_path / "data")], [noise_dir], snr_db, tmp_path / "out") == 1
    added = audio_file.read(tmp_path / "out" / "yes" / "a.wav").astype(float) - spoken
    assert level_db(TONE) - level_db(added) == pytest.approx(snr_db, abs=0.2)


def test_labels_speakers_and_splits_are_kept(tmp_path, noise_dir):
    data = write_recordings(tmp_path / "data")
    noisy_copy.write([str(data)], [noise_dir], 10.0, tmp_path / "out")
    before, after = (
        [(r.label, r.speaker, r.split) for r in list_recordings([str(folder)], (), [])]
        for folder in (data, tmp_path / "out")
    )
    assert before == after


def test_a_recording_gets_the_same_noise_wherever_it_lies(tmp_path, noise_dir):
    for name in ("yes/a.wav", "yes/b.wav", "no/c.wav"):
        write_wav(tmp_path / "data" / name, TONE)
    noisy_copy.write([str(tmp_path / "data")], [noise_dir], 10.0, tmp_path / "all")
    (tmp_path / "few" / "yes").mkdir(parents=True)
    shutil.copy(tmp_path / "data" / "yes" / "b.wav", tmp_path / "few" / "yes")
    noisy_copy.write([str(tmp_path / "few")], [noise_dir], 10.0, tmp_path / "one")
    a, b, again = (
        audio_file.read(tmp_path / name)
        for name in ("all/yes/a.wav", "all/yes/b.wav", "one/yes/b.wav")
    )
    assert (b == again).all()
    assert (a != b).any()


def test_one_name_in_two_formats_is_two_recordings(tmp_path, noise_dir):
    write_wav(tmp_path / "data" / "yes" / "a.wav", TONE)
    soundfile.write(tmp_path / "data" / "yes" / "a.ogg", TONE, 16_000)
    noisy_copy.write([str(tmp_path / "data")], [noise_dir], 10.0, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "yes").iterdir()}
    assert names == {"a.wav", "a.ogg.flac"}


def test_digital_silence_within_noise_is_passed_over(tmp_path):
    write_wav(tmp_path / "data" / "yes" / "a.wav", TONE)
    gaps = np.concatenate([np.zeros(160_000, np.int16), PAUSE])
    write_wav(tmp_path / "noise" / "gaps.wav", gaps)
    noisy_copy.write([str(tmp_path / "data")], [str(tmp_path / "noise")], 10.0, tmp_path / "out")
    added = audio_file.read(tmp_path / "out" / "yes" / "a.wav").astype(float) - TONE
    assert level_db(TONE) - level_db(added) == pytest.approx(10, abs=0.2)


def test_what_is_there_already_is_left_alone(tmp_path, noise_dir):
    write_wav(tmp_path / "data" / "yes" / "a.wav", TONE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"`out_dir`=.*out: is there already"):
        noisy_copy.write([str(tmp_path / "data")], [noise_dir], 10.0, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_noise_that_is_missing_or_silent_is_refused(tmp_path):
    data, noise = str(tmp_path / "data"), str(tmp_path / "noise")
    write_wav(tmp_path / "data" / "yes" / "a.wav", TONE)
    with pytest.raises(InputError, match=r"`noise_dir`=.*no such folder"):
        noisy_copy.write([data], [noise], 10.0, tmp_path / "out")
    write_wav(tmp_path / "noise" / "off.wav", np.zeros(16_000, np.int16))
    with pytest.raises(InputError, match=r"off\.wav: is silent"):
        noisy_copy.write([data], [noise], 10.0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_what_it_wrote_or_what_is_wrong(tmp_path, noise_dir):
    write_wav(tmp_path / "data" / "yes" / "a.wav", TONE)

    def add_noise(*flags):
        command = [sys.executable, "-m", "tools.add_noise", f"--noise_dir={noise_dir}", *flags]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    given = (f"--data_dir={tmp_path / 'data'}", f"--out_dir={tmp_path / 'out'}", "--snr_db=5")
    done = add_noise(*given)
    assert (done.returncode, done.stdout) == (0, f"1 recordings at 5 dB: {tmp_path / 'out'}/\n")
    again = add_noise(*given)
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "is there already" in again.stderr
