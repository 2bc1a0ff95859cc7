import os

import numpy as np
import pytest
import soundfile

from wakeword_keras.audio import audio_file
from wakeword_keras.errors import InputError


def tone(hz, rate_hz, seconds, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(rate_hz * seconds)) / rate_hz)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_every_int16_value_passes_through_unchanged(tmp_path, suffix):
    samples = np.arange(-32768, 32768).astype(np.int16)
    path = tmp_path / f"all{suffix}"
    soundfile.write(path, samples, 16_000)
    np.testing.assert_array_equal(audio_file.read(path), samples)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_write_then_read_is_the_identity_and_leaves_no_other_file(tmp_path, suffix):
    samples = np.random.default_rng(0).integers(-32768, 32768, 300_000).astype(np.int16)
    path = tmp_path / f"noise{suffix}"
    audio_file.write(path, samples)
    np.testing.assert_array_equal(audio_file.read(path), samples)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_lossy_formats_keep_length_and_sound(tmp_path, suffix):
    samples = np.round(tone(440, 16_000, 2.0) * 32767).astype(np.int16)
    path = tmp_path / f"tone{suffix}"
    audio_file.write(path, samples)
    again = audio_file.read(path)
    assert len(again) == len(samples)
    assert np.corrcoef(again[1000:-1000], samples[1000:-1000])[0, 1] > 0.99


def test_a_long_ogg_is_written_without_overflowing_the_stack_of_libsndfile(tmp_path):
    audio_file.write(tmp_path / "long.ogg", np.zeros(16_000 * 200, np.int16))
    assert audio_file.probe(tmp_path / "long.ogg").seconds == 200.0


def test_a_failed_write_leaves_the_old_file_and_no_unfinished_one(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    audio_file.write(path, np.ones(10, np.int16))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        audio_file.write(path, np.zeros(10, np.int16))
    assert os.listdir(tmp_path) == ["a.wav"]
    assert audio_file.read(path).tolist() == [1] * 10


def test_stereo_becomes_the_mean_of_its_channels(tmp_path):
    stereo = np.array([[100, 300], [-50, -150], [32767, -32767]], np.int16)
    soundfile.write(tmp_path / "s.wav", stereo, 16_000)
    assert audio_file.read(tmp_path / "s.wav").tolist() == [200, -100, 0]


def test_float_audio_is_rounded_and_saturates(tmp_path):
    floats = np.array([1.0, -1.0, 2.0, -3.0, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768])
    soundfile.write(tmp_path / "f.wav", floats, 16_000, subtype="FLOAT")
    assert audio_file.read(tmp_path / "f.wav").tolist() == [32767, -32768, 32767, -32768, 1, -1, 0]


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_length_pitch_and_level(tmp_path, rate_hz):
    soundfile.write(tmp_path / "t.wav", tone(1000, rate_hz, 1.5), rate_hz)
    resampled = audio_file.read(tmp_path / "t.wav")
    assert len(resampled) == 24_000
    middle = slice(2000, -2000)
    expected = tone(1000, 16_000, 1.5)[middle] * 32768
    assert np.abs(resampled[middle] - expected).max() < 4


def test_resampling_removes_what_16_khz_cannot_hold(tmp_path):
    soundfile.write(tmp_path / "t.wav", tone(15_000, 44_100, 1.0), 44_100)
    assert np.abs(audio_file.read(tmp_path / "t.wav")[1000:-1000]).max() <= 2


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_piece_equals_the_same_part_of_the_whole(tmp_path, suffix):
    path = tmp_path / f"p{suffix}"
    audio_file.write(path, np.random.default_rng(1).integers(-9000, 9000, 50_000).astype(np.int16))
    whole = audio_file.read(path)
    piece = audio_file.read(path, start_s=1.25, duration_s=0.5)
    assert np.abs(piece.astype(int) - whole[20_000:28_000]).max() <= 1
    assert len(audio_file.read(path, start_s=3.0, duration_s=1.0)) == 2000


def test_probe_tells_what_is_stored(tmp_path):
    soundfile.write(tmp_path / "s.wav", np.zeros((11_025, 2)), 22_050)
    assert audio_file.probe(tmp_path / "s.wav") == audio_file.AudioInfo(0.5, 22_050, 2)


def test_fingerprints_equal_for_equal_samples_only(tmp_path):
    samples = np.random.default_rng(2).integers(-9000, 9000, 600_000).astype(np.int16)
    audio_file.write(tmp_path / "a.wav", samples)
    audio_file.write(tmp_path / "b.flac", samples)
    soundfile.write(tmp_path / "slow.wav", samples, 8_000)
    samples[-1] += 1
    audio_file.write(tmp_path / "c.wav", samples)
    prints = {name: audio_file.fingerprint(tmp_path / name) for name in os.listdir(tmp_path)}
    assert prints["a.wav"] == prints["b.flac"]
    assert prints["a.wav"][0] == audio_file.AudioInfo(37.5, 16_000, 1)
    assert len({content for _, content in prints.values()}) == 3


def cut_short(path, keep_bytes):
    path.write_bytes(path.read_bytes()[:keep_bytes])


def bad_files(folder):
    noise = np.random.default_rng(3).integers(-9000, 9000, 50_000).astype(np.int16)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("hello " * 100)
    (folder / "text.mp3").write_text("hello " * 100)
    audio_file.write(folder / "silent.wav", noise[:0])
    audio_file.write(folder / "cut.flac", noise)
    cut_short(folder / "cut.flac", 20_000)
    audio_file.write(folder / "cut.mp3", noise)
    cut_short(folder / "cut.mp3", 5_000)
    soundfile.write(folder / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    audio_file.write(folder / "endless.flac", noise)
    endless = bytearray((folder / "endless.flac").read_bytes())
    # The 36 bits of STREAMINFO that hold the number of samples: 0 means unknown.
    endless[21] &= 0xF0
    endless[22:26] = bytes(4)
    (folder / "endless.flac").write_bytes(endless)
    return sorted(os.listdir(folder))


def test_a_bad_file_is_named_in_one_line(tmp_path):
    names = bad_files(tmp_path)
    assert len(names) == 8
    for name in [*names, "missing.wav"]:
        with pytest.raises(InputError) as error:
            audio_file.fingerprint(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("riff_size", [None, 0, 36])
def test_a_wav_whose_header_says_0_bytes_is_read_where_samples_follow(tmp_path, subtype, riff_size):
    path, samples = tmp_path / "piped.wav", tone(440, 16_000, 0.5)
    soundfile.write(path, samples, 16_000, subtype=subtype)
    whole, content = audio_file.read(path), bytearray(path.read_bytes())
    size_at = content.index(b"data") + 4
    content[size_at : size_at + 4] = bytes(4)
    if riff_size is not None:
        content[4:8] = riff_size.to_bytes(4, "little")
    path.write_bytes(content)
    np.testing.assert_array_equal(audio_file.read(path), whole)
    np.testing.assert_array_equal(np.concatenate(list(audio_file.read_blocks(path))), whole)
    assert audio_file.fingerprint(path)[0] == audio_file.probe(path)


def test_a_wav_without_samples_has_none_whatever_chunks_follow(tmp_path):
    path = tmp_path / "none.wav"
    soundfile.write(path, np.zeros(0), 16_000)
    for tail in (b"", b"LIST\4\0\0\0INFO", b"id3 \1\0\0\0x\0LIST\0\0\0\0"):
        content = path.read_bytes()
        path.write_bytes(content + tail)
        with pytest.raises(InputError, match="no samples"):
            audio_file.fingerprint(path)
        path.write_bytes(content)


@pytest.mark.parametrize("subtype", ["GSM610", "NMS_ADPCM_16", "G721_32", "ULAW", "IMA_ADPCM"])
def test_a_sound_wav_of_any_coding_is_read_whole_and_in_pieces(tmp_path, subtype):
    path = tmp_path / "coded.wav"
    soundfile.write(path, tone(440, 16_000, 2.0), 16_000, subtype=subtype)
    whole = audio_file.read(path)
    assert np.corrcoef(whole[:32_000], tone(440, 16_000, 2.0))[0, 1] > 0.9
    assert audio_file.fingerprint(path)[0].seconds == len(whole) / 16_000
    np.testing.assert_array_equal(np.concatenate(list(audio_file.read_blocks(path))), whole)
    piece = audio_file.read(path, start_s=1.0, duration_s=0.5)
    assert np.abs(piece.astype(int) - whole[16_000:24_000]).max() <= 1


@pytest.mark.parametrize("rate_hz", [1, 3_999, 768_001, 2_000_000_000])
def test_a_sample_rate_that_no_recorder_has_is_refused(tmp_path, rate_hz):
    soundfile.write(tmp_path / "r.wav", np.zeros(100), rate_hz)
    for reader in (audio_file.read, audio_file.fingerprint, audio_file.probe):
        with pytest.raises(InputError, match=f"r.wav: its header says {rate_hz} samples"):
            reader(tmp_path / "r.wav")


@pytest.mark.parametrize("frames", [60_000, 1 << 34, (1 << 36) - 1])
def test_a_flac_that_claims_more_frames_than_it_has_is_refused_without_their_memory(
    tmp_path, frames
):
    path = tmp_path / "claims.flac"
    audio_file.write(path, np.random.default_rng(0).integers(-900, 900, 50_000).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[21:26] = (content[21] >> 4 << 36 | frames).to_bytes(5, "big")
    path.write_bytes(content)
    for reader in (audio_file.read, audio_file.fingerprint, lambda p: [*audio_file.read_blocks(p)]):
        with pytest.raises(InputError, match=r"claims\.flac"):
            reader(path)


def test_a_name_that_is_not_utf_8_is_refused_in_one_line_that_can_be_printed(tmp_path):
    path = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav")
    with open(path, "wb") as file:
        file.write(b"RIFF")
    with pytest.raises(InputError, match="is not UTF-8; rename it") as error:
        audio_file.fingerprint(path)
    assert "caf" in str(error.value).encode().decode()


def test_reading_past_the_end_is_an_error(tmp_path):
    audio_file.write(tmp_path / "a.wav", np.zeros(16_000, np.int16))
    with pytest.raises(InputError, match="no samples at 1 s"):
        audio_file.read(tmp_path / "a.wav", start_s=1.0, duration_s=1.0)


def test_write_refuses_other_suffixes_types_and_shapes(tmp_path):
    with pytest.raises(InputError, match="suffix"):
        audio_file.write(tmp_path / "a.aac", np.zeros(10, np.int16))
    for wrong in (np.zeros(10, np.float32), np.zeros((10, 1), np.int16)):
        with pytest.raises(ValueError, match="int16"):
            audio_file.write(tmp_path / "a.wav", wrong)
