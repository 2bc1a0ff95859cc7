r"""Writes Kokoro's styles, as its authors publish them, into the file that this package carries.

The npm package kokoro-js has them, one file a style (Apache-2.0):

    npm pack kokoro-js@1.2.1 && tar xf kokoro-js-1.2.1.tgz
    python -m tools.pack_styles --styles_dir=package/voices \
        --out=wakeword_keras/synthesis/kokoro_styles.npz
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from tools import command
from wakeword_keras import files
from wakeword_keras.errors import InputError

_STYLES_DIR = flags.DEFINE_string("styles_dir", None, "Folder of .bin files, float32 [510, 256].")
_OUT = flags.DEFINE_string("out", None, "The .npz file to write.")
_LENGTHS, _NUMBERS = 510, 256
# A style changes little with the length of the text, and along few directions.
_DIRECTIONS = 6


def main(_: Sequence[str]) -> None:
    """Write the file and say how near each style in it is."""
    paths = sorted(Path(_STYLES_DIR.value).glob("*.bin"))
    if not paths:
        raise InputError(f"`styles_dir`={_STYLES_DIR.value}: no .bin file in it")
    lengths, directions = [], []
    for path in paths:
        style = np.fromfile(path, "<f4").reshape(_LENGTHS, _NUMBERS).astype(np.float64)
        left, sizes, right = np.linalg.svd(style, full_matrices=False)
        lengths.append((left * sizes)[:, :_DIRECTIONS].astype(np.float16))
        directions.append(right[:_DIRECTIONS].astype(np.float16))
        worst = np.abs(lengths[-1].astype(float) @ directions[-1].astype(float) - style).max()
        print(f"{path.stem}: within {worst:.4f}")
    content = io.BytesIO()
    np.savez_compressed(
        content,
        names=[path.stem for path in paths],
        lengths=np.stack(lengths),
        directions=np.stack(directions),
    )
    files.write_bytes(Path(_OUT.value), content.getvalue())


if __name__ == "__main__":
    command.run(main)
