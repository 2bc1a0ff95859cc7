"""What a model costs a device: bytes, arena, states, operators, multiply-accumulates.

python -m tools.describe
  The sizes of the architectures that stream: what they see, and what their INT8 files cost.
python -m tools.describe runs/happy/esphome/wakeword.tflite hey_jarvis.tflite ...
  The same of files, ours and others alike.
"""

from collections.abc import Sequence

import numpy as np

from tools import command
from wakeword_keras import models
from wakeword_keras.firmware import footprint
from wakeword_keras.tflite import convert, streaming


def main(files: Sequence[str]) -> None:
    """Print a row for each file, or for each size."""
    if files:
        print(footprint.table({file: footprint.measure(file) for file in files}))
        return
    found = {}
    for name in models.STREAMING:
        print(models.describe(name))
        found[name] = footprint.measure(_untrained(name))
    print(footprint.table(found))


def _untrained(name: str) -> bytes:
    """An INT8 streaming file of an architecture: its weights do not change what it costs."""
    frames = models.STREAMING[name]
    clips = np.random.default_rng(0).uniform(0, 26, (4, 1, frames, 40)).astype(np.float32)
    window = convert.int8_model(
        models.build(name, frames, 40, 1), lambda: ([clip] for clip in clips)
    )
    return streaming.to_bytes(streaming.stream(window))


if __name__ == "__main__":
    command.run(main)
