import json
import subprocess
import sys

import numpy as np
import pytest

from tools import benchmark_corpus, benchmark_evaluator
from wakeword_keras import models
from wakeword_keras.audio import audio_file
from wakeword_keras.tflite import convert

SMOKE = ("--flagfile=flags/smoke.flags", "--rounds=1")


def benchmark(name, *arguments, path):
    command = [sys.executable, "-m", f"tools.{name}", *arguments, f"--json={path}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, json.loads(path.read_text())


@pytest.mark.slow
def test_the_loss_benchmark_gives_ratios_and_the_share_of_an_epoch(tmp_path):
    printed, figures = benchmark("benchmark_loss", path=tmp_path / "loss.json")
    assert 0 < figures["epoch_overhead"] < 0.05
    assert set(figures["loss_and_gradient_us"]) >= {"256", "4096"}
    assert "4096" in printed


@pytest.mark.slow
def test_the_pipeline_benchmark_gives_the_ratio_of_paired_rounds(tmp_path):
    cache = f"--cache_dir={tmp_path / 'cache'}"
    printed, figures = benchmark("benchmark_pipeline", *SMOKE, cache, path=tmp_path / "pipe.json")
    (full,), (constant,) = figures["full_pipeline"], figures["constant_batch"]
    assert figures["ratio"] == pytest.approx(full / constant)
    assert "ratio" in printed


@pytest.mark.slow
def test_the_qat_benchmark_gives_ratios_of_paired_rounds(tmp_path):
    few = ("--models=ds_cnn", "--rounds=1", "--steps=2")
    printed, figures = benchmark("benchmark_qat", *few, path=tmp_path / "qat.json")
    (fp32,), (qat,) = figures["ds_cnn"]["fp32"], figures["ds_cnn"]["qat"]
    assert figures["ds_cnn"]["ratio"] == pytest.approx(qat / fp32)
    assert "ds_cnn" in printed


def test_the_evaluator_benchmark_demands_the_plain_loops_bits(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(convert.float_model(models.build("ds_cnn", 20, 8, 1)))
    features = np.random.default_rng(0).uniform(0, 26, (300, 20, 8)).astype(np.float32)
    figures = benchmark_evaluator.measure(path, "xnnpack", features, rounds=2)
    paired = np.divide(figures["evaluator"], figures["plain_loop"])
    assert len(paired) == 2
    assert figures["ratio"] == pytest.approx(np.median(paired))

    def off_by_a_bit(features):
        return np.nextafter(benchmark_evaluator._plain_loop(path, "xnnpack")(features), np.inf)

    monkeypatch.setattr(benchmark_evaluator, "_evaluator", lambda *_: off_by_a_bit)
    with pytest.raises(AssertionError):
        benchmark_evaluator.measure(path, "xnnpack", features, rounds=1)


def test_repeated_recordings_fill_the_hours_keep_their_folders_and_differ(tmp_path):
    samples = np.random.default_rng(0).integers(-9000, 9000, 16_000).astype(np.int16)
    for name in ("happy/a_nohash_0", "_background_noise_/hum", "84/121/84-121-1"):
        path = tmp_path / "from" / f"{name}.flac"
        path.parent.mkdir(parents=True)
        audio_file.write(path, samples)
    benchmark_corpus.repeat([str(tmp_path / "from")], tmp_path / "to", 7 / 3600)
    written = sorted((tmp_path / "to").rglob("*.wav"))
    assert len(written) == 7
    assert len({audio_file.read(path).tobytes() for path in written}) == 7 - 2  # three as they are
    assert len(list((tmp_path / "to/_background_noise_").iterdir())) == 1
    assert {path.parts[-3] for path in written if path.parts[-2] == "121"} == {
        "84-0",
        "84-1",
        "84-2",
    }
    assert all(path.parts[-2] == "happy" for path in written if "nohash" in path.name)
