"""Features of long audio without a wake word, mapped from disk: what training takes windows from.

The front end runs through each stream, one speaker's recordings after the other, without a reset:
as on the device, and as streams are scored. Its values are kept as it counts them, 29 MB an hour,
and read where they are needed, so that memory does not grow with the hours.
"""

import json
import mmap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from wakeword_keras import files, json_file
from wakeword_keras.audio.features import FrontendConfig, StreamingFrontend
from wakeword_keras.data.corpus import Clip
from wakeword_keras.errors import InputError
from wakeword_keras.progress import Progress

MICRO_UNIT = 1 / 25.6  # a feature is so many times the uint16 that the front end counts
_VALUES, _INDEX = "values.bin", "index.json"
_FRAME = {"type": "integer", "minimum": 0}
_BOUNDS = json_file.fields(
    bounds=json_file.array({**json_file.array(_FRAME), "minItems": 2, "maxItems": 2})
)

Audio = Iterable[NDArray[np.int16]]


@dataclass(frozen=True)
class AmbientConfig:
    """How ambient audio trains.

    Attributes:
      ambient_share: share of each batch, 0 to below 1, that is windows from anywhere in ambient
        audio; an epoch has as many more batches as it takes to hold every clip once.
      hard_share: share of each batch, 0 to below 1 with ambient_share, that is hard negatives:
        windows of ambient audio and clips that came nearest to firing.
      hard_windows: windows and clips in the pool that hard negatives are drawn from, half of each.
      listen_every: epochs from one time that the model listens to the next: to training streams for
        hard negatives, and to validation streams for recall, by which the best epoch is chosen.
      listen_hours: hours of training streams that it hears each time at most; others come in turn.
      ambient_passes: times that the training part of ambient_dir is there: as it was recorded, and
        in the noise, rooms and levels of augmentation, drawn anew for each further time.
    """

    ambient_share: float = 0.4
    ambient_passes: int = 2
    hard_share: float = 0.1
    hard_windows: int = 512
    listen_every: int = 4
    listen_hours: float = 0.5

    def __post_init__(self) -> None:
        shares = self.ambient_share, self.hard_share
        if not (min(shares) >= 0 and sum(shares) < 1):
            raise InputError(
                f"`ambient_share`={shares[0]:g} `hard_share`={shares[1]:g}: neither may be "
                "negative, and together they must stay below 1"
            )
        for name, least in (("ambient_passes", 1), ("hard_windows", 2), ("listen_every", 1)):
            if getattr(self, name) < least:
                raise InputError(f"`{name}`={getattr(self, name)}: must be at least {least}")
        if not self.listen_hours > 0:
            raise InputError(f"`listen_hours`={self.listen_hours:g}: must be above 0")

    def examples(self, batch: int) -> tuple[int, int]:
        """Windows from anywhere and hard negatives in a batch; at least one example is a clip."""
        both = min(round((self.ambient_share + self.hard_share) * batch), batch - 1)
        hard = min(round(self.hard_share * batch), both)
        return both - hard, hard


@dataclass(frozen=True)
class Place:
    """Where a window ends: recording, its file ("" for features alone), seconds from its start."""

    recording: str
    path: str
    seconds: float


@dataclass(frozen=True)
class FeatureStreams:
    """Streams of features on disk.

    Attributes:
      values: [frames, channels], memory-mapped: uint16 in units of MICRO_UNIT, or floats.
      bounds: int64 [streams, 2], the first frame of each stream and the one after its last.
      name: what the streams are called where there is no audio to name.
      pieces: the audio in the order of its frames; none for features alone, each stream of which is
        a recording.
      first_frames: int64 [recordings], ascending.
    """

    values: NDArray
    bounds: NDArray[np.int64]
    name: str
    pieces: tuple[Clip, ...]
    first_frames: NDArray[np.int64]

    def read(self, first: int, frames: int) -> NDArray[np.float32]:
        """Features float32 [frames, channels] from a frame on."""
        values = self.values[first : first + frames]
        if values.dtype == np.uint16:
            return values * np.float32(MICRO_UNIT)
        return values.astype(np.float32)

    def place(self, frame: int, frontend: FrontendConfig) -> Place:
        """Where the audio under a frame ends."""
        number = int(np.searchsorted(self.first_frames, frame, side="right")) - 1
        steps = frame - int(self.first_frames[number])
        seconds = (steps * frontend.step_ms + frontend.window_ms) / 1000
        if not self.pieces:
            return Place(f"{self.name}[{number}]", "", seconds)
        piece = self.pieces[number]
        name = piece.clip_id.partition("#")[0] + self.name
        return Place(name, piece.path, round(piece.start_s + seconds, 3))


class Windows:
    """Every window of so many frames in some streams, numbered through all of their time.

    Args:
      parts: the streams; those shorter than a window hold none.
      frames: of a window.
      frontend: that the features are of.
    """

    def __init__(
        self, parts: Sequence[FeatureStreams], frames: int, frontend: FrontendConfig
    ) -> None:
        self.parts, self.frames, self.frontend = tuple(parts), frames, frontend
        bounds = np.concatenate([np.empty((0, 2), np.int64), *(part.bounds for part in parts)])
        counts = np.maximum(bounds[:, 1] - bounds[:, 0] - frames + 1, 0)
        self._part = np.repeat(np.arange(len(parts)), [len(part.bounds) for part in parts])
        self._first = bounds[:, 0]
        self.edges = np.concatenate([[0], np.cumsum(counts)])
        """int64 [streams + 1]: windows of stream i are edges[i] to edges[i + 1] - 1."""

    def __len__(self) -> int:
        return int(self.edges[-1])

    @property
    def hours(self) -> float:
        """Length of all streams."""
        frames = sum(int(np.diff(part.bounds).sum()) for part in self.parts)
        return frames * self.frontend.step_ms / 3_600_000

    def read(self, numbers: ArrayLike) -> NDArray[np.float32]:
        """Features of windows, float32 [windows, frames, channels]."""
        numbers = np.asarray(numbers, np.int64)
        found = np.empty((len(numbers), self.frames, self.frontend.channels), np.float32)
        for row, number in zip(found, numbers, strict=True):
            part, first = self._find(number)
            row[:] = part.read(first, self.frames)
        return found

    def near(self, number: int, offset: int) -> int:
        """The window so many frames later (earlier if negative), within the same stream."""
        stream = int(np.searchsorted(self.edges, number, side="right")) - 1
        return min(max(number + offset, int(self.edges[stream])), int(self.edges[stream + 1]) - 1)

    def place(self, number: int) -> Place:
        """Where a window ends."""
        part, first = self._find(number)
        return part.place(first + self.frames - 1, self.frontend)

    def _find(self, number: int) -> tuple[FeatureStreams, int]:
        stream = int(np.searchsorted(self.edges, number, side="right")) - 1
        first = int(self._first[stream]) + int(number) - int(self.edges[stream])
        return self.parts[self._part[stream]], first


def map_values(path: Path, dtype: DTypeLike) -> NDArray:
    """A file's values [values], read where they are needed.

    Raises:
      OSError: there is no such file.
      ValueError: it is empty, or not of whole values.
    """
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        # Reading ahead around windows of 8 kB took 0.4 s a batch of a thousand hours.
        mapped.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(mapped, dtype)


def build(
    folder: Path,
    streams: Sequence[Sequence[Clip]],
    frontend: FrontendConfig,
    name: str,
    audio_of: Callable[[int, Sequence[Clip]], Audio],
) -> FeatureStreams:
    """Compute the features of streams, or map those that are there.

    Args:
      folder: in a cache; its name has to say all that the features depend on.
      streams: pieces of audio of each.
      frontend: runs through each stream.
      name: of the streams.
      audio_of: the int16 blocks of a stream from its number and pieces.

    Returns:
      The streams, memory-mapped.

    Raises:
      InputError: a recording is gone or damaged.
    """

    def write(path: Path) -> None:
        seconds = sum(clip.duration_s or 0.0 for stream in streams for clip in stream)
        progress = Progress(f"features of ambient audio{name}", seconds / 60, "minutes")
        with open(path / _VALUES, "wb") as file, progress:
            bounds = []
            first = 0
            for number, pieces in enumerate(streams):
                end = first + _write(file, audio_of(number, pieces), frontend, progress)
                bounds.append((first, end))
                first = end
        rows = [[asdict(piece) for piece in stream] for stream in streams]
        (path / _INDEX).write_text(json.dumps({"bounds": bounds, "pieces": rows}))

    files.build_folder(folder, write)
    return _open(folder, streams, frontend, name)


def _write(file, blocks: Audio, frontend: FrontendConfig, progress: Progress) -> int:
    """Append a stream's features: so many frames."""
    stream = StreamingFrontend(frontend)
    frames = 0
    for block in blocks:
        values = stream.process(block)
        if frontend.kind == "micro":
            values = np.rint(values / MICRO_UNIT).astype(np.uint16)
        file.write(values.tobytes())
        frames += len(values)
        progress.update(len(values) * frontend.step_ms / 60_000)
    return frames


def _open(
    folder: Path, streams: Sequence[Sequence[Clip]], frontend: FrontendConfig, name: str
) -> FeatureStreams:
    index = json_file.read(folder / _INDEX, _BOUNDS, f"delete {folder}")
    bounds = np.asarray(index["bounds"], np.int64)
    dtype = np.uint16 if frontend.kind == "micro" else np.float32
    values = map_values(folder / _VALUES, dtype).reshape(-1, frontend.channels)
    first_frames = []
    for (first, _), pieces in zip(bounds, streams, strict=True):
        before_ms = np.cumsum([0.0] + [1000 * (piece.duration_s or 0.0) for piece in pieces[:-1]])
        first_frames += [first + int(ms // frontend.step_ms) for ms in before_ms]
    flat = tuple(piece for pieces in streams for piece in pieces)
    return FeatureStreams(values, bounds, name, flat, np.asarray(first_frames, np.int64))
