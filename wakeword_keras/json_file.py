"""JSON files that are read: one reader for all of them, each against its schema.

What is read may be damaged, of another version or made to do harm. A caller gets content of the
types and ranges that its schema says, without NaN or infinity, or one InputError. A sealed file
carries the hash of its own content, so that other numbers than those written are noticed.
"""

import dataclasses
import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastjsonschema

from wakeword_keras.errors import InputError
from wakeword_keras.files import write_json

SEAL = "seal"
SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_LONGEST_MESSAGE = 200
_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    types.NoneType: "null",
}


def fields(**schemas: object) -> dict[str, Any]:
    """Schema of an object that has these fields and may have others."""
    return {"type": "object", "properties": schemas, "required": list(schemas)}


def dictionary(values: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an object with any names."""
    return {"type": "object", "additionalProperties": values}


def array(items: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an array."""
    return {"type": "array", "items": items}


def dataclass_fields(dataclass: type, **schemas: object) -> dict[str, Any]:
    """Schema of an object with exactly the fields of a dataclass, of their types.

    Args:
      dataclass: its fields are text, numbers, tuples, mappings or dataclasses.
      schemas: of fields that have less than all values of their type.
    """
    hints = typing.get_type_hints(dataclass)
    names = [field.name for field in dataclasses.fields(dataclass)]
    all_of_them = {name: schemas.get(name) or _schema(hints[name]) for name in names}
    return fields(**all_of_them) | {"additionalProperties": False}


def _schema(hint: Any) -> dict[str, Any]:
    arguments = typing.get_args(hint)
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    if dataclasses.is_dataclass(hint):
        return dataclass_fields(typing.cast(type, hint))
    if isinstance(hint, types.UnionType):
        return {"anyOf": [_schema(argument) for argument in arguments]}
    if typing.get_origin(hint) is tuple:
        items = array(_schema(arguments[0]))
        length = len(arguments)
        return items if ... in arguments else items | {"minItems": length, "maxItems": length}
    if typing.get_origin(hint) is Mapping:
        return dictionary(_schema(arguments[1]))
    raise TypeError(f"no schema for {hint}")


def read(path: str | Path, schema: Mapping[str, Any], mend: str, sealed: bool = False) -> Any:
    """Read a JSON file.

    Args:
      path: the file.
      schema: JSON schema that the content must follow.
      mend: what to do about a missing or damaged file, the end of the message.
      sealed: whether `write_sealed` wrote it; the seal is not part of what is returned.

    Returns:
      The content in plain JSON types; all numbers are finite.

    Raises:
      InputError: the file is missing, not JSON, not of the schema or not what was written.
    """
    try:
        text = Path(path).read_bytes().decode()
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_int64)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {mend.removeprefix('delete it and ')}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): {mend}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged, not JSON ({error}): {mend}") from error
    seal = content.pop(SEAL, None) if sealed and isinstance(content, dict) else None
    try:
        _validator(json.dumps(schema))(content)
    except fastjsonschema.JsonSchemaException as error:
        fault = str(error).removeprefix("data.")[:_LONGEST_MESSAGE]
        raise InputError(f"{path} is damaged or of another version, {fault}: {mend}") from error
    if sealed and seal != digest(content):
        raise InputError(f"{path} is damaged, it is not what was written: {mend}")
    return content


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically, with the hash of its content as its last field."""
    write_json(path, {**content, SEAL: digest(content)})


def digest(content: object) -> str:
    """sha256 of plain JSON types, whatever the order of names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@functools.cache
def _validator(schema: str):
    return fastjsonschema.compile(json.loads(schema))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _int64(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:20]}... is too large")
    return int(text)
