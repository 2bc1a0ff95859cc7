"""Which recordings a run was made from: the size and time of every file, and what has changed."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from wakeword_keras import json_file
from wakeword_keras.data import feature_sets
from wakeword_keras.data.recordings import (
    MANIFEST,
    few,
    list_ambient,
    list_impulse_responses,
    list_recordings,
)

Stamps = dict[str, list[int]]
"""Bytes and time of change (ns) by path."""
_SCHEMA = json_file.dictionary(
    {**json_file.array({"type": "integer"}), "minItems": 2, "maxItems": 2}
)


def stamp(
    data_dirs: Sequence[str],
    ambient_dirs: Sequence[str],
    impulse_response_dir: str,
    feature_dirs: Sequence[str] = (),
) -> Stamps:
    """The stamps of every recording, manifest, impulse response and feature set of a run.

    Raises:
      InputError: a folder or manifest is missing, empty or wrong.
    """
    paths = [str(path) for path in list_impulse_responses(impulse_response_dir)]
    paths += [recording.path for recording in list_ambient(ambient_dirs)]
    if data_dirs:
        paths += [recording.path for recording in list_recordings(data_dirs, (), [])]
    for folder in feature_sets.list_sets(feature_dirs):
        paths += [str(path) for path in folder.rglob("*") if path.is_file()]
    manifests = [Path(folder, MANIFEST) for folder in data_dirs]
    paths += [str(path) for path in manifests if path.is_file()]
    return {path: _stamp(path) for path in sorted(set(paths))}


def read(path: Path) -> Stamps:
    """Read stamps that were written as JSON.

    Raises:
      InputError: the file is damaged.
    """
    return json_file.read(path, _SCHEMA, "delete it and repeat the command that began the run")


def describe_changes(before: Mapping[str, list[int]], now: Mapping[str, list[int]]) -> str:
    """What was added, removed and changed between two stamps, with a few names of each."""
    kinds: dict[str, Iterable[str]] = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "changed": {path for path in now.keys() & before.keys() if now[path] != before[path]},
    }
    listed = {kind: sorted(paths) for kind, paths in kinds.items()}
    return "; ".join(f"{len(p)} {kind}: {few(p)}" for kind, p in listed.items() if p)


def _stamp(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]
