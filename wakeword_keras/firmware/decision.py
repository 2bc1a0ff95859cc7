"""How a device decides: thresholds as it compares them, and the rule in a stream."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.affine import INT8_MAX, INT8_MIN, Affine, dequantize
from wakeword_keras.errors import InputError
from wakeword_keras.metrics import stream_rule
from wakeword_keras.metrics.stream_rule import StreamConfig

_EVERY_INT8 = np.arange(INT8_MIN, INT8_MAX + 1)


def int8_threshold(threshold_logit: float, output: Affine) -> int | None:
    """The int8 that decides as the logit does: `q >= int8` exactly when `logit >= threshold`.

    Args:
      threshold_logit: threshold on the dequantized logit.
      output: the model's output quantization.

    Returns:
      Smallest q in [-128, 127] whose logit reaches the threshold; None if not even 127 does.
    """
    reaching = np.flatnonzero(dequantize(_EVERY_INT8, output) >= threshold_logit)
    return INT8_MIN + int(reaching[0]) if reaching.size else None


def clip_threshold(logit: float, output: Affine, model: str) -> dict[str, Any]:
    """The manifest's "clip_threshold".

    Args:
      logit: of one clip.
      output: the model's output quantization.
      model: what messages call it.

    Raises:
      InputError: the model cannot reach it.
    """
    quantized = int8_threshold(logit, output)
    if quantized is None:
        raise InputError(
            f"{model}: threshold {logit:.4g} is above its largest logit {output.high:.4g}: "
            "it would never fire; train longer or on more negatives"
        )
    # Written so that exp() cannot overflow.
    tail = math.exp(-abs(logit))
    probability = (1.0 if logit >= 0 else tail) / (1.0 + tail)
    return {"logit": float(logit), "probability": probability, "int8": quantized}


def listening(
    of_clips: dict[str, Any],
    stream_sum: int | None,
    config: StreamConfig,
    warm_up_steps: int,
    output: Affine,
    model: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's "threshold" and "listening": all that decides in a stream as we do.

    Args:
      of_clips: threshold of clips, which serves where there is none of streams.
      stream_sum: threshold of streams, a sum of `stream_rule.probability_sums`; None without.
      config: stride, average and refractory time.
      warm_up_steps: outputs after a reset that do not count.
      output: the model's output quantization.
      model: what messages call it.

    Raises:
      InputError: the model cannot reach the threshold.
    """
    table = stream_rule.probability_units(dequantize(_EVERY_INT8, output))
    if stream_sum is None:
        threshold = of_clips | {"chosen_on": "clips"}
        stream_sum = math.ceil(of_clips["probability"] * config.one)
    else:
        probability = stream_sum / config.one
        steady = np.flatnonzero(config.windows * table >= stream_sum)
        if not 0 < probability < 1 or not steady.size:
            raise InputError(
                f"{model}: threshold {probability:.6g} is above its largest probability "
                f"{table[-1] / stream_rule.PROBABILITY_ONE:.6g}: it would never fire; train longer"
            )
        threshold = {
            "logit": math.log(probability) - math.log1p(-probability),
            "probability": probability,
            "int8": INT8_MIN + int(steady[0]),
            "chosen_on": "streams",
        }
    rule = dataclasses.asdict(config) | {
        "windows": config.windows,
        "refractory_steps": config.refractory_steps,
        "warm_up_steps": warm_up_steps,
        "rule": (
            "every stride_ms, for each output, add up probability_table[value + 128] of the last "
            "`windows` values, 0 for those before the first, the first warm_up_steps after a reset "
            "not among them; the output with the largest sum is detected if that sum is at least "
            "threshold_sum; then none is for refractory_steps - 1 runs"
        ),
        "threshold_sum": stream_sum,
        "probability_one": stream_rule.PROBABILITY_ONE,
        "probability_table": table.tolist(),
    }
    return threshold, rule


def detected(
    scores: NDArray[np.int8],
    output: Affine,
    config: StreamConfig,
    threshold_sum: int,
    warm_up_steps: int = 0,
) -> NDArray[np.int8]:
    """What `detector.h` returns at each step of a stream, by the rule of the report.

    Args:
      scores: int8 [steps, wake_words].
      output: the model's output quantization.
      config: stride, average and refractory time.
      threshold_sum: from which a sum is a detection.
      warm_up_steps: first scores, which do not count.

    Returns:
      int8 [steps]: index of the wake word that is detected then, -1 where none is.
    """
    counted = dequantize(scores[warm_up_steps:], output)
    sums = stream_rule.probability_sums(counted, config.windows)
    times = stream_rule.detections(
        sums.max(axis=1), threshold_sum, config.stride_ms, config.refractory_ms
    )
    steps = np.rint(times * 1000 / config.stride_ms).astype(int)
    words = np.full(len(scores), -1, np.int8)
    words[warm_up_steps + steps] = sums[steps].argmax(axis=1)
    return words
