"""Damaged TFLite files, read in a process of its own, so that a crash by a signal is seen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import read_damaged_files
import tf_keras as keras

from wakeword_keras import models
from wakeword_keras.tflite import convert

FRAMES, CHANNELS = 20, 8
CHUNK = 160


@pytest.fixture(scope="module")
def clips():
    return np.random.default_rng(0).uniform(0, 26, (4, FRAMES, CHANNELS)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(clips, tmp_path_factory):
    keras.utils.set_random_seed(1)
    model = models.build("ds_cnn", FRAMES, CHANNELS, 2)
    path = tmp_path_factory.mktemp("models")
    (path / "float.tflite").write_bytes(convert.float_model(model))
    int8 = convert.int8_model(model, lambda: ([clip[None]] for clip in clips))
    (path / "int8.tflite").write_bytes(int8)
    return path


@pytest.mark.parametrize(
    ("kind", "file"), [("int8", "int8.tflite"), ("fp32_tflite", "float.tflite")]
)
def test_every_reader_reads_a_sound_file(folder, clips, kind, file):
    for read in read_damaged_files.readers(kind, folder / file, folder, clips):
        assert read_damaged_files.outcome(read, file) == ""


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(first, marks=pytest.mark.slow if first >= 2 * CHUNK else ())
        for first in range(0, 20 * CHUNK, CHUNK)
    ],
)
def test_a_damaged_file_is_refused_in_one_line_or_read(folder, first):
    script = Path(read_damaged_files.__file__)
    done = subprocess.run(
        [sys.executable, script, folder, str(first), str(CHUNK)],
        capture_output=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{lines[-1:]}: {done.stderr[-2000:]}"
    damages, found = lines[::2], lines[1::2]
    assert len(found) == CHUNK
    for damage, result in zip(damages, found, strict=True):
        for outcome in result["outcomes"]:
            assert outcome in ("", "refused"), (damage, outcome)
    outcomes = [outcome for result in found for outcome in result["outcomes"]]
    assert {"", "refused"} == set(outcomes), "the damage hits nothing, or all"
