"""Published sets of features: folders that the package mmap-ninja writes as `RaggedMmap`.

microWakeWord's negatives come so, from the same front end: uint16 as it counts, or float32. A set
lies in `<set>/training/<name>_mmap`; what its author holds out, in other folders, is left alone.
The files are read here, and not by mmap-ninja, which makes the folders that it is asked to read.

A folder holds `data.ninja` (all arrays, flattened, one after the other), `dtype.ninja` (its name),
`shape.ninja` (uint64 each), and `starts` and `ends`, arrays of the same layout: where each begins
and ends in `data.ninja`, in values.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.ambient_features import FeatureStreams, map_values
from wakeword_keras.errors import InputError

HELD_OUT = frozenset({"validation", "validation_ambient", "testing", "testing_ambient"})
_DATA = "data.ninja"
_MIB = 1 << 20


def list_sets(folders: Sequence[str]) -> list[Path]:
    """Every `RaggedMmap` for training in some folders or below, sorted.

    Raises:
      InputError: a folder is missing or holds none.
    """
    found: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"`ambient_feature_dirs`={folder}: no such folder")
        sets = [
            path.parent
            for path in sorted(folder.rglob("type.ninja"))
            if path.read_bytes() == b"ragged"
            and path.parent.name != "shapes"  # a part of another
            and not HELD_OUT & set(path.relative_to(folder).parts)
        ]
        if not sets:
            raise InputError(
                f"`ambient_feature_dirs`={folder}: no RaggedMmap of mmap-ninja for training in it "
                "or below (a folder with type.ninja, data.ninja, starts and ends)"
            )
        found += sets
    return found


def open_set(folder: Path, frontend: FrontendConfig) -> FeatureStreams:
    """Map a set; each of its arrays is a stream.

    Args:
      folder: from `list_sets`.
      frontend: that the features have to be of.

    Raises:
      InputError: the set is damaged, or of another front end.
    """
    if frontend.kind != "micro":
        raise InputError(
            f"`ambient_feature_dirs`={folder}: published features are of the device's front end; "
            "leave `frontend.kind` at micro"
        )
    try:
        values, starts, ends = (_array(folder / part) for part in ("", "starts", "ends"))
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"`ambient_feature_dirs`={folder}: damaged ({error})") from error
    bounds = np.stack([starts, ends], axis=1)
    channels = frontend.channels
    if values.dtype not in (np.uint16, np.float16, np.float32):
        raise InputError(f"`ambient_feature_dirs`={folder}: holds {values.dtype}, not features")
    if np.any(bounds % channels) or values.size % channels:
        raise InputError(
            f"`ambient_feature_dirs`={folder}: its arrays are not of {channels} channels"
        )
    in_order = np.all(bounds[:, 0] <= bounds[:, 1]) and np.all(bounds[:-1, 1] <= bounds[1:, 0])
    if not len(bounds) or bounds[0, 0] < 0 or bounds[-1, 1] > values.size or not in_order:
        raise InputError(f"`ambient_feature_dirs`={folder}: damaged (its arrays do not fit)")
    bounds //= channels
    return FeatureStreams(
        values.reshape(-1, channels), bounds, str(folder), (), np.ascontiguousarray(bounds[:, 0])
    )


def sha256(folders: Sequence[Path]) -> str:
    """Hash of sets: of every small file, and of both ends and the size of large ones."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()}:{size};".encode())
            with open(path, "rb") as file:
                digest.update(file.read(_MIB))
                file.seek(max(0, size - _MIB))
                digest.update(file.read(_MIB))
    return digest.hexdigest()


def _array(folder: Path) -> NDArray:
    """One flat array of mmap-ninja, mapped."""
    dtype = np.dtype((folder / "dtype.ninja").read_text())
    shape = np.frombuffer((folder / "shape.ninja").read_bytes(), "<u8")
    values = map_values(folder / _DATA, dtype)
    if values.shape != tuple(shape.tolist()):
        raise ValueError(f"{folder / _DATA} holds {values.shape}, not {tuple(shape.tolist())}")
    return values
