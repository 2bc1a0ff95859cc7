import itertools

import pytest

from wakeword_keras.synthesis import phonetics

CAT, BAT, CATS = ("k", "æ", "t"), ("b", "æ", "t"), ("k", "æ", "t", "s")
SOUNDS = [*phonetics._CONSONANTS, *phonetics._VOWELS]


def test_stress_length_and_syllable_marks_are_no_symbols():
    assert phonetics.symbols(("h", "ˈɑːɹ", "tʃ", "n̩")) == ("h", "ɑ", "ɹ", "ʧ", "n")


def test_distance_to_itself_is_zero():
    assert phonetics.distance(CAT, CAT) == 0.0


def test_one_substitution_costs_what_the_sounds_differ():
    # /k/ and /b/: place 0.8 apart, same manner, other voicing: 0.15 + 0.6 * 0.8 + 0.15
    assert phonetics.distance(CAT, BAT) == pytest.approx(0.78)


def test_one_insertion_costs_the_insertion():
    assert phonetics.distance(CAT, CATS) == pytest.approx(0.7)
    assert phonetics.distance((), ("ə", "k")) == pytest.approx(0.4 + 0.7)


def test_substitution_is_symmetric_and_between_zero_and_one():
    for a, b in itertools.product(SOUNDS, repeat=2):
        cost = phonetics.substitution(a, b)
        assert cost == phonetics.substitution(b, a)
        assert 0.0 <= cost <= 1.0
        assert (cost == 0.0) == (a == b)


def test_alike_sounds_are_nearer_than_unlike_ones():
    assert phonetics.substitution("t", "d") < phonetics.substitution("t", "m")
    assert phonetics.substitution("i", "ɪ") < phonetics.substitution("i", "ɑ")
    assert phonetics.substitution("i", "ɑ") < phonetics.substitution("t", "ɑ")


def test_distance_is_symmetric():
    words = [CAT, BAT, CATS, ("h", "e", "ɪ"), ()]
    for a, b in itertools.product(words, repeat=2):
        assert phonetics.distance(a, b) == pytest.approx(phonetics.distance(b, a))


def test_contains_wants_one_piece():
    assert phonetics.contains("xabcx", "abc")
    assert not phonetics.contains("xabxc", "abc")


def test_nearest_finds_pairs_and_leaves_out_homophones_and_the_target_itself():
    lexicon = {
        "cat": CAT,
        "kat": CAT,
        "bat": BAT,
        "cats": CATS,
        "key": ("k", "i"),
        "at": ("æ", "t"),
        "zoo": ("z", "u"),
    }
    found = dict(phonetics.nearest(CAT, lexicon, 20, at_least=0.1))
    assert found["bat"] == pytest.approx(0.78)
    assert "key at" in found
    assert not {"cat", "kat", "cats"} & set(found)
    assert list(found.values()) == sorted(found.values())
    assert min(found.values()) >= 0.1


def test_no_word_takes_more_than_a_quarter_of_the_nearest():
    lexicon = {f"w{i}": (a, b) for i, (a, b) in enumerate(itertools.product("pbtd", "iɑu"))}
    found = phonetics.nearest(("p", "i", "t", "i"), lexicon, 8, at_least=0.1)
    words = [word for text, _ in found for word in set(text.split())]
    assert max(words.count(word) for word in words) <= 2
