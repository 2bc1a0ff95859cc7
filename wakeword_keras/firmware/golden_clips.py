"""Which clips a bundle carries as golden vectors: of the test split, and silence."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.shards import Shards, read_audio, split_features
from wakeword_keras.names import POSITIVE, SPEECH, TEST
from wakeword_keras.tflite.scorers import tflite_scorer

MOST = 4
"""As many wake words, and as many near misses, are carried; two of each also clipped."""
_CLIPPING_GAIN = 16


@dataclass(frozen=True)
class GoldenClip:
    """A clip to run on every device.

    Attributes:
      kind: "positive", "near_miss", "clipped" or "silence".
      source: what it is, and what was done to it; of a recording no name (`pseudonym`).
      audio: int16 [samples].
    """

    kind: str
    source: str
    audio: NDArray[np.int16]


def choose(
    shards: Shards, frontend: FrontendConfig, model_path: str | Path
) -> tuple[GoldenClip, ...]:
    """Positives from the worst to the best, the nearest misses, clipped ones, silence.

    12 clips where the test split has 4 positives and 4 other words.

    Args:
      shards: the run's clips.
      frontend: the model's.
      model_path: int8 .tflite.
    """
    clips = shards.clips[TEST]
    features = split_features(shards, TEST, frontend).features
    # Fast, and near enough to choose by.
    logits = tflite_scorer(model_path, "optimized")(features).max(axis=1)
    order = np.argsort(logits, kind="stable")
    positives = [int(i) for i in order if clips[i].group == POSITIVE]
    spread = np.linspace(0, len(positives) - 1, min(MOST, len(positives))).round().astype(int)
    chosen = {"positive": [positives[place] for place in spread]}
    chosen["near_miss"] = [int(i) for i in order[::-1] if clips[i].group == SPEECH][:MOST]
    wanted = {i for indices in chosen.values() for i in indices}
    audio = {i: clip for i, clip in enumerate(read_audio(shards, TEST)) if i in wanted}
    kept = [
        GoldenClip(kind, pseudonym(clips[i].clip_id), audio[i])
        for kind, indices in chosen.items()
        for i in indices
    ]
    best = chosen["positive"][-1:] + chosen["near_miss"][:1]
    return (
        *kept,
        *(_clipped(pseudonym(clips[i].clip_id), audio[i]) for i in best),
        *_silence(shards),
    )


def pseudonym(clip_id: str) -> str:
    """A name for a recording in what is handed over: file names often say who speaks."""
    return f"recording {hashlib.sha256(clip_id.encode()).hexdigest()[:12]}"


def _clipped(source: str, audio: NDArray[np.int16]) -> GoldenClip:
    loud = np.clip(audio.astype(np.int32) * _CLIPPING_GAIN, -32768, 32767).astype(np.int16)
    return GoldenClip("clipped", f"{source}, {_CLIPPING_GAIN} times as loud", loud)


def _silence(shards: Shards) -> tuple[GoldenClip, ...]:
    zeros = np.zeros(shards.clip_samples, np.int16)
    faint = np.random.default_rng(0).integers(-1, 2, shards.clip_samples).astype(np.int16)
    return (
        GoldenClip("silence", "zeros", zeros),
        GoldenClip("silence", "noise of one step", faint),
    )
