import json

import pytest
from test_esphome import window  # noqa: F401

from wakeword_keras import InputError
from wakeword_keras.firmware import esphome, esphome_manifest


@pytest.fixture(scope="module")
def bundle(window, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("esphome")
    esphome.write(
        out,
        esphome.streaming_model(window, 0.5),
        wake_word="hey jarvis",
        cutoff=130,
        window=5,
        feature_step_ms=10,
        arena_bytes=30000,
    )
    return out


def test_what_we_write_is_read_as_esphome_reads_it(bundle):
    model = esphome_manifest.read(bundle / esphome_manifest.FILE)
    assert (model.wake_word, model.cutoff, model.window) == ("hey jarvis", 130, 5)
    assert model.path == bundle / "wakeword.tflite"
    assert model.frontend.step_ms == 10


def test_the_model_may_lie_elsewhere(bundle, tmp_path):
    manifest = tmp_path / "theirs.json"
    manifest.write_bytes((bundle / esphome_manifest.FILE).read_bytes())
    model = esphome_manifest.read(manifest, bundle / "wakeword.tflite")
    assert model.path == bundle / "wakeword.tflite"
    with pytest.raises(InputError, match=r"wakeword\.tflite"):
        esphome_manifest.read(manifest)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 1}, "version 1"),
        ({"type": "macro"}, "'macro'"),
        ({"micro": {}}, "probability_cutoff"),
        ({"micro": {"probability_cutoff": 1.2, "sliding_window_size": 5}}, "1.2"),
        ({"micro": 7}, "give the .json"),
    ],
    ids=str,
)
def test_another_manifest_is_refused_by_name(bundle, tmp_path, change, named):
    said = json.loads((bundle / esphome_manifest.FILE).read_text()) | change
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(said))
    with pytest.raises(InputError, match=named):
        esphome_manifest.read(path, bundle / "wakeword.tflite")
    path.write_text("{")
    with pytest.raises(InputError, match="no manifest of ESPHome"):
        esphome_manifest.read(path)
    with pytest.raises(InputError, match="cannot be read"):
        esphome_manifest.read(tmp_path / "missing.json")
