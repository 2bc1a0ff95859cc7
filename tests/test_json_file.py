import json

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
