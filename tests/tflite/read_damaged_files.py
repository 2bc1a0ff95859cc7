"""Read damaged copies of TFLite files with everything that reads one; run by test_damaged_files.

    read_damaged_files.py FOLDER FIRST COUNT

FOLDER holds float.tflite and int8.tflite. Prints a line of JSON per damaged file: its number,
what was done to it and what came of it.
"""

import json
import sys
import traceback
from pathlib import Path

import numpy as np

from wakeword_keras import InputError
from wakeword_keras.evaluation import layer_error, on_tflite_micro
from wakeword_keras.firmware import bundle
from wakeword_keras.onnx import translate
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import micro_installed
from wakeword_keras.tflite.scorers import open_tflite

EXTREMES = (-1, -(2**31), 2**31 - 1, 2**16, 0, 1)
LAST_BYTES = 9000  # what describes the graph is written at the file's end


def flip_a_bit(content, at, rng):
    content[at] ^= 1 << rng.integers(8)


def change_a_byte(content, at, rng):
    content[at] = rng.integers(256)


def write_an_extreme_number(content, at, rng):
    at -= at % 4
    content[at : at + 4] = np.int32(rng.choice(EXTREMES)).tobytes()


def write_zeros(content, at, rng):
    end = min(len(content), at + int(rng.integers(1, 512)))
    content[at:end] = bytes(end - at)


def copy_a_block(content, at, rng):
    source = int(rng.integers(len(content)))
    block = content[source : source + int(rng.integers(1, 64))]
    content[at : at + len(block)] = block


def cut_off(content, at, rng):
    del content[at:]


def take_bytes_out(content, at, rng):
    del content[at : at + int(rng.integers(1, 64))]


def put_bytes_in(content, at, rng):
    content[at:at] = rng.bytes(int(rng.integers(1, 64)))


DAMAGES = (
    flip_a_bit,
    change_a_byte,
    write_an_extreme_number,
    write_zeros,
    copy_a_block,
    cut_off,
    take_bytes_out,
    put_bytes_in,
)


def damaged(content, number):
    """The bytes of damaged file `number`, and what was done."""
    rng = np.random.default_rng(number)
    damage, content = DAMAGES[number % len(DAMAGES)], bytearray(content)
    # Every second one where the graph is described: there a byte matters most.
    start = max(0, len(content) - LAST_BYTES) if rng.integers(2) else 0
    at = int(rng.integers(start, len(content)))
    damage(content, at, rng)
    return bytes(content), f"{damage.__name__} at {at}"


def readers(kind, path, folder, clips):
    """All that reads a model of this kind."""
    yield lambda: [score(clips) for score in open_tflite({kind: path})[0].values()]
    yield lambda: translate.from_tflite(path)
    if kind == "int8":
        yield lambda: bundle.describe_model(path)
        yield lambda: layer_error.layer_errors(folder / "float.tflite", path, clips)
        if micro_installed():
            yield lambda: on_tflite_micro.check("int8", path, clips)
    else:
        yield lambda: layer_error.layer_errors(path, folder / "int8.tflite", clips)
    yield lambda: flatbuffer.write(flatbuffer.read(path))


def outcome(read, name):
    """What came of it: "" if it is read, "refused" if in one line with the file's name."""
    try:
        read()
    except InputError as error:
        clear = "\n" not in str(error) and name in str(error)
        return "refused" if clear else f"unclear: {error}"
    except BaseException:  # what any reader may raise is what is asked here
        return traceback.format_exc()
    return ""


def main(folder, first, count):
    folder = Path(folder)
    for number in range(int(first), int(first) + int(count)):
        kind = ("int8", "fp32_tflite")[number // len(DAMAGES) % 2]
        source = folder / ("int8.tflite" if kind == "int8" else "float.tflite")
        content, what = damaged(source.read_bytes(), number)
        path = folder / "damaged.tflite"
        path.write_bytes(content)
        frames, channels = flatbuffer.read_graph(source).tensors[0].shape[1:]
        clips = np.random.default_rng(0).uniform(0, 26, (2, frames, channels)).astype(np.float32)
        print(json.dumps({"number": number, "kind": kind, "damage": what}), flush=True)
        found = [outcome(read, path.name) for read in readers(kind, path, folder, clips)]
        print(json.dumps({"number": number, "outcomes": found}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
