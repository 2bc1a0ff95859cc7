"""What is said while work is done: lines, and how far it is."""

import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

FIRST_LINE_S = 10.0  # nothing is said of what takes less
LONGEST_SILENCE_S = 300.0


def say(text: str) -> None:
    """Print lines; a terminal that is too narrow for one gets it broken between words.

    A bar that stands in a terminal is below them.
    """
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        text = "\n".join(_folded(line, columns) for line in text.splitlines())
    tqdm.write(text)
    sys.stdout.flush()


def _folded(line: str, columns: int) -> str:
    """A line as `textwrap` breaks it, paths and words whole where they fit."""
    if len(line) <= columns:
        return line
    return textwrap.fill(line, columns, subsequent_indent="  ", break_on_hyphens=False)


class Progress(AbstractContextManager):
    """Counts work that is done: a bar in a terminal, which goes when all is.

    Where standard error is no terminal, a line on standard output after 10 s, then after twice the
    time and so on, at most 5 minutes apart: a log of hours stays short.

    Args:
      title: what is done.
      total: of all the work.
      unit: what is counted, plural.
    """

    def __init__(self, title: str, total: float, unit: str) -> None:
        self._bar = tqdm(desc=title, total=round(total), unit=f" {unit}", leave=False, disable=None)
        self._title, self._total, self._unit = title, total, unit
        self._done = 0.0
        self._start = time.monotonic()
        self._silence = FIRST_LINE_S
        self._next_line = self._start + FIRST_LINE_S

    def update(self, done: float = 1) -> None:
        """So much more is done."""
        self._done += done
        self._bar.update(int(self._done) - self._bar.n)
        now = time.monotonic()
        if self._bar.disable and now >= self._next_line:
            self._say(now - self._start)
            self._silence = min(2 * self._silence, LONGEST_SILENCE_S)
            self._next_line = now + self._silence

    def _say(self, seconds: float) -> None:
        left = seconds * max(self._total / self._done - 1, 0.0) if self._done else 0.0
        say(
            f"{self._title}  {self._done:.0f} of {self._total:.0f} {self._unit}  "
            f"{seconds:.0f} s, {left / 60:.1f} min left"
        )

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def track(items: Iterable[Item], title: str, total: float, unit: str) -> Iterator[Item]:
    """The items, each counted when the next is asked for (see `Progress`)."""
    with Progress(title, total, unit) as progress:
        for item in items:
            yield item
            progress.update()
