"""Runs killed as by power loss, anywhere in any stage: each ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from damage_runs import FLAGS
from small_recordings import TONES, write_ambient, write_recordings

from wakeword_keras.run import directory, pipeline

ROOT = Path(__file__).parents[2]
KILLS = 20
# Most often where most time goes by in a real run.
STAGES = (*pipeline.STAGES, "fp32", "fp32", "qat")
COMPARED = ("weights.npz", "*.tflite", "*.onnx", "thresholds.json", "calibration.json", "golden/*")


def start(folder, run):
    places = [f"--{name}={folder / name}" for name in ("data_dir", "ambient_dir", "cache_dir")]
    training = ("--epochs=3", "--qat_epochs=2", f"--run_dir={run}")
    return subprocess.Popen(
        [sys.executable, "-m", "tools.train", *places, *FLAGS, *training],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def finish(process):
    process.communicate(timeout=900)
    assert process.returncode == 0


def kill_within(process, stage, delay_s):
    """Kill a run so many seconds after a stage has begun; False if it ended before."""
    for line in process.stdout:
        if line.startswith("[") and line.split()[1] == stage:
            time.sleep(delay_s)
            break
    ended = process.poll() is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return not ended


def contents(run):
    paths = {path for pattern in COMPARED for path in run.rglob(pattern)}
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_every_kill_ends_with_the_bytes_of_the_undisturbed_run(tmp_path):
    write_recordings(tmp_path / "data_dir")
    write_ambient(tmp_path / "ambient_dir", [f"reader-{i}" for i in range(6)], tones=TONES)
    finish(start(tmp_path, tmp_path / "whole"))
    expected = contents(tmp_path / "whole")
    assert len(expected) > 10
    seconds = {
        stage: entry["seconds"]
        for stage, entry in directory.read_record(tmp_path / "whole" / "run.json")["stages"].items()
    }
    rng = np.random.default_rng(0)
    kills = 0
    while kills < KILLS:
        run = tmp_path / f"killed-{kills}"
        # Up to four kills in one run, each in a stage not before that of the last one.
        stages = sorted(rng.choice(STAGES, 4), key=tuple(pipeline.STAGES).index)
        for stage in stages:
            delay_s = rng.uniform(0, seconds[stage])
            killed = kill_within(start(tmp_path, run), stage, delay_s)
            print(f"{stage} after {delay_s:.1f} s: {'killed' if killed else 'was through'}")
            kills += killed
        finish(start(tmp_path, run))
        assert contents(run) == expected, stages
    assert not list((tmp_path / "cache_dir").glob("*.partial-*"))
