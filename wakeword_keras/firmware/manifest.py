"""`manifest.json`: what the bytes of a bundle are, how to feed them, and the sha256 of each file.

Its last field is the sha256 of all others, so that a damaged manifest is told from a damaged file.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wakeword_keras import json_file
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.errors import InputError
from wakeword_keras.files import sha256

MANIFEST_VERSION = 4
FILE = "manifest.json"
SCHEMA_FILE = "manifest.schema.json"
_VERSION = json_file.fields(manifest_version={})
SCHEMA = Path(__file__).with_name("manifest_schema.json")


def seal(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The content of manifest.json.

    Args:
      manifest: without hashes of files.
      files: the bundle's other files, by path.
    """
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    sealed = {**manifest, "files": hashes}
    digest = json_file.digest(sealed)
    return (json.dumps(sealed | {"sha256": digest}, indent=2) + "\n").encode()


def read_manifest(bundle_dir: str | Path) -> dict[str, Any]:
    """Read a bundle's manifest and check that the model beside it is the one it speaks of.

    Args:
      bundle_dir: folder that `bundle.write_bundle` wrote.

    Returns:
      The manifest as written.

    Raises:
      InputError: no bundle, of another version, damaged, or its model is missing or another one.
    """
    manifest = read_sealed(bundle_dir)
    path = Path(bundle_dir) / manifest["model"]["file"]
    if not path.is_file():
        raise InputError(f"{path} not found: export the bundle again")
    if sha256(path) != manifest["model"]["sha256"]:
        raise InputError(f"{path} is not the model of manifest.json: export again")
    return manifest


def read_sealed(bundle_dir: str | Path) -> dict[str, Any]:
    """Read a bundle's manifest as it was written, whatever lies beside it.

    Raises:
      InputError: no bundle, of another version, or damaged.
    """
    path = Path(bundle_dir) / FILE
    if not path.exists():
        raise InputError(f"{path} not found: give the firmware folder of a finished run")
    version = json_file.read(path, _VERSION, "export the bundle again")["manifest_version"]
    if version != MANIFEST_VERSION:
        raise InputError(f"{path} has version {version}, not {MANIFEST_VERSION}: export again")
    schema = json.loads(SCHEMA.read_text())
    manifest = json_file.read(path, schema, "export the bundle again")
    content = copy.copy(manifest)
    if content.pop("sha256", None) != json_file.digest(content):
        raise InputError(f"{path} is damaged, it is not what was written: export again")
    return manifest


def frontend_of(manifest: Mapping[str, Any]) -> FrontendConfig:
    """The front end that a manifest asks for."""
    names = [field.name for field in dataclasses.fields(FrontendConfig)]
    return FrontendConfig(**{name: manifest["front_end"][name] for name in names})
