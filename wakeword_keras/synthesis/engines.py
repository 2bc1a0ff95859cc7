"""Who speaks: the engines of speech synthesis behind one interface, and whose turn it is.

An engine says a text in one of its voices, `accent+speaker`, at a rate; what else colours the
speech (its melody, its noise) is drawn, so that the same draws give the same speech. Engines take
turns, clip by clip, in the same order for every label: which engine speaks says nothing about what
is said. Every voice is perturbed as its name says (see `perturbation`), so that one recorded
speaker becomes as many as are asked for: `accent+speaker~7`.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from wakeword_keras import files
from wakeword_keras.errors import InputError
from wakeword_keras.names import SPLITS, VALIDATION
from wakeword_keras.synthesis import espeak
from wakeword_keras.synthesis.espeak import Espeak, Phoneme, Utterance
from wakeword_keras.synthesis.kokoro import Kokoro
from wakeword_keras.synthesis.perturbation import of_voice, perturb, towards
from wakeword_keras.synthesis.piper import Piper
from wakeword_keras.synthesis.voices import ACCENTS, SHARES, VARIANTS, choose_voices

ENGINES = ("espeak", "piper", "kokoro")

Voices = dict[str, tuple[str, ...]]
"""Voices of each split."""


class Engine(Protocol):
    """Something that speaks."""

    @property
    def version(self) -> str:
        """What its speech depends on beside line, voice and draws."""
        ...

    def voices(self, count: int, seed: int) -> Voices:
        """Voices of each split, at most `count` in all; no speaker is in two splits."""
        ...

    def say(self, text: str, voice: str, rate_wpm: float, rng: np.random.Generator) -> Utterance:
        """Speaks at a rate in words per minute, as near to it as it can; draws from `rng` alone."""
        ...


@dataclass(frozen=True)
class Formants:
    """espeak-ng as an engine: a formant synthesiser, many voices, none like a person's."""

    version: str = "espeak-ng 1.52"

    def voices(self, count: int, seed: int) -> Voices:
        """As `voices.choose_voices`, all there are where more are asked for."""
        return choose_voices(min(count, len(ACCENTS) * len(VARIANTS)), seed)

    def say(self, text: str, voice: str, rate_wpm: float, rng: np.random.Generator) -> Utterance:
        """Speaks with a random pitch and range, in a copy of espeak-ng that never spoke before."""
        pitch, pitch_range = int(rng.integers(25, 76)), int(rng.integers(20, 81))
        rate = round(np.clip(rate_wpm, *espeak.RATES_WPM))
        with closing(Espeak(int(rng.integers(2**31)))) as tts:
            return tts.say(text, voice, rate_wpm=rate, pitch=pitch, pitch_range=pitch_range)


class Speakers(Protocol):
    """A neural engine: speakers that speak in any accent."""

    version: str
    speakers: tuple[str, ...]

    def say(self, text: str, voice: str, rate_wpm: float, rng: np.random.Generator) -> Utterance:
        """As `Engine.say`."""
        ...


@dataclass(frozen=True)
class Kept:
    """A neural engine, which takes its time, and what it said, kept on disk by content.

    Attributes:
        speaking: the engine.
        folder: where its utterances are kept, one file each.
    """

    speaking: Speakers
    folder: Path

    @property
    def version(self) -> str:
        """The engine's."""
        return self.speaking.version

    def voices(self, count: int, seed: int) -> Voices:
        """Speakers in random order, each in the next accent; with few, each several times."""
        rng = np.random.default_rng(seed)
        speakers = rng.permutation(self.speaking.speakers).tolist()[:count]
        accents = rng.permutation(ACCENTS).tolist()
        turns = -(-count // len(speakers))
        held_out = min(len(speakers) // 2, max(1, round(len(speakers) * SHARES[VALIDATION])))
        bounds = (0, len(speakers) - 2 * held_out, len(speakers) - held_out, len(speakers))
        return {
            split: tuple(
                f"{accents[(k + turn) % len(accents)]}+{speakers[k]}" + (f"~{turn}" if turn else "")
                for turn in range(turns)
                for k in range(first, last)
            )
            for split, (first, last) in zip(SPLITS, itertools.pairwise(bounds), strict=True)
        }

    def say(self, text: str, voice: str, rate_wpm: float, rng: np.random.Generator) -> Utterance:
        """Speaks, or finds what was spoken with the same text, voice, rate and draws."""
        seed = int(rng.integers(2**63))
        key = json.dumps([self.version, text, voice, rate_wpm, seed])
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
        try:
            return _read(path)
        except Exception:
            pass  # not said yet, or damaged: the file has checksums, and many ways to say so
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(path, self.speaking.say(text, voice, rate_wpm, np.random.default_rng(seed)))
        return _read(path)


def _write(path: Path, utterance: Utterance) -> None:
    content = io.BytesIO()
    np.savez_compressed(
        content,
        audio=utterance.audio,
        sample_rate_hz=utterance.sample_rate_hz,
        names=np.array([p.name for p in utterance.phonemes]),
        characters=np.array([p.character for p in utterance.phonemes]),
        samples=np.array([p.sample for p in utterance.phonemes]),
    )
    files.write_bytes(path, content.getvalue())


def _read(path: Path) -> Utterance:
    with np.load(path) as kept:
        columns = (kept[name].tolist() for name in ("names", "characters", "samples"))
        phonemes = tuple(Phoneme(*row) for row in zip(*columns, strict=True))
        return Utterance(kept["audio"], phonemes, int(kept["sample_rate_hz"]))


@dataclass(frozen=True)
class Cast:
    """Voices of one or more engines, and who speaks in which split.

    Attributes:
        voices: of each split, in the order in which they take turns; a voice of an engine with few
            of them has several turns.
        engine_of: the engine of each voice.
        low_hz, high_hz, formant_percent: whom voices sound like, see `perturbation.of_voice`.
    """

    voices: Voices
    engine_of: dict[str, Engine]
    low_hz: float = 0.0
    high_hz: float = 0.0
    formant_percent: float = 0.0

    def voices_of(self, engine: Engine) -> list[str]:
        """Voices of one engine, split by split."""
        every = itertools.chain.from_iterable(self.voices.values())
        return [voice for voice in dict.fromkeys(every) if self.engine_of[voice] is engine]

    def say(self, text: str, voice: str, rate_wpm: float, rng: np.random.Generator) -> Utterance:
        """As `Engine.say`, by the perturbed voice."""
        person = of_voice(voice, self.low_hz, self.high_hz, self.formant_percent)
        said = self.engine_of[voice].say(text, voice.partition("~")[0], rate_wpm, rng)
        return perturb(said, towards(said, person))


def open_engines(
    names: Sequence[str],
    piper_voices: Sequence[str],
    kokoro_styles_dir: str,
    kept_dir: Path,
) -> dict[str, Engine]:
    """Engines by name.

    Args:
        names: of `ENGINES`.
        piper_voices: Piper's `.onnx` files; the voice that pip brings if there are none.
        kokoro_styles_dir: folder of Kokoro's styles; those that pip brings if "".
        kept_dir: folder where the neural engines' utterances are kept.

    Raises:
        InputError: an engine's packages are not installed or its files are not what they should be.
    """
    openers: dict[str, Callable[[], Engine]] = {
        "espeak": Formants,
        "piper": lambda: Kept(Piper.of_files(piper_voices), kept_dir),
        "kokoro": lambda: Kept(Kokoro(kokoro_styles_dir), kept_dir),
    }
    return {name: openers[name]() for name in names}


def assign(
    engines: dict[str, Engine],
    count: int,
    seed: int,
    low_hz: float = 0.0,
    high_hz: float = 0.0,
    formant_percent: float = 0.0,
) -> Cast:
    """Gives each split its voices.

    Of several engines the last speaks validation and test and the others training, so that a model
    is judged on an engine that training had none of.

    Args:
        engines: by name, in the order given.
        count: voices of each engine at most.
        seed: of the choice.
        low_hz, high_hz, formant_percent: see `Cast`.

    Raises:
        InputError: an engine has too few speakers for the splits it is to speak.
    """
    train, *held_out = SPLITS
    *others, last = engines
    voices = {name: engine.voices(count, seed) for name, engine in engines.items()}
    every = [tuple(itertools.chain.from_iterable(voices[name].values())) for name in others]
    turns = {train: _in_turn(every or [voices[last][train]])}
    turns |= {split: voices[last][split] for split in held_out}
    if not all(turns.values()):
        raise InputError(
            f"`synthesis.engines`={','.join(engines)}: {last} has too few speakers for "
            f"{'validation and test' if others else 'three splits'}; name an engine last that has "
            "more, as espeak"
        )
    spoken = {voice for voices_of_split in turns.values() for voice in voices_of_split}
    engine_of = {
        voice: engines[name]
        for name in engines
        for voice in itertools.chain.from_iterable(voices[name].values())
        if voice in spoken
    }
    return Cast(turns, engine_of, low_hz, high_hz, formant_percent)


def _in_turn(groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """One of each group after the other; a smaller group begins again."""
    turns = max(map(len, groups))
    return tuple(group[k % len(group)] for k in range(turns) for group in groups)
