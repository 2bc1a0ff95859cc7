"""Long recordings without a wake word: a third trains, two thirds are streams that are listened to.

A model trained on isolated words fires on running speech, so a third trains, as windows from
anywhere in it (see ambient_features.py). None is ever among the clips: each speaker's recordings,
one after the other, are one stream. Splits are speaker-disjoint; who is in the corpus already stays
in the same split here. With fewer than three speakers left to choose from, time is split instead,
and a message says so.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from wakeword_keras import json_file
from wakeword_keras.data.corpus import Clip, Corpus, CorpusConfig, hash_clips
from wakeword_keras.data.recordings import (
    Recording,
    few,
    fingerprints,
    list_ambient,
    printed_before_an_error,
)
from wakeword_keras.errors import InputError
from wakeword_keras.files import write_json
from wakeword_keras.names import NOISE, SPEECH, SPLITS, TEST

_PIECES = json_file.fields(
    pieces=json_file.array(
        json_file.dataclass_fields(
            Clip,
            split={"enum": list(SPLITS)},
            start_s={"type": "number", "minimum": 0},
            duration_s={"type": "number", "exclusiveMinimum": 0},
        )
    ),
    contents=json_file.dictionary({"type": "string"}),
)


def join(corpus: Corpus, ambient_dirs: Sequence[str], config: CorpusConfig) -> Corpus:
    """Add ambient recordings to a corpus.

    Every file is decoded once; one whose samples the corpus or an earlier file holds is left out.

    Args:
      corpus: from `read_corpus`.
      ambient_dirs: folders of long recordings, `<speaker>/.../<recording>`.
      config: length of a clip, of which every split holds one at least; whether bad files are
        skipped.

    Returns:
      The corpus with pieces of all three splits as `streams` (label AMBIENT, group SPEECH), sorted
      by id; its hash covers all of them.

    Raises:
      InputError: a folder or a file is wrong, or there is too little for three splits.
    """
    messages = list(corpus.messages)
    with printed_before_an_error(messages):
        return _join(corpus, ambient_dirs, config, messages)


def _join(
    corpus: Corpus, ambient_dirs: Sequence[str], config: CorpusConfig, messages: list[str]
) -> Corpus:
    recordings, seconds, contents = _read(corpus, ambient_dirs, config, messages)
    # Pieces of noise are split by time: whose name they carry says nothing.
    pinned = {clip.speaker: clip.split for clip in corpus.clips if clip.group != NOISE}
    streams = sorted(_split(recordings, seconds, pinned, messages), key=lambda piece: piece.clip_id)
    _check(streams, config.clip_ms)
    messages.append(_remark(streams))
    by_id = {piece.clip_id: contents[piece.path] for piece in streams}
    return replace(
        corpus,
        sha256=hash_clips(streams, by_id, corpus.sha256),
        messages=tuple(messages),
        contents=corpus.contents | contents,
        streams=tuple(streams),
    )


def join_test(corpus: Corpus, ambient_dirs: Sequence[str], config: CorpusConfig) -> Corpus:
    """Add ambient recordings to a corpus that only tests: all of them whole, as test streams.

    Args:
      corpus: from `read_corpus`.
      ambient_dirs: folders of long recordings, `<speaker>/.../<recording>`.
      config: whether bad files are skipped.

    Returns:
      The corpus with `streams`; its hash covers clips alone.

    Raises:
      InputError: a folder or a file is wrong.
    """
    messages = list(corpus.messages)
    with printed_before_an_error(messages):
        recordings, seconds, contents = _read(corpus, ambient_dirs, config, messages)
    pieces = [_piece(r, TEST, 0.0, seconds[r.path]) for r in recordings]
    return replace(
        corpus,
        messages=tuple(messages),
        contents=corpus.contents | contents,
        streams=tuple(sorted(pieces, key=lambda piece: piece.clip_id)),
    )


def of_split(pieces: Iterable[Clip], split: str) -> tuple[tuple[Clip, ...], ...]:
    """The streams of a split: the pieces of each speaker, in the order in which they are given."""
    by_speaker: dict[str, list[Clip]] = defaultdict(list)
    for piece in pieces:
        if piece.split == split:
            by_speaker[piece.speaker].append(piece)
    return tuple(tuple(said) for said in by_speaker.values())


def _read(
    corpus: Corpus, ambient_dirs: Sequence[str], config: CorpusConfig, messages: list[str]
) -> tuple[list[Recording], dict[str, float], dict[str, str]]:
    """Recordings that the corpus does not hold; seconds and content by path."""
    recordings = list_ambient(ambient_dirs)
    prints = fingerprints(recordings, config.skip_bad_audio, messages)
    contents = {path: content for path, (_, content) in prints.items()}
    recordings = list(_without_copies(recordings, contents, corpus, messages))
    seconds = {recording.path: prints[recording.path][0].seconds for recording in recordings}
    return recordings, seconds, contents


def split_speakers(seconds: Mapping[str, float], pinned: Mapping[str, str]) -> dict[str, str]:
    """Give each speaker to a split, so that the splits become about equally long.

    Args:
      seconds: of each speaker.
      pinned: split of those speakers who have one already; they come first.

    Returns:
      Split by speaker: in the order of the names' hashes, each goes where the least is so far.
    """
    filled = dict.fromkeys(SPLITS, 0.0)
    chosen: dict[str, str] = {}
    for speaker in sorted(seconds, key=lambda name: (name not in pinned, _hash(name))):
        split = pinned.get(speaker) or min(SPLITS, key=lambda name: filled[name])
        filled[split] += seconds[speaker]
        chosen[speaker] = split
    return chosen


def _hash(speaker: str) -> str:
    return hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest()


def _without_copies(
    recordings: Iterable[Recording],
    contents: Mapping[str, str],
    corpus: Corpus,
    messages: list[str],
) -> Iterator[Recording]:
    seen = set(corpus.contents.values())
    copies = []
    for recording in recordings:
        content = contents.get(recording.path)  # none: it was bad, and a message says so
        if content in seen:
            copies.append(recording.recording_id)
        elif content:
            seen.add(content)
            yield recording
    if copies:
        messages.append(
            f"{len(copies)} ambient recordings left out, the same audio is in the corpus or "
            f"among them already: {few(copies)}"
        )


def _split(
    recordings: Sequence[Recording],
    seconds: Mapping[str, float],
    pinned: Mapping[str, str],
    messages: list[str],
) -> Iterator[Clip]:
    """Every recording as a piece of its speaker's split, or as pieces of several."""
    spoken: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        spoken[recording.speaker].append(recording)
    lengths = {name: sum(seconds[r.path] for r in said) for name, said in spoken.items()}
    free = lengths.keys() - pinned.keys()
    by_time = 0 < len(free) < len(SPLITS)
    if by_time:
        messages.append(
            f"`ambient_dir`: {len(free)} speakers cannot be spread over three splits: their time "
            "is split, and each voice is in all of them"
        )
    splits = split_speakers(lengths, pinned)
    for speaker, said in spoken.items():
        if by_time and speaker in free:
            yield from _thirds(said, seconds)
        else:
            yield from (_piece(r, splits[speaker], 0.0, seconds[r.path]) for r in said)


def _thirds(said: Iterable[Recording], seconds: Mapping[str, float]) -> Iterator[Clip]:
    said = list(said)
    third = sum(seconds[recording.path] for recording in said) / len(SPLITS)
    position = 0.0
    for recording in said:
        length = seconds[recording.path]
        for number, split in enumerate(SPLITS):
            start = max(0.0, number * third - position)
            end = min(length, (number + 1) * third - position)
            if end - start > 1e-3:
                yield _piece(recording, split, start, end - start)
        position += length


def _piece(recording: Recording, split: str, start_s: float, duration_s: float) -> Clip:
    return Clip(
        recording.recording_id + (f"#{round(start_s * 1000)}" if start_s else ""),
        recording.path,
        recording.label,
        SPEECH,
        recording.speaker,
        split,
        start_s=start_s,
        duration_s=duration_s,
    )


def _check(pieces: Iterable[Clip], clip_ms: int) -> None:
    held: dict[str, float] = defaultdict(float)
    for piece in pieces:
        held[piece.split] += piece.duration_s or 0.0
    for split in SPLITS:
        if held[split] * 1000 < clip_ms:
            raise InputError(
                f"`ambient_dir`: {held[split]:.1f} s for the {split} split, less than a clip of "
                f"{clip_ms} ms: add recordings of speakers who are not in `data_dir`"
            )


def _remark(pieces: Iterable[Clip]) -> str:
    parts = []
    for split in SPLITS:
        chosen = [piece for piece in pieces if piece.split == split]
        hours = sum(piece.duration_s or 0.0 for piece in chosen) / 3600
        parts.append(f"{split} {hours:.2f} h of {len({piece.speaker for piece in chosen})}")
    return f"ambient recordings, hours and speakers: {', '.join(parts)}"


def write_pieces(pieces: Iterable[Clip], contents: Mapping[str, str], path: Path) -> None:
    """Write pieces and the hash of each one's file by clip id as JSON, for `read_pieces`."""
    absolute = [asdict(piece) | {"path": os.path.abspath(piece.path)} for piece in pieces]
    write_json(path, {"pieces": absolute, "contents": contents})


def read_pieces(path: Path) -> tuple[list[Clip], dict[str, str]]:
    """Read what `write_pieces` wrote: the pieces and the hashes.

    Raises:
      InputError: the file is missing or damaged.
    """
    mend = "delete it and repeat the command that began the run"
    content = json_file.read(path, _PIECES, mend)
    return [Clip(**piece) for piece in content["pieces"]], content["contents"]
