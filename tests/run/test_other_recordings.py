import dataclasses
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import soundfile
from small_recordings import write_ambient, write_recordings

from wakeword_keras import InputError, json_file
from wakeword_keras.data.shards import open_shards
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


def a_stream(run, split):
    """An ambient recording of a split of a run."""
    pieces = json.loads(Path(run.run_dir, "streams.json").read_text())["pieces"]
    return next(piece["path"] for piece in pieces if piece["split"] == split)


@pytest.fixture(scope="module")
def other(stream_run, tmp_path_factory):
    """The run's own test clips in another folder, two training clips among them; other streams,
    with one that trained and one that chose the run."""
    root = tmp_path_factory.mktemp("other")
    words = label_folders(Path(stream_run.data_dir[0]), root / "office", "test")
    for number in range(2):
        source = Path(stream_run.data_dir[0]) / f"train-no-{number}.wav"
        shutil.copy(source, words / "no" / f"heard-{number}.wav")
    radio = write_ambient(root / "radio", ["a", "b", "c"], seconds=6.0, tones=[("b", 2.0)])
    for split in ("train", "validation"):
        (radio / split).mkdir()
        shutil.copy(a_stream(stream_run, split), radio / split / "heard.wav")
    before = files_of(stream_run.run_dir)
    other_recordings.evaluate(stream_run, [str(words)], [str(radio)], root / "out")
    assert files_of(stream_run.run_dir) == before
    return root / "out"


def test_thresholds_are_the_runs_own_and_clips_that_trained_it_are_left_out(stream_run, other):
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


def test_ambient_recordings_that_trained_or_chose_the_run_are_left_out(other):
    corpus = json.loads((other / "corpus.json").read_text())
    (message,) = (m for m in corpus["messages"] if "ambient" in m and "left out" in m)
    assert "2 ambient recordings trained or validated the run" in message
    assert "train/heard" in message
    assert "validation/heard" in message


def test_ambient_recordings_that_all_trained_the_run_are_refused(stream_run, tmp_path):
    words = label_folders(Path(stream_run.data_dir[0]), tmp_path / "words", "test")
    (tmp_path / "radio" / "a").mkdir(parents=True)
    shutil.copy(a_stream(stream_run, "train"), tmp_path / "radio" / "a" / "heard.wav")
    radio = [str(tmp_path / "radio")]
    refused(stream_run, words, "`ambient_dir`", "trained", ambient=radio, out=tmp_path / "out")


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


def change(config, edit):
    """Edit a run's thresholds.json."""
    path = Path(config.run_dir, "thresholds.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def test_a_run_without_streams_has_no_threshold_for_them(copied, tmp_path):
    change(copied, lambda content: content.update(streams={}))
    refused(copied, tmp_path, "`ambient_dir`", copied.run_dir, ambient=["x"], out=tmp_path / "out")


def test_thresholds_that_are_lost_are_named_with_the_mend(copied, tmp_path):
    path = Path(copied.run_dir, "thresholds.json")
    path.unlink()
    refused(copied, tmp_path, path, "missing", "repeat the command", out=tmp_path / "out")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("clips"),
        lambda content: content.update(streams=[]),
        lambda content: content["clips"]["logits"].update(int8=float("nan")),
        lambda content: content["clips"]["logits"].update(int8="high"),
        lambda content: content["streams"]["int8"]["threshold"].update(probability=2.0),
        lambda content: content["streams"]["int8"]["threshold"].update(sum=0.5),
        lambda content: content["streams"]["int8"]["validation"].pop("hours"),
    ],
)
def test_damaged_thresholds_are_refused(copied, tmp_path, damage):
    path = change(copied, damage)
    refused(copied, tmp_path, path, "damaged", "delete it", out=tmp_path / "out")


def test_a_run_that_is_not_finished_is_named_with_the_mend(copied, tmp_path):
    path = Path(copied.run_dir, "run.json")
    record = json.loads(path.read_text())
    del record["seal"]
    record["stages"]["export"]["status"] = "running"
    json_file.write_sealed(path, record)
    words = write_recordings(tmp_path / "words")
    before = files_of(copied.run_dir)
    refused(copied, words, "no export stage", "repeat the command", out=tmp_path / "out")
    path.unlink()
    refused(copied, words, path, "missing", "repeat the command", out=tmp_path / "out")
    del before[path]
    assert files_of(copied.run_dir) == before


def test_silence_is_no_proof_that_a_clip_trained_the_run(stream_run, tmp_path):
    folder = tmp_path / "words"
    for label, level in (("yes", 0.1), ("no", 0.0)):
        (folder / label).mkdir(parents=True)
        soundfile.write(folder / label / "1.wav", [level] * 8000, 16000)
    record = json.loads(Path(stream_run.run_dir, "run.json").read_text())
    shards = open_shards(Path(stream_run.cache_dir, record["shards"]))
    corpus = other_recordings.read_corpus(
        [str(folder)], stream_run.corpus, only=other_recordings.TEST
    )
    assert other_recordings._without_the_runs_own(corpus, shards) == corpus
