"""What is said: the texts of a synthesised corpus, no audio yet (`voices` has who says them)."""

import importlib.resources
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wakeword_keras import labels
from wakeword_keras.errors import InputError
from wakeword_keras.synthesis import phonetics
from wakeword_keras.synthesis.espeak import Espeak
from wakeword_keras.synthesis.voices import ACCENTS

SIMILAR, SPEECH = "similar", "speech"
# Below this the difference is smaller than one between accents ("d" for "t" costs 0.3).
_LEAST_DISTANCE = 0.45
_SIMILAR_PHRASES = 60

_ENDINGS = ("", "", ".", "!", "?")
_CARRIERS = (
    *("okay |", "so |", "please |", "I said |", "well |", "my friend said |", "now | listen"),
    *("| please", "| stop", "| turn on the light", "| what time is it", "| can you help me"),
    *("| play some music", "| how are you", "then | again"),
)


@dataclass(frozen=True)
class Line:
    """What a voice says.

    Attributes:
        text: all of it.
        first: index of the character where the part that counts begins.
        last: index of the character after its end.
    """

    text: str
    first: int
    last: int


@dataclass(frozen=True)
class Phrase:
    """A wake phrase, and what sounds like it but like no wake phrase.

    Attributes:
        text: words and spaces only.
        near: words and pairs of words that sound like it, and their phoneme distance to it in
            the first of `ACCENTS`.
        parts: its words alone and swapped (of one word, its halves), and their distance.
    """

    text: str
    near: tuple[tuple[str, float], ...]
    parts: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Script:
    """What is said, by whom: fixed before the first clip is made.

    Attributes:
        phrases: the wake phrases.
        words: words and short phrases for other speech.
        voices: voices of each split.
    """

    phrases: tuple[Phrase, ...]
    words: tuple[str, ...]
    voices: dict[str, tuple[str, ...]]


def phrase_label(phrase: str) -> str:
    """Label of a wake phrase, "hey jarvis" -> "hey_jarvis".

    Raises:
        InputError: the phrase is empty or has a letter that English does not pronounce.
    """
    letters = [c for c in phrase if c.isalpha()]
    foreign = [c for c in letters if not labels.normal_form(c).isascii()]
    if foreign or not letters:
        fault = f"the letter {foreign[0]!r}" if foreign else "no letter"
        raise InputError(
            f"`wake_phrase`={phrase!r} has {fault}; give one or more words "
            "in Latin letters, as in `wake_phrase`='hey jarvis'"
        )
    label = "_".join(word for word in labels.words(phrase) if word.isascii())
    return f"{label}_phrase" if label in (SIMILAR, SPEECH) else label


def spoken(phrase: str) -> str:
    """The phrase as it is given to the voices: its words, without punctuation.

    Raises:
        InputError: as `phrase_label`.
    """
    phrase_label(phrase)
    composed = unicodedata.normalize("NFKC", phrase)
    return " ".join(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", composed))


def alone(text: str, paused: bool = True) -> list[Line]:
    """Ways to say a text alone, with a pause inside it among them or not."""
    lines = [Line(text + ending, 0, len(text)) for ending in _ENDINGS]
    if paused and " " in text:
        parted = text.replace(" ", ", ", 1)
        lines.append(Line(parted, 0, len(parted)))
    return lines


def _parts(tts: Espeak, phrase: str) -> dict[str, phonetics.Symbols]:
    """The phrase's words alone and swapped; of one word, its halves as espeak mnemonics."""
    words = phrase.split()
    if len(words) > 1:
        bounds = itertools.combinations(range(len(words) + 1), 2)
        texts = [" ".join(words[first:last]) for first, last in bounds] + [" ".join(words[::-1])]
        return {text: phonetics.symbols(tts.phonemes(text)) for text in texts if text != phrase}
    ipa, mnemonics = tts.phonemes(phrase), tts.phonemes(phrase, ipa=False)
    cut = math.ceil(len(ipa) / 2)
    return {
        f"[[{'|'.join(mnemonics[part])}]]": phonetics.symbols(ipa[part])
        for part in (slice(cut), slice(cut, None))
        if ipa[part]
    }


def write_script(tts: Espeak, phrases: Sequence[str], voices: dict[str, tuple[str, ...]]) -> Script:
    """Finds what to say beside wake phrases.

    Args:
        tts: for the phonemes.
        phrases: as `spoken` returns them.
        voices: of each split, as `choose_voices` returns them.

    Raises:
        InputError: one of the phrases sounds like a part of another.
    """
    _refuse_phrases_within_others(tts, phrases)

    def sounds(text: str) -> phonetics.Symbols:
        return phonetics.symbols(tts.phonemes(text, ACCENTS[0]))

    targets = [sounds(phrase) for phrase in phrases]

    def far(symbols: phonetics.Symbols) -> bool:
        return all(phonetics.distance(symbols, target) >= _LEAST_DISTANCE for target in targets)

    listed = importlib.resources.files(__package__).joinpath("words.txt").read_text("utf-8")
    lexicon = {text: sounds(text) for text in listed.splitlines() + " ".join(phrases).split()}
    words = {text: symbols for text, symbols in lexicon.items() if " " not in text}

    def beside(phrase: str, target: phonetics.Symbols) -> Phrase:
        found = phonetics.nearest(target, words, 2 * _SIMILAR_PHRASES, at_least=_LEAST_DISTANCE)
        # espeak may say a pair otherwise than its words alone ("a").
        near = {text: sounds(text) for text, _ in found}
        by_distance = sorted((phonetics.distance(s, target), t) for t, s in near.items() if far(s))
        parts = {text: part for text, part in _parts(tts, phrase).items() if far(part)}
        return Phrase(
            phrase,
            tuple((text, d) for d, text in by_distance)[:_SIMILAR_PHRASES],
            tuple((text, phonetics.distance(part, target)) for text, part in parts.items()),
        )

    return Script(
        tuple(beside(phrase, target) for phrase, target in zip(phrases, targets, strict=True)),
        tuple(text for text, symbols in lexicon.items() if far(symbols)),
        voices,
    )


def _refuse_phrases_within_others(tts: Espeak, phrases: Sequence[str]) -> None:
    for part, whole in itertools.permutations(phrases, 2):
        for accent in ACCENTS:
            sounds = [phonetics.symbols(tts.phonemes(text, accent)) for text in (part, whole)]
            if phonetics.contains(sounds[1], sounds[0]):
                raise InputError(
                    f"`wake_phrase`: {part!r} sounds like a part or all of {whole!r} and would be "
                    "detected wherever that is said: give phrases without each other's sounds"
                )


def in_carrier(rng: np.random.Generator, text: str) -> Line:
    """A text alone or, two times in five, in a carrier sentence; the text is what counts."""
    ways = alone(text)
    if text.startswith("[[") or rng.random() < 0.6:
        return ways[rng.integers(len(ways))]
    before, after = str(rng.choice(_CARRIERS)).split("|")
    return Line(before + text + after, len(before), len(before) + len(text))


def similar_line(rng: np.random.Generator, phrase: Phrase) -> Line:
    """A part of the phrase or one that sounds like it, said as the phrase is."""
    # The parts are few and certain to reach the device; the others are many.
    take_part = not phrase.near or (phrase.parts and rng.random() < 0.3)
    texts = phrase.parts if take_part else phrase.near
    return in_carrier(rng, texts[rng.integers(len(texts))][0])


def speech_line(rng: np.random.Generator, script: Script) -> Line:
    """A listed word or phrase, or three to nine of them in a row, some with a carrier's words."""
    kind = rng.random()
    if kind < 0.25:
        text = str(rng.choice(script.words))
        return Line(text, 0, len(text))
    text = " ".join(rng.choice(script.words, rng.integers(3, 10)))
    if kind < 0.5:
        text = str(rng.choice(_CARRIERS)).replace("|", text)
    text += str(rng.choice(_ENDINGS))
    return Line(text, 0, len(text))


def without_phrases(
    tts: Espeak, phrases: Sequence[str], voice: str, draw: Callable[[], Line]
) -> Line:
    """Draws until a line has none of the phrases' sounds in it, in the voice's accent.

    Accents differ: where "h" is dropped, "say jarvis" ends in all of "hey jarvis".

    Raises:
        InputError: a phrase is so short that all speech seems to have it.
    """
    accent = voice.split("+")[0]
    targets = {phrase: phonetics.symbols(tts.phonemes(phrase, accent)) for phrase in phrases}
    for _ in range(100):
        line = draw()
        sounds = phonetics.symbols(tts.phonemes(line.text, accent))
        within = [phrase for phrase in phrases if phonetics.contains(sounds, targets[phrase])]
        if not within:
            return line
    raise InputError(
        f"`wake_phrase`={within[0]!r} is too short to be told from other speech; "
        "take a longer one, best of three syllables or more"
    )
