from pathlib import Path

import numpy as np
import pytest
from test_stream_evaluation import CONFIG, silent_audio, tracks, units

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.evaluation import esphome_streams, side_by_side
from wakeword_keras.evaluation.esphome_streams import Probabilities
from wakeword_keras.evaluation.stream_evaluation import ModelStreams
from wakeword_keras.firmware.esphome_manifest import EsphomeModel
from wakeword_keras.streams import stream_metrics
from wakeword_keras.streams.stream_metrics import StreamThreshold

THEIRS = EsphomeModel(Path("theirs.tflite"), "Yes!", 100, 1, FrontendConfig())


def track(steps, **values):
    outputs = np.zeros(steps, np.uint8)
    for place, value in values.items():
        outputs[int(place[1:])] = value
    return outputs


@pytest.fixture
def heard(monkeypatch):
    """Two hours with peaks of 255 and 150, four words of peaks 255, 200, 120 and 90."""
    given = []

    def score(model, audio, frontend):
        given.append(audio)
        words = tuple(track(90, s40=value) for value in (255, 200, 120, 90))
        streams = track(400, s100=255, s300=150), track(400)
        return Probabilities(streams, words[: len(audio.positives)], 3)

    monkeypatch.setattr(esphome_streams, "score", score)
    return given


def test_a_released_model_is_judged_by_its_own_cutoff_and_at_each_budget(heard):
    row = side_by_side.esphome_row("theirs", THEIRS, silent_audio([0] * 4, 2, 2.0))
    assert (row.false_accepts, row.false_accepts_per_hour, row.hours) == (2, 1.0, 2.0)
    assert (row.positives, row.misses) == (4, 1)
    # No cutoff keeps 255 from firing; one accept in two hours: 150 on; two: the lowest of all.
    assert row.missed_at == (None, 2, 0)


def test_wake_words_of_other_labels_are_left_out(heard):
    row = side_by_side.esphome_row("theirs", THEIRS, silent_audio([1, 0, 1], 2, 2.0))
    assert (row.positives, row.misses) == (1, 0)
    assert [clip.label for clip in heard[0].positives] == ["yes"]


def test_without_wake_words_false_accepts_alone_are_said(heard):
    row = side_by_side.esphome_row("theirs", THEIRS, silent_audio([1], 2, 2.0))
    assert (row.positives, row.misses, row.miss_rate_ci95) == (0, 0, None)
    said = side_by_side.table([row]).splitlines()
    assert said[1].split()[-4:] == ["-"] * 4
    assert "1.00 (0.12-3.61)" in said[1]


def test_a_runs_model_stands_in_the_same_table(heard):
    audio = silent_audio([0] * 4, hours=2.0)
    given = tracks([[0, 60, 0, 0, 0, 0, 0, 80]], [[90], [70], [50], [30]])
    at = stream_metrics.measure(given, units(40), audio, CONFIG)
    threshold = StreamThreshold(0.4, -0.405, int(units(40)), True)
    curve = stream_metrics.curve(given, audio, CONFIG)
    model = ModelStreams(threshold, at, at, curve, (), "reference", 9, 9, 0.0)
    row = side_by_side.run_row("ours", model, CONFIG)
    assert (row.false_accepts, row.misses, row.positives) == (2, 1, 4)
    # Above 80 one word is left, above 60 two, at the floor all.
    assert row.missed_at == (3, 2, 0)
    theirs = side_by_side.esphome_row("theirs", THEIRS, audio)
    printed = side_by_side.table([row, theirs])
    assert "75.0" in printed
    assert "none" in printed
    assert [entry["model"] for entry in side_by_side.to_json([row, theirs])["models"]] == [
        "ours",
        "theirs",
    ]
