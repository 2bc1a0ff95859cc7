"""The pool of hard negatives: what came nearest to firing when the model listened, and where it is.

A pool is found after an epoch and drawn from LAG_STEPS batches later: batches are made some steps
ahead of the training, and may not depend on how far ahead. The last pools lie in a file beside the
checkpoint, so that a resumed run draws what the interrupted one would have drawn.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras import files, json_file

LAG_STEPS = 8
_TOO_FAR_AHEAD = "a batch was made too far ahead to be repeated"
_KEPT = 3  # the pool in use, its successor, and one more for a run that was killed in between


@dataclass(frozen=True)
class Heard:
    """A negative near to firing: recording, its file ("" for features alone), end in s, score."""

    recording: str
    path: str
    seconds: float
    probability: float


@dataclass(frozen=True)
class Pool:
    """What one listening found.

    Attributes:
      epoch: after which the model listened, counted from 1.
      from_step: the first training step that draws from it.
      windows: numbers of windows of the streams, the nearest to firing first.
      clips: indices of negative training clips, likewise.
      hours: of streams that were heard.
      threshold: averaged probability that false accepts were counted at.
      false_accepts: events in the streams.
      worst_windows, worst_clips: the first of each.
    """

    epoch: int
    from_step: int
    windows: tuple[int, ...]
    clips: tuple[int, ...]
    hours: float
    threshold: float
    false_accepts: int
    worst_windows: tuple[Heard, ...]
    worst_clips: tuple[Heard, ...]

    @property
    def per_hour(self) -> float:
        """False accepts per hour of training streams."""
        return self.false_accepts / self.hours

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """int64 [count] from windows and clips alike; a clip is -1 - its index."""
        both = np.asarray([*self.windows, *(-1 - clip for clip in self.clips)], np.int64)
        return rng.choice(both, count)


_COUNT = {"type": "integer", "minimum": 0}
_POOLS = json_file.fields(
    pools=json_file.array(
        json_file.dataclass_fields(
            Pool,
            epoch={"type": "integer", "minimum": 1},
            from_step=_COUNT,
            windows=json_file.array(_COUNT),
            clips=json_file.array(_COUNT),
            hours={"type": "number", "exclusiveMinimum": 0},
        )
    )
)


class Pools:
    """The pools of a training, in a file.

    Args:
      path: of the file; made when the first pool comes.
      start: pools of an earlier stage, whose last serves until this stage has its own; None for
        none.

    Raises:
      InputError: a file is damaged.
    """

    def __init__(self, path: Path, start: Path | None = None) -> None:
        self.path = path
        self._start = read_pools(start)[-1:] if start else []
        self._pools = read_pools(path)
        self._newest_step = -1

    def keep(self, epochs: int) -> None:
        """Forget what was found after epochs that are trained again."""
        self._pools = [pool for pool in self._pools if pool.epoch <= epochs]

    def at(self, step: int) -> Pool | None:
        """The pool that a step draws from, if there is one yet."""
        self._newest_step = max(self._newest_step, step)
        ready = [pool for pool in self._pools if pool.from_step <= step]
        return (self._start + ready)[-1] if self._start or ready else None

    def content(self) -> dict[str, list[dict]]:
        """All that batches draw from, as JSON has it."""
        kept = {"start": self._start, "pools": self._pools}
        return {name: [asdict(pool) for pool in pools] for name, pools in kept.items()}

    def take(self, content: dict[str, list[dict]]) -> None:
        """Have the pools of another worker's `content`."""
        before = self._pools
        self._start, self._pools = (list(map(_pool, content[name])) for name in ("start", "pools"))
        for pool in self._pools:
            assert pool in before or pool.from_step > self._newest_step, _TOO_FAR_AHEAD

    def add(self, pool: Pool) -> None:
        """Take a pool in, and write the file."""
        assert pool.from_step > self._newest_step, _TOO_FAR_AHEAD
        self._pools = [*self._pools, pool][-_KEPT:]
        files.write_json(self.path, {"pools": [asdict(pool) for pool in self._pools]})


def read_pools(path: Path) -> list[Pool]:
    """The pools in a file, the last found last; none without a file.

    Raises:
      InputError: it is damaged.
    """
    if not path.exists():
        return []
    content = json_file.read(path, _POOLS, "train in another `run_dir`")
    return [_pool(pool) for pool in content["pools"]]


def _pool(content: dict[str, Any]) -> Pool:
    tuples = {name: tuple(content[name]) for name in ("windows", "clips")}
    heard = {
        name: tuple(Heard(**entry) for entry in content[name])
        for name in ("worst_windows", "worst_clips")
    }
    return Pool(**{**content, **tuples, **heard})
