"""Labels in one normal form."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wakeword_keras import labels


@pytest.mark.parametrize(
    "spelling",
    ["hey_jarvis", "Hey Jarvis", "HEY-JARVIS", "hey  jarvis ", "heyJarvis", "Hey, Jarvis!",
     "ｈｅｙ＿ｊａｒｖｉｓ", "hey\u2011jarvis", "hey\u00a0jarvis", "héy järvis"],
)  # fmt: skip
def test_spellings_of_a_label_have_one_normal_form(spelling):
    assert labels.normal_form(spelling) == "heyjarvis"


@pytest.mark.parametrize(
    ("label", "form"),
    [("Øø", "oo"), ("Straße", "strasse"), ("Ærø", "aero"), ("Łódź", "lodz"), ("Þór", "thor"),
     ("İstanbul", "istanbul"), ("ılık", "ilik"), ("don’t", "dont"), ("ﬁn", "fin"), ("_x_", "x")],
)  # fmt: skip
def test_latin_letters_are_ascii(label, form):
    assert labels.normal_form(label) == form


@pytest.mark.parametrize(
    ("one", "other"),
    [("привет", "привёт"), ("が", "か"), ("कि", "का"), ("🔥", "🌊"), ("no", "on"), ("c3", "c2")],
)
def test_labels_that_differ_by_more_than_spelling_stay_apart(one, other):
    assert labels.normal_form(one) != labels.normal_form(other)


@given(st.text())
def test_composed_and_decomposed_text_and_the_normal_form_itself_have_one_normal_form(text):
    form = labels.normal_form(text)
    if labels.words(text):
        assert labels.normal_form(unicodedata.normalize("NFD", text)) == form
        assert labels.normal_form(unicodedata.normalize("NFC", text)) == form


def test_the_label_itself_goes_before_other_spellings():
    assert labels.find("_silence_", ("silence", "_silence_")) == "_silence_"
    assert labels.find("Silence", ("silence", "_silence_")) == "silence"
    assert labels.find("silent", ("silence", "_silence_")) is None


@pytest.mark.parametrize(
    ("label", "near"),
    [("happyy", "happy"), ("happy 2", "happy"), ("hey jarvis office", "hey_jarvis"),
     ("hey_jarvi", "hey_jarvis"), ("bed", None), ("travis", None), ("", None)],
)  # fmt: skip
def test_a_label_near_a_known_one_is_found(label, near):
    assert labels.find_near(label, ("happy", "hey_jarvis")) == near
