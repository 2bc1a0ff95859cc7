"""The size that an encoder notes in the first frame of an MP3 file (tag "Info" or "Xing")."""

import os

_ID3_HEADER = 10  # bytes
_TAG_WITHIN = 64  # bytes of the first frame: header, CRC and side information come before
_HAS_FRAMES, _HAS_BYTES = 0x1, 0x2
# What may follow the audio: ID3v1, APE, Lyrics3, ID3v2 again.
_TRAILERS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3")


def find_fault(path: str | os.PathLike[str]) -> str | None:
    """Where the noted size is not the file's.

    Args:
      path: audio file.

    Returns:
      One phrase; None where they agree, without such a note, and for a file that is not MP3.
    """
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        head = file.read(_ID3_HEADER)
        # An ID3 tag's size is written in bytes of seven bits.
        size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
        start = _ID3_HEADER + size if head[:3] == b"ID3" else 0
        file.seek(start)
        frame = file.read(_TAG_WITHIN)
        if frame[:1] != b"\xff":
            return None
        noted = _noted_bytes(frame)
        if not noted or noted == end - start:
            return None
        file.seek(start + noted)
        trailer = file.read(max(map(len, _TRAILERS)))
    if trailer and (trailer.startswith(_TRAILERS) or not any(trailer)):
        return None
    return f"it holds {end - start} bytes where its first frame says {noted}"


def _noted_bytes(frame: bytes) -> int:
    at = max(frame.find(b"Info"), frame.find(b"Xing"))
    if at < 0:
        return 0
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    first = at + 8 + (4 if flags & _HAS_FRAMES else 0)
    return int.from_bytes(frame[first : first + 4], "big") if flags & _HAS_BYTES else 0
