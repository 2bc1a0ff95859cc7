"""What came nearest to firing in training: named, and as short sounds beside the report."""

from dataclasses import dataclass
from pathlib import Path

from wakeword_keras.audio import audio_file
from wakeword_keras.errors import InputError
from wakeword_keras.training.hard_negatives import Heard, Pool, read_pools
from wakeword_keras.training.loop import HARD_NEGATIVES

FOLDER = "hard_negatives"
BEFORE_S, AFTER_S = 2.5, 0.5  # of sound around a window's end


@dataclass(frozen=True)
class Listed:
    """A window, and the file of its sound, relative to the report; "" where there is none."""

    heard: Heard
    sound: str


@dataclass(frozen=True)
class Nearest:
    """The last listening of a run, and its windows with their sound."""

    pool: Pool
    windows: tuple[Listed, ...]


def write(run_dir: Path, out_dir: Path) -> Nearest | None:
    """Write the sounds of the last listening into FOLDER of a report.

    Args:
      run_dir: the run; QAT's last pool stands for it, FP32's where QAT has none.
      out_dir: of the report.

    Returns:
      What was found; None for a run that did not listen. A recording that is gone has no sound.

    Raises:
      InputError: a file of the run is damaged.
    """
    pools = [
        pool
        for stage in ("fp32", "qat")
        for pool in read_pools(run_dir / stage / HARD_NEGATIVES)[-1:]
    ]
    if not pools:
        return None
    (out_dir / FOLDER).mkdir(exist_ok=True)
    listed = [
        Listed(heard, _cut(heard, out_dir, f"{FOLDER}/{number:02d}.wav"))
        for number, heard in enumerate(pools[-1].worst_windows, start=1)
    ]
    return Nearest(pools[-1], tuple(listed))


def _cut(heard: Heard, out_dir: Path, name: str) -> str:
    (out_dir / name).unlink(missing_ok=True)
    if not heard.path:
        return ""
    start_s = max(0.0, heard.seconds - BEFORE_S)
    try:
        sound = audio_file.read(heard.path, start_s, heard.seconds + AFTER_S - start_s)
    except InputError:
        return ""
    audio_file.write(out_dir / name, sound)
    return name
