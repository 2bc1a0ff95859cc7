"""The flags of a run, and the RunConfig they describe."""

import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from absl import flags

from flags import config
from wakeword_keras import labels
from wakeword_keras.audio.augmentation import AugmentConfig
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.data.ambient_features import AmbientConfig
from wakeword_keras.data.corpus import CorpusConfig
from wakeword_keras.errors import InputError
from wakeword_keras.quantization.finetuning import QatConfig
from wakeword_keras.run.config import RunConfig
from wakeword_keras.synthesis.config import SynthesisConfig
from wakeword_keras.synthesis.lines import phrase_label
from wakeword_keras.training.batches import DataConfig
from wakeword_keras.training.fp32_stage import TrainConfig
from wakeword_keras.training.loop import LossConfig

PARTS = {
    "corpus": CorpusConfig,
    "synthesis": SynthesisConfig,
    "frontend": FrontendConfig,
    "augment": AugmentConfig,
    "data": DataConfig,
    "ambient": AmbientConfig,
    "loss": LossConfig,
    "train": TrainConfig,
    "qat": QatConfig,
}

config.define(RunConfig)
for _name, _part in PARTS.items():
    config.define(_part, config.PREFIXES.get(_name, ""))


def read() -> RunConfig:
    """The run that the command line describes.

    Raises:
      InputError: neither recordings nor a phrase are given, or a value is out of range.
    """
    values = flags.FLAGS
    if not values.data_dir and not values.wake_phrase:
        raise InputError("nothing to train on: give --data_dir, or --wake_phrase to synthesise one")
    wake_words = tuple(values.wake_words)
    for label in map(phrase_label, values.wake_phrase):
        wake_words += () if labels.find(label, wake_words) else (label,)
    if not wake_words:
        raise InputError("--wake_words is missing: name the labels to detect, such as happy")
    parts: dict[str, Any] = {
        name: config.read(part, config.PREFIXES.get(name, ""))
        for name, part in PARTS.items()
        if name != "corpus"
    }
    corpus = config.read(CorpusConfig, wake_words=wake_words)
    return config.read(RunConfig, corpus=corpus, **parts)


def of_run(apart: Collection[str] = ()) -> RunConfig:
    """The run that --run_dir holds, from its run.flags; --cache_dir may be given anew.

    Args:
      apart: flags whose value on the command line is not meant for the run.

    Raises:
      InputError: there is no run, or a flag contradicts it.
    """
    values = flags.FLAGS
    path = Path(values.run_dir, "run.flags")
    if not path.is_file():
        raise InputError(f"--run_dir={values.run_dir} holds no run: {path} is missing")
    given = {name: values[name].value for name in _names() if values[name].present}
    for name in _names():
        values[name].unparse()
    try:
        values([sys.argv[0], *_lines(path)])
        read()  # on its own, so that what the file lacks is not laid on the command line
    except (flags.Error, ValueError) as error:  # an InputError is a ValueError
        raise InputError(
            f"{path} is damaged ({error}): repeat the command that began the run, which writes it "
            "again"
        ) from error
    for name, value in given.items():
        if name in ("run_dir", "cache_dir"):
            values[name].value = value
        elif name not in apart and value != values[name].value:
            raise InputError(
                f"--{name}={value}: {values.run_dir} was made with {values[name].value}; leave "
                "the flag out, or train another run with it"
            )
    return read()


def _lines(path: Path) -> list[str]:
    """The lines of a run.flags; ValueError for one that is not a run's flag."""
    lines = path.read_text("utf-8").splitlines()
    known = {f"--{no}{name}" for name in _names() for no in ("", "no")}
    for line in lines:
        if line.partition("=")[0] not in known:
            raise ValueError(f"unknown line {line[:40]!r}")
    return lines


def replayable() -> str:
    """Every flag of a run, one a line, for a flagfile that repeats it."""
    names = [name for name in _names() if flags.FLAGS[name].value is not None]
    return "".join(f"{flags.FLAGS[name].serialize()}\n" for name in names)


def _names() -> list[str]:
    """The flags that describe a run, sorted."""
    names = {
        config.flag_name(field.name, config.PREFIXES.get(part, ""))
        for part, dataclass in {"run": RunConfig, **PARTS}.items()
        for field in dataclasses.fields(dataclass)
    }
    return sorted(name for name in names if name in flags.FLAGS)
