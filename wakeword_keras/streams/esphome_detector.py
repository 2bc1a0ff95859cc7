"""A model of ESPHome's form over a long recording, by ESPHome's own decision."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from wakeword_keras.firmware.esphome_manifest import EsphomeModel
from wakeword_keras.metrics import esphome_rule
from wakeword_keras.streams import stepwise
from wakeword_keras.streams.detector import SILENCE_MS, Detection, in_silence


def detect(blocks: Iterable[NDArray[np.int16]], model: EsphomeModel) -> list[Detection]:
    """Wake words in a recording, from a cold state, with silence before and after it.

    ESPHome ignores what it hears right after its start: the silence before is longer by that.

    Args:
      blocks: int16 [samples] each, such as `audio_file.read_blocks` yields.
      model: from `esphome_manifest.read`.

    Returns:
      Detections in the order of time, seconds from the recording's start to the end of the step;
      the probability is the average that fired.

    Raises:
      InputError: the model is no such one.
    """
    before_ms = SILENCE_MS + esphome_rule.SLICES_BEFORE * model.frontend.step_ms
    outputs = stepwise.outputs(
        model.path, in_silence(blocks, before_ms, SILENCE_MS), model.frontend
    )[:, 0]
    frames = stepwise.step_frames(model.path)
    found = []
    for step in esphome_rule.fires_at(outputs, model.cutoff, model.window, frames):
        end_s = stepwise.step_end_s(step, frames, model.frontend) - before_ms / 1000
        summed = outputs[max(0, step - model.window + 1) : step + 1].astype(int).sum()
        probability = summed / (model.window * esphome_rule.HIGHEST_CUTOFF)
        found.append(Detection(max(0.0, end_s), model.wake_word, float(probability)))
    return found
