"""Damaged files are refused or hold the samples that they held: none is taken with others.

No reader can tell a changed sample in a WAV file, or changed bytes of an MP3 frame: neither has a
checksum. There, what changes the length or the header is damage that must be found.
"""

from collections import Counter

import numpy as np
import pytest
import soundfile

from wakeword_keras.audio import audio_file, ogg_pages
from wakeword_keras.errors import InputError

RATE_HZ = 16_000
LENGTH_CHANGES = ("cut", "hole", "insert", "repeat")
KINDS = {
    ("wav", "PCM_16"): (*LENGTH_CHANGES, "header"),
    ("wav", "FLOAT"): (*LENGTH_CHANGES, "header"),
    ("flac", "PCM_16"): (*LENGTH_CHANGES, "flip", "zero", "swap"),
    ("ogg", "VORBIS"): (*LENGTH_CHANGES, "flip", "zero", "swap"),
    ("opus", "OPUS"): (*LENGTH_CHANGES, "flip", "zero", "swap"),
    ("mp3", "MPEG_LAYER_III"): LENGTH_CHANGES,
}
CASES = [(*coding, kind) for coding, kinds in KINDS.items() for kind in kinds]


def mutate(content, kind, rng):
    """A damaged copy: a stretch of up to 3,000 bytes, one bit, or the end is changed."""
    size = len(content)
    first = int(rng.integers(1, size))
    last = min(size, first + int(rng.integers(1, 3000)))
    if kind == "cut":
        return content[:first]
    if kind == "hole":
        return content[:first] + content[last:]
    if kind == "insert":
        return content[:first] + rng.bytes(last - first) + content[first:]
    if kind == "repeat":
        return content[:last] + content[first:]
    if kind == "zero":
        return content[:first] + bytes(last - first) + content[last:]
    if kind == "swap":
        middle = (first + last) // 2
        return content[:first] + content[middle:last] + content[first:middle] + content[last:]
    end = content.index(b"data") + 8 if kind == "header" else size
    changed = bytearray(content)
    changed[rng.integers(end)] ^= 1 << rng.integers(8)
    return bytes(changed)


@pytest.fixture(scope="module")
def sound_files(tmp_path_factory):
    """Bytes and fingerprint of a sound file in every coding."""
    rng = np.random.default_rng(0)
    tone = 0.2 * np.sin(0.2 * np.arange(6 * RATE_HZ)) + rng.normal(0, 0.1, 6 * RATE_HZ)
    found = {}
    for suffix, subtype in KINDS:
        path = tmp_path_factory.mktemp("sound") / f"{subtype}.{suffix}"
        form = {"opus": "OGG"}.get(suffix, suffix.upper())
        with soundfile.SoundFile(path, "w", RATE_HZ, 1, subtype, format=form) as file:
            for start in range(0, len(tone), RATE_HZ):
                file.write(tone[start : start + RATE_HZ])
        found[suffix, subtype] = path.read_bytes(), audio_file.fingerprint(path)
    return found


def taken_wrongly(sound_files, folder, suffix, subtype, kind, seeds):
    """Seeds whose mutant is read, but with other samples or another length or rate."""
    content, expected = sound_files[suffix, subtype]
    path = folder / f"mutant.{suffix}"
    wrong = []
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        mutant = mutate(content, kind, np.random.default_rng(seed))
        path.write_bytes(mutant)
        try:
            same = audio_file.fingerprint(path) == expected
        except InputError as error:
            outcomes["refused"] += 1
            wrong += [] if str(path) in str(error) and "\n" not in str(error) else [seed]
            continue
        outcomes["same" if same else "other"] += 1
        wrong += [] if same else [seed]
    print(suffix, subtype, kind, dict(outcomes))
    return wrong


@pytest.mark.parametrize(("suffix", "subtype", "kind"), CASES)
def test_no_damaged_file_is_taken_with_other_samples(sound_files, tmp_path, suffix, subtype, kind):
    assert taken_wrongly(sound_files, tmp_path, suffix, subtype, kind, range(8)) == []


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "subtype", "kind"), CASES)
def test_none_of_3500_damaged_files_is_taken_with_other_samples(
    sound_files, tmp_path, suffix, subtype, kind
):
    assert 100 * len(CASES) >= 3500
    assert taken_wrongly(sound_files, tmp_path, suffix, subtype, kind, range(100, 200)) == []


def test_a_sound_ogg_file_has_no_fault_chained_or_not(sound_files, tmp_path):
    for coding in (("ogg", "VORBIS"), ("opus", "OPUS")):
        content = sound_files[coding][0]
        path = tmp_path / "a.ogg"
        path.write_bytes(content)
        assert ogg_pages.find_fault(path) is None
        path.write_bytes(content + content)
        assert ogg_pages.find_fault(path) is None


@pytest.mark.parametrize("tail", [b"", b"\0" * 100, b"LIST\4\0\0\0INFO", b"id3 \1\0\0\0x\0"])
def test_what_follows_the_samples_of_a_wav_as_chunks_or_zeros_is_no_damage(
    sound_files, tmp_path, tail
):
    content, expected = sound_files["wav", "PCM_16"]
    (tmp_path / "a.wav").write_bytes(content + tail)
    assert audio_file.fingerprint(tmp_path / "a.wav") == expected


def test_tags_behind_an_mp3_are_no_damage(sound_files, tmp_path):
    content, expected = sound_files["mp3", "MPEG_LAYER_III"]
    for before, behind in ((b"", b"TAG" + bytes(125)), (b"ID3\4\0\0\0\0\0\x20" + bytes(32), b"")):
        (tmp_path / "a.mp3").write_bytes(before + content + behind)
        assert audio_file.fingerprint(tmp_path / "a.mp3") == expected
