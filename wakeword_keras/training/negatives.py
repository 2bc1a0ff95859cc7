"""Negatives from ambient audio: windows from anywhere in it, and those that came near to firing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.data.ambient_features import AmbientConfig, Windows
from wakeword_keras.data.clips import ClipFeatures, ClipInfo
from wakeword_keras.names import AMBIENT, EXAMPLES, HARD, SPEECH, STREAM
from wakeword_keras.training.hard_negatives import Pools

JITTER_FRAMES = 5  # a hard window is cut anew at each use, so much earlier or later
_STREAM_DRAW, _HARD_DRAW = 1, 2  # keep draws of one seed and step apart


@dataclass(frozen=True)
class Negatives:
    """Negatives that are not drawn as clips are, and their share of each batch.

    Attributes:
      windows: all of the ambient audio that trains.
      clips: features of the training clips, front end warm; hard ones are drawn from them.
      config: shares.
    """

    windows: Windows
    clips: ClipFeatures
    config: AmbientConfig

    def in_batch(self, batch: int) -> int:
        """How many of a batch's examples are negatives from here."""
        return sum(self.config.examples(batch))

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

    def batch(
        self, pools: Pools, seed: int, step: int, batch: int, wake_words: int
    ) -> tuple[NDArray, ...]:
        """The negatives of a step, a function of seed, step and the step's pool alone.

        Until there is a pool, windows from anywhere stand in the place of hard ones.

        Args:
          pools: of hard negatives.
          seed, step: of the training.
          batch: examples in the whole batch.
          wake_words: number of labels.

        Returns:
          Features float32 [negatives, frames, channels], before masks; labels float32 [negatives,
          wake_words], all 0; weights float32 [negatives], all 1; groups int32 [negatives] of
          EXAMPLES.
        """
        anywhere, hard = self.config.examples(batch)
        pool = pools.at(step)
        if pool is None:
            anywhere, hard = anywhere + hard, 0
        rng = np.random.default_rng([seed, step, _STREAM_DRAW])
        features = self.windows.read(rng.integers(len(self.windows), size=anywhere))
        if pool is not None:
            rng = np.random.default_rng([seed, step, _HARD_DRAW])
            features = np.concatenate([features, self._hard(pool.draw(rng, hard), rng)])
        count = anywhere + hard
        groups = np.repeat(
            np.asarray([EXAMPLES.index(STREAM), EXAMPLES.index(HARD)], np.int32), (anywhere, hard)
        )
        return (
            features,
            np.zeros((count, wake_words), np.float32),
            np.ones(count, np.float32),
            groups,
        )

    def _hard(self, drawn: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
        moved = rng.integers(-JITTER_FRAMES, JITTER_FRAMES + 1, size=len(drawn))
        found = np.empty((len(drawn), self.windows.frames, self.windows.frontend.channels))
        for row, number, offset in zip(found, drawn.tolist(), moved.tolist(), strict=True):
            if number < 0:
                row[:] = self.clips.features[-1 - number]
            else:
                row[:] = self.windows.read([self.windows.near(number, offset)])[0]
        return found.astype(np.float32)
