"""A streaming model as ESPHome's micro_wake_word takes it: wakeword.tflite and wakeword.json.

ESPHome gives int8 features [1, frames, 40] and reads a uint8 probability [1, 1]. A probability of 8
bits saturates: released models leave no threshold for rare false accepts. So the logit is shifted
until the threshold lies at 0.5, where a step of the probability is smallest beside the logit's.
Source: ESPHome 2026.6, components/micro_wake_word.
"""

import dataclasses
from pathlib import Path

import numpy as np

from wakeword_keras.affine import INT8_MAX, INT8_MIN
from wakeword_keras.errors import InputError
from wakeword_keras.files import write_bytes, write_json
from wakeword_keras.metrics.esphome_rule import manifest_cutoff
from wakeword_keras.tflite import flatbuffer, streaming
from wakeword_keras.tflite.flatbuffer import Graph, Operator, Tensor, int8_affine
from wakeword_keras.tflite.interpreter import Source, name_of

# fmt: off
OPERATORS = frozenset((
    "CALL_ONCE", "VAR_HANDLE", "RESHAPE", "READ_VARIABLE", "STRIDED_SLICE", "CONCATENATION",
    "ASSIGN_VARIABLE", "CONV_2D", "MUL", "ADD", "MEAN", "FULLY_CONNECTED", "LOGISTIC", "QUANTIZE",
    "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D", "PAD", "PACK", "SPLIT_V",
))
# fmt: on
MAX_VARIABLES = 20
CHANNELS = 40
MINIMUM_VERSION = "2024.7.0"  # the first that reads manifests of version 2


def probability_model(window: Source, threshold_logit: float) -> Graph:
    """A window model that ends in a uint8 probability, 0.5 at the threshold.

    The shift is a whole number of the logit's steps, taken up by the last layer's bias and its
    output's zero point: the int8 logits stay the same integers.

    Args:
      window: .tflite file of an int8 model with one wake word that ends in a Dense layer.
      threshold_logit: of the model, within its logits' range.

    Returns:
      Graph to be written or rewired.

    Raises:
      InputError: the model has several wake words or does not end in a Dense layer.
    """
    graph = flatbuffer.read_graph(window)
    last = graph.operators[-1]
    logits = graph.tensors[graph.outputs[0]]
    if logits.shape != (1, 1):
        raise InputError(
            f"{name_of(window)}: ESPHome takes one wake word a model, this has {logits.shape[-1]}"
        )
    if last.kind != "FULLY_CONNECTED" or logits.type != "INT8":
        raise InputError(f"{name_of(window)}: ends in {last.kind}, not in an int8 Dense layer")
    affine = int8_affine(logits, window)
    shift = round(threshold_logit / affine.scale)
    middle = int(np.clip(affine.zero_point + shift, INT8_MIN, INT8_MAX))
    return _with_probability(_shifted(graph, middle - affine.zero_point, window))


def _shifted(graph: Graph, steps: int, window: Source) -> Graph:
    """The same int8 logits, so many steps nearer to zero."""
    last = graph.operators[-1]
    source, weights = (graph.tensors[index] for index in last.inputs[:2])
    target = graph.tensors[last.output]
    given, taken = int8_affine(source, window), int8_affine(target, window)
    assert weights.scale is not None
    step = given.scale * weights.scale / np.float64(taken.scale)
    held = graph.tensors[last.inputs[2]].data if last.inputs[2:] not in ((), (-1,)) else None
    bias = np.zeros(1, np.int32) if held is None else held
    tensors = list(graph.tensors)
    tensors[last.output] = dataclasses.replace(
        target, zero_point=np.array([taken.zero_point + steps], np.int64)
    )
    tensors.append(
        Tensor(
            "shifted_bias",
            "INT32",
            (1,),
            np.round(bias - steps / step).astype(np.int32),
            (given.scale * weights.scale).astype(np.float32),
            np.zeros(1, np.int64),
        )
    )
    moved = dataclasses.replace(last, inputs=(*last.inputs[:2], len(tensors) - 1))
    return dataclasses.replace(
        graph, tensors=tuple(tensors), operators=(*graph.operators[:-1], moved)
    )


def _with_probability(graph: Graph) -> Graph:
    """LOGISTIC in int8, then the same steps in uint8."""
    scale = np.array([1 / 256], np.float32)
    int8 = Tensor("probability_int8", "INT8", (1, 1), None, scale, np.array([-128]))
    uint8 = Tensor("probability", "UINT8", (1, 1), None, scale, np.array([0]))
    first = len(graph.tensors)
    return dataclasses.replace(
        graph,
        tensors=(*graph.tensors, int8, uint8),
        operators=(
            *graph.operators,
            Operator("LOGISTIC", graph.outputs, (first,), version=2),
            Operator("QUANTIZE", (first,), (first + 1,)),
        ),
        outputs=(first + 1,),
    )


def streaming_model(window: Source, threshold_logit: float) -> bytes:
    """The content of wakeword.tflite.

    Args:
      window: .tflite file of an int8 window model that can stream.
      threshold_logit: of the model; becomes the probability 0.5.

    Raises:
      InputError: it cannot stream, or ESPHome would not take it.
    """
    content = streaming.to_bytes(
        streaming.stream(flatbuffer.write([probability_model(window, threshold_logit)]))
    )
    check(content)
    return content


def check(model: Source) -> None:
    """Refuse what ESPHome would refuse, at build time or on the device.

    Raises:
      InputError: names every fault and its mend.
    """
    graphs = flatbuffer.read(model)
    main = graphs[0]
    source, target = main.tensors[main.inputs[0]], main.tensors[main.outputs[0]]
    problems = []
    if source.type != "INT8" or len(source.shape) != 3 or source.shape[::2] != (1, CHANNELS):
        problems.append(
            f"input {source.type.lower()} {list(source.shape)}, not int8 [1, frames, {CHANNELS}]: "
            "export an INT8 model of the micro front end, rewired for steps"
        )
    if target.type != "UINT8" or target.shape != (1, 1):
        problems.append(
            f"output {target.type.lower()} {list(target.shape)}, not uint8 [1, 1]: "
            "give one wake word, as a probability"
        )
    unknown = {op.kind for graph in graphs for op in graph.operators} - OPERATORS
    if unknown:
        problems.append(
            f"operators that it has no kernels for: {', '.join(sorted(unknown))}: "
            "choose layers without them"
        )
    variables = sum(op.kind == "VAR_HANDLE" for op in main.operators)
    if variables > MAX_VARIABLES:
        problems.append(
            f"{variables} variables, more than {MAX_VARIABLES}: fewer branches or blocks"
        )
    if problems:
        raise InputError(f"{name_of(model)}: ESPHome cannot take it: {'; '.join(problems)}")


def write(
    out_dir: Path,
    model: bytes,
    *,
    wake_word: str,
    cutoff: int,
    window: int,
    feature_step_ms: int,
    arena_bytes: int,
    language: str = "en",
) -> None:
    """Write wakeword.tflite, its manifest of version 2, and a configuration that uses them.

    Args:
      out_dir: folder, made if missing.
      model: from `streaming_model`.
      wake_word: as people say it.
      cutoff: 0 to 254, from `esphome_rule.choose_cutoff`.
      window: outputs that are summed.
      feature_step_ms: of the front end, 10 or 20.
      arena_bytes: measured on TFLite Micro, with a margin.
      language: of the training voices.

    Raises:
      InputError: ESPHome would not take the model.
    """
    check(model)
    manifest = {
        "type": "micro",
        "wake_word": wake_word,
        "author": "wakeword_keras",
        "model": "wakeword.tflite",
        "trained_languages": [language],
        "version": 2,
        "micro": {
            "probability_cutoff": manifest_cutoff(cutoff),
            "feature_step_size": feature_step_ms,
            "sliding_window_size": window,
            "tensor_arena_size": arena_bytes,
            "minimum_esphome_version": MINIMUM_VERSION,
        },
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    write_bytes(out_dir / "wakeword.tflite", model)
    write_json(out_dir / "wakeword.json", manifest)
    write_bytes(out_dir / "esphome.yaml", _CONFIGURATION.encode())


_CONFIGURATION = """\
# A whole configuration for an ESP32-S3 with an I2S microphone: check it with `esphome config`.
esphome:
  name: wakeword
esp32:
  board: esp32-s3-devkitc-1
  variant: esp32s3
  framework:
    type: esp-idf
psram:
  mode: octal
logger:
i2s_audio:
  i2s_lrclk_pin: GPIO3
  i2s_bclk_pin: GPIO2
microphone:
  - platform: i2s_audio
    id: mic
    adc_type: external
    i2s_din_pin: GPIO4
    sample_rate: 16000
    bits_per_sample: 16bit
micro_wake_word:
  microphone: mic
  models:
    - model: wakeword.json
  on_wake_word_detected:
    - logger.log: "wake word"
"""
