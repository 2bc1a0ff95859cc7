"""The pages of an Ogg file (RFC 3533): decoders pass over damaged ones, and what follows shifts."""

import os
import zlib

_HEADER = 27  # bytes before the table of segments
_CRC = slice(22, 26)
_FIRST, _LAST = 0x02, 0x04
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def find_fault(path: str | os.PathLike[str]) -> str | None:
    """What is wrong with the pages of an Ogg file, in bounded memory.

    Args:
      path: audio file.

    Returns:
      One phrase; None for a sound file, and for one that is not Ogg.
    """
    next_number: dict[bytes, int] = {}  # of every stream that has not ended
    with open(path, "rb") as file:
        if file.read(4) != b"OggS":
            return None
        file.seek(0)
        while header := file.read(_HEADER):
            at = file.tell() - len(header)
            if len(header) < _HEADER or header[:4] != b"OggS":
                return f"no page at byte {at}"
            segments = file.read(header[26])
            body = file.read(sum(segments))
            if _crc(header, segments + body) != header[_CRC]:
                return f"the page at byte {at} is damaged"
            flags, stream = header[5], header[14:18]
            number = int.from_bytes(header[18:22], "little")
            if number != next_number.get(stream, 0 if flags & _FIRST else None):
                return f"pages are missing before byte {at}"
            next_number[stream] = number + 1
            if flags & _LAST:
                del next_number[stream]
    return "its last page is missing" if next_number else None


def _crc(header: bytes, rest: bytes) -> bytes:
    """Ogg's checksum: zlib's with the bits of every byte reversed, from 0, not inverted."""
    page = header[: _CRC.start] + bytes(4) + header[_CRC.stop :] + rest
    return (
        (zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF)
        .to_bytes(4, "big")
        .translate(_REVERSED)
    )
