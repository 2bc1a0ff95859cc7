import dataclasses
import json
from collections.abc import Mapping

import pytest

from wakeword_keras import InputError, json_file

SCHEMA = json_file.fields(
    name={"type": "string"}, share={"type": "number", "minimum": 0, "maximum": 1}
)
GOOD = {"name": "happy", "share": 0.25}


def refused(path, *named, sealed=False):
    with pytest.raises(InputError) as error:
        json_file.read(path, SCHEMA, "delete it and train again", sealed)
    for name in (path, "train again", *named):
        assert str(name) in str(error.value), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"name": "happy", "share": NaN}', "NaN is no number"),
        ('{"name": "happy", "share": -Infinity}', "-Infinity is no number"),
        ('{"name": "happy", "share": 1e999}', "1e999 is no number"),
        ('{"name": "happy", "share": 1' + "0" * 5000 + "}", "too large"),
        ("{}", "must contain"),
        ("[]", "must be object"),
        ("null", "must be object"),
        ('{"name": 7, "share": 0.5}', "name must be string"),
        ('{"name": "happy", "share": 2}', "share must be smaller than or equal to 1"),
        ('{"name": "happy", "share": true}', "share must be number"),
    ],
)
def test_what_is_not_of_the_schema_is_named_with_the_mend(tmp_path, text, named):
    path = tmp_path / "x.json"
    path.write_text(text)
    refused(path, named, "delete it")


def test_text_that_is_no_utf8_a_folder_and_nothing_are_named(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'{"name": "\xff"}')
    refused(path, "not JSON")
    refused(tmp_path, "cannot be read")
    with pytest.raises(InputError, match=r"missing\.json is missing: train again"):
        json_file.read(tmp_path / "missing.json", SCHEMA, "delete it and train again")


def test_a_sealed_file_is_read_as_written_and_another_number_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    json_file.write_sealed(path, GOOD)
    assert json_file.read(path, SCHEMA, "", sealed=True) == GOOD
    text = path.read_text()
    path.write_text(text.replace("0.25", "0.26"))
    refused(path, "not what was written", sealed=True)
    path.write_text(json.dumps(GOOD))
    refused(path, "not what was written", sealed=True)
    # Only what is said counts, not how it is laid out.
    path.write_text(json.dumps(dict(reversed(json.loads(text).items()))))
    assert json_file.read(path, SCHEMA, "", sealed=True) == GOOD


@dataclasses.dataclass
class Inner:
    low: float


@dataclasses.dataclass
class Outer:
    name: str
    count: int
    whole: bool
    length_s: float | None
    interval: tuple[float, float]
    inner: Inner
    by_name: Mapping[str, Inner]


def test_a_dataclass_is_a_schema_of_its_own_fields_and_types(tmp_path):
    schema = json_file.dataclass_fields(Outer, count={"type": "integer", "minimum": 1})
    good = dataclasses.asdict(Outer("a", 1, True, None, (0.0, 1.0), Inner(2.0), {"b": Inner(3)}))
    path = tmp_path / "x.json"
    path.write_text(json.dumps(good))
    json_file.read(path, schema, "")
    wrong = {"name": 1, "count": 0, "whole": 1, "length_s": "", "interval": [0.0], "more": 1}
    wrong |= {"inner": {"low": "1"}, "by_name": {"b": {"low": 1, "high": 2}}}
    for name, value in wrong.items():
        path.write_text(json.dumps(good | {name: value}))
        with pytest.raises(InputError, match=name):
            json_file.read(path, schema, "")
    for name in good:
        path.write_text(json.dumps({k: v for k, v in good.items() if k != name}))
        with pytest.raises(InputError, match="must contain"):
            json_file.read(path, schema, "")
