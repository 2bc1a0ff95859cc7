import json
import shutil
import subprocess
import sys

import pytest
from tiny_bundle import STEPS

from wakeword_keras import json_file
from wakeword_keras.errors import InputError
from wakeword_keras.firmware import golden, verify
from wakeword_keras.streams.detector import load_detector


@pytest.fixture
def copy(golden_bundle, tmp_path):
    return shutil.copytree(golden_bundle, tmp_path / "firmware")


def _flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_whole_bundle_is_whole(golden_bundle):
    lines = verify.verify(golden_bundle)
    assert lines[-1] == "12 golden clips: TFLite Micro gives every output bit for bit"


def test_whole_streaming_bundle_is_whole_step_by_step(streaming_bundle):
    assert verify.verify(streaming_bundle)[-1] == (
        f"12 golden clips of {STEPS} steps from cold states: TFLite Micro gives every output bit "
        "for bit"
    )


@pytest.mark.parametrize("at", [0, -1], ids=["first byte", "last byte"])
@pytest.mark.parametrize(
    "name",
    [
        "model_int8_streaming.tflite",
        "golden/05_positive.input.bin",
        "golden/05_positive.output.bin",
    ],
)
def test_flipped_byte_of_a_streaming_bundle_names_its_file(streaming_bundle, tmp_path, name, at):
    folder = shutil.copytree(streaming_bundle, tmp_path / "firmware")
    _flip(folder / name, at)
    with pytest.raises(InputError, match="is damaged") as error:
        verify.verify(folder)
    assert str(folder / name) in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "model_int8.tflite",
        "model_data.c",
        "op_resolver.h",
        "golden/00_silence.wav",
        "golden/05_positive.input.bin",
        "golden/05_positive.output.bin",
        "golden/stream.detected.bin",
        "golden/golden.c",
        "LICENCES.txt",
        "manifest.schema.json",
        "README.md",
    ],
)
@pytest.mark.parametrize("at", [0, -1], ids=["first byte", "last byte"])
def test_flipped_byte_names_its_file(copy, name, at):
    _flip(copy / name, at)
    with pytest.raises(InputError, match="is damaged") as error:
        verify.verify(copy)
    assert str(copy / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_flipped_byte_of_a_hash_names_the_manifest(copy):
    path = copy / "manifest.json"
    said = json.loads(path.read_text())
    for digest in (said["files"]["model_int8.tflite"], said["sha256"]):
        text = path.read_text()
        changed = ("0" if digest[0] != "0" else "1") + digest[1:]
        path.write_text(text.replace(digest, changed))
        with pytest.raises(InputError, match=r"manifest\.json is damaged"):
            verify.verify(copy)
        path.write_text(text)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("model", "file", "../model_int8.tflite"),
        ("model", "file", "/etc/passwd"),
        ("threshold", "probability", 2.0),
        ("threshold", "probability", -1.0),
        (None, "clip_ms", 10**9),
    ],
)
def test_a_hostile_manifest_with_a_seal_and_hashes_of_its_own_is_one_error(copy, part, name, value):
    path = copy / "manifest.json"
    said = json.loads(path.read_text())
    del said["sha256"]
    (said[part] if part else said)[name] = value
    shutil.copy(copy / "model_int8.tflite", copy.parent)
    json_file.write_sealed(path, said)
    with pytest.raises(InputError) as error:
        load_detector(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("runs", [2, 10**9])
def test_a_manifest_cannot_ask_for_memory(copy, runs):
    path = copy / "manifest.json"
    said = json.loads(path.read_text())
    del said["sha256"]
    said["model"]["input"]["shape"] = [1, 10**9, 40]
    said["golden"]["runs"] = runs
    json_file.write_sealed(path, said)
    with pytest.raises(InputError, match=r"(?i)export (it )?again|manifest"):
        verify.verify(copy)


def test_missing_and_foreign_files_are_named(copy):
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt is not of the bundle"):
        verify.verify(copy)
    (copy / "notes.txt").unlink()
    (copy / "detector.h").unlink()
    with pytest.raises(InputError, match=r"detector\.h: cannot be read"):
        verify.verify(copy)


def test_output_that_tflite_micro_does_not_give_is_named(either_bundle, monkeypatch):
    run = golden.run_on_micro

    def another(model, inputs):
        outputs = run(model, inputs)
        outputs[7][-1, 0] ^= 1
        return outputs

    monkeypatch.setattr(golden, "run_on_micro", another)
    with pytest.raises(InputError, match=r"07_positive\.output\.bin: TFLite Micro gives .* run \d"):
        verify.verify(either_bundle)


def test_tool_names_the_damaged_file_and_exits_with_1(copy):
    command = [sys.executable, "-m", "tools.export", f"--verify={copy}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bit for bit" in done.stdout
    _flip(copy / "golden/03_positive.input.bin", 100)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "golden/03_positive.input.bin is damaged" in line
