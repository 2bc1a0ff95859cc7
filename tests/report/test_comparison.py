import copy
import io
import json

import numpy as np
import pytest
from matplotlib.image import imread
from test_report import findings_of, report_of, streams_of

from wakeword_keras import InputError, json_file
from wakeword_keras.report import comparison

SHA = "a" * 64


@pytest.fixture(scope="module")
def said():
    return json.loads(json.dumps(findings_of(streams=streams_of()).to_json()))


def write_run(path, report, settings=None, corpus=SHA):
    (path / "report").mkdir(parents=True)
    json_file.write_sealed(path / "report" / "report.json", report)
    json_file.write_sealed(path / "run.json", {"config": settings or {"seed": 1}, "stages": {}})
    json_file.write_sealed(path / "corpus.json", {"sha256": corpus})
    return str(path)


@pytest.fixture
def pair(said, tmp_path):
    worse = copy.deepcopy(said)
    worse["models"]["int8"]["accuracy"] = 0.4321
    worse["quantization_error"]["relative_accuracy_drop"] = 0.5
    first = write_run(tmp_path / "first", said, {"seed": 1, "echo": 2, "model": "ds_cnn"})
    return first, write_run(tmp_path / "second", worse, {"seed": 2, "echo": 2, "epochs": 9})


def test_the_table_holds_each_runs_own_figures_and_what_it_was_made_with(pair, said):
    lines = comparison.table(comparison.read(pair)).splitlines()
    first, second = lines[2:4]
    assert first.startswith("first ")
    assert f" {100 * said['models']['int8']['accuracy']:.2f} (" in first
    assert " 43.21 (" in second
    assert " +50.00 (" in second
    per_hour = said["streams"]["models"]["int8"]["test"]["false_accepts_per_hour"]
    assert f" {per_hour:.2f} " in first
    # Only what both have and differ in.
    assert lines[-2:] == ["first: seed 1", "second: seed 2"]


def test_a_run_without_streams_has_dashes_beside_one_with_them(pair, said, tmp_path):
    silent = write_run(tmp_path / "silent", {k: v for k, v in said.items() if k != "streams"})
    rows = comparison.table(comparison.read([*pair, silent])).splitlines()
    assert rows[4].split()[-2:] == ["-", "-"]
    assert "false accepts" not in comparison.table([comparison.read([*pair, silent])[2]] * 2)


def test_comparing_draws_a_picture_and_touches_no_run(pair, tmp_path, capsys):
    def files():
        return {p: p.read_bytes() for run in pair for p in (tmp_path / run).rglob("*.*")}

    before = files()
    comparison.compare(pair, tmp_path / "out" / "here")
    image = imread(io.BytesIO((tmp_path / "out" / "here" / "comparison.png").read_bytes()))
    assert np.ptp(image[..., :3]) > 0.5
    assert files() == before
    assert "first" in capsys.readouterr().out


def test_points_stand_where_the_figures_are(pair, said):
    accuracy, _, drop = comparison.figure(comparison.read(pair)).axes
    points = [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() == "o"]
    models = said["models"]
    expected = [models[m]["accuracy"] for m in ("fp32", "fp32", "int8_ptq", "int8_ptq", "int8")]
    np.testing.assert_allclose(points, [100 * a for a in [*expected, 0.4321]])
    drops = [line.get_xdata()[0] for line in drop.lines if line.get_marker() == "o"]
    assert drops[-1] == 50.0


def test_a_report_of_an_earlier_version_without_steps_still_compares(pair, said, tmp_path):
    older = copy.deepcopy(said)
    del older["quantization_error"]["steps"], older["calibration_coverage"]
    runs = comparison.read([pair[0], write_run(tmp_path / "older", older)])
    comparison.figure(runs)
    assert "older" in comparison.table(runs)


def test_equal_names_are_told_apart_by_their_paths(said, tmp_path):
    paths = [write_run(tmp_path / place / "run", said) for place in ("a", "b")]
    assert [run.name for run in comparison.read(paths)] == paths


def test_a_folder_of_a_report_on_other_data_is_a_run(said, tmp_path):
    paths = []
    for name in ("a", "b"):
        folder = tmp_path / name / "report_on_office"
        folder.mkdir(parents=True)
        json_file.write_sealed(folder / "report.json", said)
        paths.append(str(folder))
    assert comparison.differing_settings(comparison.read(paths)) == ["", ""]


def changed(said, **fields):
    return said | fields


def refused(directories, *named):
    with pytest.raises(InputError) as error:
        comparison.read(directories)
    for name in named:
        assert str(name) in str(error.value), error.value
    assert "\n" not in str(error.value)


def test_other_wake_words_are_refused(pair, said, tmp_path):
    other = write_run(tmp_path / "other", changed(said, wake_words=["marvin"]))
    refused([pair[0], other], pair[0], other, "happy", "marvin")


def test_other_test_clips_are_refused_and_the_way_out_is_said(pair, said, tmp_path):
    fewer = write_run(tmp_path / "fewer", changed(said, positives=said["positives"] - 1))
    refused([*pair, fewer], pair[0], fewer, "same test clips", "`data_dir`")
    coverage = said["calibration_coverage"]
    sounds = changed(said, calibration_coverage=coverage | {"checked_sha256": "f" * 64})
    # As many clips of other sound: neither the features are the same nor the corpus.
    refused([pair[0], write_run(tmp_path / "sounds", sounds, corpus="b" * 64)], "same test clips")
    # One corpus through two front ends, and two corpora with the same test clips.
    comparison.read([pair[0], write_run(tmp_path / "frontend", sounds)])
    comparison.read([pair[0], write_run(tmp_path / "corpus", said, corpus="b" * 64)])


def test_what_holds_no_report_is_named_with_the_mend(pair, said, tmp_path):
    refused([pair[0], str(tmp_path / "nowhere")], tmp_path / "nowhere", "run.flags")
    refused([pair[0]], "two or more")
    refused([pair[0], pair[0]], "different")
    lacking = changed(said, models={k: v for k, v in said["models"].items() if k != "int8"})
    refused([pair[0], write_run(tmp_path / "lacking", lacking)], "int8", "evaluate that run again")
    torn = tmp_path / "torn"
    write_run(torn, said)
    (torn / "report" / "report.json").write_text("{")
    refused([pair[0], str(torn)], torn, "not JSON")


def test_several_wake_words_compare(tmp_path):
    report = findings_of(report_of(("up", "down"))).to_json()
    paths = [write_run(tmp_path / name, json.loads(json.dumps(report))) for name in ("a", "b")]
    comparison.figure(comparison.read(paths))
