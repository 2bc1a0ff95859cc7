"""A corpus of clips: who spoke, which label, which split.

Labels that are not a wake word are negatives: noise for `NOISE_LABELS`, speech for all others.
Spelling does not matter (see `labels`): recordings in `Hey Jarvis/` are those of hey_jarvis.
Splits are speaker-disjoint: a speaker goes where a manifest says, else where the hash of the name
falls. Where nobody says who spoke (see recordings.py), each file name counts as a speaker, and a
message says so: one person may then be on both sides of a split.

Recordings of negatives longer than a clip are cut into clips. A long noise recording has no
speaker; it is split by time instead, so that every split has some of it, and no moment is in two.
"""

import difflib
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from wakeword_keras.data.recordings import (
    Recording,
    few,
    fingerprints,
    list_recordings,
    printed_before_an_error,
)
from wakeword_keras.errors import InputError
from wakeword_keras.labels import normal_form
from wakeword_keras.names import (
    NOISE,
    NOISE_LABELS,
    POSITIVE,
    SPEECH,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
)

_HASH_RANGE = 2**27 - 1


@dataclass(frozen=True)
class Clip:
    """A labelled piece of audio.

    Attributes:
      clip_id: unique in the corpus and the same wherever the data lie.
      path: audio file.
      label: as in the data; one of the wake words or any other name.
      group: POSITIVE, SPEECH or NOISE.
      speaker: who speaks; for noise split by time, the name of the recording.
      split: TRAIN, VALIDATION or TEST. Only noise recordings can share a speaker across splits.
      weight: of the clip in the training loss, > 0.
      start_s: where the clip begins in the file, in seconds.
      duration_s: its length in seconds; None for all that follows (`read_corpus` always says it).
      synthetic: a synthesiser speaks, not a person.
    """

    clip_id: str
    path: str
    label: str
    group: str
    speaker: str
    split: str
    weight: float = 1.0
    start_s: float = 0.0
    duration_s: float | None = None
    synthetic: bool = False


@dataclass(frozen=True)
class CorpusConfig:
    """What is a wake word, how large the held-out splits are, how long a clip is.

    Attributes:
      wake_words: labels of the wake words, in the order of the model's outputs.
      validation_percent: percent of the speakers that validate, below 100.
      test_percent: percent of the speakers that test; with validation_percent below 100.
      clip_ms: length of a clip in milliseconds; longer negatives are cut into such pieces.
      skip_bad_audio: go on without files that cannot be decoded, instead of raising.
    """

    wake_words: tuple[str, ...]
    validation_percent: float = 10.0
    test_percent: float = 10.0
    clip_ms: int = 1000
    skip_bad_audio: bool = False

    def __post_init__(self) -> None:
        words = self.wake_words
        if not words or not all(words) or len(set(map(normal_form, words))) < len(words):
            raise InputError(
                f"`wake_words`={','.join(words)}: give one or more labels that differ by more than "
                "case, accents and what separates their words"
            )
        held_out = self.validation_percent, self.test_percent
        if not (min(held_out) >= 0 and sum(held_out) < 100):
            raise InputError(
                f"`validation_percent`={held_out[0]:g} `test_percent`={held_out[1]:g}: "
                "neither may be negative, and together they must stay below 100"
            )
        if self.clip_ms <= 0:
            raise InputError(f"`clip_ms`={self.clip_ms}: must be positive")


@dataclass(frozen=True)
class Corpus:
    """All clips, sorted by id, and what reading them had to say.

    Attributes:
      wake_words: as in the config.
      clips: without copies and without unreadable files.
      sha256: of the wake words and of everything about the clips but where the files lie.
      messages: one line each on what was dropped, assumed or found suspicious.
      contents: hash of every sound file's samples, by path.
      streams: held-out pieces of ambient recordings (see ambient.py), never among the clips.
    """

    wake_words: tuple[str, ...]
    clips: tuple[Clip, ...]
    sha256: str
    messages: tuple[str, ...]
    contents: dict[str, str]
    streams: tuple[Clip, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Clips, hours and speakers per split and label, ready for JSON."""
        return {
            "wake_words": list(self.wake_words),
            "sha256": self.sha256,
            "splits": {split: _summarize(self.clips, split) for split in SPLITS},
            "streams": {split: _summarize(self.streams, split) for split in SPLITS[1:]},
            "messages": list(self.messages),
        }


def hash_split(speaker: str, validation_percent: float, test_percent: float) -> str:
    """The split of a speaker by the official rule of Speech Commands.

    Args:
      speaker: name; for Speech Commands the eight characters before `_nohash_`.
      validation_percent, test_percent: shares of the speakers, in [0, 100].

    Returns:
      VALIDATION below `validation_percent`, then TEST, then TRAIN: raising `test_percent` moves
      speakers from training to test only. P. Warden, arXiv:1804.03209.
    """
    digest = int(hashlib.sha1(speaker.encode(), usedforsecurity=False).hexdigest(), 16)
    percent = digest % (_HASH_RANGE + 1) * (100.0 / _HASH_RANGE)
    if percent < validation_percent:
        return VALIDATION
    return TEST if percent < validation_percent + test_percent else TRAIN


def read_corpus(data_dirs: Sequence[str], config: CorpusConfig, only: str | None = None) -> Corpus:
    """List, check and split the clips of one or more data folders.

    Every file is decoded once, in bounded memory, which proves it sound. Wake words that are silent
    are left out. A clip that is in several splits stays only in the most held-out one (test, then
    validation), and one that is several times in a split under one label stays once. Equality is
    of decoded samples.

    Args:
      data_dirs: folders in one of the two layouts that recordings.py names; they are merged.
      config: wake words, splits and clip length.
      only: a split that every clip is put into, whatever a manifest says; None for all three.

    Returns:
      The corpus; each wake word and the negatives have clips in every split, or in `only`.

    Raises:
      InputError: a folder, a manifest, an audio file or a wake word is wrong; what was dropped or
        ignored until then is printed before.
    """
    messages: list[str] = []
    with printed_before_an_error(messages):
        return _read(data_dirs, config, only, messages)


def _read(
    data_dirs: Sequence[str], config: CorpusConfig, only: str | None, messages: list[str]
) -> Corpus:
    recordings = list_recordings(data_dirs, config.wake_words, messages)
    if only:
        recordings = [replace(recording, split=only) for recording in recordings]
    splits = (only,) if only else SPLITS
    _check_wake_words(recordings, data_dirs, config)
    assigned = _assigned_splits(recordings)
    prints = fingerprints(recordings, config.skip_bad_audio, messages)
    clips: list[Clip] = []
    contents: dict[str, str] = {}
    silent: list[str] = []
    for recording in recordings:
        if recording.path in prints:
            info, content = prints[recording.path]
            pieces = _cut(recording, info.seconds, assigned, config)
            if info.silent and pieces[0].group == POSITIVE:
                silent.append(recording.recording_id)
                continue
            clips += pieces
            contents |= dict.fromkeys((piece.clip_id for piece in pieces), content)
    if silent:
        messages.append(f"{len(silent)} silent wake words left out: {few(silent)}")
    clips = _drop_copies(sorted(clips, key=lambda clip: clip.clip_id), contents, messages)
    _check_splits(clips, config, splits)
    messages += _remarks(clips, recordings, config, splits)
    sha256 = hash_clips(clips, contents, config.wake_words)
    by_path = {path: content for path, (_, content) in prints.items()}
    return Corpus(config.wake_words, tuple(clips), sha256, tuple(messages), by_path)


def _group(label: str, config: CorpusConfig) -> str:
    if label in config.wake_words:
        return POSITIVE
    return NOISE if label in NOISE_LABELS else SPEECH


def _check_wake_words(
    recordings: Sequence[Recording], data_dirs: Sequence[str], config: CorpusConfig
) -> None:
    labels = sorted({recording.label for recording in recordings})
    for word in config.wake_words:
        if word not in labels:
            close = difflib.get_close_matches(word, labels, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(
                f"`wake_words`={word}: no clips of this label in {', '.join(map(str, data_dirs))}; "
                f"the labels there are {few(labels, 20)}{hint}"
            )


def _assigned_splits(recordings: Iterable[Recording]) -> dict[str, str]:
    """The split of every speaker that a manifest puts into one."""
    first: dict[str, Recording] = {}
    for recording in recordings:
        if recording.split:
            earlier = first.setdefault(recording.speaker, recording)
            if recording.split != earlier.split:
                raise InputError(
                    f"{recording.origin}: speaker {recording.speaker} is in {recording.split} here "
                    f"({recording.path}) and in {earlier.split} in {earlier.origin} "
                    f"({earlier.path}); put each speaker into one split"
                )
    return {speaker: str(recording.split) for speaker, recording in first.items()}


def _cut(
    recording: Recording, seconds: float, assigned: dict[str, str], config: CorpusConfig
) -> list[Clip]:
    """The clips of a file: itself, or its consecutive pieces; a rest under half a clip is left."""
    group = _group(recording.label, config)
    whole = Clip(
        recording.recording_id,
        recording.path,
        recording.label,
        group,
        recording.speaker,
        recording.split
        or assigned.get(recording.speaker)
        or hash_split(recording.speaker, config.validation_percent, config.test_percent),
        recording.weight,
        duration_s=seconds,
        synthetic=recording.synthetic,
    )
    total_ms = seconds * 1000
    if group == POSITIVE or total_ms <= config.clip_ms:
        return [whole]
    count = max(1, math.floor(total_ms / config.clip_ms + 0.5))
    by_time = group == NOISE and not recording.split and not recording.speaker_known
    splits = _splits_by_time(count, config) if by_time else []
    return [
        replace(
            whole,
            clip_id=f"{whole.clip_id}#{start_ms}",
            split=splits[index] if splits else whole.split,
            start_s=start_ms / 1000,
            duration_s=min(config.clip_ms, total_ms - start_ms) / 1000,
        )
        for index, start_ms in enumerate(range(0, count * config.clip_ms, config.clip_ms))
    ]


def _splits_by_time(count: int, config: CorpusConfig) -> list[str]:
    """Splits of consecutive pieces; none where the pieces are too few for every split."""
    percents = config.validation_percent, config.test_percent
    if any(0 < percent * count < 100 for percent in percents):
        return []
    validation, test = (round(percent * count / 100) for percent in percents)
    return [TRAIN] * (count - validation - test) + [VALIDATION] * validation + [TEST] * test


def _drop_copies(
    clips: Sequence[Clip], contents: dict[str, str], messages: list[str]
) -> list[Clip]:
    same: dict[tuple[object, ...], list[Clip]] = defaultdict(list)
    for clip in clips:
        same[contents[clip.clip_id], clip.start_s, clip.duration_s].append(clip)
    leaks: dict[str, str] = {}
    repeats: dict[str, str] = {}
    disputed: dict[str, str] = {}
    for copies in same.values():
        # The most held-out split first; the sort is stable, so then by id.
        first, *others = sorted(copies, key=lambda clip: -SPLITS.index(clip.split))
        labels = {first.label}
        for clip in others:
            if clip.label != first.label:
                disputed[clip.clip_id] = first.clip_id
            if clip.split != first.split:
                leaks[clip.clip_id] = first.clip_id
            elif clip.label in labels:
                repeats[clip.clip_id] = first.clip_id
            labels.add(clip.label)
    for pairs, what in (
        (leaks, "dropped, the same audio is in a more held-out split"),
        (repeats, "dropped, the same audio is in the split under the same label already"),
        (disputed, "the same audio as a clip of another label; listen and correct"),
    ):
        if pairs:
            listed = [f"{clip} = {kept}" for clip, kept in pairs.items()]
            messages.append(f"{len(pairs)} clips {what}: {few(listed)}")
    return [clip for clip in clips if clip.clip_id not in leaks and clip.clip_id not in repeats]


def _check_splits(clips: Sequence[Clip], config: CorpusConfig, splits: Sequence[str]) -> None:
    def name(clip: Clip) -> str:
        return clip.label if clip.group == POSITIVE else ""

    counts = Counter((name(clip), clip.split) for clip in clips)
    for word in (*config.wake_words, ""):
        found = {split: counts[word, split] for split in splits}
        if not all(found.values()):
            listed = ", ".join(f"{split} {count}" for split, count in found.items())
            what = f"`wake_words`={word}: clips" if word else "negatives (other speech, noise)"
            if len(splits) == 1:
                raise InputError(f"`data_dir`: {what} are missing there; add some")
            raise InputError(
                f"{what} are missing from a split ({listed}); add clips of more speakers, "
                "or change `validation_percent`, `test_percent` or the manifest's splits"
            )


def _remarks(
    clips: Sequence[Clip],
    recordings: Iterable[Recording],
    config: CorpusConfig,
    splits: Sequence[str],
) -> Iterator[str]:
    unknown = [
        recording.recording_id
        for recording in recordings
        if not recording.speaker_known and _group(recording.label, config) != NOISE
    ]
    if unknown:
        yield (
            f"{len(unknown)} files of unknown speaker, each file name counted as one, so that one "
            f"person may be in two splits; a manifest can name speakers: {few(unknown)}"
        )
    long = [
        f"{clip.clip_id} ({clip.duration_s:.2f} s)"
        for clip in clips
        if (clip.duration_s or 0.0) * 1000 > config.clip_ms  # negatives are cut
    ]
    if long:
        yield f"{len(long)} wake words longer than {config.clip_ms} ms, kept whole: {few(long)}"
    present = {(clip.group, clip.split) for clip in clips}
    for group in (SPEECH, NOISE):
        missing = [split for split in splits if (group, split) not in present]
        if missing:
            yield f"no {group} negatives in {', '.join(missing)}"


def hash_clips(clips: Iterable[Clip], contents: Mapping[str, str], start: object) -> str:
    """sha256 of `start` and of all about the clips but where they lie; contents by clip id."""
    digest = hashlib.sha256(json.dumps(start).encode())
    for clip in clips:
        fields = astuple(replace(clip, path=contents[clip.clip_id]))
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()


def _summarize(clips: Iterable[Clip], split: str) -> dict[str, Any]:
    labels: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        if clip.split == split:
            labels[clip.label].append(clip)
    return {
        **_totals([clip for group in labels.values() for clip in group]),
        "labels": {
            label: {"group": group[0].group, **_totals(group)}
            for label, group in sorted(labels.items())
        },
    }


def _totals(clips: Sequence[Clip]) -> dict[str, float]:
    duration_ms = sum((clip.duration_s or 0.0) * 1000 for clip in clips)
    return {
        "clips": len(clips),
        "hours": round(duration_ms / 3_600_000, 4),
        "speakers": len({clip.speaker for clip in clips}),
    }
