"""The ambient audio of a run: what it trains on, and what chooses the best epoch."""

from collections.abc import Sequence

import numpy as np

from wakeword_keras import json_file
from wakeword_keras.data import ambient, ambient_passes, feature_sets
from wakeword_keras.data.ambient_features import FeatureStreams, Windows
from wakeword_keras.data.corpus import Clip
from wakeword_keras.data.shards import (
    WARM_MS,
    Shards,
    read_impulse_responses,
    split_features,
    spoken_features,
)
from wakeword_keras.errors import InputError
from wakeword_keras.names import TRAIN, VALIDATION
from wakeword_keras.run.config import RunConfig
from wakeword_keras.run.directory import RunDirectory
from wakeword_keras.training.listening import ValidationStreams
from wakeword_keras.training.negatives import Negatives


def pieces(run: RunDirectory) -> tuple[list[Clip], dict[str, str]]:
    """Pieces of ambient recordings of all splits, and the hash of each one's file by clip id."""
    return ambient.read_pieces(run.directory / "streams.json")


def negatives(run: RunDirectory, config: RunConfig, shards: Shards) -> Negatives | None:
    """Ambient audio that trains: each pass over its recordings, then features of others.

    Returns:
      Negatives; None without ambient audio.

    Raises:
      InputError: a recording or a set is gone or damaged, or all are shorter than a window.
    """
    parts = _passes(run, config, shards) if config.ambient_dir else []
    for folder in feature_sets.list_sets(config.ambient_feature_dirs):
        parts.append(feature_sets.open_set(folder, config.frontend))
    if not parts:
        return None
    clips = split_features(shards, TRAIN, config.frontend, "warm")
    return Negatives(_windows(parts, config, shards), clips, config.ambient)


def validation(run: RunDirectory, config: RunConfig, shards: Shards) -> ValidationStreams | None:
    """Streams that choose the best epoch; None without ambient recordings.

    Raises:
      InputError: a recording is gone or damaged, or all are shorter than a window.
    """
    if not config.ambient_dir:
        return None
    heard = _of_split(run, VALIDATION)
    part = ambient_passes.as_recorded(*heard, config.frontend, config.cache_dir)
    spoken = spoken_features(shards, VALIDATION, config.frontend)
    return ValidationStreams(
        _windows([part], config, shards),
        spoken.features,
        spoken.targets,
        WARM_MS,
        config.max_false_accepts_per_hour,
    )


def _of_split(run: RunDirectory, split: str) -> tuple[tuple[tuple[Clip, ...], ...], str]:
    """The ambient streams of a split, and a hash of all that is heard in them."""
    found, contents = pieces(run)
    streams = ambient.of_split(found, split)
    heard = [(p.clip_id, contents[p.clip_id], p.start_s, p.duration_s) for s in streams for p in s]
    return streams, json_file.digest(heard)


def _passes(run: RunDirectory, config: RunConfig, shards: Shards) -> list[FeatureStreams]:
    same = (*_of_split(run, TRAIN), config.frontend, config.cache_dir)
    background = np.load(shards.directory / "background.npy")
    # Seed 0: runs with other seeds share the passes.
    rooms = read_impulse_responses(config.impulse_response_dir, config.augment.rooms, 0)
    return [
        ambient_passes.as_recorded(*same),
        *(
            ambient_passes.in_noise(*same, number, config.augment, background, rooms)
            for number in range(1, config.ambient.ambient_passes)
        ),
    ]


def _windows(parts: Sequence[FeatureStreams], config: RunConfig, shards: Shards) -> Windows:
    windows = Windows(parts, config.frontend.num_frames(shards.clip_samples), config.frontend)
    if not len(windows):
        raise InputError(
            "`ambient_dir`, `ambient_feature_dirs`: no stream is as long as a window of "
            f"{windows.frames} frames: give longer ones, or a smaller `clip_ms`"
        )
    return windows
