import os
import subprocess
import sys
import threading

import pytest

from wakeword_keras import files


def text(folder):
    return {p.name: p.read_text() for p in folder.iterdir() if p.name != files.CHECKSUMS}


def filled_with(**contents):
    def write(folder):
        for name, content in contents.items():
            (folder / name).write_text(content)

    return write


def never(_):
    raise AssertionError("what is there was to be used")


def at_once(*jobs):
    """Run jobs in threads that start together; what they raised."""
    barrier, raised = threading.Barrier(len(jobs)), []

    def run(job):
        barrier.wait()
        try:
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_writers_of_one_file_at_once_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.bin"
    contents = [bytes([i]) * 200_000 for i in range(8)]
    for _ in range(20):
        assert not at_once(*(lambda c=c: files.write_bytes(path, c) for c in contents))
        assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    files.write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        files.write_bytes(tmp_path / "a", b"new")
    assert text(tmp_path) == {"a": "old"}


def test_a_folder_is_built_once_and_used_again(tmp_path):
    folder = tmp_path / "cache" / "entry"
    files.build_folder(folder, filled_with(a="1"))
    files.build_folder(folder, never)
    assert text(folder) == {"a": "1"}
    assert os.listdir(tmp_path / "cache") == ["entry"]


def test_the_loser_of_a_race_uses_the_winners_folder(tmp_path):
    folder = tmp_path / "entry"

    def write_while_another_publishes(partial):
        filled_with(a="loser")(partial)
        files.build_folder(folder, filled_with(a="winner"))

    files.build_folder(folder, write_while_another_publishes)
    assert text(folder) == {"a": "winner"}
    assert os.listdir(tmp_path) == ["entry"]


def test_builders_of_one_folder_at_once_all_end_with_a_whole_one(tmp_path):
    folder = tmp_path / "entry"
    for number in range(20):
        if number % 2:
            (folder / "a").write_text("damaged")
        write = filled_with(a="1" * 100_000, b="2")
        assert not at_once(*[lambda: files.build_folder(folder, write)] * 6)  # noqa: B023
        assert files.is_whole(folder)
        assert os.listdir(tmp_path) == ["entry"]


def test_a_failed_build_leaves_nothing(tmp_path):
    def failing(folder):
        (folder / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.build_folder(tmp_path / "entry", failing)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "a").unlink(),
        lambda folder: (folder / "a").write_text("12"),
        lambda folder: (folder / "a").write_text("124"),
        lambda folder: (folder / "sub" / "b").write_text(""),
        lambda folder: (folder / files.CHECKSUMS).unlink(),
        *(
            lambda folder, text=text: (folder / files.CHECKSUMS).write_text(text)
            for text in ("", "{}", "[]", "3", '{"sha256": {}}', '{"sha256": 1}', '{"sha256": "a"}')
        ),
        lambda folder: (folder / files.CHECKSUMS).write_bytes(b"\xff"),
    ],
)
def test_a_damaged_folder_is_built_again_and_that_is_said(tmp_path, damage, capsys):
    def write(folder):
        (folder / "sub").mkdir()
        (folder / "a").write_text("123")
        (folder / "sub" / "b").write_text("456")

    folder = tmp_path / "entry"
    files.build_folder(folder, write)
    damage(folder)
    assert not files.is_whole(folder)
    files.build_folder(folder, write)
    assert files.is_whole(folder)
    assert os.listdir(tmp_path) == ["entry"]
    assert str(folder) in capsys.readouterr().out


def test_what_dead_processes_left_is_removed_and_what_may_be_in_use_stays(tmp_path):
    dead, process = dead_process(), "0123456789abcdef"
    host = files.platform.node()
    left = [f"clips.partial-{dead}", f"clips.partial-{dead}-{process}-{host}"]
    left += [f"run.json.partial-{os.getpid()}-{process}-{host}"]  # of an earlier process
    for name in left[:2]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    (tmp_path / left[2]).write_text("")
    used = [f"clips.partial-{os.getppid()}-{process}-{host}", f"clips.partial-{dead}-{process}-far"]
    used += ["mine.partial-thing", files.private_path(tmp_path / "other").name]
    for name in used:
        (tmp_path / name).mkdir()
    files.write_bytes(tmp_path / "file", b"")
    assert sorted(os.listdir(tmp_path)) == sorted([*used, "file"])


def test_what_dead_processes_left_is_removed_where_the_folder_is_whole_already(tmp_path):
    files.build_folder(tmp_path / "clips", lambda folder: (folder / "a").write_text("1"))
    (tmp_path / f"clips.partial-{dead_process()}").mkdir()
    files.build_folder(tmp_path / "clips", lambda folder: None)
    assert os.listdir(tmp_path) == ["clips"]


def test_a_file_that_cannot_be_written_is_named_by_its_own_name(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space") as error:
        files.write_bytes(tmp_path / "run.json", b"1")
    assert error.value.filename == str(tmp_path / "run.json")
    assert os.listdir(tmp_path) == []


def test_a_folder_is_swept_once_however_many_files_are_written(tmp_path, monkeypatch):
    swept = []
    monkeypatch.setattr(files, "_remove_left_behind", swept.append)
    for number in range(3):
        files.write_bytes(tmp_path / str(number), b"")
    assert swept == [tmp_path]
