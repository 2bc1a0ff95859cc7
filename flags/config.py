"""absl flags made from the config dataclasses: a default and its description are written once.

Each field of a dataclass becomes a flag of the same name; its help is the field's entry in the
docstring's "Attributes:" section.
"""

import dataclasses
import inspect
import re
import textwrap
import types
import typing

from absl import flags

flags.disclaim_key_flags()  # they belong to the module that calls define()

Config = typing.TypeVar("Config")

PREFIXES = {"synthesis": "synthetic_", "frontend": "frontend_"}
"""Before the flags of a part of the run whose fields' names alone would not say what they mean."""
SHARED = ("clip_ms",)
"""Fields of several parts that have one flag."""


class _OptionalFloat(flags.ArgumentParser):
    """A number, or `none`."""

    syntactic_help = "a number, or none"

    def parse(self, argument):
        if argument is None or str(argument).lower() == "none":
            return None
        return float(argument)

    def flag_type(self) -> str:
        return "float or none"


def define(config: type, prefix: str = "") -> None:
    """Define a flag for every field of a dataclass; a flag defined already is shared.

    A field without an entry in the docstring's "Attributes:" section is a KeyError.

    Args:
      config: the dataclass.
      prefix: put before the fields' names where they alone would not say what they belong to.
    """
    help_texts = _attribute_help(config)
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        name = flag_name(field.name, prefix)
        if name in flags.FLAGS or dataclasses.is_dataclass(hints[field.name]):
            continue
        _define_flag(name, hints[field.name], field.default, help_texts[field.name])


def read(config: type[Config], prefix: str = "", **given: object) -> Config:
    """Build a dataclass from the flags' values; `given` fields do not come from flags."""
    values = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        if field.name not in given:
            value = flags.FLAGS[flag_name(field.name, prefix)].value
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return config(**values, **given)


def flag_name(field: str, prefix: str) -> str:
    """The flag of a dataclass's field."""
    return field if field in SHARED else prefix + field


def with_flags(message: str) -> str:
    """A message of the library, each `field` or `part.field` written as its flag, if it has one."""

    def as_flag(match: re.Match) -> str:
        part, _, field = match[1].rpartition(".")
        name = flag_name(field, PREFIXES.get(part, ""))
        return f"--{name}" if name in flags.FLAGS else match[0]

    return re.sub(r"`([\w.]+)`", as_flag, message)


def _define_flag(name: str, hint, default, text: str) -> None:
    default = None if default is dataclasses.MISSING else default
    if typing.get_origin(hint) is typing.Literal:
        flags.DEFINE_enum(name, default, list(typing.get_args(hint)), text)
    elif typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is str:
        flags.DEFINE_list(name, list(default or []), text)
    elif typing.get_origin(hint) in (types.UnionType, typing.Union) and float in typing.get_args(
        hint
    ):
        serializer: flags.ArgumentSerializer = flags.ArgumentSerializer()
        flags.DEFINE(_OptionalFloat(), name, default, text, flags.FLAGS, serializer)
    elif hint is bool:
        flags.DEFINE_bool(name, default, text)
    elif hint is int:
        flags.DEFINE_integer(name, default, text)
    elif hint is float:
        flags.DEFINE_float(name, default, text)
    elif hint is str:
        flags.DEFINE_string(name, default, text)
    else:
        raise TypeError(f"no flag for field {name} of type {hint}")


def _attribute_help(config: type) -> dict[str, str]:
    """Descriptions of a dataclass's fields, from its docstring's "Attributes:" section."""
    section = inspect.getdoc(config).partition("Attributes:\n")[2].partition("\n\n")[0]  # type: ignore[union-attr]
    entries = re.findall(
        r"^(\w[\w, ]*): (.*?)(?=^\w[\w, ]*: |\Z)", textwrap.dedent(section), re.M | re.S
    )
    return {
        name.strip(): re.sub(r"\s+", " ", text).strip()
        for names, text in entries
        for name in names.split(",")
    }
