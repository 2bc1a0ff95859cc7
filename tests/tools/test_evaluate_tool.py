import contextlib

import pytest
from absl import flags
from absl.testing import flagsaver

from flags import run_flags
from tools import command, evaluate
from wakeword_keras.firmware import esphome_manifest
from wakeword_keras.firmware.esphome_manifest import EsphomeModel
from wakeword_keras.report import comparison
from wakeword_keras.run import other_recordings, pipeline, released_models


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs the tool on arguments; gives what it called with what, and what it said on stderr."""
    calls = []
    for module, name in (
        (pipeline, "run"),
        (other_recordings, "evaluate"),
        (comparison, "compare"),
        (released_models, "evaluate"),
        (released_models, "evaluate_beside"),
        (released_models, "write"),
    ):
        monkeypatch.setattr(module, name, lambda *a, name=name, **k: calls.append((name, a, k)))

    monkeypatch.setattr(
        esphome_manifest,
        "read",
        lambda *paths: EsphomeModel(paths[0], paths[1] or paths[0], 0, 1, None),
    )

    def forget():
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()

    def run(*arguments):
        forget()
        calls.clear()
        with contextlib.suppress(SystemExit):
            command._guarded(evaluate.main, command._parse(["evaluate", *map(str, arguments)])[1:])
        return calls[0] if calls else None, capsys.readouterr().err

    with flagsaver.flagsaver():
        yield run
        forget()
        flags.FLAGS(["evaluate"])


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "run.flags").write_text(
        f"--data_dir=mine\n--wake_words=yes\n--gamma=1.5\n--run_dir={tmp_path}\n"
    )
    return tmp_path


def test_without_other_data_the_run_is_evaluated_again(tool, run_dir):
    call, _ = tool(f"--run_dir={run_dir}")
    name, (config,), options = call
    assert (name, options) == ("run", {"again": ("report",)})
    assert (config.data_dir, config.loss.gamma) == (("mine",), 1.5)
    # Its own flagfile names its own recordings.
    assert tool(f"--flagfile={run_dir / 'run.flags'}")[0] == call


def test_other_data_is_not_taken_for_the_runs_own(tool, run_dir):
    (name, arguments, _), _ = tool(f"--run_dir={run_dir}", "--data_dir=a/office,b", "--cache_dir=c")
    config, data, ambient, out = arguments
    assert name == "evaluate"
    assert (config.data_dir, config.cache_dir) == (("mine",), "c")
    assert (data, ambient, out) == (("a/office", "b"), (), str(run_dir / "report_on_office"))
    (_, arguments, _), _ = tool(
        f"--run_dir={run_dir}", "--data_dir=b", "--ambient_dir=radio", "--report_dir=there"
    )
    assert arguments[0].ambient_dir == ()
    assert arguments[1:] == (("b",), ("radio",), "there")


def test_runs_to_compare_stand_behind_the_flag_and_flags_behind_them(tool):
    call, _ = tool("--compare", "a", "b", "--report_dir=there")
    assert call == ("compare", (["a", "b"], "there"), {})
    assert tool("--compare", "a", "b")[0][1][1] == "runs/comparison"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--gamma=2"], ["--gamma=2", "1.5"]),
        (["--wake_words=no", "--data_dir=x"], ["--wake_words", "no", "yes"]),
        (["--ambient_dir=radio"], ["--ambient_dir", "--data_dir", "yes"]),
        (["--report_dir=there"], ["--report_dir", "--data_dir"]),
        (["there"], ["'there'"]),
    ],
)
def test_what_does_not_fit_is_one_line(tool, run_dir, arguments, named):
    call, said = tool(f"--run_dir={run_dir}", *arguments)
    assert call is None
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    for name in named:
        assert name in said, said


def test_the_flags_of_a_run_that_are_given_alike_are_no_contradiction(tool, run_dir):
    assert tool(f"--run_dir={run_dir}", "--gamma=1.5", "--data_dir=x")[0][0] == "evaluate"
    assert "compare" not in run_flags.replayable()


def test_released_models_are_measured_on_what_is_given(tool, run_dir):
    theirs = ("--manifest=Hey Jarvis,alexa", "--ambient_dir=radio")
    name, (released, config, data, ambient, cache), _ = tool(*theirs, "--model=a,b")[0]
    assert name == "evaluate"
    assert [(model.path, model.wake_word) for model in released] == [
        ("Hey Jarvis", "a"),
        ("alexa", "b"),
    ]
    assert (config.wake_words, data, ambient, cache) == (("a", "b"), (), ("radio",), "runs/cache")
    name, (config, released, data, ambient), _ = tool(*theirs, f"--run_dir={run_dir}")[0]
    assert name == "evaluate_beside"
    assert (config.data_dir, len(released), data, ambient) == (("mine",), 2, (), ("radio",))
    call, said = tool(*theirs, "--model=a")
    assert call is None
    assert "a file for each of --manifest" in said
