"""The sound of each clip: who says what, how fast, how loud, and where in the clip it lies.

Positives and similar phrases share carriers, rates, pitches, levels and their place in the clip,
and `speech` has the carriers' words, so that only the phrase itself tells a positive from a
negative.

Levels are RMS in dB relative to full scale (dBFS, 0 = 32,768).
"""

import dataclasses
import math
import os
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr

from wakeword_keras.audio import noise_signals
from wakeword_keras.audio.audio_file import SAMPLE_RATE_HZ
from wakeword_keras.audio.noise_signals import Signal
from wakeword_keras.errors import InputError
from wakeword_keras.names import BACKGROUND_NOISE, SILENCE, SPLITS
from wakeword_keras.synthesis.config import SynthesisConfig
from wakeword_keras.synthesis.engines import Cast
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
)

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
class Studio:
    """Who speaks, what there is to say, and the draws of whatever is made next."""

    tts: Espeak
    cast: Cast
    rng: np.random.Generator
    config: SynthesisConfig
    script: Script


def clip_ms_needed(duration_ms: float) -> int:
    """Smallest sensible clip_ms for a phrase duration: room at the edges, a multiple of 10 ms."""
    return math.ceil((1.02 * duration_ms + 2 * _EDGE_MS) / 10) * 10


def check_clip_length(
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
    studio: Studio, voice: str, line: Line, slowest_wpm: float = _RATES_WPM[0]
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


def _fitting(studio: Studio, voice: str, draw: Callable[[], Line]) -> tuple[Signal, int, int]:
    """Speaks lines, each faster than the last, until what counts fits into a clip."""
    for take in range(_TAKES):
        slowest_wpm = _RATES_WPM[0] * (_RATES_WPM[1] / _RATES_WPM[0]) ** (take / _TAKES)
        audio, start, end = _speak(studio, voice, draw(), slowest_wpm)
        if end - start <= studio.config.clip_samples:
            break
    return audio, start, end


def _clip(studio: Studio, audio: Signal, start: int, end: int) -> Signal:
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


def _positive(studio: Studio, voice: str, phrase: str) -> Signal:
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


def _similar(studio: Studio, voice: str, phrase: Phrase) -> Signal:
    """A clip with all of what sounds like a phrase, or most of it."""

    def line() -> Line:
        return _negative_line(studio, voice, lambda: similar_line(studio.rng, phrase))

    return _clip(studio, *_fitting(studio, voice, line))


def _speech(studio: Studio, voice: str) -> Signal:
    """A clip of other speech."""
    return _clip(studio, *_other_speech(studio, voice))


def _other_speech(studio: Studio, voice: str) -> tuple[Signal, int, int]:
    line = _negative_line(studio, voice, lambda: speech_line(studio.rng, studio.script))
    return _speak(studio, voice, line)


def _negative_line(studio: Studio, voice: str, draw: Callable[[], Line]) -> Line:
    return without_phrases(studio.tts, [p.text for p in studio.script.phrases], voice, draw)


def _babble(studio: Studio, split: str, samples: int) -> Signal:
    """Three to six people of one split talking at once, in what its clips of other speech say."""
    mix = np.zeros(samples)
    voices, lines = studio.script.voices[split], studio.config.counts_of(split)["speech"]
    for _ in range(studio.rng.integers(3, 7)):
        talk = np.zeros(0)
        while len(talk) < samples:
            number = int(studio.rng.integers(lines))
            own = _own(studio, SPEECH, split, number)
            talk = np.concatenate([talk, _other_speech(own, voices[number % len(voices)])[0]])
        offset = studio.rng.integers(len(talk) - samples + 1)
        mix += noise_signals.to_dbfs(talk[offset : offset + samples], studio.rng.uniform(-12, 0))
    return mix


def _background(studio: Studio, split: str, index: int, samples: int) -> Signal:
    """Noise of the kind whose turn it is."""
    kinds = [*noise_signals.KINDS, "babble"]
    kind = kinds[index % len(kinds)]
    if kind == "babble":
        signal = _babble(studio, split, samples)
    else:
        signal = noise_signals.KINDS[kind](studio.rng, samples, SAMPLE_RATE_HZ)
    return noise_signals.to_dbfs(signal, studio.rng.uniform(-50, -18), _PEAK)


def _silence(studio: Studio, split: str, index: int) -> Signal:
    """Faint noise; once in the corpus digital zero (copies of it would only be duplicates)."""
    samples = studio.config.clip_samples
    if split == SPLITS[0] and index == 0:
        return np.zeros(samples)
    colour = list(noise_signals.COLOURS.values())[index % len(noise_signals.COLOURS)]
    hiss = noise_signals.coloured(studio.rng, samples, colour)
    return noise_signals.to_dbfs(hiss, studio.rng.uniform(-88, -70))


@dataclass(frozen=True)
class _Job:
    """A file to make, from draws of its own."""

    label: str
    speaker: str
    split: str
    make: Callable[[], Signal]


def clips(studio: Studio) -> Generator[tuple[str, str, str, Signal], None, None]:
    """Label, speaker, split and signal of every file; noise in recordings of several clips.

    Every core makes files; their order and their bytes are the same on any number of cores. Close
    the iterator to leave the rest unmade.
    """
    jobs = tuple(_jobs(studio))
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        signals = pool.map(lambda job: job.make(), jobs)
        for job, signal in zip(jobs, signals, strict=True):
            yield job.label, job.speaker, job.split, signal
    finally:
        pool.shutdown(cancel_futures=True)


def _jobs(studio: Studio) -> Iterator[_Job]:
    config, phrases = studio.config, studio.script.phrases
    for split, voices in studio.script.voices.items():
        counts = config.counts_of(split)
        # Neighbouring clips come from one voice's neighbours, so that all voices get their turn.
        for phrase in phrases:
            label = phrase_label(phrase.text)
            for i in range(counts["positives"]):
                voice, own = voices[i % len(voices)], _own(studio, label, split, i)
                yield _Job(label, voice, split, partial(_positive, own, voice, phrase.text))
        for i in range(counts["similar"]):
            voice, own = voices[i % len(voices)], _own(studio, SIMILAR, split, i)
            phrase = phrases[i % len(phrases)]
            yield _Job(SIMILAR, voice, split, partial(_similar, own, voice, phrase))
        for i in range(counts["speech"]):
            voice, own = voices[i % len(voices)], _own(studio, SPEECH, split, i)
            yield _Job(SPEECH, voice, split, partial(_speech, own, voice))
        for i, first in enumerate(range(0, counts["noise"], _RECORDING_CLIPS)):
            length = min(_RECORDING_CLIPS, counts["noise"] - first) * config.clip_samples
            noise = partial(_background, _own(studio, BACKGROUND_NOISE, split, i), split, i, length)
            yield _Job(BACKGROUND_NOISE, f"noise-{split}-{i}", split, noise)
        for i in range(counts["silence"]):
            silence = partial(_silence, _own(studio, SILENCE, split, i), split, i)
            yield _Job(SILENCE, f"silence-{split}-{i}", split, silence)


def _own(studio: Studio, label: str, split: str, number: int) -> Studio:
    """The studio with draws of a clip's own.

    So a corpus of more clips says all of the smaller one's lines again, which are kept on disk.
    """
    place = zlib.crc32(f"{label} {split} {number}".encode())
    return dataclasses.replace(studio, rng=np.random.default_rng([studio.config.seed, place]))
