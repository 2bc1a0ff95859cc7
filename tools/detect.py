"""Print the wake words that the INT8 model detects in audio files of any length.

python -m tools.detect --model=runs/happy/firmware recording.wav ...
prints a line per detection: file, seconds, wake word, probability.

python -m tools.detect --model=runs/happy/esphome recording.wav ...
The same by ESPHome's own decision; takes the .json manifest of any model of that form.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from absl import flags
from numpy.typing import NDArray
from tqdm import tqdm

from tools import command
from wakeword_keras import InputError
from wakeword_keras.audio import audio_file
from wakeword_keras.firmware import esphome_manifest
from wakeword_keras.metrics import esphome_rule
from wakeword_keras.streams import esphome_detector
from wakeword_keras.streams.detector import Detection, StreamConfig, detect_stream, load_detector

_MODEL = flags.DEFINE_string(
    "model", None, "firmware or esphome folder of a run, an int8 .tflite file, or a .json manifest"
)
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
    detect, threshold = _detection(Path(_MODEL.value))
    count, hours = 0, 0.0
    for path in files:
        hours += audio_file.probe(path).seconds / 3600
        blocks = tqdm(
            audio_file.read_blocks(path), desc=path, unit="block", disable=None, leave=False
        )
        for found in detect(blocks):
            count += 1
            print(f"{path}  {found.seconds:.2f}  {found.wake_word}  {found.probability:.4f}")
    print(
        f"{count} detections at threshold {threshold:.6g}; files: {len(files)}, hours: {hours:.3f}"
    )


def _detection(path: Path) -> tuple[Callable[[Iterable[NDArray]], list[Detection]], float]:
    """What detects in a recording, and its threshold as a probability."""
    names = [field.name for field in dataclasses.fields(StreamConfig)]
    given = {name: value for name in names if (value := flags.FLAGS[name].value) is not None}
    manifest = path / esphome_manifest.FILE if path.is_dir() else path
    if manifest.suffix == ".json" and manifest.exists():
        if given or _THRESHOLD.value is not None:
            raise InputError(
                f"{manifest} decides by its own cutoff and times: leave out "
                "`threshold_probability`, `stride_ms`, `average_ms` and `refractory_ms`"
            )
        model = esphome_manifest.read(manifest)
        cutoff = model.cutoff / esphome_rule.HIGHEST_CUTOFF
        return functools.partial(esphome_detector.detect, model=model), cutoff
    detector = load_detector(path, _THRESHOLD.value)
    config = dataclasses.replace(detector.listening, **given)
    listen = functools.partial(detect_stream, detector=detector, config=config)
    return listen, detector.threshold_probability


if __name__ == "__main__":
    command.run(main)
