import errno
import os
import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from flags import run_flags
from tools import command
from wakeword_keras.errors import InputError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/run.json")
# How TensorFlow reports it.
FULL_IN_TENSORFLOW = RuntimeError("runs/x/fp32/checkpoints; No space left on device [Op:SaveV2]")


def ended(error, capsys):
    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as end:
        command._guarded(main, [])
    return end.value.code, capsys.readouterr().err


def test_bad_input_is_one_line_and_exit_code_1(capsys):
    code, said = ended(InputError("clip.wav: not audio:\n  remove it"), capsys)
    assert (code, said) == (1, "error: clip.wav: not audio: remove it\n")


@pytest.mark.parametrize("error", [FULL, FULL_IN_TENSORFLOW])
def test_a_full_disk_is_one_line_and_exit_code_1(error, capsys):
    code, said = ended(error, capsys)
    assert code == 1
    assert "the disk is full: free space, run again" in said
    assert said.count("\n") == 1
    if error is FULL:
        assert "runs/x/run.json" in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to_is_named_in_one_line(number, capsys):
    code, said = ended(OSError(number, os.strerror(number), "runs/x/run.json"), capsys)
    assert code == 1
    assert said.startswith("error: runs/x/run.json: not allowed to read or write there: give")
    assert said.count("\n") == 1


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(capsys):
    code, said = ended(KeyboardInterrupt(), capsys)
    assert code == 130
    assert "the same command goes on" in said
    assert said.count("\n") == 1


def test_an_error_of_our_own_is_not_hidden():
    def main(arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(OSError, match="Input/output"):
        command._guarded(main, [])


def test_an_unknown_flag_is_one_line_with_the_nearest_name(capsys):
    assert run_flags.PARTS  # whose import defines the flags
    with pytest.raises(SystemExit) as end:
        command._parse(["train", "--gama=2"])
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert "gama" in said
    assert "gamma" in said
    assert said.count("\n") == 1


# Python can raise nothing through a callback of C.
IN_A_CALLBACK = (
    "import ctypes, os; ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), 15) or sum(range(9)))()"
)
# TensorFlow's C code may put an error of its own in the place of the signal's exception.
IN_A_CALL = """
    import os, time
    try:
        os.kill(os.getpid(), {})
        time.sleep(9)
    except BaseException:
        raise SystemError("bad argument to internal function") from None
"""
PROGRAM = """
from tools import command
from wakeword_keras import InputError
def main(arguments):
    print("at work")
    {body}
command.run(main)
"""


@pytest.mark.parametrize(
    ("body", "code", "last"),
    [
        ("return", 0, None),
        ("raise InputError('x.wav: broken')", 1, "error: x.wav: broken"),
        ("raise KeyboardInterrupt", 130, "interrupted: the same command goes on from here"),
        (
            "import os; os.kill(os.getpid(), 15); import time; time.sleep(9)",
            143,
            "interrupted: the same command goes on from here",
        ),
        (
            f"{IN_A_CALLBACK}; import time; time.sleep(9)",
            143,
            "interrupted: the same command goes on from here",
        ),
        (
            f"{IN_A_CALLBACK}; raise InputError('x.wav: cut short')",
            143,
            "interrupted: the same command goes on from here",
        ),
        (IN_A_CALL.format(15), 143, "interrupted: the same command goes on from here"),
        (IN_A_CALL.format(2), 130, "interrupted: the same command goes on from here"),
        ("raise ZeroDivisionError('ours')", 1, "ZeroDivisionError: ours"),
    ],
)
def test_the_process_ends_with_its_code_and_its_output(body, code, last):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert done.returncode == code
    assert done.stdout == "at work\n"
    assert (lines[-1] if lines else None) == last
    # A traceback is for our own errors alone.
    assert (len(lines) > 1) == (last == "ZeroDivisionError: ours")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data_dir=a", "--data_dir=b"],
        ["--data_dir", "a", "--data_dir=b"],
        ["-data_dir=a", "--seed=1", "--data_dir", "b"],
        ["--flagfile=FILE", "--seed=1"],
        ["--flagfile=FILE", "--data_dir=c"],
    ],
)
def test_a_list_that_is_given_twice_is_refused(arguments, tmp_path, capsys):
    assert run_flags.PARTS
    (tmp_path / "x.flags").write_text("# two\n--data_dir=a\n--seed=1\n--data_dir=b\n")
    arguments = [argument.replace("FILE", f"{tmp_path}/x.flags") for argument in arguments]
    with pytest.raises(SystemExit):
        command._parse(["train", *arguments])
    said = capsys.readouterr().err
    assert said == ("error: --data_dir is given twice: give it once, with commas between values\n")


def test_a_folder_that_is_given_twice_is_refused(capsys):
    assert run_flags.PARTS
    with pytest.raises(SystemExit):
        command._parse(["train", "--impulse_response_dir=a", "--impulse_response_dir=b"])
    assert "--impulse_response_dir is given twice" in capsys.readouterr().err


def test_a_flagfile_is_overridden_and_what_stands_behind_two_dashes_is_no_flag(tmp_path):
    assert run_flags.PARTS
    (tmp_path / "x.flags").write_text("--data_dir=a\n--seed=3\n")
    given = [f"--flagfile={tmp_path}/x.flags", "--data_dir=b,c", "--seed=4", "--seed=5"]
    with flagsaver.flagsaver():
        assert command._parse(["train", *given, "--", "--data_dir=d"]) == ["train", "--data_dir=d"]
        assert (flags.FLAGS.data_dir, flags.FLAGS.seed) == (["b", "c"], 5)
