"""The header of a WAV file against the file: readers pass over what does not agree.

Programs that write to a pipe leave the size of the samples open: 0, or the largest that fits.
"""

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_RIFF, _CHUNK = 12, 8  # bytes
_OPEN_SIZE = 0x7FFF0000  # from here on a size means: all that follows
_UNCODED = (1, 3, 0xFFFE)  # PCM, float, extensible


@dataclass(frozen=True)
class _Samples:
    """The chunk of samples: its first byte, its size and what follows, and the format before it."""

    start: int
    size: int
    rest: int
    rest_is_chunks: bool
    format: bytes


def find_fault(path: str | os.PathLike[str]) -> str | None:
    """Where the header of a WAV file contradicts itself or the file.

    Args:
      path: audio file.

    Returns:
      One phrase; None for a sound header, and for a file that is not WAV.
    """
    samples = _find_samples(path)
    if samples is None:
        return None
    if samples.rest < samples.size < _OPEN_SIZE:
        return f"cut short, only {samples.rest} of {samples.size} bytes of samples are there"
    if samples.size and not samples.rest_is_chunks:
        return f"behind its {samples.size} bytes of samples follows what is no part of a WAV file"
    if len(samples.format) < 16:
        return None
    code, channels, rate_hz, bytes_a_second, bytes_a_frame, bits = struct.unpack(
        "<HHIIHH", samples.format[:16]
    )
    agree = bytes_a_second == rate_hz * bytes_a_frame
    agree = agree and bytes_a_frame == channels * ((bits + 7) // 8)
    if code in _UNCODED and not agree:
        return "its channels, sample rate and bytes a second contradict each other"
    return None


def open_unsized(path: str | os.PathLike[str]) -> io.BytesIO | None:
    """A WAV file that says 0 bytes of samples though samples follow, with a size that readers take.

    Args:
      path: audio file.

    Returns:
      The file, in memory; None for any other file, one without samples too.
    """
    samples = _find_samples(path)
    if samples is None or samples.size or samples.rest_is_chunks:
        return None
    content = bytearray(Path(path).read_bytes())
    content[samples.start - 4 : samples.start] = b"\xff\xff\xff\xff"
    return io.BytesIO(content)


def _find_samples(path: str | os.PathLike[str]) -> _Samples | None:
    form = b""
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        head = file.read(_RIFF)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        while len(chunk := file.read(_CHUNK)) == _CHUNK:
            name, size = struct.unpack("<4sI", chunk)
            start = file.tell()
            if name == b"data":
                file.seek(size + size % 2, os.SEEK_CUR)
                return _Samples(start, size, end - start, _are_chunks(file, end), form)
            if name == b"fmt ":
                form = file.read(min(size, end - start))
            file.seek(start + size + size % 2)
    return None


def _are_chunks(file: io.BufferedReader, end: int) -> bool:
    """Whether the rest of a file is chunks of printable names, or nothing, or zeros."""
    while file.tell() < end:
        chunk = file.read(_CHUNK)
        name, size = struct.unpack("<4sI", chunk.ljust(_CHUNK, b"\0"))
        if not any(chunk) and not any(file.read()):
            return True
        if not name.isascii() or not name.decode().isprintable() or file.tell() + size > end:
            return False
        file.seek(size + size % 2, os.SEEK_CUR)
    return True
