"""A corpus without recordings: a phrase spoken by many voices, and what must not wake the device.

One or more engines speak (`engines`), taking turns in every label alike; a voice is a speaker
(`voices` lists espeak-ng's, `lines` has the texts, `clips` the sounds). Negatives are of four
kinds: phrases that sound like the wake phrase (label `similar`), other speech (`speech`), noise
(`_background_noise_`) and silence (`_silence_`).
"""

import csv
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from wakeword_keras import files
from wakeword_keras.audio import audio_file
from wakeword_keras.errors import InputError
from wakeword_keras.names import SPLITS
from wakeword_keras.progress import Progress
from wakeword_keras.synthesis.clips import Studio, check_clip_length, clips
from wakeword_keras.synthesis.config import SynthesisConfig
from wakeword_keras.synthesis.engines import Engine, assign, open_engines
from wakeword_keras.synthesis.espeak import Espeak
from wakeword_keras.synthesis.lines import Script, phrase_label, spoken, write_script

_FORMAT = "flac"
_VERSION = 5  # of the recipe: a corpus of another version is made again


def _record(studio: Studio, folder: Path) -> None:
    """Writes the clips, and the manifest once all of them are there."""
    rows = []
    total = sum(studio.config.counts.values())
    total += (len(studio.script.phrases) - 1) * studio.config.positives
    numbers: Counter[str] = Counter()
    with Progress("synthesis", total, "clips") as progress, closing(clips(studio)) as made:
        for kind, speaker, split, signal in made:
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
        "clips": {split: config.counts_of(split) for split in SPLITS},
        "voices": script.voices,
        "parts": with_distances(part for phrase in script.phrases for part in phrase.parts),
        "similar": with_distances(near for phrase in script.phrases for near in phrase.near),
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


def synthesize(phrases: Sequence[str], out_dir: str, config: SynthesisConfig) -> tuple[str, ...]:
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
    engines = open_engines(config.engines, config.piper_voices, config.kokoro_styles_dir, kept_dir)
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
            check_clip_length(tts, text, cast.voices_of(engines["espeak"]), config)

    def write(partial: Path) -> None:
        rng = np.random.default_rng(config.seed)
        _record(Studio(tts, cast, rng, config, script), partial)
        facts = recipe | _facts(tts, script, config)
        content = json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
        (partial / "synthesis.json").write_text(content, "utf-8")

    files.build_folder(folder, write, lambda path: _is_finished(path, recipe))
    return labels
