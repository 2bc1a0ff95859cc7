"""The recordings in a data folder: listed before any is opened, then what each file holds.

A data folder is either `<label>/<clips>` or has a `manifest.csv` with the columns
`path,label[,speaker][,split][,weight][,synthetic]`, paths relative to the manifest; with a
manifest, only what it lists counts.

Who spoke is, in this order: the manifest's speaker; the first folder below the label; the file name
before `_nohash_` (Speech Commands). Otherwise it is unknown, and each file name counts as a
speaker (in a manifest the whole path).
"""

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from wakeword_keras import labels
from wakeword_keras.audio import audio_file
from wakeword_keras.errors import InputError
from wakeword_keras.names import AMBIENT, NOISE_LABELS, SPLITS
from wakeword_keras.progress import say, track

MANIFEST = "manifest.csv"
_SPEAKER_MARK = "_nohash_"


@dataclass(frozen=True)
class Recording:
    """A file of a data folder.

    Attributes:
      recording_id: unique in the corpus and the same wherever the data lie.
      path: the audio file.
      label: folder below the data folder, or the manifest's label; a wake word or a label of noise
        as we spell it.
      speaker: who speaks, or the name of the file where nobody says.
      speaker_known: False where `speaker` is only the name of the file.
      origin: how an error names it: the file, or manifest and row.
      split: where the manifest puts it, or None.
      weight: of its clips in the training loss, > 0.
      synthetic: a synthesiser speaks, not a person.
    """

    recording_id: str
    path: str
    label: str
    speaker: str
    speaker_known: bool
    origin: str
    split: str | None = None
    weight: float = 1.0
    synthetic: bool = False


@contextmanager
def printed_before_an_error(messages: Sequence[str]) -> Iterator[None]:
    """Print messages before an InputError leaves: what was dropped or ignored explains it."""
    try:
        yield
    except InputError:
        for message in messages:
            say(message)
        raise


def list_files(root: Path) -> list[Path]:
    """Every file below a folder but hidden ones (macOS leaves `._x.wav` beside x.wav), sorted.

    Hidden folders are left out, links to folders are followed.

    Raises:
      InputError: a folder cannot be read, or a name is not UTF-8.
    """
    paths: list[Path] = []
    for folder, subfolders, names in os.walk(root, onerror=_unreadable, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths += [Path(folder, name) for name in names if not name.startswith(".")]
    for path in paths:
        audio_file.check_name(path)
    return sorted(paths)


def is_audio(path: Path) -> bool:
    """Whether the suffix, in capitals or not, is one of audio that we read."""
    return path.suffix.lower() in audio_file.SUFFIXES


def list_recordings(
    data_dirs: Sequence[str], wake_words: Sequence[str], messages: list[str]
) -> list[Recording]:
    """List the recordings of one or more data folders.

    Args:
      data_dirs: folders in one of the two layouts of the module's docstring. With several, the ids
        begin with the number of the folder, from 1.
      wake_words: labels that are taken in every spelling, as those of noise are (see `labels`).
      messages: takes one for each folder with files that are not audio, and each label that was
        taken in another spelling or only looks like a wake word.

    Raises:
      InputError: a folder or manifest is missing, empty or wrong.
    """
    if not data_dirs:
        raise InputError("`data_dir`: give the folder of your recordings")
    recordings: list[Recording] = []
    for number, data_dir in enumerate(data_dirs, start=1):
        prefix = f"{number}/" if len(data_dirs) > 1 else ""
        recordings += _list_data_dir(Path(data_dir), prefix, messages)
    messages += _spelling_messages(recordings, wake_words)
    return [_with_our_spelling(recording, wake_words) for recording in recordings]


def list_ambient(ambient_dirs: Sequence[str]) -> list[Recording]:
    """List long recordings without a wake word, wherever below the folders they lie.

    Args:
      ambient_dirs: folders. The first folder below is the speaker (LibriSpeech's layout); a file
        right in them counts as a speaker of its own. Files that are not audio are passed over.

    Returns:
      Recordings of AMBIENT without a split, in the order of their ids.

    Raises:
      InputError: a folder is missing, unreadable or holds no audio.
    """
    recordings: list[Recording] = []
    for number, ambient_dir in enumerate(ambient_dirs, start=1):
        root = Path(ambient_dir)
        if not root.is_dir():
            raise InputError(f"`ambient_dir`={root}: no such folder")
        prefix = f"{AMBIENT}/{number}/" if len(ambient_dirs) > 1 else f"{AMBIENT}/"
        paths = [path for path in list_files(root) if is_audio(path)]
        if not paths:
            raise InputError(
                f"`ambient_dir`={root}: no audio of {', '.join(audio_file.SUFFIXES)} below it"
            )
        for path in paths:
            name = path.relative_to(root)
            known = len(name.parts) > 1
            speaker = name.parts[0] if known else prefix + name.with_suffix("").as_posix()
            recordings.append(
                Recording(prefix + name.as_posix(), str(path), AMBIENT, speaker, known, str(path))
            )
    return recordings


def list_impulse_responses(folder: str | Path) -> list[Path]:
    """Every audio file below a folder of room impulse responses; none without a folder.

    Raises:
      InputError: there is no such folder, or it holds no audio.
    """
    if not folder:
        return []
    if not Path(folder).is_dir():
        raise InputError(f"`impulse_response_dir`={folder}: no such folder")
    paths = [path for path in list_files(Path(folder)) if is_audio(path)]
    if not paths:
        raise InputError(f"`impulse_response_dir`={folder}: no audio files there")
    return paths


def fingerprints(
    recordings: Sequence[Recording], skip_bad_audio: bool, messages: list[str]
) -> dict[str, tuple[audio_file.AudioInfo, str]]:
    """What each sound file holds, by path; InputError on a bad one unless they are skipped."""

    def attempt(recording: Recording) -> tuple[audio_file.AudioInfo, str] | InputError:
        try:
            return audio_file.fingerprint(recording.path)
        except InputError as error:
            return error

    prints: dict[str, tuple[audio_file.AudioInfo, str]] = {}
    bad: dict[str, InputError] = {}
    with ThreadPoolExecutor() as pool:
        results = zip(recordings, pool.map(attempt, recordings), strict=True)
        for recording, result in track(results, "reading corpus", len(recordings), "files"):
            if isinstance(result, InputError):
                bad[recording.path] = result
            else:
                prints[recording.path] = result
    if bad and not skip_bad_audio:
        more = f" ({len(bad)} such files)" if len(bad) > 1 else ""
        raise InputError(f"{next(iter(bad.values()))}, or pass `skip_bad_audio` to go on{more}")
    if bad:
        messages.append(f"{len(bad)} unreadable audio files skipped: {few(list(bad))}")
    silent = [
        recording.recording_id
        for recording in recordings
        if recording.path in prints
        and prints[recording.path][0].silent
        and recording.label not in NOISE_LABELS
    ]
    if silent:
        messages.append(f"{len(silent)} recordings are silent: {few(silent)}")
    return prints


def _with_our_spelling(recording: Recording, wake_words: Sequence[str]) -> Recording:
    label = labels.find(recording.label, (*wake_words, *sorted(NOISE_LABELS)))
    return replace(recording, label=label or recording.label)


def _spelling_messages(recordings: Sequence[Recording], wake_words: Sequence[str]) -> Iterator[str]:
    known = (*wake_words, *sorted(NOISE_LABELS))
    for label, count in sorted(Counter(recording.label for recording in recordings).items()):
        taken = labels.find(label, known)
        near = labels.find_near(label, known)
        if taken and taken != label:
            yield f"warning: label {label!r}: {count} recordings taken as {taken!r}"
        elif near and not taken:
            yield (
                f"warning: label {label!r} is not {near!r}: its {count} recordings count as other "
                f"speech; rename it if they are {near!r}"
            )
    inside = [
        recording.recording_id
        for recording in recordings
        if not labels.find(recording.label, wake_words)
        and any(labels.find(part, wake_words) for part in Path(recording.recording_id).parts[:-1])
    ]
    if inside:
        yield (
            f"warning: {len(inside)} recordings lie in a folder of a wake word's name but have "
            f"another label; make that folder the label if it is spoken there: {few(inside)}"
        )


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of many names for a message, with dots where there are more than `most`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _list_data_dir(root: Path, prefix: str, messages: list[str]) -> list[Recording]:
    if not root.is_dir():
        raise InputError(f"`data_dir`={root}: no such folder; give the folder of your recordings")
    if (root / MANIFEST).is_file():
        recordings = list(_list_manifest(root, prefix))
    else:
        recordings = list(_list_folders(root, prefix, messages))
    if not recordings:
        raise InputError(
            f"`data_dir`={root}: no audio; expected <label>/<clips> of "
            f"{', '.join(audio_file.SUFFIXES)}, or {MANIFEST} with the columns path,label"
        )
    return recordings


def _list_folders(root: Path, prefix: str, messages: list[str]) -> Iterator[Recording]:
    ignored = []
    for path in list_files(root):
        label, *below = path.relative_to(root).parts
        if not below or not is_audio(path):
            ignored.append(path.relative_to(root).as_posix())
            continue
        marked, mark, _ = path.stem.partition(_SPEAKER_MARK)
        # Folders of noise sort it by kind, not by speaker.
        in_folder = len(below) > 1 and not labels.find(label, NOISE_LABELS)
        yield Recording(
            recording_id=prefix + path.relative_to(root).as_posix(),
            path=str(path),
            label=label,
            speaker=below[0] if in_folder else marked,
            speaker_known=in_folder or bool(mark),
            origin=str(path),
        )
    if ignored:
        messages.append(
            f"{root}: {len(ignored)} files ignored, not {', '.join(audio_file.SUFFIXES)} "
            f"in a label folder: {few(ignored)}"
        )


def _list_manifest(root: Path, prefix: str) -> Iterator[Recording]:
    manifest = root / MANIFEST
    first_row: dict[str, int] = {}
    try:
        with open(manifest, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = {"path", "label"} - set(rows.fieldnames or ())
            if missing:
                raise InputError(
                    f"{manifest}: no column {', '.join(sorted(missing))}; "
                    "the first line must be "
                    "path,label[,speaker][,split][,weight][,synthetic]"
                )
            for row in rows:
                origin = f"{manifest} row {rows.line_num}"
                recording = _manifest_recording(root, prefix, row, origin)
                earlier = first_row.setdefault(recording.path, rows.line_num)
                if earlier != rows.line_num:
                    raise InputError(f"{origin}: {row['path']} is in row {earlier} already")
                yield recording
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{manifest}: not a CSV file in UTF-8 ({error}); save it as one"
        ) from error


def _manifest_recording(root: Path, prefix: str, row: dict[str, str], origin: str) -> Recording:
    def cell(column: str) -> str:
        return (row.get(column) or "").strip()

    name, label, split, weight = cell("path"), cell("label"), cell("split"), cell("weight")
    if not name or not label:
        raise InputError(f"{origin}: path and label must not be empty; fill or remove the row")
    path = root / name
    if not path.is_file():
        raise InputError(f"{origin}: no file {path}; correct the path or remove the row")
    if split and split not in SPLITS:
        raise InputError(f"{origin}: unknown split {split!r}; use {', '.join(SPLITS)} or nothing")
    synthetic = cell("synthetic")
    if synthetic not in ("", "0", "1"):
        raise InputError(f"{origin}: synthetic is {synthetic!r}; use 1, 0 or nothing")
    marked, mark, _ = path.stem.partition(_SPEAKER_MARK)
    speaker = cell("speaker") or (marked if mark else "")
    return Recording(
        recording_id=prefix + Path(name).as_posix(),
        path=str(path),
        label=label,
        speaker=speaker or prefix + Path(name).with_suffix("").as_posix(),
        speaker_known=bool(speaker),
        origin=origin,
        split=split or None,
        weight=_weight(weight, origin) if weight else 1.0,
        synthetic=synthetic == "1",
    )


def _weight(text: str, origin: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise InputError(f"{origin}: weight {text!r} is not a positive number; 1 is neutral")
    return weight


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename}: {error.strerror}; make it readable") from error
