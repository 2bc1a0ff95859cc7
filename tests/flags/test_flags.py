import ast
import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from absl import flags
from absl.testing import flagsaver

import wakeword_keras
from flags import config, run_flags
from tools import train
from wakeword_keras import models
from wakeword_keras.errors import InputError
from wakeword_keras.run.config import RunConfig, settings_of
from wakeword_keras.training.loop import LossConfig

# What a number is counted in, or the range of one that is a share.
UNIT = re.compile(
    r"\b(milliseconds|Hz|dB|percent|per hour|0 to (below )?1|passes|epochs|hours|minutes|clips|"
    r"examples|frames|channels|masks|models|voices|threads|steps|times|octaves)\b"
)
UNIT_OF_SUFFIX = {
    "ms": "milliseconds", "hz": "Hz", "db": "dB", "percent": "percent", "hour": "per hour",
    "probability": "0 to 1", "epochs": "passes", "clips": "clips", "frames": "frames",
    "channels": "channels",
}  # fmt: skip
NO_UNIT = {
    "gamma", "seed", "synthetic_seed", "learning_rate", "qat_learning_rate", "weight_decay",
}  # fmt: skip
RECIPES = sorted(Path(config.__file__).parent.glob("*.flags"))
PARTS = {"": RunConfig, **run_flags.PARTS}
SETTINGS = [
    (part, field)
    for part, dataclass in PARTS.items()
    for field in dataclasses.fields(dataclass)
    if not (part == "" and field.name in run_flags.PARTS)
    # One flag for both, with the default of the corpus.
    and not (part == "synthesis" and field.name in config.SHARED)
]
IDS = [config.flag_name(field.name, config.PREFIXES.get(part, "")) for part, field in SETTINGS]


@pytest.fixture
def command_line():
    """Parses a command line anew; the flags are as before after the test."""

    def parse(*arguments):
        return flags.FLAGS(["train", *arguments])

    with flagsaver.flagsaver():
        flags.FLAGS.unparse_flags()
        yield parse
        for name in flags.FLAGS:
            flags.FLAGS[name].unparse()
        flags.FLAGS(["train"])


@pytest.mark.parametrize(("part", "field"), SETTINGS, ids=IDS)
def test_every_setting_has_a_flag_with_its_default(part, field):
    flag = flags.FLAGS[config.flag_name(field.name, config.PREFIXES.get(part, ""))]
    default = None if field.default is dataclasses.MISSING else field.default
    if isinstance(flag.default, list):
        assert tuple(flag.default) == (default or ())
    else:
        assert flag.default == default


def _flags_of_the_tools():
    """(name, whether it is a number, help) of every flag that is written in a tool.

    Read from the source: the benchmarks share flags' names, so one process cannot import them all.
    """
    for path in sorted(Path(train.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("flags.DEFINE_"):
                kind = ast.unparse(node.func).removeprefix("flags.DEFINE_")
                name, _, text = node.args
                yield name.value, kind in ("integer", "float"), text.value


def _flags_of_a_run():
    for flag in map(flags.FLAGS.__getitem__, IDS):
        yield flag.name, re.search("number|integer", flag.parser.syntactic_help), flag.help


EVERY_FLAG = [*_flags_of_a_run(), *_flags_of_the_tools()]


@pytest.mark.parametrize(("name", "number", "text"), EVERY_FLAG, ids=[f[0] for f in EVERY_FLAG])
def test_every_flag_has_a_help_text_with_its_unit(name, number, text):
    assert len(text) > 10
    assert "no help" not in text
    assert text.count(". ") < 4  # of this flag alone, not of the next ones too
    assert UNIT_OF_SUFFIX.get(name.rpartition("_")[2], "") in text
    if number and name not in NO_UNIT:
        assert UNIT.search(text), text


def test_every_architecture_is_named_in_the_help():
    assert all(name in flags.FLAGS["model"].help for name in models.ARCHITECTURES)


def test_a_field_without_a_help_text_is_refused():
    @dataclasses.dataclass
    class Config:
        """Nothing is said of its field."""

        a_field_of_no_other_config: int = 1

    with pytest.raises(KeyError, match="a_field_of_no_other_config"):
        config.define(Config)


def test_a_default_is_written_once():
    for module in (config, run_flags, train):
        numbers = [
            node.value
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(node, ast.Constant) and type(node.value) is float
        ]
        assert numbers == []


def test_every_setting_of_a_run_is_kept_by_part_and_name(command_line):
    command_line("--data_dir=x", "--wake_words=yes", "--seed=3", "--synthetic_seed=4")
    settings = settings_of(run_flags.read())
    assert {config.with_flags(f"`{name}`")[2:] for name in settings} == set(IDS) - {
        "run_dir",
        "cache_dir",
        "strategy",
    }
    assert (settings["seed"], settings["synthesis.seed"]) == (3, 4)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("`clip_ms`=5: must be positive", "--clip_ms=5: must be positive"),
        ("`synthesis.voices`=2: too few", "--synthetic_voices=2: too few"),
        ("`synthesis.clip_ms` and `train.epochs`", "--clip_ms and --epochs"),
        ("layer `conv` is `none`", "layer `conv` is `none`"),
    ],
)
def test_the_command_line_names_a_field_by_its_flag(message, expected):
    assert config.with_flags(message) == expected


def test_no_message_of_the_library_names_a_flag():
    for path in Path(wakeword_keras.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"(?<!\w)(?<!var\()--[a-z_]{2,}", node.value), (
                    path,
                    node.value,
                )


def test_a_command_line_becomes_the_configuration(command_line):
    command_line(
        "--data_dir=a,b", "--wake_words=yes,no", "--gamma=1.5", "--alpha=0.25", "--clip_ms=1250",
        "--epochs=7", "--qat_epochs=3", "--synthetic_voices=9", "--noprior_bias",
    )  # fmt: skip
    run = run_flags.read()
    assert run.data_dir == ("a", "b")
    assert run.corpus.wake_words == ("yes", "no")
    assert run.loss == LossConfig(gamma=1.5, alpha=0.25)
    assert run.corpus.clip_ms == run.synthesis.clip_ms == 1250
    assert (run.train.epochs, run.qat.qat_epochs, run.synthesis.voices) == (7, 3, 9)
    assert not run.train.prior_bias


def test_a_run_flags_without_what_a_run_needs_is_named(command_line, tmp_path):
    (tmp_path / "run.flags").write_text("")
    command_line(f"--run_dir={tmp_path}")
    with pytest.raises(InputError, match=r"run\.flags is damaged \(nothing to train on"):
        run_flags.of_run()


def test_alpha_can_be_none_again(command_line):
    command_line("--data_dir=x", "--wake_words=yes", "--alpha=0.25", "--alpha=none")
    assert run_flags.read().loss.alpha is None


def test_the_phrase_becomes_a_wake_word_once(command_line):
    command_line("--wake_phrase=Hey Jarvis")
    assert run_flags.read().corpus.wake_words == ("hey_jarvis",)
    command_line("--wake_phrase=hey jarvis", "--wake_words=hey_jarvis,stop")
    assert run_flags.read().corpus.wake_words == ("hey_jarvis", "stop")
    command_line("--wake_phrase=hey jarvis,ok nova", "--wake_words=stop")
    assert run_flags.read().wake_phrase == ("hey jarvis", "ok nova")
    assert run_flags.read().corpus.wake_words == ("stop", "hey_jarvis", "ok_nova")
    command_line("--wake_phrase=hey jarvis", "--wake_words=stop,Hey Jarvis")
    assert run_flags.read().corpus.wake_words == ("stop", "Hey Jarvis")


def test_the_written_flags_give_the_same_run(command_line, tmp_path):
    command_line(
        "--wake_phrase=hey jarvis", "--data_dir=a b,c", "--alpha=0.25", "--gamma=1.5",
        "--skip_bad_audio", "--noprior_bias", "--learning_rate=0.0001234",
    )  # fmt: skip
    before = run_flags.read()
    path = tmp_path / "run.flags"
    path.write_text(run_flags.replayable())
    flags.FLAGS.unparse_flags()
    for name in flags.FLAGS:
        flags.FLAGS[name].unparse()
    command_line(f"--flagfile={path}")
    assert run_flags.read() == before


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_every_recipe_parses_to_a_run(recipe, command_line):
    given = [] if "\n--wake_phrase" in recipe.read_text() else ["--data_dir=x", "--wake_words=yes"]
    assert command_line(f"--flagfile={recipe}", *given) == ["train"]
    assert run_flags.read().corpus.wake_words


def test_there_are_recipes():
    assert len(RECIPES) >= 3


def test_the_flags_of_a_run_are_key_flags_of_the_tool():
    key = {flag.name for flag in flags.FLAGS.get_key_flags_for_module("tools.train")}
    assert set(IDS) <= key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data_dir"),
        (["--data_dir=x"], "--wake_words is missing"),
        (["--data_dir=x", "--wake_words=a,a"], "--wake_words=a,a"),
        (["--wake_phrase=hey jarvis", "--wake_words=Speech"], "--wake_words=Speech"),
        (["--data_dir=x", "--wake_words=a", "--class_weights", "--alpha=0.5"], "--class_weights"),
        (["--data_dir=x", "--wake_words=a", "--model=resnet"], "--model=resnet.*ds_cnn"),
        (["--data_dir=x", "--wake_words=a", "--gamma=-1"], "--gamma .*-1"),
        (["--data_dir=x", "--wake_words=a", "--calibration_clips=0"], "--calibration_clips=0"),
        (["--data_dir=x", "--wake_words=a", "--average_ms=0"], "--average_ms=0"),
        (["--data_dir=x", "--wake_words=a", "--members=0"], "--members=0"),
        (["--data_dir=x", "--wake_words=a", "--members=2"], "--members=2: ds_cnn has one"),
        (
            ["--wake_phrase=a", "--model=mixed_conv_small", "--members=2", "--teachers=2"],
            "--members=2 and --teachers=2",
        ),
        (["--data_dir=x", "--wake_words=a", "--test_percent=95"], "--test_percent=95"),
        (["--data_dir=x", "--wake_words=a", "--frontend_kind=mfcc"], "mfcc.* micro, log_mel"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_starts(arguments, message, command_line):
    command_line(*arguments)
    with pytest.raises(InputError) as error:
        run_flags.read()
    assert re.search(message, config.with_flags(str(error.value)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--loss=hinge", "focal"),
        ("--alpha=high", "alpha"),
        ("--epochs=many", "epochs"),
        ("--gama=2", "gamma"),
    ],
)
def test_a_wrong_flag_names_what_can_be_given(argument, message, command_line):
    with pytest.raises(flags.Error, match=message):
        command_line(argument)
