"""How alike two utterances sound: a weighted edit distance between their phonemes.

An utterance is a tuple of single IPA symbols without stress and length. Costs run from 0 (same
sound) to 1 (a vowel for a consonant), summed over the alignment, so that 1 is about one plainly
different sound. The alignment is Wagner and Fischer's ("The String-to-String Correction Problem",
JACM 1974); substitution costs come from articulatory features, the idea of Kondrak's ALINE ("A New
Algorithm for the Alignment of Phonetic Sequences", NAACL 2000) with few features.
"""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

Symbols = tuple[str, ...]

# place (0 lips .. 1 glottis), manner (0 stop .. 1 glide), voiced
_CONSONANTS = {
    **{"p": (0.0, 0.0, 0), "b": (0.0, 0.0, 1), "t": (0.4, 0.0, 0), "d": (0.4, 0.0, 1)},
    **{"ɾ": (0.4, 0.15, 1), "k": (0.8, 0.0, 0), "ɡ": (0.8, 0.0, 1), "ʔ": (1.0, 0.0, 0)},
    **{"ʧ": (0.55, 0.25, 0), "ʤ": (0.55, 0.25, 1), "f": (0.1, 0.5, 0), "v": (0.1, 0.5, 1)},
    **{"θ": (0.3, 0.5, 0), "ð": (0.3, 0.5, 1), "s": (0.4, 0.5, 0), "z": (0.4, 0.5, 1)},
    **{"ʃ": (0.55, 0.5, 0), "ʒ": (0.55, 0.5, 1), "x": (0.8, 0.5, 0), "h": (1.0, 0.5, 0)},
    **{"m": (0.0, 0.75, 1), "n": (0.4, 0.75, 1), "ŋ": (0.8, 0.75, 1), "l": (0.4, 0.9, 1)},
    **{"ɫ": (0.45, 0.9, 1), "ɹ": (0.5, 1.0, 1), "r": (0.45, 0.9, 1), "j": (0.65, 1.0, 1)},
    **{"w": (0.1, 1.0, 1), "ʍ": (0.1, 0.9, 0), "ɬ": (0.4, 0.7, 0)},
}
# height (0 open .. 1 close), backness (0 front .. 1 back), rounded
_VOWELS = {
    **{"i": (1.0, 0.0, 0), "ɪ": (0.85, 0.15, 0), "e": (0.7, 0.0, 0), "ɛ": (0.4, 0.05, 0)},
    **{"æ": (0.2, 0.1, 0), "a": (0.0, 0.2, 0), "ɐ": (0.2, 0.5, 0), "ə": (0.5, 0.5, 0)},
    **{"ɚ": (0.5, 0.55, 0), "ɜ": (0.45, 0.5, 0), "ᵻ": (0.8, 0.35, 0), "ʌ": (0.3, 0.7, 0)},
    **{"ɑ": (0.0, 0.8, 0), "ɒ": (0.05, 1.0, 1), "ɔ": (0.35, 1.0, 1), "o": (0.65, 1.0, 1)},
    **{"ʊ": (0.85, 0.85, 1), "u": (1.0, 1.0, 1), "ʉ": (1.0, 0.6, 1), "ø": (0.7, 0.1, 1)},
}
_GLIDES = {frozenset("ji"), frozenset("jɪ"), frozenset("wu"), frozenset("wʊ"), frozenset("ɹɚ")}
_AFFRICATES = {"tʃ": "ʧ", "dʒ": "ʤ"}
# What is easily swallowed costs less to leave out.
_WEAK = {"ə": 0.4, "ɐ": 0.4, "ᵻ": 0.4, "h": 0.4, "ɪ": 0.5, "ʔ": 0.2, "ʊ": 0.5}
_INSERTION = 0.7


def symbols(phonemes: Iterable[str]) -> Symbols:
    """Splits phonemes as espeak writes them into single symbols, without stress and length.

    Letters outside the two tables above (other languages' sounds) stay as they are and cost 1
    against any other.
    """
    text = " ".join(phonemes)
    for pair, one in _AFFRICATES.items():
        text = text.replace(pair, one)
    return tuple(symbol for symbol in text if symbol.isalpha() and symbol not in "ˈˌːˑ")


@functools.cache
def substitution(a: str, b: str) -> float:
    """Cost of taking one symbol for another, 0 to 1."""
    if a == b:
        return 0.0
    if a in _CONSONANTS and b in _CONSONANTS:
        (place, manner, voice), (place_b, manner_b, voice_b) = _CONSONANTS[a], _CONSONANTS[b]
        steps = 0.6 * abs(place - place_b) + 0.7 * abs(manner - manner_b)
        return min(1.0, 0.15 + steps + 0.15 * abs(voice - voice_b))
    if a in _VOWELS and b in _VOWELS:
        (height, back, rounded), (height_b, back_b, rounded_b) = _VOWELS[a], _VOWELS[b]
        steps = 0.5 * abs(height - height_b) + 0.4 * abs(back - back_b)
        return min(1.0, 0.1 + steps + 0.1 * abs(rounded - rounded_b))
    return 0.4 if frozenset((a, b)) in _GLIDES else 1.0


def _rows(a: Symbols, b: Symbols) -> list[float]:
    """Distance of all of `a` to every beginning of `b`, the empty one first."""
    row = [0.0]
    for symbol in b:
        row.append(row[-1] + _WEAK.get(symbol, _INSERTION))
    for symbol in a:
        gap = _WEAK.get(symbol, _INSERTION)
        above, row = row, [row[0] + gap]
        for j, other in enumerate(b):
            insert = row[j] + _WEAK.get(other, _INSERTION)
            row.append(min(above[j] + substitution(symbol, other), above[j + 1] + gap, insert))
    return row


def distance(a: Symbols, b: Symbols) -> float:
    """Weighted edit distance between two utterances; 0 means that they are homophones."""
    return _rows(a, b)[-1]


def contains(whole: Sequence[str], part: Sequence[str]) -> bool:
    """Whether `part` occurs in `whole` in one piece."""
    size = len(part)
    return any(tuple(whole[i : i + size]) == tuple(part) for i in range(len(whole) - size + 1))


def _pairs(target: Symbols, lexicon: Mapping[str, Symbols], best: int) -> Iterator[str]:
    """Pairs of words: one sounds like a beginning of the target, the other like its rest."""
    words = list(lexicon)
    heads = [_rows(lexicon[word], target) for word in words]
    tails = [_rows(lexicon[word][::-1], target[::-1])[::-1] for word in words]
    for cut in range(1, len(target)):
        first = sorted(range(len(words)), key=lambda i: heads[i][cut])[:best]
        second = sorted(range(len(words)), key=lambda i: tails[i][cut])[:best]
        yield from (f"{words[i]} {words[j]}" for i in first for j in second)


def nearest(
    target: Symbols, lexicon: Mapping[str, Symbols], count: int, *, at_least: float
) -> list[tuple[str, float]]:
    """Words and pairs of words that sound most like a target without being it.

    Args:
        target: the phrase's symbols.
        lexicon: symbols of each word.
        count: how many to return at most; a word occurs in a quarter of them at most, so that
            they differ, and of homophones the first in the alphabet stands for all.
        at_least: smallest distance taken, above 0, so that homophones of the target are left out.

    Returns:
        Texts and distances, nearest first; none contains the target as a whole.
    """
    candidates = {sounds: word for word, sounds in sorted(lexicon.items(), reverse=True)}
    for pair in _pairs(target, lexicon, best=20):
        first, second = pair.split(" ")
        candidates.setdefault(lexicon[first] + lexicon[second], pair)
    scored = sorted(
        (distance(sounds, target), text)
        for sounds, text in candidates.items()
        if not contains(sounds, target)
    )
    chosen: list[tuple[str, float]] = []
    uses: Counter[str] = Counter()
    for d, text in scored:
        if d < at_least or any(uses[word] >= max(1, count // 4) for word in text.split()):
            continue
        chosen.append((text, d))
        uses.update(text.split())
        if len(chosen) == count:
            break
    return chosen
