"""What do parallel interpreters gain? Clips per second of the evaluator and of the plain loop.

python -m tools.benchmark_evaluator --run_dir=runs/happy [--json FILE]
The plain loop is one interpreter on one thread, one clip after the other, on the same kernels: the
reference kernels (int8's verdict) and XNNPACK (float). Both score the run's own test clips, taking
turns, and every logit must be the same to the last bit.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from numpy.typing import NDArray

from flags import run_flags
from tools import command
from wakeword_keras.affine import dequantize, quantize
from wakeword_keras.data.shards import open_shards, split_features
from wakeword_keras.errors import InputError
from wakeword_keras.tflite import flatbuffer
from wakeword_keras.tflite.interpreter import open_interpreter
from wakeword_keras.tflite.scorers import Scorer, tflite_scorer

# Of the run's flags, those that --helpshort is to list here, too.
flags.declare_key_flag("run_dir")
flags.declare_key_flag("cache_dir")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "times each is measured", lower_bound=1)
_CLIPS = flags.DEFINE_integer("clips", 1000, "test clips to score, at most", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "file to write the figures to, as JSON, if given")
_MODELS = {
    "int8": ("model_int8.tflite", "reference"),
    "fp32_tflite": ("model_fp32.tflite", "xnnpack"),
}


def main(arguments: Sequence[str]) -> None:
    """Print the table and write the figures."""
    command.refuse_arguments(arguments)
    features = _features()[: _CLIPS.value]
    figures = {
        name: measure(Path(flags.FLAGS.run_dir, "export", file), kernels, features, _ROUNDS.value)
        for name, (file, kernels) in _MODELS.items()
    }
    print(f"{len(features)} clips, {os.cpu_count()} cores, medians of {_ROUNDS.value} rounds")
    print(f"{'clips/s':12}{'kernels':>12}{'plain loop':>12}{'evaluator':>12}{'ratio':>8}")
    for name, entry in figures.items():
        plain, evaluator = (np.median(entry[way]) for way in ("plain_loop", "evaluator"))
        print(f"{name:12}{entry['kernels']:>12}{plain:12.0f}{evaluator:12.0f}{entry['ratio']:8.2f}")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(figures, indent=1) + "\n")


def _features() -> NDArray[np.float32]:
    """Of the test clips of the run in --run_dir."""
    config = run_flags.of_run()
    record = json.loads(Path(config.run_dir, "run.json").read_text())
    shards = open_shards(record.get("shards", ""))
    if shards is None:
        raise InputError(f"the clips of --run_dir={config.run_dir} are gone: run tools.evaluate")
    return np.asarray(split_features(shards, "test", config.frontend).features, np.float32)


def measure(path: Path, kernels: str, features: NDArray[np.float32], rounds: int) -> dict:
    """Clips per second of both, round by round, and the median of the rounds' ratios.

    Raises:
      AssertionError: a logit differs.
    """
    ways = {"plain_loop": _plain_loop(path, kernels), "evaluator": _evaluator(path, kernels)}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for score in ways.values():  # caches, lazily packed weights
        score(features[:32])
    for turn in range(rounds):
        logits = {}
        # Neither is always the first of a round.
        for way in sorted(ways, reverse=bool(turn % 2)):
            start = time.perf_counter()
            logits[way] = ways[way](features)
            rates[way].append(len(features) / (time.perf_counter() - start))
        np.testing.assert_array_equal(logits["evaluator"], logits["plain_loop"])
    ratio = np.median(np.divide(rates["evaluator"], rates["plain_loop"]))
    return {
        **rates,
        "ratio": float(ratio),
        "kernels": kernels,
        "clips": len(features),
        "cores": os.cpu_count(),
    }


def _evaluator(path: Path, kernels: str) -> Scorer:
    scorer = tflite_scorer(path, kernels)

    def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
        batches = (features[i : i + 256] for i in range(0, len(features), 256))
        return np.concatenate([scorer(batch) for batch in batches])

    return score


def _plain_loop(path: Path, kernels: str) -> Scorer:
    interpreter = open_interpreter(path, kernels)
    source, target = (
        details[0]["index"]
        for details in (interpreter.get_input_details(), interpreter.get_output_details())
    )
    affines = flatbuffer.input_affine(path), flatbuffer.output_affine(path)

    def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = []
        for clip in features:
            values = clip if affines[0] is None else quantize(clip, affines[0])
            interpreter.set_tensor(source, values[np.newaxis])
            interpreter.invoke()
            raw = interpreter.get_tensor(target)
            logits.append(raw if affines[1] is None else dequantize(raw, affines[1]))
        return np.concatenate(logits)

    return score


if __name__ == "__main__":
    command.run(main)
