"""A whole run of an architecture that streams, on tiny recordings."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from small_recordings import TONES, write_ambient

from wakeword_keras.audio import audio_file
from wakeword_keras.data.corpus import CorpusConfig
from wakeword_keras.firmware import esphome_manifest
from wakeword_keras.firmware.manifest import SCHEMA, read_manifest
from wakeword_keras.firmware.verify import verify
from wakeword_keras.names import FP32_TFLITE, INT8, INT8_PTQ
from wakeword_keras.report import report
from wakeword_keras.run import pipeline, released_models
from wakeword_keras.streams.detector import load_detector, stream_logits
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.scorers import tflite_scorer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def streaming_run(stream_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("streaming")
    config = dataclasses.replace(
        stream_run,
        run_dir=str(root / "run"),
        model="mixed_conv_small",
        members=2,
        target="esphome",
        max_false_accepts_per_hour=3600.0,
        corpus=CorpusConfig(wake_words=("yes",), clip_ms=1000),
    )
    pipeline.run(config)
    given = {
        "data_dir": config.data_dir[0],
        "ambient_dir": config.ambient_dir[0],
        "wake_words": "yes",
        "model": config.model,
        "members": config.members,
        "target": config.target,
        "max_false_accepts_per_hour": config.max_false_accepts_per_hour,
    }
    lines = (f"--{name}={value}\n" for name, value in given.items())
    (root / "run" / "run.flags").write_text("".join(lines))
    return config


def test_streams_are_heard_by_the_streaming_files_a_score_a_step(streaming_run):
    said = json.loads(Path(streaming_run.run_dir, "report", "report.json").read_text())
    schema = Path(report.__file__).with_name("report_schema.json")
    jsonschema.validate(said, json.loads(schema.read_text()))
    streams = said["streams"]
    assert (streams["stride_ms"], streams["average_ms"]) == (30, 600)
    assert set(streams["models"]) == {FP32_TFLITE, INT8_PTQ, INT8}
    assert streams["models"][INT8]["rescored"] > 0
    for one in said["step_by_step"]:
        assert one["steps"] == one["equal"] > 100


def test_the_bundle_holds_the_streaming_file_and_detection_uses_it(streaming_run, tmp_path):
    folder = Path(streaming_run.run_dir, "firmware")
    manifest = read_manifest(folder)
    jsonschema.validate(manifest, json.loads(SCHEMA.read_text()))
    assert manifest["listening"]["stride_ms"] == 30
    assert manifest["model"]["input"]["shape"] == [1, 3, 40]
    assert manifest["streaming"]["window_frames"] == 99
    assert manifest["golden"]["runs"] == 33
    exports = Path(streaming_run.run_dir, "export")
    held = (folder / manifest["model"]["file"]).read_bytes()
    assert held == (exports / "model_int8_streaming.tflite").read_bytes()
    verify(folder)
    sound = np.random.default_rng(0).normal(0, 900, 16000 * 3).astype(np.int16)
    detector = load_detector(folder)
    # Every recording begins cold: the same again.
    stepwise = [stream_logits([sound], detector, 30) for _ in range(2)]
    np.testing.assert_array_equal(*stepwise)
    scorer = tflite_scorer(exports / "model_int8.tflite", "reference")
    window = dataclasses.replace(
        detector, start=lambda: lambda windows: scorer(windows[:, -98:]), streams=False
    )
    np.testing.assert_array_equal(stepwise[0], stream_logits([sound], window, 30))


def test_its_own_esphome_model_and_the_run_stand_in_one_table(streaming_run, tmp_path):
    manifest = Path(streaming_run.run_dir, "esphome", esphome_manifest.FILE)
    model = esphome_manifest.read(manifest)
    rows = released_models.evaluate_beside(streaming_run, [model], (), ())
    measured = json.loads((manifest.parent / "measured.json").read_text())["test"]
    assert rows[1].false_accepts == measured["false_accepts"]
    assert (rows[1].positives, rows[1].misses) == (measured["positives"], measured["misses"])
    assert rows[0].positives == rows[1].positives == 8
    assert rows[0].hours == rows[1].hours
    released_models.write(rows, str(tmp_path))
    assert len(json.loads((tmp_path / "models.json").read_text())["models"]) == 2
    radio = write_ambient(tmp_path / "radio", ["a", "b"], seconds=6.0, tones=TONES)
    (alone,) = released_models.evaluate(
        [model],
        CorpusConfig(wake_words=("yes",)),
        (),
        (str(radio),),
        str(tmp_path / "cache"),
    )
    assert (alone.positives, alone.hours) == (0, pytest.approx(12 / 3600))


def test_every_window_file_has_its_streaming_file(streaming_run):
    exports = Path(streaming_run.run_dir, "export")
    for name in ("model_fp32", "model_int8_ptq", "model_int8"):
        assert "VAR_HANDLE" in flatbuffer.operators(exports / f"{name}_streaming.tflite")


def tool(name, *arguments):
    command = [sys.executable, "-m", f"tools.{name}", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_proof_counts_every_step(streaming_run, tmp_path):
    few = ("--clips=3", "--stream_minutes=1", f"--json={tmp_path / 'proof.json'}")
    printed = tool("prove_streaming", f"--run_dir={streaming_run.run_dir}", *few)
    found = json.loads((tmp_path / "proof.json").read_text())
    for one in found.values():
        assert one["steps"] > 50
        assert one["equal"] == one["steps"] or one["largest_difference"] <= 1e-5
    assert "steps equal to the bit" in printed


def test_the_benchmark_prints_what_streaming_gains(streaming_run, tmp_path):
    few = ("--rounds=1", "--audio_ms=10000", f"--json={tmp_path / 'rates.json'}")
    printed = tool("benchmark_streaming", f"--run_dir={streaming_run.run_dir}", *few)
    rates = json.loads((tmp_path / "rates.json").read_text())
    assert rates["medians"]["streaming, xnnpack"] == rates["streaming, xnnpack"][0] > 0
    assert "ds_cnn, reference" in printed


def test_detection_by_esphomes_decision_takes_the_runs_folder(streaming_run, tmp_path):
    path = tmp_path / "noise.wav"
    audio_file.write(path, np.random.default_rng(0).normal(0, 90, 48000).astype(np.int16))
    printed = tool("detect", f"--model={Path(streaming_run.run_dir, 'esphome')}", str(path))
    assert "detections at threshold" in printed
