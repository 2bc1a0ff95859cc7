"""Damage copies of a finished run and open them with every tool; run by test_damaged_runs.

    damage_runs.py FOLDER FIRST COUNT

FOLDER holds `run`, a run of `write_run` below, and all that it was made from. Prints a line of JSON
before each damaged copy and one behind it: a process that dies of a signal shows where.
"""

import contextlib
import hashlib
import io
import json
import shutil
import sys
import traceback
from pathlib import Path

import numpy as np
import tf_keras as keras
from absl import flags
from small_recordings import TONES, write_ambient, write_recordings

from tools import command, evaluate, export, train
from wakeword_keras.audio import audio_file
from wakeword_keras.files import write_bytes
from wakeword_keras.run import pipeline
from wakeword_keras.streams.detector import StreamConfig, detect_stream, load_detector

SAME, REFUSED = "same", "refused"
HUGE = (10**9, -1, 2**63, 1e308, 10**400)
FLAGS = (
    "--wake_words=yes",
    "--clip_ms=500",
    "--batch=8",
    "--echo=2",
    "--shuffle=32",
    "--epochs=1",
    "--qat_epochs=1",
    "--calibration_clips=16",
)


def write_run(folder):
    """A finished run on tiny recordings, its sources and a recording to listen to."""
    write_recordings(folder / "words")
    write_ambient(folder / "ambient", [f"reader-{i}" for i in range(6)], tones=TONES)
    sound = np.random.default_rng(0).normal(0, 900, 32000)
    audio_file.write(folder / "recording.wav", sound.astype(np.int16))
    places = {"data_dir": "words", "ambient_dir": "ambient", "run_dir": "run", "cache_dir": "cache"}
    given = [f"--{flag}={folder / name}" for flag, name in places.items()]
    code, _, said = call(train.main, *given, *FLAGS)
    assert code == 0, said
    shutil.copytree(folder / "run", folder / "other")


def call(main, *arguments):
    """A tool as from the command line: (exit code, stdout, stderr)."""
    keras.backend.clear_session()  # names in exported files begin anew, as in a new process
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            command._guarded(main, command._parse(["tool", *map(str, arguments)])[1:])
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
        except BaseException:  # what a user would see as a traceback
            return -1, out.getvalue(), traceback.format_exc()
    return 0, out.getvalue(), err.getvalue()


def flip_a_bit(path, rng, folder):
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def cut_off(path, rng, folder):
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content) + 1)])


def empty(path, rng, folder):
    path.write_bytes(b"")


def write_another_kind(path, rng, folder):
    path.write_bytes([b"{}", b"[]", b"null", b"\x80\x04N.", b"\x89HDF\r\n\x1a\n"][rng.integers(5)])


def take_away(path, rng, folder):
    path.unlink()


def swap(path, rng, folder):
    others = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    if others:
        path.write_bytes(others[rng.integers(len(others))].read_bytes())


def put_a_folder(path, rng, folder):
    path.unlink()
    path.mkdir()


def change_a_value(path, rng, folder):
    """Another type, NaN, a huge number or a path outside, where the file is JSON."""
    try:
        content = json.loads(path.read_text())
    except ValueError:
        flip_a_bit(path, rng, folder)
        return
    places = list(_places(content))
    container, key = places[rng.integers(len(places))]
    values = [*HUGE, float("nan"), float("inf"), "../../other", None, [], {}, True, -2, "x" * 10**5]
    container[key] = values[rng.integers(len(values))]
    path.write_text(json.dumps(content))


def _places(content):
    for key in content if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


DAMAGES = (
    flip_a_bit,
    change_a_value,
    cut_off,
    take_away,
    swap,
    empty,
    write_another_kind,
    put_a_folder,
)
READ = (
    "*.json",
    "run.json",
    "manifest.json",
    "*.flags",
    "*.npz",
    "*.csv",
    "*.tflite",
    "*.onnx",
    "golden/*",
)


def damage(folder, number):
    """Damage a copy of the run; gives it, the file and what was done."""
    rng = np.random.default_rng(number)
    run = folder / "damaged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(folder / "run", run)
    pattern = [*READ, "*.*"][rng.integers(len(READ) + 1)]
    files = sorted(path for path in run.rglob(pattern) if path.is_file())
    path, change = files[rng.integers(len(files))], DAMAGES[number % len(DAMAGES)]
    change(path, rng, folder)
    return run, path, change.__name__


def listen(arguments):
    """As tools.detect, whose flags and a run's exclude each other in one process."""
    detector = load_detector(arguments[0])
    for found in detect_stream(audio_file.read_blocks(arguments[1]), detector, StreamConfig()):
        print(found)
    print(detector.threshold_probability, detector.wake_words)


def tools(folder, run):
    """Every tool on a run, each with what it reads."""
    compared = ("--compare", run, folder / "other", f"--report_dir={folder / 'compared'}")
    return {
        "detect": (listen, run / "firmware", folder / "recording.wav"),
        "verify": (export.main, f"--verify={run / 'firmware'}"),
        "compare": (evaluate.main, *compared),
        "evaluate": (evaluate.main, f"--run_dir={run}"),
        "train": (train.main, f"--flagfile={folder / 'run' / 'run.flags'}", f"--run_dir={run}"),
    }


def result(name, run, out):
    """What a tool has found, without names of folders."""
    if name in ("evaluate", "train"):
        return (run / "report" / "report.json").read_bytes()
    return out.replace(str(run), "RUN").replace("damaged", "run").split("picture")[0]


def write_what_was_opened(run, config, shards, run_models):
    """In place of a report, which takes a minute: the hash of all that it would be made from."""
    models = [w for m in (run_models.fp32, run_models.qat) for w in m.get_weights()]
    parts = [value.tobytes() for value in models]
    parts += [path.read_bytes() for path in (*run_models.exported.values(),)]
    parts += [path.read_bytes() for path in run_models.onnx.values()]
    held_out = pipeline.held_out(run, config, shards)
    parts += [repr(pipeline.open_thresholds(config)).encode(), repr(held_out.ambient).encode()]
    parts += [repr(shards.clips).encode(), run_models.calibration_set.features.tobytes()]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()
    write_bytes(run.path("report", "report.json"), digest.encode())


def outcome(folder, run, path, name, expected):
    """What came of a tool: the same as before, refused in one line, or what went wrong."""
    code, out, err = call(*tools(folder, run)[name])
    if code == 0:
        found = result(name, run, out)
        return SAME if found == expected else f"another result: {found[:300]!r}"
    named = path.name in err or path.stem in err or f"{path.parent.name}/" in err
    if code == 1 and err.startswith("error: ") and err.count("\n") == 1 and named:
        return REFUSED
    return f"exit {code}: {err[-2000:]}"


def main(folder, first, count):
    folder = Path(folder)
    pipeline._report = write_what_was_opened
    run = folder / "damaged"
    expected = {}
    for name in ("detect", "verify", "compare", "evaluate", "train"):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(folder / "run", run)
        code, out, err = call(*tools(folder, run)[name])
        assert code == 0, err
        if name == "train":  # of the finished run as it is: its report is lost
            (run / "report" / "report.json").unlink()
            assert call(*tools(folder, run)[name])[0] == 0
        expected[name] = result(name, run, out)
    for number in range(int(first), int(first) + int(count)):
        _, path, what = damage(folder, number)
        file = str(path.relative_to(run))
        print(json.dumps({"number": number, "file": file, "damage": what}), flush=True)
        found = {}
        for name in expected:
            _, path, _ = damage(folder, number)
            if name == "train" and file != "report/report.json":
                (run / "report" / "report.json").unlink(missing_ok=True)
            found[name] = outcome(folder, run, path, name, expected[name])
        print(json.dumps({"number": number, "outcomes": found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
