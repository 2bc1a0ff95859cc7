"""Damaged files of a run and its bundle, opened with every tool in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import damage_runs
import pytest

CHUNK = 26


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage")
    damage_runs.write_run(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 20 * CHUNK, CHUNK))
def test_a_damaged_file_is_refused_in_one_line_or_changes_nothing(folder, first):
    done = subprocess.run(
        [sys.executable, damage_runs.__file__, folder, str(first), str(CHUNK)],
        cwd=Path(damage_runs.__file__).parents[2],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"{lines[-1:]}: {done.stderr[-2000:]}"
    damages, found = lines[::2], lines[1::2]
    assert len(found) == CHUNK
    for damage, result in zip(damages, found, strict=True):
        for tool, outcome in result["outcomes"].items():
            assert outcome in (damage_runs.SAME, damage_runs.REFUSED), (damage, tool, outcome)
