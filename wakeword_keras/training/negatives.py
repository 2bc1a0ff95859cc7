"""Negatives from ambient audio: windows from anywhere in it, drawn anew for every batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.data.ambient_features import AmbientConfig, Windows
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.names import AMBIENT, EXAMPLES, SPEECH, STREAM

_STREAM_DRAW = 1  # keeps these draws apart from others of the same seed and step


@dataclass(frozen=True)
class Negatives:
    """Ambient audio that trains, and its share of each batch."""

    windows: Windows
    config: AmbientConfig

    def in_batch(self, batch: int) -> int:
        """How many of a batch's examples are negatives from here."""
        return self.config.windows(batch)

    def sample(self, count: int, seed: int) -> ClipFeatures:
        """Some windows as clips of the label AMBIENT."""
        rng = np.random.default_rng(seed)
        numbers = np.sort(rng.choice(len(self.windows), min(count, len(self.windows)), False))
        places = [self.windows.place(number) for number in numbers.tolist()]
        clips = tuple(
            ClipInfo(f"{at.recording}#{at.seconds:.2f}s", AMBIENT, -1, SPEECH, "", 1.0)
            for at in places
        )
        return ClipFeatures(clips, self.windows.read(numbers))

    def batch(self, seed: int, step: int, batch: int, wake_words: int) -> tuple[NDArray, ...]:
        """The negatives of a step, a function of seed and step alone.

        Args:
          seed, step: of the training.
          batch: examples in the whole batch.
          wake_words: number of labels.

        Returns:
          Features float32 [negatives, frames, channels], before masks; labels float32 [negatives,
          wake_words], all 0; weights float32 [negatives], all 1; groups int32 [negatives] of
          EXAMPLES.
        """
        rng = np.random.default_rng([seed, step, _STREAM_DRAW])
        count = self.in_batch(batch)
        features = self.windows.read(rng.integers(len(self.windows), size=count))
        return (
            features,
            np.zeros((count, wake_words), np.float32),
            np.ones(count, np.float32),
            np.full(count, EXAMPLES.index(STREAM), np.int32),
        )
