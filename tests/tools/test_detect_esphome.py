import numpy as np
import pytest
from test_esphome import window  # noqa: F401
from test_esphome_manifest import bundle  # noqa: F401

from wakeword_keras.firmware import esphome_manifest
from wakeword_keras.metrics import esphome_rule
from wakeword_keras.streams import esphome_detector, stepwise


@pytest.fixture
def fired(monkeypatch):
    """Every step gives 0, but some from the given second of the recording on."""

    def at(seconds, model):
        def outputs(path, blocks, frontend):
            samples = sum(map(len, blocks))
            track = np.zeros((frontend.num_frames(samples) // 3, 1), np.uint8)
            before_s = (500 + 1000) / 1000
            first = stepwise.first_step_after(before_s + seconds, 3, frontend)
            track[first : first + model.window] = 250
            return track

        monkeypatch.setattr(stepwise, "outputs", outputs)

    return at


def test_a_wake_word_right_at_the_start_is_detected_and_once(bundle, fired):  # noqa: F811
    model = esphome_manifest.read(bundle / esphome_manifest.FILE)
    fired(0.1, model)
    (found,) = esphome_detector.detect([np.zeros(16000, np.int16)], model)
    assert found.wake_word == "hey jarvis"
    assert 0.1 <= found.seconds <= 0.1 + 0.03 * (model.window + 1)
    assert model.cutoff / esphome_rule.HIGHEST_CUTOFF < found.probability <= 250 / 255


def test_silence_alone_and_no_samples_are_no_detection(bundle, fired):  # noqa: F811
    model = esphome_manifest.read(bundle / esphome_manifest.FILE)
    assert esphome_detector.detect([], model) == []
