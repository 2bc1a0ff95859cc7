"""A corpus without recordings: a phrase spoken by many voices, and what must not wake the device.

One or more engines speak (`engines`), taking turns in every label alike; a voice is a speaker
(`voices` lists espeak-ng's, `lines` has the texts). Negatives are of four kinds: phrases that sound
like the wake phrase (label `similar`), other speech (`speech`), noise (`_background_noise_`) and
silence (`_silence_`). Positives and similar phrases share carriers, rates, pitches, levels and
their place in the clip, and `speech` has the carriers' words, so that only the phrase itself tells
a positive from a negative.

Levels are RMS in dB relative to full scale (dBFS, 0 = 32,768).
"""

import csv
import dataclasses
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from wakeword_keras import files
from wakeword_keras.audio import audio_file, noise_signals
from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.audio.noise_signals import Signal
from wakeword_keras.errors import InputError
from wakeword_keras.names import BACKGROUND_NOISE, SILENCE, SPLITS, VALIDATION
from wakeword_keras.progress import Progress
from wakeword_keras.synthesis.engines import ENGINES, Cast, Engine, assign, open_engines
from wakeword_keras.synthesis.espeak import Espeak
from wakeword_keras.synthesis.lines import (
    SIMILAR,
    SPEECH,
    Line,
    Phrase,
    Script,
    alone,
    in_carrier,
    phrase_label,
    similar_line,
    speech_line,
    spoken,
    without_phrases,
    write_script,
)
from wakeword_keras.synthesis.voices import SHARES

_FORMAT = "flac"
_VERSION = 4  # of the recipe: a corpus of another version is made again
_EDGE_MS = 40  # between a whole phrase and the ends of its clip
_SPEECH_DBFS = (-38.0, -14.0)
_PEAK = 0.95
_FLOOR_DBFS = (-85.0, -60.0)  # a microphone's own noise: no recording has digital silence
_RECORDING_CLIPS = 8  # longest noise recording, in clips
# People take 0.55 to 1.3 s for a phrase of three or four syllables (energy end-pointing, 768
# recordings); rates are drawn so that the logarithm of the time is uniform.
_RATES_WPM = (80.0, 205.0)
_CHECKED_WPM = 140  # a clip is long enough if all voices can say the phrase in it at this rate
_TAKES = 20  # at most, faster and faster, until the phrase fits into a clip
_QUIETEST_DB = 40.0  # below the loudest of a span: what is quieter at its ends is not speech


@dataclass(frozen=True)
class SynthesisConfig:
    """What to synthesise.

    Attributes:
        clip_ms: length of a clip in milliseconds; a positive holds the whole phrase.
        engines: who speaks, of espeak, piper and kokoro; of several, the last speaks validation
            and test, and the others take turns in training.
        piper_voices: voice files for piper, `.onnx` with `.onnx.json` beside it, of one speaker or
            of many; without any, the voice that pip brings.
        kokoro_styles_dir: folder of style files for kokoro, `.bin`, such as `voices` of the npm
            package kokoro-js, which has 54; without, the five Japanese ones that pip brings.
        voices: voices of each engine, 3 or more; espeak and kokoro have 640 speakers, piper has
            as many as its files. Where speakers are few, each has several voices, which differ in
            accent and by what the next two say.
        pitch_low_hz: lowest pitch that a voice is moved to, in Hz; 0 leaves every voice its own.
        pitch_high_hz: highest pitch that a voice is moved to, in Hz.
        formant_percent: how far the resonances of a voice's vocal tract are moved at most, either
            way, in percent, beside following its pitch a little.
        phrase_end_ms: the phrase, or what sounds like it, ends at most so many milliseconds before
            its clip does, as when a device hears it; 0 for anywhere.
        positives: clips of each wake phrase over all splits, at least 3 as for all counts.
        similar: clips that sound like one of them.
        speech: clips of other words and sentences.
        noise: clips' worth of noise, in recordings of up to 8 clips.
        silence: clips of next to nothing.
        seed: of every random choice; the same seed gives the same bytes.

    Raises:
        InputError: a value out of its range.
    """

    clip_ms: int = 1500
    engines: tuple[str, ...] = ("espeak",)
    piper_voices: tuple[str, ...] = ()
    kokoro_styles_dir: str = ""
    voices: int = 160
    pitch_low_hz: float = 85.0
    pitch_high_hz: float = 300.0
    formant_percent: float = 15.0
    phrase_end_ms: int = 300
    positives: int = 1200
    similar: int = 900
    speech: int = 1000
    noise: int = 400
    silence: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        limits: dict[str, tuple[float, float]] = {"clip_ms": (200, 10_000)}
        limits |= {"pitch_low_hz": (0, self.pitch_high_hz), "pitch_high_hz": (60, 500)}
        limits |= {"formant_percent": (0, 40)}
        limits |= {"phrase_end_ms": (0, 10_000)}
        limits |= {name: (3, 1_000_000) for name in ("voices", *self.counts)}
        limits["seed"] = (0, 2**31 - 1)
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"`synthesis.{name}`={value}: must be {low} to {high}")
        named = set(self.engines) & set(ENGINES)
        if not self.engines or len(self.engines) != len(named):
            raise InputError(
                f"`synthesis.engines`={','.join(self.engines)}: must be one or more of "
                f"{', '.join(ENGINES)}, each once"
            )
        for name, engine in (("piper_voices", "piper"), ("kokoro_styles_dir", "kokoro")):
            if getattr(self, name) and engine not in self.engines:
                raise InputError(
                    f"`synthesis.{name}`: only {engine} speaks with them; name it in "
                    "`synthesis.engines`, too"
                )

    @property
    def counts(self) -> dict[str, int]:
        """Clips of each kind over all splits."""
        kinds = ("positives", "similar", "speech", "noise", "silence")
        return {kind: getattr(self, kind) for kind in kinds}

    @property
    def clip_samples(self) -> int:
        """Length of a clip in samples at 16 kHz."""
        return self.clip_ms * SAMPLE_RATE_HZ // 1000


@dataclass(frozen=True)
class _Studio:
    tts: Espeak
    cast: Cast
    rng: np.random.Generator
    config: SynthesisConfig
    script: Script


def _split_counts(count: int) -> dict[str, int]:
    held_out = max(1, round(count * SHARES[VALIDATION]))
    return dict(zip(SPLITS, (count - 2 * held_out, held_out, held_out), strict=True))


def clip_ms_needed(duration_ms: float) -> int:
    """Smallest sensible clip_ms for a phrase duration: room at the edges, a multiple of 10 ms."""
    return math.ceil((1.02 * duration_ms + 2 * _EDGE_MS) / 10) * 10


def _check_clip_length(
    tts: Espeak, phrase: str, voices: Iterable[str], config: SynthesisConfig
) -> None:
    """Refuses clips too short for the slowest of espeak's voices at an unhurried rate."""
    longest_ms = 0.0
    for voice in voices:
        for line in dict.fromkeys(alone(spoken(phrase), paused=False)):
            utterance = tts.say(line.text, voice, rate_wpm=_CHECKED_WPM)
            first, last = utterance.span(line.first, line.last)
            longest_ms = max(longest_ms, 1000 * (last - first) / utterance.sample_rate_hz)
    needed_ms = clip_ms_needed(longest_ms)
    if needed_ms > config.clip_ms:
        raise InputError(
            f"`clip_ms`={config.clip_ms} is too short for {phrase!r}, which takes up to "
            f"{needed_ms} ms: give `clip_ms`={needed_ms} or more"
        )


def _speak(
    studio: _Studio, voice: str, line: Line, slowest_wpm: float = _RATES_WPM[0]
) -> tuple[Signal, int, int]:
    """Speaks a line at a random rate.

    Returns:
        float64 [samples] at 16 kHz, full scale 1; first sample of the text's span and the one after
        its last.
    """
    rate_wpm = slowest_wpm * (_RATES_WPM[1] / slowest_wpm) ** studio.rng.random()
    utterance = studio.cast.say(line.text, voice, rate_wpm, studio.rng)
    ratio = SAMPLE_RATE_HZ / utterance.sample_rate_hz
    audio = soxr.resample(utterance.audio / 32768, utterance.sample_rate_hz, SAMPLE_RATE_HZ)
    start, end = (round(sample * ratio) for sample in utterance.span(line.first, line.last))
    return audio, *_sounding(audio, start, end)


def _sounding(audio: Signal, start: int, end: int) -> tuple[int, int]:
    """A span less the silence at its ends, which some engines count among the sounds."""
    block = SAMPLE_RATE_HZ // 200
    levels = np.abs(audio[start:end][: (end - start) // block * block]).reshape(-1, block).max(1)
    heard = np.flatnonzero(levels > levels.max(initial=0.0) * 10 ** (-_QUIETEST_DB / 20))
    return (start + heard[0] * block, start + (heard[-1] + 1) * block) if len(heard) else (0, 0)


def _fitting(studio: _Studio, voice: str, draw: Callable[[], Line]) -> tuple[Signal, int, int]:
    """Speaks lines, each faster than the last, until what counts fits into a clip."""
    for take in range(_TAKES):
        slowest_wpm = _RATES_WPM[0] * (_RATES_WPM[1] / _RATES_WPM[0]) ** (take / _TAKES)
        audio, start, end = _speak(studio, voice, draw(), slowest_wpm)
        if end - start <= studio.config.clip_samples:
            break
    return audio, start, end


def _clip(studio: _Studio, audio: Signal, start: int, end: int) -> Signal:
    """Cuts a clip that holds all of a span and ends soon after it, or, if it is too long, a piece.

    Where the clip ends is drawn, see `SynthesisConfig.phrase_end_ms`.
    """
    rng, samples = studio.rng, studio.config.clip_samples
    edge = _EDGE_MS * SAMPLE_RATE_HZ // 1000
    low, high = end + edge - samples, start - edge
    if studio.config.phrase_end_ms:
        latest = studio.config.phrase_end_ms * SAMPLE_RATE_HZ // 1000
        high = min(high, end + max(edge, latest) - samples)
    if start - edge < low:
        low, high = sorted((start, end - samples))
    offset = int(rng.integers(low, high + 1))
    clip = np.zeros(samples)
    inside = audio[max(0, offset) : max(0, offset + samples)]
    clip[max(0, -offset) : max(0, -offset) + len(inside)] = inside
    # The level is that of the text, not of the pauses around it.
    level = rng.uniform(*_SPEECH_DBFS) + 10 * np.log10(np.clip((end - start) / samples, 0.01, 1.0))
    floor = noise_signals.to_dbfs(rng.standard_normal(samples), rng.uniform(*_FLOOR_DBFS))
    return noise_signals.to_dbfs(clip, level, _PEAK) + floor


def _positive(studio: _Studio, voice: str, phrase: str) -> Signal:
    """A clip with all of a phrase."""
    config = studio.config
    others = [other.text for other in studio.script.phrases if other.text != phrase]

    def line() -> Line:
        return without_phrases(studio.tts, others, voice, lambda: in_carrier(studio.rng, phrase))

    audio, start, end = _fitting(studio, voice, line)
    if end == start:
        raise InputError(f"the voice {voice} has no sound for {phrase!r}: leave the voice out")
    if end - start <= config.clip_samples:
        return _clip(studio, audio, start, end)
    needed_ms = clip_ms_needed(1000 * (end - start) / SAMPLE_RATE_HZ)
    raise InputError(
        f"`clip_ms`={config.clip_ms} is too short for {phrase!r}, which the voice {voice} says in "
        f"more, {_TAKES} times in a row: give `clip_ms`={needed_ms} or more"
    )


def _similar(studio: _Studio, voice: str, phrase: Phrase) -> Signal:
    """A clip with all of what sounds like a phrase, or most of it."""

    def line() -> Line:
        return _negative_line(studio, voice, lambda: similar_line(studio.rng, phrase))

    return _clip(studio, *_fitting(studio, voice, line))


def _other_speech(studio: _Studio, voice: str) -> tuple[Signal, int, int]:
    line = _negative_line(studio, voice, lambda: speech_line(studio.rng, studio.script))
    return _speak(studio, voice, line)


def _negative_line(studio: _Studio, voice: str, draw: Callable[[], Line]) -> Line:
    return without_phrases(studio.tts, [p.text for p in studio.script.phrases], voice, draw)


def _babble(studio: _Studio, split: str, samples: int) -> Signal:
    """Three to six people of one split talking at once, in what its clips of other speech say."""
    mix = np.zeros(samples)
    voices, lines = studio.script.voices[split], _split_counts(studio.config.speech)[split]
    for _ in range(studio.rng.integers(3, 7)):
        talk = np.zeros(0)
        while len(talk) < samples:
            number = int(studio.rng.integers(lines))
            own = _own(studio, SPEECH, split, number)
            talk = np.concatenate([talk, _other_speech(own, voices[number % len(voices)])[0]])
        offset = studio.rng.integers(len(talk) - samples + 1)
        mix += noise_signals.to_dbfs(talk[offset : offset + samples], studio.rng.uniform(-12, 0))
    return mix


def _background(studio: _Studio, split: str, index: int, samples: int) -> Signal:
    """Noise of the kind whose turn it is."""
    kinds = [*noise_signals.KINDS, "babble"]
    kind = kinds[index % len(kinds)]
    if kind == "babble":
        signal = _babble(studio, split, samples)
    else:
        signal = noise_signals.KINDS[kind](studio.rng, samples, SAMPLE_RATE_HZ)
    return noise_signals.to_dbfs(signal, studio.rng.uniform(-50, -18), _PEAK)


def _silence(studio: _Studio, split: str, index: int) -> Signal:
    """Faint noise; once in the corpus digital zero (copies of it would only be duplicates)."""
    samples = studio.config.clip_samples
    if split == SPLITS[0] and index == 0:
        return np.zeros(samples)
    colour = list(noise_signals.COLOURS.values())[index % len(noise_signals.COLOURS)]
    hiss = noise_signals.coloured(studio.rng, samples, colour)
    return noise_signals.to_dbfs(hiss, studio.rng.uniform(-88, -70))


# ---- the corpus


def _clips(studio: _Studio) -> Iterator[tuple[str, str, str, Signal]]:
    """Label, speaker, split and signal of every file; noise in recordings of several clips."""
    config, phrases = studio.config, studio.script.phrases
    for split, voices in studio.script.voices.items():
        counts = {kind: _split_counts(count)[split] for kind, count in config.counts.items()}
        # Neighbouring clips come from one voice's neighbours, so that all voices get their turn.
        for phrase in phrases:
            label = phrase_label(phrase.text)
            for i in range(counts["positives"]):
                voice, own = voices[i % len(voices)], _own(studio, label, split, i)
                yield label, voice, split, _positive(own, voice, phrase.text)
        for i in range(counts["similar"]):
            voice, own = voices[i % len(voices)], _own(studio, SIMILAR, split, i)
            yield SIMILAR, voice, split, _similar(own, voice, phrases[i % len(phrases)])
        for i in range(counts["speech"]):
            voice, own = voices[i % len(voices)], _own(studio, SPEECH, split, i)
            yield SPEECH, voice, split, _clip(own, *_other_speech(own, voice))
        for i, first in enumerate(range(0, counts["noise"], _RECORDING_CLIPS)):
            length = min(_RECORDING_CLIPS, counts["noise"] - first) * config.clip_samples
            noise = _background(_own(studio, BACKGROUND_NOISE, split, i), split, i, length)
            yield BACKGROUND_NOISE, f"noise-{split}-{i}", split, noise
        for i in range(counts["silence"]):
            silence = _silence(_own(studio, SILENCE, split, i), split, i)
            yield SILENCE, f"silence-{split}-{i}", split, silence


def _own(studio: _Studio, label: str, split: str, number: int) -> _Studio:
    """The studio with draws of a clip's own.

    So a corpus of more clips says all of the smaller one's lines again, which are kept on disk.
    """
    place = zlib.crc32(f"{label} {split} {number}".encode())
    return dataclasses.replace(studio, rng=np.random.default_rng([studio.config.seed, place]))


def _record(studio: _Studio, folder: Path) -> None:
    """Writes the clips, and the manifest once all of them are there."""
    rows = []
    total = sum(studio.config.counts.values())
    total += (len(studio.script.phrases) - 1) * studio.config.positives
    numbers: Counter[str] = Counter()
    with Progress("synthesis", total, "clips") as progress:
        for kind, speaker, split, signal in _clips(studio):
            path = Path(kind) / f"{speaker}_{numbers[kind]:05d}.{_FORMAT}"
            numbers[kind] += 1
            (folder / kind).mkdir(exist_ok=True)
            samples = np.clip(np.rint(signal * 32768), -32768, 32767).astype(np.int16)
            audio_file.write(folder / path, samples)
            rows.append((path.as_posix(), kind, speaker, split, 1))
            progress.update(len(samples) // studio.config.clip_samples)
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label", "speaker", "split", "synthetic"), *rows])


def _recipe(
    phrases: Sequence[str], config: SynthesisConfig, engines: dict[str, Engine]
) -> dict[str, object]:
    """What a corpus is made of, as JSON holds it."""
    return {
        "version": _VERSION,
        "phrase": ", ".join(phrases),
        "config": json.loads(json.dumps(dataclasses.asdict(config))),
        "engines": {name: engine.version for name, engine in engines.items()},
    }


def _facts(tts: Espeak, script: Script, config: SynthesisConfig) -> dict[str, object]:
    def with_distances(phrases: Iterable[tuple[str, float]]) -> list[dict[str, object]]:
        return [{"text": text, "distance": round(d, 3)} for text, d in phrases]

    texts = [phrase.text for phrase in script.phrases]

    return {
        "label": ", ".join(map(phrase_label, texts)),
        "phonemes": ", ".join(" ".join(tts.phonemes(text)) for text in texts),
        "clips": _clip_counts(config),
        "voices": script.voices,
        "parts": with_distances(part for phrase in script.phrases for part in phrase.parts),
        "similar": with_distances(near for phrase in script.phrases for near in phrase.near),
    }


def _clip_counts(config: SynthesisConfig) -> dict[str, dict[str, int]]:
    return {
        split: {kind: _split_counts(count)[split] for kind, count in config.counts.items()}
        for split in SPLITS
    }


def _is_finished(folder: Path, recipe: dict[str, object]) -> bool:
    """Whether a folder holds the corpus of a recipe, whole."""
    facts = _read_facts(folder)
    return {name: facts.get(name) for name in recipe} == recipe and files.is_whole(folder)


def _read_facts(folder: Path) -> dict[str, object]:
    """What synthesis.json says; nothing where it is missing or damaged."""
    try:
        facts = json.loads((folder / "synthesis.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _check_replaceable(folder: Path) -> None:
    """Refuses a folder that holds something else than a synthesised corpus."""
    if folder.is_file():
        raise InputError(f"{folder} is a file; give an empty or new folder")
    ours = "version" in _read_facts(folder) or (folder / files.CHECKSUMS).exists()
    if folder.exists() and any(folder.iterdir()) and not ours:
        raise InputError(
            f"{folder} is not empty and not a synthesised corpus (no synthesis.json of one); "
            "give an empty or new folder"
        )


def synthesize(
    phrases: Sequence[str], out_dir: str, config: SynthesisConfig = SynthesisConfig()
) -> tuple[str, ...]:
    """Makes a corpus for wake phrases, or finds it made already.

    The corpus is built beside `out_dir` and moved there when it is complete (see `files`); one that
    is damaged is made again, another one of this function at `out_dir` replaced. It has
    `manifest.csv` (path, label, speaker, split), a folder of clips per label (mono 16 kHz 16 bit)
    and `synthesis.json`: config, engines, counts, voices, the phrases' phonemes and the similar
    phrases with their distances (see `phonetics`). No clip has the sounds of a phrase that is not
    its label. What neural engines say is kept in `utterances` beside it, for other corpora and for
    a synthesis that was killed.

    Args:
        phrases: one or more wake phrases in English, ["hey jarvis", "ok nova"].
        out_dir: folder to make.
        config: what to synthesise; the same config gives the same bytes.

    Returns:
        Labels of the positives, ("hey_jarvis", "ok_nova").

    Raises:
        InputError: nothing to pronounce, a phrase longer than a clip or within another, a folder
            with something else in it, or an engine that is not installed or has too few speakers.
    """
    texts, labels = tuple(map(spoken, phrases)), tuple(map(phrase_label, phrases))
    folder = Path(out_dir)
    tts = Espeak(config.seed)
    kept_dir = folder.with_name("utterances")
    engines = open_engines(
        config.engines, tts, config.piper_voices, config.kokoro_styles_dir, kept_dir
    )
    recipe = _recipe(texts, config, engines)
    if _is_finished(folder, recipe):
        return labels
    _check_replaceable(folder)
    cast = assign(
        engines,
        config.voices,
        config.seed,
        config.pitch_low_hz,
        config.pitch_high_hz,
        config.formant_percent,
    )
    script = write_script(tts, texts, cast.voices)
    if "espeak" in engines:
        for text in texts:
            _check_clip_length(tts, text, cast.voices_of(engines["espeak"]), config)

    def write(partial: Path) -> None:
        rng = np.random.default_rng(config.seed)
        _record(_Studio(tts, cast, rng, config, script), partial)
        facts = recipe | _facts(tts, script, config)
        content = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        (partial / "synthesis.json").write_text(content, "utf-8")

    files.build_folder(folder, write, lambda path: _is_finished(path, recipe))
    return labels
