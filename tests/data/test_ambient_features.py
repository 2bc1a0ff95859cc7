import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
from small_recordings import CLIP_MS, write_ambient, write_recordings

from wakeword_keras.audio import audio_file
from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.data import ambient, ambient_passes
from wakeword_keras.data.ambient_features import (
    MICRO_UNIT,
    AmbientConfig,
    FeatureStreams,
    Windows,
    map_values,
)
from wakeword_keras.data.corpus import CorpusConfig, read_corpus
from wakeword_keras.errors import InputError

MICRO = FrontendConfig()
LOG_MEL = FrontendConfig(kind="log_mel")
FRAMES = MICRO.num_frames(CLIP_MS * 16)


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """Two speakers of the training split, with two recordings each."""
    root = tmp_path_factory.mktemp("ambient")
    config = CorpusConfig(("yes",), clip_ms=CLIP_MS)
    corpus = read_corpus([str(write_recordings(root / "words"))], config)
    folder = write_ambient(root / "ambient", [f"reader-{i}" for i in range(6)], seconds=2.0)
    for number, speaker in enumerate(sorted(folder.iterdir())):
        samples = np.random.default_rng(number).normal(0, 900, 20_007).astype(np.int16)
        audio_file.write(speaker / "chapter" / "2.flac", samples)
    joined = ambient.join(corpus, [str(folder)], config)
    return ambient.of_split(joined.streams, "train")


def audio_of(pieces):
    return np.concatenate([audio_file.read(piece.path) for piece in pieces])


@pytest.mark.parametrize("frontend", [MICRO, LOG_MEL])
def test_a_stream_is_what_a_front_end_that_runs_through_gives_to_the_bit(
    streams, tmp_path, frontend
):
    made = ambient_passes.as_recorded(streams, "a", frontend, tmp_path)
    assert [len(pieces) for pieces in streams] == [2, 2]
    for (first, end), pieces in zip(made.bounds, streams, strict=True):
        expected = StreamingFrontend(frontend).process(audio_of(pieces))
        found = made.read(first, end - first)
        if frontend is MICRO:
            np.testing.assert_array_equal(found, expected)
        else:
            np.testing.assert_allclose(found, expected, atol=2e-3)  # blocks of another length
    assert made.bounds[-1, 1] == len(made.values)


def test_windows_come_from_every_frame_of_every_stream_and_never_cross_two(streams, tmp_path):
    made = ambient_passes.as_recorded(streams, "a", MICRO, tmp_path)
    windows = Windows([made], FRAMES, MICRO)
    expected = [
        made.read(start, FRAMES)
        for first, end in made.bounds
        for start in range(first, end - FRAMES + 1)
    ]
    np.testing.assert_array_equal(windows.read(range(len(windows))), expected)
    assert windows.hours == pytest.approx(len(made.values) / 360_000)


def test_a_window_is_found_again_in_its_recording(streams, tmp_path):
    made = ambient_passes.as_recorded(streams, "a", MICRO, tmp_path)
    windows = Windows([made], FRAMES, MICRO)
    heard = {}
    for pieces in streams:
        before = 0
        for piece in pieces:
            heard[piece.path] = (audio_of(pieces), before)
            before += len(audio_file.read(piece.path))
    found = set()
    for number in range(0, len(windows), 37):
        place = windows.place(number)
        audio, before = heard[place.path]
        until = before + round(place.seconds * 16_000)
        newest = StreamingFrontend(MICRO).process(audio[:until])[-2:]  # to the frame or the next
        assert (newest == windows.read([number])[0, -1]).all(axis=1).any()
        found.add(place.path)
    assert found == heard.keys()


def test_features_are_built_once_and_again_when_damaged_or_of_other_sound(streams, tmp_path):
    first = ambient_passes.as_recorded(streams, "a", MICRO, tmp_path)
    stamp = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")}
    ambient_passes.as_recorded(streams, "a", MICRO, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.bin")} == stamp
    before = np.array(first.values)
    (path,) = stamp
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    again = ambient_passes.as_recorded(streams, "a", MICRO, tmp_path)
    np.testing.assert_array_equal(again.values, before)
    ambient_passes.as_recorded(streams, "b", MICRO, tmp_path)
    assert len(list(tmp_path.rglob("*.bin"))) == 2


def test_a_further_pass_is_the_same_speech_in_noise_and_each_pass_draws_anew(streams, tmp_path):
    noise = np.random.default_rng(0).normal(0, 3000, (2, 24_000)).astype(np.int16)
    augment = AugmentConfig(background_probability=1.0, snr_low_db=0, snr_high_db=0)

    def passed(number, background=noise, augment=augment, cache=tmp_path):
        made = ambient_passes.in_noise(
            streams, "a", MICRO, cache, number, augment, background, None
        )
        return np.asarray(made.values)

    clean = np.asarray(ambient_passes.as_recorded(streams, "a", MICRO, tmp_path).values)
    first = passed(1)
    assert first.shape == clean.shape
    assert (first != clean).mean() > 0.3
    assert (passed(2) != first).mean() > 0.2
    np.testing.assert_array_equal(passed(1, cache=tmp_path / "other"), first)
    still = AugmentConfig(
        background_probability=0, gain_low_db=0, gain_high_db=0, clipping_probability=0
    )
    np.testing.assert_array_equal(passed(1, noise[:0], still), clean)
    assert len(list(tmp_path.glob("ambient-*"))) == 4


@pytest.mark.parametrize(("share", "changes"), [(0.0, False), (1.0, True)])
def test_rooms_reach_a_further_pass(streams, tmp_path, share, changes):
    room = np.zeros((1, 1600), np.float32)
    room[0, [0, 900]] = 1.0, 0.8
    augment = AugmentConfig(
        reverberation_probability=share, gain_low_db=0, gain_high_db=0, clipping_probability=0
    )
    none = np.empty((0, 24_000), np.int16)
    made = ambient_passes.in_noise(streams, "a", MICRO, tmp_path, 1, augment, none, room)
    clean = ambient_passes.as_recorded(streams, "a", MICRO, tmp_path)
    assert (made.values != clean.values).any() == changes


def test_the_index_names_every_piece(streams, tmp_path):
    ambient_passes.as_recorded(streams, "a", MICRO, tmp_path)
    (index,) = tmp_path.rglob("index.json")
    named = [piece for stream in json.loads(index.read_text())["pieces"] for piece in stream]
    assert named == [dataclasses.asdict(piece) for pieces in streams for piece in pieces]


def test_memory_does_not_grow_with_the_hours(tmp_path):
    """Ten hours, of which a hundred windows are read: what is allocated is those windows."""
    frames = 3_600_000
    values = np.memmap(tmp_path / "values", np.uint16, "w+", shape=(frames, 40))
    values[1_800_000] = 512
    bounds = np.asarray([[first, first + 36_000] for first in range(0, frames, 36_000)])
    values = map_values(tmp_path / "values", np.uint16).reshape(-1, 40)
    tracemalloc.start()
    part = FeatureStreams(values, bounds, "long", (), bounds[:, 0])
    windows = Windows([part], FRAMES, MICRO)
    found = windows.read([1_800_000 - 50 * (FRAMES - 1), *range(99)])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found[0, 0, 0] == np.float32(512 * MICRO_UNIT)
    assert windows.hours == 10
    assert most < 2 * found.nbytes + 1e5 < values.nbytes / 100


def test_shares_out_of_range_name_their_flag():
    with pytest.raises(InputError, match=r"`ambient_share`=0\.5 `hard_share`=0\.5"):
        AmbientConfig(ambient_share=0.5, hard_share=0.5)
    with pytest.raises(InputError, match="`listen_every`=0"):
        AmbientConfig(listen_every=0)
    with pytest.raises(InputError, match="`listen_hours`=0"):
        AmbientConfig(listen_hours=0)
    with pytest.raises(InputError, match="`ambient_passes`=0"):
        AmbientConfig(ambient_passes=0)
