import pytest

from wakeword_keras.errors import InputError
from wakeword_keras.firmware import arena
from wakeword_keras.tflite.interpreter import micro_installed

pytestmark = pytest.mark.skipif(not micro_installed(), reason="needs the extra firmware")


def test_smallest_arena_runs_and_16_bytes_less_do_not(model_path):
    model = model_path.read_bytes()
    measured = arena.measure(model)
    smallest = measured.smallest_bytes
    assert smallest % 16 == 0
    assert arena._run(model, smallest).returncode == 0
    assert arena._run(model, smallest - 16).returncode != 0
    assert measured.tensors_bytes < measured.used_bytes <= smallest + 16
    assert "Persistent buffer data" in measured.parts


def test_recommended_arena_has_the_stated_margin(model_path):
    measured = arena.measure(model_path.read_bytes())
    recommended = measured.recommended_bytes(1000)
    least = 1.1 * (measured.smallest_bytes + 1000)
    assert recommended % 1024 == 0
    assert least <= recommended < least + 1024


def test_what_tflite_micro_cannot_run_is_an_input_error():
    with pytest.raises(InputError, match="cannot run"):
        arena.measure(b"no model at all")
