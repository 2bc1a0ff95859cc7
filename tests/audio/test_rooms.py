"""Simulated rooms: what is known of them in closed form."""

import numpy as np
import pytest

from wakeword_keras.audio import rooms

RATE_HZ = 16_000


def room(t60_s=0.3, high_t60_s=None, distance_m=2.0):
    ear = np.array([1.1, 2.3, 1.2])
    source = ear + np.array([distance_m, 0, 0])
    return rooms.Room(np.array([5.0, 4.2, 2.6]), source, ear, t60_s, high_t60_s or t60_s)


def heard(box, taps=4_800):
    return rooms.response(box, np.random.default_rng(0), taps)


def decay_s(audio):
    """Time in which the energy still to come falls by 60 dB, from its fall from 5 to 25 dB."""
    left = np.cumsum(audio[::-1] ** 2)[::-1]
    left_db = 10 * np.log10(left / left[0])
    return 3 * (np.argmax(left_db < -25) - np.argmax(left_db < -5)) / RATE_HZ


def test_in_a_room_that_swallows_everything_only_the_direct_sound_arrives():
    audio = heard(room(t60_s=0.002))
    direct = 2.0 / 343 * RATE_HZ
    assert np.argmax(np.abs(audio)) == round(direct)
    around = audio[int(direct) : int(direct) + 2]
    assert around.sum() == pytest.approx(1 / 2.0, rel=0.01)
    assert np.abs(np.delete(audio, [int(direct), int(direct) + 1])).max() < 0.01


def test_first_echoes_come_from_the_walls_and_as_weak_as_the_wall_makes_them():
    box = room()
    images = rooms._images(box, np.random.default_rng(0), 40.0)
    floor_m = np.hypot(2.0, 2 * 1.2)
    once = images[0][images[1] == 1]
    assert len(once) == 6
    assert np.abs(once - floor_m).min() < 0.1
    assert (images[1] == 0).sum() == 1
    assert rooms.reflection(box.size_m, 0.3) == pytest.approx(
        np.sqrt(1 - (1 - np.exp(-0.161 * 54.6 / (0.3 * 89.84)))), rel=0.01
    )


def test_decay_grows_with_the_time_asked_for():
    decays = [decay_s(heard(room(t60_s=t60_s))) for t60_s in (0.05, 0.1, 0.2)]
    assert 0.9 < decays[1] / 0.1 < 2
    assert decays[0] < 0.7 * decays[1] < 0.7**2 * decays[2] * 1.1


def test_high_sounds_decay_sooner_where_walls_swallow_them():
    audio = heard(room(t60_s=0.3, high_t60_s=0.1))
    spectrum = np.fft.rfft(audio)
    frequency_hz = np.fft.rfftfreq(len(audio), 1 / RATE_HZ)
    low, high = (
        np.fft.irfft(np.where(chosen, spectrum, 0))
        for chosen in (frequency_hz < 1_000, frequency_hz > 4_000)
    )
    assert decay_s(high) < 0.75 * decay_s(low)


def test_farther_away_less_of_the_sound_is_direct():
    def direct_share(distance_m):
        audio = heard(room(distance_m=distance_m))
        arrival = int(distance_m / 343 * RATE_HZ)
        return np.sum(audio[: arrival + 20] ** 2) / np.sum(audio**2)

    assert direct_share(0.4) > 2 * direct_share(3.0)


def test_drawn_rooms_hold_whoever_is_in_them_and_differ():
    drawn = [rooms.draw_room(np.random.default_rng(i)) for i in range(200)]
    for box in drawn:
        for place in (box.source_m, box.microphone_m):
            assert np.all((place >= 0.29) & (place <= box.size_m - 0.29))
        assert box.high_t60_s <= box.t60_s <= 0.5
    distances = [np.linalg.norm(box.source_m - box.microphone_m) for box in drawn]
    assert np.percentile(distances, 10) < 0.6
    assert np.percentile(distances, 90) > 2.0


def test_a_microphone_colours_without_delay():
    click = np.zeros(4_000)
    click[100] = 1.0
    for seed in range(10):
        coloured = rooms.microphone(np.random.default_rng(seed), click)
        assert np.abs(coloured[:95]).max() < 0.02 * np.abs(coloured).max()
        assert np.sum(coloured[100:300] ** 2) > 0.9 * np.sum(coloured**2)
    gain_db = 20 * np.log10(np.abs(np.fft.rfft(coloured)))
    assert np.ptp(gain_db[50:1_000]) > 2


def test_the_same_seed_gives_the_same_rooms():
    first, again, other = (rooms.simulate(2, seed, 100) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first[0] != first[1])
    assert np.any(first[0] != other[0])
    assert first[0].shape == (1_600,)
    assert first[0].dtype == np.float32
