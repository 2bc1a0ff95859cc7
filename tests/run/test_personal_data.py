"""What is handed over of a run says nothing of whose recordings it was made from."""

import json
from pathlib import Path

import soundfile

from wakeword_keras.firmware.golden_clips import pseudonym
from wakeword_keras.firmware.manifest import read_manifest


def files_of(*folders):
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def test_nothing_handed_over_holds_a_path_of_this_machine(stream_run):
    run = Path(stream_run.run_dir)
    handed_over = files_of(run / "firmware", run / "export", run / "report")
    assert len(handed_over) > 20
    here = {str(run.parent), str(Path.home()), str(Path(__file__).parents[2])} - {"/"}
    for path in handed_over:
        content = path.read_bytes()
        assert not [name for name in here if name.encode() in content], path


def test_the_bundle_names_no_recording_and_no_speaker(stream_run):
    recordings = json.loads(Path(stream_run.run_dir, "input_files.json").read_text())
    names = {Path(path).stem for path in recordings if not path.endswith(".csv")}
    names |= {path.name for path in Path(stream_run.ambient_dir[0]).iterdir()}
    names = {name for name in names if len(name) > 3}
    assert len(names) > 10
    for path in files_of(Path(stream_run.run_dir, "firmware")):
        content = path.read_bytes()
        assert not [name for name in names if name.encode() in content], path


def test_whoever_has_the_recordings_can_tell_which_the_golden_clips_are(stream_run):
    known = {pseudonym(path.name) for path in Path(stream_run.data_dir[0]).glob("*.wav")}
    said = read_manifest(Path(stream_run.run_dir, "firmware"))["golden"]["clips"]
    sources = [row["source"].split(",")[0] for row in said if row["kind"] != "silence"]
    assert sources
    assert set(sources) <= known


def test_a_golden_clip_carries_its_sound_alone(stream_run):
    clips = Path(stream_run.run_dir, "firmware", "golden").glob("*.wav")
    for path in clips:
        with soundfile.SoundFile(path) as file:
            assert file.copy_metadata() == {}
