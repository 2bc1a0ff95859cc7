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

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.errors import InputError

MANIFEST_VERSION = 3
FILE = "manifest.json"
SCHEMA_FILE = "manifest.schema.json"
SCHEMA = Path(__file__).with_name("manifest_schema.json")


def seal(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The content of manifest.json.

    Args:
      manifest: without hashes of files.
      files: the bundle's other files, by path.
    """
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    sealed = {**manifest, "files": hashes}
    return (json.dumps(sealed | {"sha256": _digest(sealed)}, indent=2) + "\n").encode()


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
    model_path = Path(bundle_dir) / manifest["model"]["file"]
    if not model_path.is_file():
        raise InputError(f"{model_path} not found: export the bundle again")
    if hashlib.sha256(model_path.read_bytes()).hexdigest() != manifest["model"]["sha256"]:
        raise InputError(f"{model_path} is not the model of manifest.json: export again")
    return manifest


def read_sealed(bundle_dir: str | Path) -> dict[str, Any]:
    """Read a bundle's manifest as it was written, whatever lies beside it.

    Raises:
      InputError: no bundle, of another version, or damaged.
    """
    path = Path(bundle_dir) / FILE
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path} not found: give the firmware folder of a finished run") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError:
        raise InputError(f"{path} is not JSON: export the bundle again") from None
    version = manifest.get("manifest_version") if isinstance(manifest, dict) else None
    if version != MANIFEST_VERSION:
        raise InputError(f"{path} has version {version}, not {MANIFEST_VERSION}: export again")
    content = copy.copy(manifest)
    if content.pop("sha256", None) != _digest(content):
        raise InputError(f"{path} is damaged, it is not what was written: export again")
    return manifest


def frontend_of(manifest: Mapping[str, Any]) -> FrontendConfig:
    """The front end that a manifest asks for."""
    names = [field.name for field in dataclasses.fields(FrontendConfig)]
    return FrontendConfig(**{name: manifest["front_end"][name] for name in names})


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
