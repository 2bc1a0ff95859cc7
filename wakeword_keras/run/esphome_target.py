"""The bundle of `target`=esphome: the INT8 model rewired, its cutoff chosen by ESPHome's rule."""

import dataclasses
from pathlib import Path

from wakeword_keras.errors import InputError
from wakeword_keras.evaluation import esphome_streams
from wakeword_keras.evaluation.esphome_streams import EsphomeMetrics
from wakeword_keras.evaluation.run_models import HeldOut
from wakeword_keras.files import write_json
from wakeword_keras.firmware import arena, esphome
from wakeword_keras.metrics import esphome_rule
from wakeword_keras.names import TEST, VALIDATION
from wakeword_keras.progress import say
from wakeword_keras.streams.stream_metrics import allowed_events

WINDOW = 5  # probabilities that are summed, 0.15 s: as microWakeWord's released models


def write(
    window_model: Path, out_dir: Path, data: HeldOut, threshold_logit: float, wake_word: str
) -> None:
    """Write wakeword.tflite, wakeword.json, esphome.yaml and measured.json.

    The cutoff is the lowest that keeps the budget on validation streams; test streams say what it
    gives. Without ambient audio it is the threshold of the clips, and nothing is measured.

    Args:
      window_model: INT8 file of a model that can stream.
      out_dir: folder.
      data: held-out data of the run.
      threshold_logit: of the INT8 model; becomes the probability 0.5.
      wake_word: the only one.

    Raises:
      InputError: the model cannot stream or ESPHome would not take it, the front end is another,
        or no cutoff keeps the budget.
    """
    if data.frontend.kind != "micro":
        raise InputError("`target`=esphome: needs `frontend.kind`=micro, the one it has")
    model = esphome.streaming_model(window_model, threshold_logit)
    cutoff = esphome_rule.HIGHEST_CUTOFF // 2
    if data.ambient:
        cutoff, measured = _chosen(model, data)
        say(_line(measured[TEST]))
    else:
        measured = {}
        say("esphome: no ambient audio: the cutoff is that of single clips")
    esphome.write(
        out_dir,
        model,
        wake_word=wake_word.replace("_", " "),
        cutoff=cutoff,
        window=WINDOW,
        feature_step_ms=data.frontend.step_ms,
        arena_bytes=arena.measure(model).recommended_bytes(0),
    )
    content = {split: dataclasses.asdict(metrics) for split, metrics in measured.items()}
    write_json(out_dir / "measured.json", content)


def _chosen(model: bytes, data: HeldOut) -> tuple[int, dict[str, EsphomeMetrics]]:
    """The cutoff that validation streams choose, and what it gives on both splits."""
    audio = {split: data.split_audio(split) for split in (VALIDATION, TEST)}
    found = {split: esphome_streams.score(model, audio[split], data.frontend) for split in audio}
    allowed = allowed_events(data.max_false_accepts_per_hour, audio[VALIDATION].hours)
    chosen = found[VALIDATION]
    cutoff = esphome_rule.choose_cutoff(chosen.ambient, WINDOW, chosen.frames, allowed)
    if cutoff is None:
        raise InputError(
            f"`max_false_accepts_per_hour`={data.max_false_accepts_per_hour:g}: no cutoff of "
            "ESPHome keeps it on the validation streams: train longer, or on more audio"
        )
    return cutoff, {
        split: esphome_streams.measure(found[split], audio[split], data.frontend, cutoff, WINDOW)
        for split in audio
    }


def _line(test: EsphomeMetrics) -> str:
    return (
        f"esphome: cutoff {test.cutoff}/255; test streams, {test.hours:.2f} h: "
        f"{test.false_accepts_per_hour:.2f} false accepts per hour "
        f"(at most {test.false_accepts_per_hour_upper95:.2f}), "
        f"{test.misses} of {test.positives} wake words missed"
    )
