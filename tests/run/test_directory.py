import json

import pytest

from wakeword_keras import InputError, json_file
from wakeword_keras.run import directory
from wakeword_keras.run.directory import RunDirectory

STAGES = {"corpus": ("corpus.json", "streams.json"), "train": ("weights.npz", "history.csv")}
SETTINGS = {"seed": 1, "model": "ds_cnn"}


def opened(path, allowed=None, settings=SETTINGS):
    return RunDirectory(path / "run", settings, STAGES, allowed)


def do(run, path, calls):
    """Every stage that is not done."""

    def write(*names):
        calls.append(names)
        for name in names:
            run.path(name).write_text(name)

    run.once("corpus", lambda: write("corpus.json"))
    run.once("train", lambda: write("history.csv", "weights.npz"))


@pytest.fixture
def finished(tmp_path):
    do(opened(tmp_path), tmp_path, calls := [])
    assert calls == [("corpus.json",), ("history.csv", "weights.npz")]
    return tmp_path


def refused(path, *named, allowed=None, settings=SETTINGS):
    with pytest.raises(InputError) as error:
        do(opened(path, allowed, settings), path, [])
    for name in named:
        assert str(name) in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_a_finished_run_does_nothing_again(finished):
    do(opened(finished), finished, calls := [])
    assert calls == []


def test_a_stage_that_lacks_a_file_is_done_again_by_who_trains_alone(finished):
    (finished / "run" / "history.csv").unlink()
    refused(finished, "no train stage, history.csv is missing", "repeat", allowed=())
    with pytest.raises(InputError, match=r"no train stage, history\.csv is missing"):
        opened(finished, ()).check("train")
    do(opened(finished), finished, calls := [])
    assert calls == [("history.csv", "weights.npz")]


@pytest.mark.parametrize("allowed", [None, (), ("corpus",)])
def test_a_changed_file_is_named_with_the_mend(finished, allowed):
    path = finished / "run" / "weights.npz"
    path.write_text("weights.npy")
    refused(finished, path, "not what the run wrote", "delete it", "repeat", allowed=allowed)


def test_a_file_that_no_stage_wrote_is_not_read(finished):
    (finished / "run" / "streams.json").write_text("{}")
    refused(finished, "streams.json", "delete it")


def test_a_stage_that_is_to_be_done_again_may_be_damaged(finished):
    (finished / "run" / "weights.npz").write_text("torn")
    run = opened(finished, ("train",))
    run.forget(["train"])
    do(run, finished, calls := [])
    assert calls == [("history.csv", "weights.npz")]
    opened(finished, ())


def test_who_reads_neither_makes_nor_changes_anything(finished, tmp_path):
    before = {path: path.read_bytes() for path in (finished / "run").iterdir()}
    do(opened(finished, ()), finished, calls := [])
    assert calls == []
    assert {path: path.read_bytes() for path in (finished / "run").iterdir()} == before
    with pytest.raises(InputError, match=r"run\.json is missing: repeat the command"):
        RunDirectory(tmp_path / "nowhere", SETTINGS, STAGES, ())
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"stages": {"corpus": {"status": "done"}}}', "\0"]
)
@pytest.mark.parametrize("allowed", [None, ()])
def test_a_run_json_that_is_none_is_named_and_left_alone(finished, text, allowed):
    path = finished / "run" / "run.json"
    path.write_text(text)
    refused(finished, path, "damaged", "delete it", allowed=allowed)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", "one"), ("stages", []), ("shards", "../../clips-1"), ("data_sha256", "x")],
)
def test_a_sealed_run_json_has_to_be_of_the_schema_too(finished, field, value):
    path = finished / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["seal"]
    json_file.write_sealed(path, record | {field: value})
    refused(finished, path, field)


def test_other_settings_are_named(finished):
    refused(finished, "`seed`=1, not 2", settings=SETTINGS | {"seed": 2})


def test_a_second_process_in_the_same_directory_is_refused(tmp_path):
    with directory.locked(tmp_path / "run"):
        with (
            pytest.raises(InputError, match=r"run is being written by another process") as error,
            directory.locked(tmp_path / "run"),
        ):
            pass
        assert "\n" not in str(error.value)
    with directory.locked(tmp_path / "run"):
        pass
