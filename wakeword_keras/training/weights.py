"""Arrays of models in files: plain numbers with checksums, nothing that could run.

A file is an uncompressed .npz that was built in memory and is written whole: HDF5 crashes on a full
disk, and Keras' own files hold a description of layers, which may hold code. Who reads weights
builds the model first (`models.build`).
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

from wakeword_keras.errors import InputError
from wakeword_keras.files import write_bytes

Arrays = Mapping[str, Sequence[NDArray]]
"""Arrays in order, by what they belong to."""

_MEND = "delete it and repeat the command that began the run"
_MODEL = "weights"


def save(model: keras.Model, path: Path) -> None:
    """Write a model's weights, atomically."""
    write_arrays(path, {_MODEL: model.get_weights()})


def load(model: keras.Model, path: Path) -> None:
    """Give a model the weights that `save` wrote.

    Raises:
      InputError: the file is missing, damaged or of another model.
    """
    arrays = read_arrays(path)
    check_shapes(path, arrays, {_MODEL: model.get_weights()})
    model.set_weights(arrays[_MODEL])


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays, atomically."""
    named: dict[str, Any] = {
        f"{group}/{number:04d}": np.asarray(value, order="C")
        for group, values in arrays.items()
        for number, value in enumerate(values)
    }
    content = io.BytesIO()
    np.savez(content, **named)
    write_bytes(path, content.getvalue())


def read_arrays(path: Path) -> dict[str, list[NDArray]]:
    """Read what `write_arrays` wrote; it takes no more memory than the file.

    Raises:
      InputError: the file is missing or damaged.
    """
    arrays: dict[str, list[NDArray]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            for member in archive.infolist():
                group, _, _ = member.filename.partition("/")
                arrays.setdefault(group, []).append(_array(archive, member))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: repeat the command that began the run") from None
    except Exception as error:  # a damaged zip file has many ways to say so
        raise InputError(f"{path} is damaged ({error}): {_MEND}") from error
    return arrays


def check_shapes(path: Path, arrays: Arrays, wanted: Arrays) -> None:
    """Raise InputError unless arrays of a file have the groups, shapes and types of others."""
    for group, values in wanted.items():
        shapes = [(value.shape, value.dtype) for value in arrays.get(group, ())]
        if shapes != [(np.shape(value), np.asarray(value).dtype) for value in values]:
            raise InputError(f"{path} is of another model, its {group} differ: {_MEND}")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    content = archive.read(member)
    header = io.BytesIO(content)
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError(f"{member.filename} is of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    return np.frombuffer(content, dtype, offset=header.tell()).reshape(shape)
