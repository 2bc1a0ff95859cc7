"""WAV files whose header was never completed: programs that write to a pipe leave 0 as the size."""

import io
import os
import struct
from pathlib import Path

_RIFF, _CHUNK = 12, 8  # bytes
_UNKNOWN = b"\xff\xff\xff\xff"  # as a size: all that follows


def open_unsized(path: str | os.PathLike[str]) -> io.BytesIO | None:
    """A WAV file that says 0 bytes of samples though samples follow, with a size that readers take.

    Args:
      path: audio file.

    Returns:
      The file, in memory; None for any other file, one without samples too.
    """
    with open(path, "rb") as file:
        head = file.read(_RIFF)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        size_at = _find_empty_data(file, os.fstat(file.fileno()).st_size)
        if size_at is None:
            return None
    content = bytearray(Path(path).read_bytes())
    content[size_at : size_at + 4] = _UNKNOWN
    return io.BytesIO(content)


def _find_empty_data(file: io.BufferedReader, end: int) -> int | None:
    """Position of the size of a data chunk of 0 bytes with something else than chunks behind it."""
    while len(chunk := file.read(_CHUNK)) == _CHUNK:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            start = file.tell()
            return None if size or _are_chunks(file, end) else start - 4
        file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _are_chunks(file: io.BufferedReader, end: int) -> bool:
    """Whether the rest of a file is chunks of printable names, or nothing."""
    while file.tell() < end:
        name, size = struct.unpack("<4sI", file.read(_CHUNK).ljust(_CHUNK, b"\0"))
        if not name.isascii() or not name.decode().isprintable() or file.tell() + size > end:
            return False
        file.seek(size + size % 2, os.SEEK_CUR)
    return True
