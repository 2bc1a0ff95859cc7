import dataclasses
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras import InputError
from wakeword_keras.firmware import esphome
from wakeword_keras.models import mixed_conv
from wakeword_keras.tflite import convert, flatbuffer, streaming
from wakeword_keras.tflite.interpreter import open_interpreter

FRAMES = 98


@pytest.fixture(scope="module")
def window():
    keras.utils.set_random_seed(1)
    model = mixed_conv.mixed_conv_small(FRAMES, 40, 1)
    rng = np.random.default_rng(0)
    clips = rng.uniform(0, 26, (16, FRAMES, 40)).astype(np.float32)
    return convert.int8_model(model, lambda: ([clip[np.newaxis]] for clip in clips))


def run(content, values):
    opened = open_interpreter(content, "reference")
    (source,), (target,) = opened.get_input_details(), opened.get_output_details()
    outputs = []
    for value in values:
        opened.set_tensor(source["index"], value)
        opened.invoke()
        outputs.append(opened.get_tensor(target["index"]).copy())
    return np.array(outputs)


def test_the_threshold_is_in_the_middle_and_the_logits_stay_the_same_integers(window):
    rng = np.random.default_rng(1)
    clips = rng.integers(-128, 128, (40, 1, FRAMES, 40)).astype(np.int8)
    logits = run(window, clips)[:, 0, 0].astype(int)
    affine = flatbuffer.output_affine(window)
    at = int(np.median(logits))
    threshold = affine.scale * (at - affine.zero_point)
    probabilities = run(flatbuffer.write([esphome.probability_model(window, threshold)]), clips)[
        :, 0, 0
    ]
    assert probabilities.dtype == np.uint8
    exact = 1 / (1 + np.exp(-affine.scale * (logits - at)))
    assert np.abs(probabilities - exact * 256).max() <= 1.0
    assert (probabilities[logits == at] == 128).all()
    assert (np.diff(probabilities[np.argsort(logits)].astype(int)) >= 0).all()


def test_a_threshold_beyond_the_range_is_its_end(window):
    graph = esphome.probability_model(window, 1e6)
    assert graph.tensors[graph.operators[-2].inputs[0]].zero_point.tolist() == [127]


def test_the_streaming_file_is_what_esphome_takes_step_by_step_equal(window):
    content = esphome.streaming_model(window, 0.5)
    main, start = flatbuffer.read(content)
    assert main.tensors[main.inputs[0]].shape == (1, 3, 40)
    assert (main.tensors[main.outputs[0]].type, main.tensors[main.outputs[0]].shape) == (
        "UINT8",
        (1, 1),
    )
    assert sum(op.kind == "ASSIGN_VARIABLE" for op in start.operators) <= esphome.MAX_VARIABLES
    rng = np.random.default_rng(2)
    sound = rng.integers(-128, 128, (1, 99 + 30, 40)).astype(np.int8)
    steps = run(content, [sound[:, at : at + 3] for at in range(0, sound.shape[1], 3)])
    whole = flatbuffer.write([esphome.probability_model(window, 0.5)])
    ends = range(99, sound.shape[1] + 1, 3)
    expected = run(whole, [sound[:, end - FRAMES : end] for end in ends])
    np.testing.assert_array_equal(steps[32:], expected)


def test_what_esphome_would_refuse_is_refused_first_with_the_mend(window):
    with pytest.raises(InputError, match=r"output int8 \[1, 1\], not uint8 \[1, 1\]: give"):
        esphome.check(window)
    narrow = mixed_conv.mixed_conv_small(FRAMES, 20, 1)
    clips = np.random.default_rng(0).uniform(0, 26, (4, 1, FRAMES, 20)).astype(np.float32)
    with pytest.raises(InputError, match=r"input int8 \[1, 3, 20\], not int8 \[1, frames, 40\]"):
        esphome.streaming_model(convert.int8_model(narrow, lambda: ([c] for c in clips)), 0.0)
    main, *others = flatbuffer.read(esphome.streaming_model(window, 0.5))
    many = [op for op in main.operators if op.kind == "VAR_HANDLE"] * 3
    crowded = dataclasses.replace(main, operators=(*many, *main.operators))
    with pytest.raises(InputError, match="variables, more than 20: fewer branches"):
        esphome.check(flatbuffer.write([crowded, *others]))
    foreign = dataclasses.replace(main.operators[-2], kind="TANH", version=2)
    changed = dataclasses.replace(
        main, operators=(*main.operators[:-2], foreign, main.operators[-1])
    )
    with pytest.raises(InputError, match="no kernels for: TANH: choose layers"):
        esphome.check(flatbuffer.write([changed, *others]))


def test_several_words_are_refused():
    model = mixed_conv.mixed_conv_small(FRAMES, 40, 2)
    clip = np.zeros((1, FRAMES, 40), np.float32)
    content = convert.int8_model(model, lambda: ([clip + value] for value in (0, 26)))
    with pytest.raises(InputError, match="one wake word a model, this has 2"):
        esphome.streaming_model(content, 0.0)


def test_the_manifest_follows_version_2(window, tmp_path):
    content = esphome.streaming_model(window, 0.5)
    esphome.write(
        tmp_path / "bundle",
        content,
        wake_word="hey jarvis",
        cutoff=130,
        window=5,
        feature_step_ms=10,
        arena_bytes=30000,
    )
    said = json.loads((tmp_path / "bundle" / "wakeword.json").read_text())
    assert (tmp_path / "bundle" / said["model"]).read_bytes() == content
    assert int(said["micro"]["probability_cutoff"] * 255) == 130
    assert (said["type"], said["version"], said["micro"]["feature_step_size"]) == ("micro", 2, 10)


def test_small_models_are_far_below_the_limits(window):
    states = streaming.stream(window).states
    assert len(states) < esphome.MAX_VARIABLES


@pytest.mark.slow
def test_esphome_itself_accepts_the_bundle(window, tmp_path):
    esphome_program = os.environ.get("ESPHOME") or shutil.which("esphome")
    if esphome_program is None:
        pytest.skip("pip install esphome into an environment of its own; ESPHOME=bin/esphome")
    esphome.write(
        tmp_path,
        esphome.streaming_model(window, 0.5),
        wake_word="hey jarvis",
        cutoff=130,
        window=5,
        feature_step_ms=10,
        arena_bytes=30000,
    )

    def config():
        command = [esphome_program, "config", "esphome.yaml"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    accepted = config()
    assert accepted.returncode == 0, accepted.stderr + accepted.stdout
    assert "wakeword.json" in accepted.stdout
    # It reads our manifest: one that lacks what it needs is refused.
    manifest = tmp_path / "wakeword.json"
    said = json.loads(manifest.read_text())
    del said["micro"]["probability_cutoff"]
    manifest.write_text(json.dumps(said))
    assert config().returncode != 0
