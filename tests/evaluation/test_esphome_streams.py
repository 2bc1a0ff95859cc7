import numpy as np
import pytest
from test_stream_evaluation import silent_audio

from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.evaluation import esphome_streams
from wakeword_keras.evaluation.esphome_streams import Probabilities
from wakeword_keras.streams import stepwise

FRONTEND = FrontendConfig()


def track(steps, **values):
    outputs = np.zeros(steps, np.uint8)
    for place, value in values.items():
        outputs[int(place[1:])] = value
    return outputs


def test_false_accepts_and_misses_by_hand():
    # Steps of 3 frames: step 32 is the first that ends a second after the start.
    streams = (track(400, s100=255, s300=255), track(400, s5=255))  # 5: right after the start
    words = (track(90, s40=200), track(90, s40=99), track(90, s20=255), track(90, s32=255))
    found = Probabilities(streams, words, 3)
    audio = silent_audio([0] * 4, streams=2, hours=2.0)
    at = esphome_streams.measure(found, audio, FRONTEND, 100, 1)
    assert (at.false_accepts, at.false_accepts_per_hour) == (2, 1.0)
    assert (at.misses, at.positives) == (2, 4)  # one too low, one before its clip
    assert at.false_accepts_per_hour_ci95 == pytest.approx((0.12110, 3.61234), rel=1e-4)
    low, high = at.miss_rate_ci95
    assert low < 0.5 < high


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.06, 1.0, 1.49])
def test_the_first_step_after_a_time_is_the_first(seconds):
    first = stepwise.first_step_after(seconds, 3, FRONTEND)
    assert stepwise.step_end_s(first, 3, FRONTEND) >= seconds - 1e-9
    assert first == 0 or stepwise.step_end_s(first - 1, 3, FRONTEND) < seconds
