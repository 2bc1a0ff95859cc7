"""A corpus on disk: clips as TFRecord shards, and cached features of whole splits.

Shards hold each split's clips in a seeded random order, so that a small shuffle buffer is enough
and memory stays bounded however large the corpus. Shards and features are cached under a hash of
all that went into them, in folders that several runs share and check by hash (see `files`).
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from wakeword_keras import files, json_file
from wakeword_keras.audio import audio_file, rooms
from wakeword_keras.audio.augmentation import prepare_impulse_responses
from wakeword_keras.audio.features import FrontendConfig, compute
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.data.corpus import Clip, Corpus
from wakeword_keras.data.recordings import list_impulse_responses
from wakeword_keras.names import GROUPS, NOISE, SPLITS, TRAIN
from wakeword_keras.progress import track

CONDITIONS = ("cold", "warm")
CLIPS_PER_SHARD = 1024
WARM_MS = 1000
AFTER_MS = 500  # in a stream a wake word has to be detected by then after its clip's end
BACKGROUND_STRETCHES = 512  # about 25 minutes of noise: variety enough, and under 50 MB
OTHER_SPEECH_STRETCHES = 1024
_FEATURES = "features.npy"
_LAYOUT = 3  # raise when the files' layout changes, so that old caches are not read


_CLIPS = json_file.array(
    json_file.dataclass_fields(
        ClipInfo,
        target={"type": "integer", "minimum": -1},
        group={"enum": list(GROUPS)},
        weight={"type": "number", "exclusiveMinimum": 0},
    )
)
_INDEX = json_file.fields(
    wake_words={**json_file.array({"type": "string"}), "minItems": 1},
    clip_samples={"type": "integer", "minimum": 1},
    clips=json_file.fields(**dict.fromkeys(SPLITS, _CLIPS)),
)


@dataclass(frozen=True)
class Shards:
    """A corpus as TFRecord shards in a directory, one ClipInfo a record in the records' order."""

    directory: Path
    wake_words: tuple[str, ...]
    clip_samples: int
    clips: dict[str, tuple[ClipInfo, ...]]

    def paths(self, split: str) -> list[str]:
        """The shard files of a split, in order."""
        count = math.ceil(len(self.clips[split]) / CLIPS_PER_SHARD)
        return [str(self.directory / _shard_name(split, number)) for number in range(count)]


def fit_length(samples: NDArray[np.int16], length: int) -> NDArray[np.int16]:
    """Pad with zeros on both sides, or keep the stretch with the most energy."""
    if len(samples) <= length:
        before = (length - len(samples)) // 2
        return np.pad(samples, (before, length - len(samples) - before))
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return samples[start : start + length]


def write_shards(corpus: Corpus, clip_ms: int, cache_dir: str | Path) -> Shards:
    """Write a corpus as TFRecord shards, or reuse those of an equal corpus and clip length.

    Args:
      corpus: the clips; its hash covers their sound, labels and splits.
      clip_ms: length of every clip; shorter ones are padded with zeros on both sides, of longer
        ones the stretch with the most energy is kept.
      cache_dir: folder for caches of any number of corpora.

    Returns:
      The shards. Those that are damaged, or were not written to the end, are written again.
    """
    key = _key(corpus.sha256, clip_ms, corpus.wake_words)
    clip_samples = clip_ms * audio_file.SAMPLE_RATE_HZ // 1000
    directory = Path(cache_dir) / f"clips-{key}"

    def write(folder: Path) -> None:
        stretch = 2 * clip_samples + audio_file.SAMPLE_RATE_HZ
        _save(folder / "background.npy", _background(corpus, stretch))
        _save(folder / "speech.npy", _other_speech(corpus, stretch))
        clips = {split: _write_split(folder, split, corpus, clip_samples) for split in SPLITS}
        index = {"wake_words": corpus.wake_words, "clip_samples": clip_samples, "clips": clips}
        (folder / "index.json").write_text(json.dumps(index))

    files.build_folder(directory, write)
    return _read_index(directory)


def open_shards(directory: str | Path) -> Shards | None:
    """The shards that `write_shards` wrote to a directory; None where they are not whole."""
    return _read_index(Path(directory)) if files.is_whole(Path(directory)) else None


def _read_index(directory: Path) -> Shards:
    index = json_file.read(directory / "index.json", _INDEX, f"delete {directory}")
    clips = {
        split: tuple(ClipInfo(**row) for row in rows) for split, rows in index["clips"].items()
    }
    return Shards(directory, tuple(index["wake_words"]), index["clip_samples"], clips)


def _shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.tfrecord"


def _key(*parts: object) -> str:
    return hashlib.sha256(repr((_LAYOUT, *parts)).encode()).hexdigest()[:16]


def _write_split(directory: Path, split: str, corpus: Corpus, length: int) -> list[dict]:
    clips = [clip for clip in corpus.clips if clip.split == split]
    order = np.random.default_rng(0).permutation(len(clips))

    def load(clip: Clip) -> bytes:
        return fit_length(
            audio_file.read(clip.path, clip.start_s, clip.duration_s), length
        ).tobytes()

    rows = []
    with ThreadPoolExecutor() as pool:
        starts = range(0, len(order), CLIPS_PER_SHARD)
        for start in track(starts, f"writing {split}", len(starts), "shards"):
            chosen = [clips[i] for i in order[start : start + CLIPS_PER_SHARD]]
            path = directory / _shard_name(split, start // CLIPS_PER_SHARD)
            with tf.io.TFRecordWriter(str(path)) as writer:
                for clip, samples in zip(chosen, pool.map(load, chosen), strict=True):
                    info = _info(clip, corpus.wake_words)
                    writer.write(_record(samples, info))
                    rows.append(asdict(info))
    return rows


def _save(path: Path, array: NDArray) -> None:
    content = io.BytesIO()  # NumPy does not say that a disk is full
    np.save(content, array)
    files.write_bytes(path, content.getvalue())


def _other_speech(corpus: Corpus, length: int) -> NDArray[np.int16]:
    """Ambient audio of the training split to mix with clips: int16 [stretches, length].

    Cuts of all recordings alike; one that is shorter than a stretch is repeated in it.
    """
    length_s = length / audio_file.SAMPLE_RATE_HZ
    cuts = [
        (piece, number * length_s)
        for piece in corpus.streams
        if piece.split == TRAIN and piece.duration_s
        for number in range(max(1, int(piece.duration_s / length_s)))
    ]
    chosen = np.linspace(0, len(cuts) - 1, min(len(cuts), OTHER_SPEECH_STRETCHES)).astype(int)
    stretches = np.empty((len(chosen), length), np.int16)
    for stretch, (piece, from_s) in zip(stretches, (cuts[i] for i in chosen), strict=True):
        duration_s = min(length_s, (piece.duration_s or 0.0) - from_s)
        stretch[:] = np.resize(
            audio_file.read(piece.path, piece.start_s + from_s, duration_s), length
        )
    return stretches


def _background(corpus: Corpus, length: int) -> NDArray[np.int16]:
    """Noise of the training split to mix with speech: int16 [stretches, length].

    The pieces of a long recording are joined again, so that a stretch has no seams.
    """
    recordings: dict[str, list[Clip]] = {}
    for clip in corpus.clips:
        if clip.group == NOISE and clip.split == TRAIN:
            recordings.setdefault(clip.path, []).append(clip)
    stretches: list[NDArray[np.int16]] = []
    for pieces in recordings.values():
        pieces.sort(key=lambda clip: clip.start_s)
        samples = np.concatenate(
            [audio_file.read(clip.path, clip.start_s, clip.duration_s) for clip in pieces]
        )
        whole = np.resize(samples, max(1, len(samples) // length) * length)
        stretches += [stretch for stretch in whole.reshape(-1, length) if stretch.any()]
        if len(stretches) >= BACKGROUND_STRETCHES:
            break
    return np.stack(stretches) if stretches else np.empty((0, length), np.int16)


def _info(clip: Clip, wake_words: tuple[str, ...]) -> ClipInfo:
    target = wake_words.index(clip.label) if clip.label in wake_words else -1
    return ClipInfo(
        clip.clip_id,
        clip.label,
        target,
        clip.group,
        clip.speaker,
        clip.weight,
        clip.synthetic,
    )


def _record(samples: bytes, info: ClipInfo) -> bytes:
    feature = {
        "samples": tf.train.Feature(bytes_list=tf.train.BytesList(value=[samples])),
        "target": tf.train.Feature(int64_list=tf.train.Int64List(value=[info.target])),
        "group": tf.train.Feature(int64_list=tf.train.Int64List(value=[GROUPS.index(info.group)])),
        "weight": tf.train.Feature(float_list=tf.train.FloatList(value=[info.weight])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def parse(record: tf.Tensor, length: int) -> dict[str, tf.Tensor]:
    """A shard's record: samples int16 [length], target int64, group int64 (of GROUPS), weight."""
    spec = {
        "samples": tf.io.FixedLenFeature([], tf.string),
        "target": tf.io.FixedLenFeature([], tf.int64),
        "group": tf.io.FixedLenFeature([], tf.int64),
        "weight": tf.io.FixedLenFeature([], tf.float32),
    }
    parsed = tf.io.parse_single_example(record, spec)
    parsed["samples"] = tf.ensure_shape(tf.io.decode_raw(parsed["samples"], tf.int16), [length])
    return parsed


def read_audio(shards: Shards, split: str) -> Iterator[NDArray[np.int16]]:
    """The int16 samples of a split's clips, in the order of `shards.clips[split]`."""
    dataset = tf.data.TFRecordDataset(shards.paths(split)).map(
        lambda record: parse(record, shards.clip_samples)["samples"]
    )
    return dataset.prefetch(16).as_numpy_iterator()


def read_impulse_responses(
    folder: str | Path, simulated: int = 0, seed: int = 0
) -> NDArray[np.float32] | None:
    """Every room impulse response (audio file) below a folder, as one bank.

    Args:
      folder: where they are, or "".
      simulated: how many are simulated where there is no folder (see `rooms`); None for 0.
      seed: of the simulation.

    Raises:
      InputError: there is no such folder, or it holds no audio.
    """
    paths = list_impulse_responses(folder)
    responses = [audio_file.read(path) for path in paths] or rooms.simulate(simulated, seed)
    return prepare_impulse_responses(responses) if responses else None


def split_features(
    shards: Shards, split: str, frontend: FrontendConfig, condition: str = "cold"
) -> ClipFeatures:
    """Features of every clip of a split without augmentation, cached on disk.

    Args:
      shards: where the clips are.
      split: "train", "validation" or "test".
      frontend: the front end.
      condition: "cold", the front end starts on the clip, as in a test set of clips; or "warm", it
        has run over a second of noise at the level of the clip's own quietest moments before, as in
        a stream.

    Returns:
      ClipFeatures in the order of `shards.clips[split]`, memory-mapped.
    """
    folder = shards.directory / f"{split}-{condition}-{_key(frontend)}"
    files.build_folder(
        folder, lambda path: _write_features(path, shards, split, frontend, condition)
    )
    return ClipFeatures(shards.clips[split], np.load(folder / _FEATURES, mmap_mode="r"))


def _write_features(
    folder: Path, shards: Shards, split: str, frontend: FrontendConfig, condition: str
) -> None:
    prepare = in_noise(shards, split) if condition == "warm" else lambda samples, _: samples
    frames = frontend.num_frames(shards.clip_samples)
    shape = (len(shards.clips[split]), frames, frontend.channels)
    title = f"features of {split} ({condition})"
    samples = track(read_audio(shards, split), title, shape[0], "clips")
    rows = (
        compute(prepare(clip, i)[None], frontend, frames=frames)[0]
        for i, clip in enumerate(samples)
    )
    _write_rows(folder / _FEATURES, rows, shape)


def _write_rows(path: Path, rows: Iterable[NDArray[np.float32]], shape: tuple[int, ...]) -> None:
    """An array as .npy, row by row: writing to a memory map ends the process on a full disk."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for row in rows:
            file.write(row.astype("<f4").tobytes())


def spoken_features(shards: Shards, split: str, frontend: FrontendConfig) -> ClipFeatures:
    """Features of a split's wake words in noise, as streams hear them, cached on disk.

    Args:
      shards, split, frontend: as `split_features` takes them.

    Returns:
      ClipFeatures, memory-mapped: WARM_MS of noise, the clip, AFTER_MS of noise.
    """
    folder = shards.directory / f"{split}-spoken-{_key(frontend, WARM_MS, AFTER_MS)}"
    spoken = tuple(clip for clip in shards.clips[split] if clip.target >= 0)
    around = (WARM_MS + AFTER_MS) * audio_file.SAMPLE_RATE_HZ // 1000
    frames = frontend.num_frames(shards.clip_samples + around)

    def write(path: Path) -> None:
        mix = in_noise(shards, split, AFTER_MS)
        shape = (len(spoken), frames, frontend.channels)
        clips = zip(shards.clips[split], read_audio(shards, split), strict=True)
        mixed = (mix(sound, i) for i, (clip, sound) in enumerate(clips) if clip.target >= 0)
        rows = (compute(samples[None], frontend)[0] for samples in mixed)
        _write_rows(path / _FEATURES, rows, shape)

    files.build_folder(folder, write)
    return ClipFeatures(spoken, np.load(folder / _FEATURES, mmap_mode="r"))


def in_noise(
    shards: Shards, split: str, after_ms: int = 0
) -> Callable[[NDArray[np.int16], int], NDArray[np.int16]]:
    """A function (clip, its index in the split) -> WARM_MS of noise, the clip, `after_ms` of noise.

    The noise is the split's own, at the level of the clip's quietest moments.
    """
    noises = [
        samples.astype(np.float64)
        for clip, samples in zip(shards.clips[split], read_audio(shards, split), strict=True)
        if clip.group == NOISE and samples.any()
    ][:256]
    before, after = (ms * audio_file.SAMPLE_RATE_HZ // 1000 for ms in (WARM_MS, after_ms))

    def prepare(clip: NDArray[np.int16], index: int) -> NDArray[np.int16]:
        rng = np.random.default_rng(index)
        noise = noises[rng.integers(len(noises))] if noises else rng.normal(size=before)
        frames = clip[: len(clip) // 320 * 320].reshape(-1, 320).astype(np.float64)
        floor = np.percentile(np.sqrt(np.mean(frames**2, axis=1)), 10)
        noise = np.resize(noise, before + after)
        noise *= max(floor, 1.0) / np.sqrt(np.mean(noise[:before] ** 2))
        samples = np.clip(np.round(noise), -32768, 32767).astype(np.int16)
        return np.concatenate([samples[:before], clip, samples[before:]])

    return prepare
