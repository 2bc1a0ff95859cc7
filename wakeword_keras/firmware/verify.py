"""Is a bundle whole? Every file against its hash, the golden vectors against TFLite Micro."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.errors import InputError
from wakeword_keras.firmware import golden
from wakeword_keras.firmware import manifest as manifests
from wakeword_keras.firmware.model_description import describe_model
from wakeword_keras.tflite.interpreter import micro_installed


def verify(bundle_dir: str | Path) -> list[str]:
    """Check a bundle.

    Args:
      bundle_dir: folder that `bundle.write_bundle` wrote.

    Returns:
      A line for each thing that was checked, or that could not be.

    Raises:
      InputError: naming the first file that is missing, damaged, or not of the bundle, or the
        golden clip whose output TFLite Micro does not give.
    """
    folder = Path(bundle_dir)
    manifest = manifests.read_sealed(folder)
    for name, expected in manifest["files"].items():
        _check_file(folder / name, expected)
    own = {folder / name for name in (*manifest["files"], manifests.FILE)}
    foreign = sorted(path for path in folder.rglob("*") if path.is_file() and path not in own)
    if foreign:
        raise InputError(f"{foreign[0]} is not of the bundle: delete it")
    checked = [f"{len(manifest['files'])} files are those of manifest.json"]
    return [*checked, *manifest["missing"], _check_golden(folder, manifest)]


def _check_file(path: Path, expected: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise InputError(f"{path} is damaged, its sha256 is another one: export the bundle again")


def _check_golden(folder: Path, manifest: dict[str, Any]) -> str:
    if not manifest["golden"]:
        return "no golden vectors to run"
    if not micro_installed():
        return "golden vectors not run: pip install 'wakeword_keras[firmware]'"
    runs, model = manifest["golden"]["runs"], folder / manifest["model"]["file"]
    # Not what the manifest says of the model: what its file says.
    shape = describe_model(model)["input"]["shape"][1:]
    clips = [clip["name"] for clip in manifest["golden"]["clips"]]
    inputs = [_steps(folder / f"golden/{name}.input.bin", (runs, *shape)) for name in clips]
    outputs = golden.run_on_micro(model.read_bytes(), inputs)
    for name, output in zip(clips, outputs, strict=True):
        path = folder / f"golden/{name}.output.bin"
        expected = _steps(path, output.shape)
        if not np.array_equal(output, expected):
            run = int(np.flatnonzero((output != expected).any(axis=1))[0])
            raise InputError(
                f"{path}: TFLite Micro gives {output[run].tolist()} at run {run}: another "
                "version? Export again"
            )
    each = f" of {runs} steps from cold states" if manifest["streaming"] else ""
    return f"{len(clips)} golden clips{each}: TFLite Micro gives every output bit for bit"


def _steps(path: Path, shape: Sequence[int]) -> NDArray[np.int8]:
    values = np.fromfile(path, np.int8)
    if values.size != math.prod(shape):
        raise InputError(f"{path} holds {values.size} values, not {math.prod(shape)}: export again")
    return values.reshape(shape)
