"""Print the wake words that the INT8 model detects in audio files of any length.

python -m tools.detect --model=runs/happy/firmware recording.wav ...
prints a line per detection: file, seconds, wake word, probability.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags
from tqdm import tqdm

from tools import command
from wakeword_keras import InputError
from wakeword_keras.audio import audio_file
from wakeword_keras.streams.detector import StreamConfig, detect_stream, load_detector

_MODEL = flags.DEFINE_string("model", None, "firmware folder of a run, or an int8 .tflite file")
_THRESHOLD = flags.DEFINE_float(
    "threshold_probability",
    None,
    "a wake word is detected from this probability on, 0 to 1; the bundle's own if not given",
)
flags.DEFINE_integer(
    "stride_ms", None, "milliseconds between two scores; the model's own if not given"
)
flags.DEFINE_integer(
    "average_ms", None, "milliseconds over which scores are averaged; the model's own if not given"
)
flags.DEFINE_integer(
    "refractory_ms",
    None,
    "milliseconds after a detection in which nothing is detected; the model's own if not given",
)
flags.mark_flag_as_required("model")


def main(files: Sequence[str]) -> None:
    """Print the detections of each file and a closing line."""
    if not files:
        raise InputError("no audio file given: name at least one after the flags")
    detector = load_detector(_MODEL.value, _THRESHOLD.value)
    times = {field.name: flags.FLAGS[field.name] for field in dataclasses.fields(StreamConfig)}
    given = {name: flag.value for name, flag in times.items() if flag.value is not None}
    config = dataclasses.replace(detector.listening, **given)
    count, hours = 0, 0.0
    for path in files:
        hours += audio_file.probe(path).seconds / 3600
        blocks = tqdm(
            audio_file.read_blocks(path), desc=path, unit="block", disable=None, leave=False
        )
        for found in detect_stream(blocks, detector, config):
            count += 1
            print(f"{path}  {found.seconds:.2f}  {found.wake_word}  {found.probability:.4f}")
    threshold = f"{detector.threshold_probability:.6g}"
    print(f"{count} detections at threshold {threshold}; files: {len(files)}, hours: {hours:.3f}")


if __name__ == "__main__":
    command.run(main)
