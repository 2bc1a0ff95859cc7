"""Labels in one normal form: people spell a folder `Hey Jarvis`, a flag `hey_jarvis`."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

# Latin letters that Unicode does not take apart, and whose names do not say their ASCII form.
_ASCII = {"ð": "d", "þ": "th", "ŋ": "n", "ə": "e", "ĸ": "k"}
_LATIN = re.compile(r"LATIN SMALL (?:LETTER|LIGATURE) (?:DOTLESS |OPEN )?([A-Z]{1,2})(?: WITH .*)?")
_APOSTROPHES = "'’ʼ"
_LEAST_LIKENESS = 0.8


def words(label: str) -> tuple[str, ...]:
    """The words of a label: lower case, without accents, Latin letters as ASCII.

    Args:
      label: any text; what is no letter, mark or digit separates words, an apostrophe does not.

    Returns:
      ("hey", "jarvis") of "Hey-Jarvis"; letters of other scripts stay, in composed form.
    """
    plain = ""
    for character in unicodedata.normalize("NFKD", label.casefold()):
        if character in _APOSTROPHES:
            continue
        if unicodedata.category(character).startswith("M"):
            # An accent is left out; in other scripts a mark tells letters apart.
            plain += "" if plain[-1:].isascii() else character
        elif character.isalnum():
            plain += _as_ascii(character)
        else:
            plain += " "
    return tuple(unicodedata.normalize("NFC", plain).split())


def normal_form(label: str) -> str:
    """What all spellings of a label share: its words in one; of a label without any, itself."""
    return "".join(words(label)) or label


def find(label: str, known: Iterable[str]) -> str | None:
    """The first of `known` labels that is `label` itself or, after all of these, a spelling."""
    known = tuple(known)
    if label in known:
        return label
    form = normal_form(label)
    return next((other for other in known if normal_form(other) == form), None)


def find_near(label: str, known: Iterable[str]) -> str | None:
    """The first of `known` labels that `label` may be meant for: has its words, or looks alike."""
    padded = f" {' '.join(words(label))} "
    for other in known:
        alike = difflib.SequenceMatcher(None, normal_form(label), normal_form(other)).ratio()
        if alike >= _LEAST_LIKENESS or f" {' '.join(words(other))} " in padded:
            return other
    return None


def _as_ascii(character: str) -> str:
    match = _LATIN.fullmatch(unicodedata.name(character, ""))
    return _ASCII.get(character) or (match[1].lower() if match else character)
