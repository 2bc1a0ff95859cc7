"""Two workers on loopback, each a process, against one that trains alone."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from damage_runs import FLAGS
from small_recordings import TONES, write_ambient, write_recordings

ROOT = Path(__file__).parents[2]
# A small rate: at a large one a rounding error decides what is learnt of so few clips.
TRAINING = (
    *FLAGS,
    "--epochs=4",
    "--qat_epochs=2",
    "--learning_rate=3e-4",
    "--listen_every=2",
    "--ambient_share=0.25",
    "--hard_share=0.25",
)


def free_addresses(count=2):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def start(folder, run, *flags, **environment):
    places = [f"--{name}={folder / name}" for name in ("data_dir", "ambient_dir", "cache_dir")]
    return subprocess.Popen(
        [
            sys.executable,
            Path(__file__).with_name("train_small.py"),
            *places,
            *TRAINING,
            f"--run_dir={run}",
            *flags,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(folder, run):
    addresses = free_addresses()
    config = [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]
    workers = [start(folder, run, "--strategy=multi_worker", TF_CONFIG=each) for each in config]
    return addresses, *workers


def read_until(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def end(process):
    """(exit code, stdout, the last line of stderr)."""
    out, error = process.communicate(timeout=900)
    return process.returncode, out, error.strip().split("\n")[-1]


def finish(process):
    code, said, error = end(process)
    assert code == 0, error
    return said


def histories(run):
    return {
        stage: list(csv.DictReader((run / stage / "history.csv").open(newline="")))
        for stage in ("fp32", "qat")
    }


def files(run):
    """Files of the training stages; TensorBoard's have the process in their names."""
    paths = [path.relative_to(run) for stage in ("fp32", "qat") for path in (run / stage).iterdir()]
    return sorted(map(str, paths)), len(list(run.glob("*/tensorboard/*/*")))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(folder of recordings, run of one worker, run of two)."""
    folder = tmp_path_factory.mktemp("workers")
    write_recordings(folder / "data_dir")
    write_ambient(folder / "ambient_dir", [f"reader-{i}" for i in range(6)], tones=TONES)
    finish(start(folder, folder / "one"))
    _, chief, other = start_two(folder, folder / "two")
    finish(chief)
    said = finish(other)
    assert "fp32 1/4" not in said
    assert "training is done" in said
    return folder, folder / "one", folder / "two"


@pytest.mark.slow
def test_two_workers_have_the_curve_of_one_at_the_same_batch(undisturbed):
    _, one, two = undisturbed
    for stage, tolerance in (("fp32", 0.01), ("qat", 0.02)):
        losses = [[float(row["loss"]) for row in histories(run)[stage]] for run in (one, two)]
        print(stage, losses)
        assert losses[1] == pytest.approx(losses[0], rel=tolerance)


@pytest.mark.slow
def test_the_chief_alone_writes(undisturbed):
    _, one, two = undisturbed
    assert files(two) == files(one)
    assert not list(two.rglob("*.partial-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "line", "number"), [(1, "fp32 2/4", signal.SIGKILL), (0, "qat 1/2", signal.SIGTERM)]
)
def test_a_worker_that_ends_is_named_and_the_run_goes_on(
    victim, line, number, undisturbed, tmp_path
):
    folder, _, two = undisturbed
    addresses, *workers = start_two(folder, tmp_path / "run")
    read_until(workers[0], line)
    workers[victim].send_signal(number)
    code, _, said = end(workers[1 - victim])
    print(said)
    assert code == 1
    assert said.startswith(f"error: worker {victim} ({addresses[victim]}) has ended or cannot be")
    assert end(workers[victim])[0] == (143 if number == signal.SIGTERM else -number)
    for worker in start_two(folder, tmp_path / "run")[1:]:
        finish(worker)
    for stage, rows in histories(tmp_path / "run").items():
        before = histories(two)[stage]
        assert [row["epoch"] for row in rows] == [row["epoch"] for row in before]
        losses = [[float(row["loss"]) for row in each] for each in (rows, before)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
