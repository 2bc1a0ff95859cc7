"""Files and folders written whole: a reader, or a run that was killed, finds the old or the new.

Several processes may write to the same place at once. Each works under a name of its own beside the
target and renames it when it is complete. A folder gets a list of its files and their hashes, which
whoever reads it checks.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wakeword_keras.progress import say

CHECKSUMS = "checksums.json"

_PROCESS = uuid.uuid4().hex[:8]  # tells this process from a dead one that had its number
_PRIVATE = re.compile(
    r"\.partial-(?P<pid>\d+)(?:-(?P<process>[0-9a-f]{8})[0-9a-f]{8}-(?P<host>.*))?$"
)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; an OSError names it, whatever went wrong."""
    partial = private_path(path)
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically."""
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def build_folder(
    folder: Path,
    write: Callable[[Path], None],
    is_wanted: Callable[[Path], bool] | None = None,
) -> None:
    """Build a folder and publish it whole, unless what is wanted is there already.

    Of several processes that build it at once, the first to be through publishes and the others
    take over its result.

    Args:
      folder: what to build; its parents are made. Anything else that is there is replaced.
      write: fills the empty folder that it is given.
      is_wanted: whether a folder is what would be built; `is_whole` if not given.
    """
    is_wanted = is_wanted or is_whole
    _remove_left_behind(folder.parent)
    if is_wanted(folder):
        return
    if folder.exists() and any(folder.iterdir()):
        say(f"{folder}: damaged, or of other settings or an earlier version: made again")
    partial = private_path(folder)
    partial.mkdir(parents=True)
    try:
        write(partial)
        names = [path.relative_to(partial).as_posix() for path in partial.rglob("*")]
        names = sorted(name for name in names if (partial / name).is_file())
        write_json(partial / CHECKSUMS, {"sha256": _hashes(partial, names)})
        _publish(partial, folder, is_wanted)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether a folder holds every file that `build_folder` published there, byte for byte."""
    try:
        hashes = json.loads((folder / CHECKSUMS).read_text("utf-8"))["sha256"]
        return bool(hashes) and hashes == _hashes(folder, hashes)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def private_path(path: Path) -> Path:
    """A path beside another one that only the caller writes to.

    What processes that have died left under such names in the same folder is removed, when this one
    first writes there: to list a folder for every file would make many files slow.
    """
    _sweep_once(path.parent)
    unique = f"{os.getpid()}-{_PROCESS}{uuid.uuid4().hex[:8]}-{platform.node()}"
    return path.with_name(f"{path.name}.partial-{unique}")


@functools.cache
def _sweep_once(folder: Path) -> None:
    _remove_left_behind(folder)


def _remove_left_behind(folder: Path) -> None:
    for other in folder.glob("*.partial-*"):
        if _is_left_behind(other.name):
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    other.unlink(missing_ok=True)


def _is_left_behind(name: str) -> bool:
    match = _PRIVATE.search(name)
    if not match or match["host"] not in (None, platform.node()):
        return False  # of a process on another machine it cannot be told
    if int(match["pid"]) == os.getpid():
        return match["process"] != _PROCESS
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return False


def _publish(partial: Path, folder: Path, is_wanted: Callable[[Path], bool]) -> None:
    while True:
        try:
            os.rename(partial, folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if is_wanted(folder):
            return  # another process was first
        aside = private_path(folder)
        with contextlib.suppress(FileNotFoundError):  # another process has moved it
            os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    names = list(names)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: sha256(folder / name), names), strict=True))
