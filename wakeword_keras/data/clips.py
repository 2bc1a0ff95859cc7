"""What is known of a clip besides its sound, and clips with their features."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip besides its sound.

    Attributes:
      clip_id: unique in the corpus.
      label: name, as in the data; one of the wake words or any other.
      target: index of the wake word, -1 for none.
      group: one of `names.GROUPS`.
      speaker: who speaks, "" where nobody knows.
      weight: of the clip in the training loss, > 0.
      synthetic: a synthesiser speaks, not a person.
    """

    clip_id: str
    label: str
    target: int
    group: str
    speaker: str
    weight: float
    synthetic: bool = False


def targets_of(clips: tuple[ClipInfo, ...]) -> NDArray[np.int32]:
    """int32 [clips]: index of the wake word, -1 for none."""
    return np.asarray([clip.target for clip in clips], np.int32)


@dataclass(frozen=True)
class ClipFeatures:
    """Clips and their features: float32 [clips, frames, channels]; may be memory-mapped."""

    clips: tuple[ClipInfo, ...]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, some: slice) -> "ClipFeatures":
        """Some of the clips, their features in memory."""
        return ClipFeatures(self.clips[some], np.asarray(self.features[some]))

    @property
    def targets(self) -> NDArray[np.int32]:
        """int32 [clips]: index of the wake word, -1 for none."""
        return targets_of(self.clips)

    def one_hot(self, wake_words: int) -> NDArray[np.float32]:
        """float32 [clips, wake_words], 1.0 where the wake word is spoken."""
        return (self.targets[:, None] == np.arange(wake_words)).astype(np.float32)
