import itertools
import os
import sys

import pytest

from wakeword_keras import progress
from wakeword_keras.progress import Progress, say, track


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed, set by the test."""
    passed = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: passed[0])
    return passed


def test_what_is_quick_says_nothing(capsys, clock):
    assert list(track(range(3), "reading", 3, "files")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_lines_come_at_growing_intervals(capsys, clock):
    with Progress("reading", 4000, "files") as work:
        for second in range(1, 4001):
            clock[0] = second
            work.update()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "reading  10 of 4000 files  10 s, 66.5 min left"
    seconds = [int(line.split()[1]) for line in lines]
    gaps = [after - before for before, after in itertools.pairwise(seconds)]
    assert gaps == sorted(gaps)
    assert max(gaps) == progress.LONGEST_SILENCE_S
    assert len(lines) < 20


def test_more_than_was_announced_is_no_time_left(capsys, clock):
    with Progress("reading", 1, "files") as work:
        clock[0] = 20
        work.update(3)
    assert "0.0 min left" in capsys.readouterr().out


def test_a_narrow_terminal_gets_lines_broken_between_words(capsys, monkeypatch):
    line = "fp32 1/6  " + "  ".join(f"value {i}" for i in range(12))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    say(line)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()) == " ".join(line.split())


def test_a_log_gets_lines_whole(capsys):
    say("word " * 60)
    assert capsys.readouterr().out == "word " * 60 + "\n"
