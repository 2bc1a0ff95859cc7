import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import soundfile
from absl import flags
from absl.testing import flagsaver
from small_recordings import write_ambient, write_recordings

from tools import command, train
from wakeword_keras import files, models
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.shards import open_shards, split_features
from wakeword_keras.names import ONNX_FILES, TFLITE_FILES
from wakeword_keras.onnx import translate
from wakeword_keras.quantization import fake_quantize
from wakeword_keras.report import report
from wakeword_keras.run import directory, pipeline
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.scorers import keras_scorer, tflite_scorer
from wakeword_keras.training import callbacks, weights

ROOT = Path(train.__file__).parents[1]
RECIPE = f"--flagfile={ROOT / 'flags' / 'smoke.flags'}"
MODELS = ("fp32", "qat", "int8_ptq", "int8")
METRICS = ("accuracy", "roc_auc", "recall_at_fpr_0_01", "threshold", "bytes", "latency_us")
ERRORS = (
    "relative_accuracy_drop",
    "accuracy_drop_ci95",
    "delta_miss_rate_at_equal_false_accepts",
    "score_mean_abs_error",
    "score_max_abs_error",
    "decisions_flipped",
    "clips",
    "qat_vs_int8_max_lsb",
    "qat_vs_int8_p99_lsb",
)


def command_of(*arguments):
    return [sys.executable, "-m", "tools.train", *map(str, arguments)]


def train_in_a_process(*arguments):
    return subprocess.run(
        command_of(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(path):
    return [{**row, "seconds": ""} for row in rows(path)]


def read(path):
    return json.loads(path.read_text())


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """The run directory of one whole run of the smoke recipe through the command line."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    done = train_in_a_process(RECIPE, f"--run_dir={directory}", f"--cache_dir={cache}")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def qat_model(finished):
    settings = read(finished / "run.json")["config"]
    assert settings["frontend.kind"] == "micro"
    frontend = FrontendConfig()
    frames = frontend.num_frames(16 * settings["corpus.clip_ms"])
    fp32 = models.build(settings["model"], frames, frontend.channels, 1)
    model = fake_quantize.quantize(fp32, frontend.input_affine)
    weights.load(model, finished / "qat" / "weights.npz")
    return model


@pytest.fixture(scope="module")
def shards(finished, cache):
    return open_shards(cache / read(finished / "run.json")["shards"])


@pytest.fixture(scope="module")
def test_features(shards):
    frontend = FrontendConfig()
    return np.asarray(split_features(shards, "test", frontend).features)


def test_the_run_directory_holds_what_others_read(finished):
    for name in (
        "run.flags",
        "thresholds.json",
        "fp32/weights.npz",
        "qat/weights.npz",
        "report/report.html",
        "firmware/manifest.json",
        "firmware/model_data.c",
        "firmware/model_data.h",
    ):
        assert (finished / name).stat().st_size > 0, name
    assert {path.name for path in (finished / "export").iterdir()} == {
        "model_fp32.tflite",
        "model_int8_ptq.tflite",
        "model_int8.tflite",
        *(ONNX_FILES.values() if translate.installed() else ()),
        "export.json",
    }
    for stage in ("fp32", "qat"):
        assert list((finished / stage / "tensorboard").rglob("events*"))
    assert not [name for name in contents(finished) if "partial" in name]


def test_run_json_says_what_ran_with_what(finished):
    record = read(finished / "run.json")
    assert tuple(record["stages"]) == tuple(pipeline.STAGES)
    for stage in record["stages"].values():
        assert stage["status"] == "done"
        assert stage["seconds"] >= 0
        assert len(stage["config_sha256"]) == 64
    assert set(record["versions"]) == set(directory.PACKAGES)
    assert record["seed"] == record["config"]["seed"] == 1
    assert record["data_sha256"] == read(finished / "corpus.json")["sha256"]


def test_corpus_json_counts_clips_hours_and_speakers(finished, shards):
    corpus = read(finished / "corpus.json")
    assert set(corpus["splits"]) == {"train", "validation", "test"}
    for split, summary in corpus["splits"].items():
        assert summary["clips"] == len(shards.clips[split])
        assert summary["clips"] == sum(label["clips"] for label in summary["labels"].values())
        assert summary["labels"]["hey_jarvis"]["group"] == "positive"
        assert summary["hours"] > 0
        assert summary["speakers"] > 0


@pytest.mark.parametrize(("stage", "epochs"), [("fp32", 6), ("qat", 4)])
def test_history_has_one_row_an_epoch(finished, stage, epochs):
    history = rows(finished / stage / "history.csv")
    assert tuple(history[0]) == callbacks.COLUMNS
    assert [row["epoch"] for row in history] == [str(i + 1) for i in range(epochs)]
    for row in history:
        assert bool(row.pop("logit_error")) == (stage == "qat")  # FP32 has no teacher
        heard = [row.pop(name) for name in callbacks.HEARD_COLUMNS]
        assert not any(heard)  # no ambient audio
        assert all(np.isfinite(float(value)) for value in row.values())
        shares = [float(row[name]) for name in row if name.startswith("share_")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert float(row["hardest_tenth_weight"]) > 1
        assert float(row["hardest_tenth_weight_ce"]) == pytest.approx(1, abs=1e-6)


def test_calibration_uses_training_clips_alone(finished, shards):
    calibration = read(finished / "calibration.json")
    ids = {split: {clip.clip_id for clip in clips} for split, clips in shards.clips.items()}
    chosen = set(calibration["clip_ids"])
    assert len(calibration["clip_ids"]) == calibration["clips"] == len(chosen)
    assert chosen <= ids["train"]
    assert not chosen & (ids["test"] | ids["validation"])
    assert set(calibration["clips_by_label"]) == {clip.label for clip in shards.clips["train"]}
    assert sum(calibration["clips_by_label"].values()) == calibration["clips"]
    for activation in calibration["activations"]:
        assert activation["before"] == [-6.0, 6.0]
        assert activation["after"][0] <= 0 <= activation["after"][1]
        assert activation["clipped_after"] == 0


def test_report_json_has_the_keys_that_others_read(finished, shards):
    said = read(finished / "report" / "report.json")
    for model in MODELS:
        for metric in METRICS:
            assert metric in said["models"][model], (model, metric)
    assert set(ERRORS) <= set(said["quantization_error"])
    assert said["quantization_error"]["clips"] == len(shards.clips["test"])
    for name in ("int8", "int8_ptq"):
        size = (finished / "export" / TFLITE_FILES[name]).stat().st_size
        assert said["models"][name]["bytes"] == size


def test_report_json_follows_its_schema_and_names_labels_and_types(finished, shards):
    said = read(finished / "report" / "report.json")
    jsonschema.validate(said, read(Path(report.__file__).with_name("report_schema.json")))
    negatives = {clip.label for clip in shards.clips["test"] if clip.target < 0}
    assert {label["label"] for label in said["confusables"]} == negatives
    assert sum(x["clips"] for x in said["confusables"]) == said["models"]["int8"]["negatives"]
    assert set(said["tensors"]) == {"fp32_tflite", "int8_ptq", "int8"}
    assert set(said["tensors"]["int8"]) == {"INT8", "INT32"}
    assert "FLOAT32" in said["tensors"]["fp32_tflite"]
    assert [v["level"] for v in said["verdicts"] if v["line"] == "false accepts"] == ["open"]


def test_the_bundle_holds_the_exported_bytes(finished):
    exported = (finished / "export" / "model_int8.tflite").read_bytes()
    assert (finished / "firmware" / "model_int8.tflite").read_bytes() == exported
    source = (finished / "firmware" / "model_data.c").read_text()
    compiled = bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-fA-F]{2})\b", source))
    assert compiled == exported
    manifest = (finished / "firmware" / "manifest.json").read_text()
    assert hashlib.sha256(exported).hexdigest() in manifest


def test_the_exported_model_is_the_qat_model(finished, qat_model, test_features):
    path = finished / "export" / "model_int8.tflite"
    exported = tflite_scorer(path)(test_features)
    step = flatbuffer.output_affine(path).scale
    measured = keras_scorer(qat_model)(test_features)
    assert np.abs(exported - measured).max() <= 2.001 * step
    # Nearer to it than the parent's post-training quantization, which is another model.
    ptq = finished / "export" / "model_int8_ptq.tflite"
    assert ptq.read_bytes() != path.read_bytes()
    other = tflite_scorer(ptq)(test_features)
    assert np.abs(exported - measured).mean() < np.abs(other - measured).mean()


def test_the_exported_weights_are_the_qat_models_rounded(finished, qat_model):
    """The first kernel, folded with its batch norm and divided by its scales, to the bit."""
    named = {v.name.removesuffix(":0"): v.numpy() for v in qat_model.weights}
    kernel, gamma = named["first/kernel"], named["first_norm/gamma"]
    # Rounding is of the plain kernel; folding a positive factor per channel scales its step alone.
    limit = next(value for name, value in named.items() if name.endswith("first/kernel_max"))
    expected = np.clip(np.round(kernel / (limit / 127)), -127, 127) * np.sign(gamma)
    graph = flatbuffer.read_graph(finished / "export" / "model_int8.tflite")
    shape = (kernel.shape[3], *kernel.shape[:2], kernel.shape[2])
    stored = [
        tensor.data
        for tensor in graph.tensors
        if tensor.data is not None and tensor.shape == shape and tensor.type == "INT8"
    ]
    assert len(stored) == 1
    np.testing.assert_array_equal(stored[0].transpose(1, 2, 3, 0), expected)


def test_a_second_call_trains_nothing_and_writes_the_same(finished, cache):
    kept = [path for path in contents(finished) if path.startswith(("fp32", "qat", "export"))]
    stamps = {path: (finished / path).stat().st_mtime_ns for path in kept}
    before = read(finished / "report" / "report.json")["quantization_error"]
    done = train_in_a_process(f"--flagfile={finished / 'run.flags'}")
    assert done.returncode == 0, done.stderr
    assert {path: (finished / path).stat().st_mtime_ns for path in kept} == stamps
    assert "fp32 1/3" not in done.stdout
    assert read(finished / "report" / "report.json")["quantization_error"] == before


def test_a_lost_bundle_and_lost_thresholds_are_written_again_without_a_new_report(finished):
    lost = ("firmware/manifest.json", "thresholds.json")
    before = {path: (finished / path).read_bytes() for path in lost}
    stamp = (finished / "report" / "report.json").stat().st_mtime_ns
    for path in lost:
        (finished / path).unlink()
    done = train_in_a_process(f"--flagfile={finished / 'run.flags'}")
    assert done.returncode == 0, done.stderr
    assert {path: (finished / path).read_bytes() for path in lost} == before
    assert (finished / "report" / "report.json").stat().st_mtime_ns == stamp


def test_the_written_flags_repeat_the_run_to_the_byte(finished, tmp_path):
    again = tmp_path / "again"
    done = train_in_a_process(
        f"--flagfile={finished / 'run.flags'}",
        f"--run_dir={again}",
        f"--cache_dir={tmp_path / 'cache'}",
    )
    assert done.returncode == 0, done.stderr
    for stage in ("fp32", "qat"):
        ours, theirs = (without_times(run / stage / "history.csv") for run in (again, finished))
        assert ours == theirs
    for file in TFLITE_FILES.values():
        assert (again / "export" / file).read_bytes() == (finished / "export" / file).read_bytes()
    assert read(again / "calibration.json") == read(finished / "calibration.json")


def kill_after_first_row(history, *arguments):
    """Start a run and kill it, as power loss would, as soon as a stage has finished an epoch."""
    process = subprocess.Popen(
        command_of(*arguments),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    limit = time.monotonic() + 200
    try:
        while not (history.exists() and len(rows(history)) >= 1):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_a_run_killed_in_both_trainings_ends_complete(finished, cache, tmp_path):
    directory = tmp_path / "killed"
    arguments = (RECIPE, f"--run_dir={directory}", f"--cache_dir={cache}")
    kill_after_first_row(directory / "fp32" / "history.csv", *arguments)
    assert read(directory / "run.json")["stages"]["fp32"]["status"] == "running"
    assert not (directory / "fp32" / "weights.npz").exists()
    kill_after_first_row(directory / "qat" / "history.csv", *arguments)
    assert read(directory / "run.json")["stages"]["fp32"]["status"] == "done"
    trained = contents(directory / "fp32")
    assert not (directory / "export").exists()
    done = train_in_a_process(*arguments)
    assert done.returncode == 0, done.stderr
    assert contents(directory / "fp32") == trained
    for stage, epochs in (("fp32", 6), ("qat", 4)):
        history = rows(directory / stage / "history.csv")
        assert [int(row["epoch"]) for row in history] == list(range(1, epochs + 1))
    whole = without_times(finished / "fp32" / "history.csv")
    assert without_times(directory / "fp32" / "history.csv")[0] == whole[0]
    assert all(
        stage["status"] == "done" for stage in read(directory / "run.json")["stages"].values()
    )
    assert set(contents(directory / "export")) == set(contents(finished / "export"))
    assert (directory / "report" / "report.html").stat().st_size > 0


# Bad input, in this process: the tool's own main under its own guard.


@pytest.fixture
def tool(capsys, tmp_path):
    """Runs the tool on arguments; gives the exit code and what it wrote to stderr."""

    def run(*arguments, run_dir=tmp_path / "run"):
        given = [*arguments, f"--run_dir={run_dir}", f"--cache_dir={tmp_path / 'cache'}"]
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        capsys.readouterr()
        try:
            command._guarded(train.main, command._parse(["train", *map(str, given)])[1:])
        except SystemExit as end:
            return end.code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    with flagsaver.flagsaver():
        yield run
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        flags.FLAGS(["train"])


def refused(outcome, *named):
    code, said = outcome
    assert code == 1
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    for name in named:
        assert str(name) in said, said


@pytest.fixture
def recordings(tmp_path):
    return write_recordings(tmp_path / "recordings")


def test_a_missing_folder_is_named(tool, tmp_path):
    refused(tool(f"--data_dir={tmp_path / 'nowhere'}", "--wake_words=yes"), tmp_path / "nowhere")


def test_a_wake_word_without_clips_lists_the_labels(tool, recordings):
    refused(tool(f"--data_dir={recordings}", "--wake_words=yess"), "--wake_words=yess", "no", "yes")


@pytest.mark.parametrize("content", [b"", b"RIFF....not audio at all"])
def test_a_broken_recording_is_named(tool, recordings, content):
    (recordings / "train-no-3.wav").write_bytes(content)
    refused(tool(f"--data_dir={recordings}", "--wake_words=yes"), recordings / "train-no-3.wav")


def test_a_manifest_row_without_its_file_is_named(tool, recordings):
    (recordings / "train-yes-2.wav").unlink()
    refused(tool(f"--data_dir={recordings}", "--wake_words=yes"), "train-yes-2.wav", "manifest.csv")


def test_a_speaker_in_two_splits_is_named(tool, recordings):
    shutil.copy(recordings / "test-no-1.wav", recordings / "other.wav")
    with (recordings / "manifest.csv").open("a") as manifest:
        manifest.write("other.wav,no,train-3,test\n")
    refused(tool(f"--data_dir={recordings}", "--wake_words=yes"), "train-3", "manifest.csv")


def test_flags_are_checked_before_anything_is_written(tool, recordings, tmp_path):
    refused(tool(), "--data_dir", "--wake_phrase")
    refused(tool(f"--data_dir={recordings}"), "--wake_words")
    given = f"--data_dir={recordings}", "--wake_words=yes"
    refused(tool(*given, "--gama=2"), "gama", "gamma")
    refused(tool(*given, "--model=resnet"), "resnet", "ds_cnn")
    refused(tool(*given, "--loss=hinge"), "hinge", "focal")
    refused(tool(*given, "--frontend_kind=mfcc"), "mfcc", "log_mel")
    refused(tool(*given, "--class_weights", "--alpha=0.25"), "--class_weights", "--alpha=0.25")
    refused(tool(*given, "--epochs=0"), "--epochs=0")
    refused(tool(*given, "epochs=3"), "'epochs=3'")
    assert not (tmp_path / "run").exists()


def test_a_typing_error_does_not_keep_its_run_directory(tool, recordings, tmp_path):
    refused(tool(f"--data_dir={recordings}x", "--wake_words=yes"), f"{recordings}x")
    (recordings / "train-no-3.wav").write_bytes(b"")
    # Not the earlier folder's name: the next complaint is about the recording.
    refused(tool(f"--data_dir={recordings}", "--wake_words=yes"), "train-no-3.wav")


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("--gamma=1", ("--gamma=2.0", "1.0")),
        ("--seed=2", ("--seed=1", "2")),
        ("--synthetic_voices=9", ("--synthetic_voices=8", "9")),
        ("--wake_words=stop", ("--wake_words", "stop")),
    ],
)
def test_a_run_of_another_configuration_is_left_alone(finished, tool, argument, named):
    before = contents(finished)
    refused(tool(RECIPE, argument, run_dir=finished), finished, *named)
    assert contents(finished) == before


def test_a_full_disk_is_said(tool, recordings, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write_bytes", full)
    refused(tool(f"--data_dir={recordings}", "--wake_words=yes"), "disk is full", "run.json")


def test_a_bad_recording_can_be_skipped_and_is_counted(
    tool, recordings, tmp_path, monkeypatch, capsys
):
    (recordings / "train-no-3.wav").write_bytes(b"")

    class Enough(Exception):
        pass

    def stop(*_):
        raise Enough

    monkeypatch.setattr(pipeline, "_fp32", stop)
    with pytest.raises(Enough):
        tool(f"--data_dir={recordings}", "--wake_words=yes", "--skip_bad_audio", "--clip_ms=500")
    corpus = read(tmp_path / "run" / "corpus.json")
    assert corpus["splits"]["train"]["labels"]["no"]["clips"] == 11
    assert any("train-no-3.wav" in message and "1" in message for message in corpus["messages"]), (
        corpus["messages"]
    )
    assert "train-no-3.wav" in capsys.readouterr().out


def test_other_recordings_are_not_taken_for_the_runs_own(tool, recordings, monkeypatch, tmp_path):
    class Enough(Exception):
        pass

    def stop(*_):
        raise Enough

    monkeypatch.setattr(pipeline, "_fp32", stop)
    given = f"--data_dir={recordings}", "--wake_words=yes", "--clip_ms=500"
    with pytest.raises(Enough):
        tool(*given)
    shutil.rmtree(tmp_path / "cache")
    shutil.copy(recordings / "train-no-1.wav", recordings / "kept.wav")
    os.replace(recordings / "kept.wav", recordings / "train-no-2.wav")
    refused(tool(*given), "recordings are not those", tmp_path / "run", "--run_dir")


class Enough(Exception):
    """The corpus is read; no training is wanted."""


@pytest.fixture
def corpus_only(tool, recordings, tmp_path, monkeypatch):
    """Runs the tool's corpus stage on recordings, ambient audio and impulse responses."""

    def stop(*_):
        raise Enough

    monkeypatch.setattr(pipeline, "_fp32", stop)
    write_ambient(tmp_path / "ambient", ["a", "b", "c"])
    (tmp_path / "rooms").mkdir()
    soundfile.write(tmp_path / "rooms" / "hall.wav", [1.0, 0.5, 0.25], 16000)
    given = [f"--{name}={tmp_path / folder}" for name, folder in (
        ("data_dir", "recordings"), ("ambient_dir", "ambient"), ("impulse_response_dir", "rooms")
    )]  # fmt: skip
    run = lambda: tool(*given, "--wake_words=yes", "--clip_ms=500")  # noqa: E731
    with pytest.raises(Enough):
        run()
    return run


def change(path):
    samples, rate_hz = soundfile.read(path)
    soundfile.write(path, samples * 0.5, rate_hz)


def add(path, folder):
    soundfile.write(path, np.random.default_rng(9).normal(0, 0.05, 8000), 16000)
    if folder == "recordings":
        with (path.parent / "manifest.csv").open("a") as manifest:
            manifest.write(f"{path.name},no,train-3,train\n")


@pytest.mark.parametrize(
    "path", ["recordings/train-no-2.wav", "ambient/a/chapter/1.flac", "rooms/hall.wav"]
)
def test_recordings_that_changed_are_named_with_the_mend(corpus_only, tmp_path, path):
    before = contents(tmp_path / "run")
    changed = tmp_path / path
    kept = changed.read_bytes()
    change(changed)
    refused(corpus_only(), "1 changed", changed, tmp_path / "run", "--run_dir")
    assert contents(tmp_path / "run") == before
    changed.write_bytes(kept)
    with pytest.raises(Enough):
        corpus_only()
    other = changed.with_name("more.wav")
    add(other, path.split("/")[0])
    refused(corpus_only(), "1 added", other, tmp_path / "run", "--run_dir")


def test_recordings_that_are_gone_are_named_with_the_mend(corpus_only, tmp_path):
    gone = tmp_path / "ambient" / "c" / "chapter" / "2.wav"
    add(gone, "ambient")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(Enough):
        corpus_only()
    gone.unlink()
    refused(corpus_only(), "1 removed", gone, "--run_dir")


def test_a_new_time_alone_is_no_change(corpus_only, recordings):
    for path in recordings.iterdir():
        os.utime(path, (1, 1))
    for _ in range(2):
        with pytest.raises(Enough):
            corpus_only()


def test_bad_input_through_a_process_is_one_line_without_a_traceback(tmp_path):
    done = train_in_a_process(
        f"--data_dir={tmp_path / 'nowhere'}", "--wake_words=yes", f"--run_dir={tmp_path / 'run'}"
    )
    refused((done.returncode, done.stderr), tmp_path / "nowhere")
