import dataclasses
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import soundfile
from conftest import write_ambient, write_recordings

from wakeword_keras import InputError
from wakeword_keras.data.shards import open_shards
from wakeword_keras.evaluation import stream_evaluation
from wakeword_keras.evaluation.stream_evaluation import Choice
from wakeword_keras.report import comparison, report
from wakeword_keras.run import other_recordings

SCHEMA = json.loads(Path(report.__file__).with_name("report_schema.json").read_text())


def files_of(folder):
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def report_of(folder):
    return json.loads((Path(folder) / "report.json").read_text())


def label_folders(recordings, out, split):
    """A split of `write_recordings` as `<label>/<clips>`."""
    for path in recordings.glob(f"{split}-*.wav"):
        _, label, number = path.stem.split("-")
        (out / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, out / label / f"{number}.wav")
    return out


@pytest.fixture(scope="module")
def other(stream_run, tmp_path_factory):
    """The run's own test clips in another folder, two training clips among them, other streams."""
    root = tmp_path_factory.mktemp("other")
    words = label_folders(Path(stream_run.data_dir[0]), root / "office", "test")
    for number in range(2):
        source = Path(stream_run.data_dir[0]) / f"train-no-{number}.wav"
        shutil.copy(source, words / "no" / f"heard-{number}.wav")
    radio = write_ambient(root / "radio", ["a", "b", "c"], seconds=6.0, tones=[("b", 2.0)])
    before = files_of(stream_run.run_dir)
    other_recordings.evaluate(stream_run, [str(words)], [str(radio)], root / "out")
    assert files_of(stream_run.run_dir) == before
    return root / "out"


def test_thresholds_are_the_runs_own_and_clips_it_heard_are_left_out(stream_run, other):
    own, said = report_of(Path(stream_run.run_dir) / "report"), report_of(other)
    for name, model in own["models"].items():
        assert said["models"][name]["threshold"] == model["threshold"]
        # The same test clips: the same figures.
        assert said["models"][name]["accuracy"] == model["accuracy"]
    assert said["clips"] == own["clips"]
    assert said["validation_positives"] == own["validation_positives"]
    corpus = json.loads((other / "corpus.json").read_text())
    assert any("2 clips trained" in m and "heard-0" in m for m in corpus["messages"])


def test_streams_are_judged_whole_by_the_runs_thresholds(stream_run, other):
    own = report_of(Path(stream_run.run_dir) / "report")["streams"]
    said = report_of(other)["streams"]
    for name, model in own["models"].items():
        assert said["models"][name]["threshold"] == model["threshold"]
        assert said["models"][name]["validation"] == model["validation"]
        assert said["models"][name]["test"]["hours"] == pytest.approx(18 / 3600)
    assert said["test_streams"] == 3


def test_the_report_is_whole_and_follows_the_schema(other):
    jsonschema.validate(report_of(other), SCHEMA)
    assert (other / "report.html").stat().st_size > 0
    assert (other / "det_streams.png").stat().st_size > 0


def test_it_compares_with_the_same_run_on_other_clips_only_where_they_are_the_same(
    stream_run, other, tmp_path
):
    shutil.copytree(other, tmp_path / "again")
    comparison.read([str(other), str(tmp_path / "again")])
    # As many clips of the same labels, but under other names: nothing proves them the same.
    with pytest.raises(InputError, match="same test clips"):
        comparison.read([stream_run.run_dir, str(other)])


def test_what_a_report_says_of_streams_is_what_was_chosen(stream_run):
    streams = report_of(Path(stream_run.run_dir) / "report")["streams"]
    chosen = stream_evaluation.of_report(streams)
    for name, choice in chosen.items():
        assert isinstance(choice, Choice)
        back = json.loads(json.dumps(dataclasses.asdict(choice)))
        assert back["threshold"] == streams["models"][name]["threshold"]
        assert back["validation"] == streams["models"][name]["validation"]
        assert choice.streams == streams["validation_streams"]


def refused(config, words, *named, ambient=(), out):
    with pytest.raises(InputError) as error:
        other_recordings.evaluate(config, [str(words)], ambient, out)
    for name in named:
        assert str(name) in str(error.value), error.value
    assert "\n" not in str(error.value)
    assert not Path(out, "report.json").exists() or Path(out) == Path(config.run_dir, "report")


def test_recordings_without_the_wake_word_are_refused(stream_run, tmp_path):
    words = write_recordings(tmp_path / "words", clips=(("no", 3), ("up", 3)))
    refused(stream_run, words, "yes", words, "no, up", out=tmp_path / "out")


def test_recordings_that_all_trained_the_run_are_refused(stream_run, tmp_path):
    words = label_folders(Path(stream_run.data_dir[0]), tmp_path / "words", "train")
    refused(stream_run, words, "`data_dir`", "trained", "yes", out=tmp_path / "out")


def test_the_runs_own_report_is_not_overwritten(stream_run, tmp_path):
    for out in (stream_run.run_dir, f"{stream_run.run_dir}/report"):
        refused(stream_run, tmp_path, "`report_dir`", out=out)


@pytest.fixture
def copied(stream_run, tmp_path):
    """The same run elsewhere, to be changed."""
    shutil.copytree(stream_run.run_dir, tmp_path / "copy")
    return dataclasses.replace(stream_run, run_dir=str(tmp_path / "copy"))


def test_a_run_without_streams_has_no_threshold_for_them(copied, tmp_path):
    path = Path(copied.run_dir, "report", "report.json")
    said = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in said.items() if k != "streams"}))
    refused(copied, tmp_path, "`ambient_dir`", copied.run_dir, ambient=["x"], out=tmp_path / "out")


def test_an_earlier_report_and_a_missing_one_are_named_with_the_mend(copied, tmp_path):
    path = Path(copied.run_dir, "report", "report.json")
    said = json.loads(path.read_text())
    del said["quantization_error"]["steps"]
    path.write_text(json.dumps(said))
    refused(copied, tmp_path, path, "earlier", "evaluate", out=tmp_path / "out")
    path.unlink()
    refused(copied, tmp_path, copied.run_dir, "run.flags", out=tmp_path / "out")


def test_a_run_that_is_not_finished_is_named_with_the_mend(copied, tmp_path):
    path = Path(copied.run_dir, "run.json")
    record = json.loads(path.read_text())
    record["stages"]["export"]["status"] = "running"
    path.write_text(json.dumps(record))
    words = write_recordings(tmp_path / "words")
    refused(copied, words, "export is not done", "run.flags", out=tmp_path / "out")


def test_silence_is_no_proof_that_a_clip_was_heard(stream_run, tmp_path):
    folder = tmp_path / "words"
    for label in ("yes", "no"):
        (folder / label).mkdir(parents=True)
        soundfile.write(folder / label / "1.wav", [0.0] * 8000, 16000)
    shards = open_shards(json.loads(Path(stream_run.run_dir, "run.json").read_text())["shards"])
    corpus = other_recordings.read_corpus(
        [str(folder)], stream_run.corpus, only=other_recordings.TEST
    )
    assert other_recordings._unheard(corpus, shards) == corpus
