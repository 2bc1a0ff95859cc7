import dataclasses

import numpy as np
import pytest
import tf_keras as keras

from wakeword_keras import InputError, models
from wakeword_keras.audio.features import FrontendConfig
from wakeword_keras.evaluation import on_tflite_micro
from wakeword_keras.models import mobilenet_v3
from wakeword_keras.quantization import calibration, fake_quantize
from wakeword_keras.tflite import convert, flatbuffer
from wakeword_keras.tflite.interpreter import micro_installed, micro_interpreter
from wakeword_keras.tflite.layer_outputs import layer_outputs
from wakeword_keras.tflite.scorers import tflite_int8_scores

needs_micro = pytest.mark.skipif(not micro_installed(), reason="needs the extra firmware")
FRAMES, CHANNELS = 20, 8
MINIMALISTIC = {
    "small minimalistic": mobilenet_v3.mobilenet_v3_small,
    "large minimalistic": mobilenet_v3.mobilenet_v3_large,
}


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).uniform(0, 26, (24, FRAMES, CHANNELS)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory, features):
    keras.utils.set_random_seed(1)
    path = tmp_path_factory.mktemp("micro") / "model.tflite"
    small = models.build("ds_cnn", FRAMES, CHANNELS, 2)
    path.write_bytes(convert.int8_model(small, lambda: ([clip[None]] for clip in features)))
    return path


@needs_micro
def test_the_device_gives_the_reference_kernels_bits(model, features):
    found = on_tflite_micro.check("int8", model, features)
    assert found == on_tflite_micro.MicroCheck("int8", len(features), 0, 1.0, None)
    # Nothing is proven by an output that never moves.
    assert len(np.unique(tflite_int8_scores(model, features), axis=0)) > len(features) / 2


@needs_micro
@pytest.mark.slow
@pytest.mark.parametrize("name", [*models.ARCHITECTURES, *MINIMALISTIC])
def test_every_architecture_is_fully_int8_and_runs_on_the_device(name, tmp_path):
    keras.utils.set_random_seed(1)
    config = FrontendConfig()
    shape = (on_tflite_micro.CLIPS, 98, config.channels)
    clips = np.random.default_rng(0).uniform(0, 26, shape).astype(np.float32)
    if name in MINIMALISTIC:
        fp32 = MINIMALISTIC[name](*shape[1:], 1, minimalistic=True)
    else:
        fp32 = models.build(name, *shape[1:], 1)
    qat = fake_quantize.quantize(fp32, config.input_affine)
    calibration.calibrate(qat, fp32, clips[:32])
    path = tmp_path / f"{name}.tflite"
    path.write_bytes(convert.int8_model(qat, lambda: ([clip[None]] for clip in clips[:4])))
    assert flatbuffer.tensor_types(path).keys() <= {"INT8", "INT32"}
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(flatbuffer.operators(path))
    found = on_tflite_micro.check(name, path, clips)
    assert found.refused is None
    if name == "conformer_s":
        # Its 48 attention products, whose factor TFLite Micro takes in float64 and the reference
        # kernels in float32, decide much of an untrained model's output.
        assert found.max_lsb <= 2 or found.first_layer.endswith("(BATCH_MATMUL)")
        assert found.equal > 0.8, on_tflite_micro.table([found])
    else:
        assert found.max_lsb <= 2, on_tflite_micro.table([found])


@needs_micro
def test_a_difference_is_counted_and_its_first_layer_named(model, features, monkeypatch):
    """On the device, one convolution's bias is another."""
    outputs = layer_outputs(flatbuffer.read_graph(model))
    middle = outputs[len(outputs) // 2]

    def damaged(source):
        graph = flatbuffer.read(source)[0]
        (op,) = [op for op in graph.operators if op.output == middle.tensor]
        tensors = list(graph.tensors)
        bias = tensors[op.inputs[2]]
        tensors[op.inputs[2]] = dataclasses.replace(bias, data=bias.data + np.int32(4000))
        changed = dataclasses.replace(graph, tensors=tuple(tensors))
        return micro_interpreter(flatbuffer.write([changed]))

    monkeypatch.setattr(on_tflite_micro, "micro_interpreter", damaged)
    found = on_tflite_micro.check("int8", model, features)
    assert found.max_lsb > 0
    assert found.equal < 1
    assert found.first_layer == f"{middle.layers[0]} ({middle.kind})"
    assert found.first_layer in on_tflite_micro.table([found])


@needs_micro
def test_a_model_that_the_device_cannot_hold_is_said_and_does_not_end_the_run(
    model, features, monkeypatch
):
    monkeypatch.setattr(
        on_tflite_micro, "micro_interpreter", lambda source: micro_interpreter(source, 1000)
    )
    found = on_tflite_micro.check("int8", model, features)
    assert found.refused
    assert found.refused in on_tflite_micro.table([found])


@needs_micro
def test_a_float_model_is_refused(tmp_path, features):
    path = tmp_path / "float.tflite"
    path.write_bytes(convert.float_model(models.build("ds_cnn", FRAMES, CHANNELS, 1)))
    with pytest.raises(InputError, match="not int8"):
        on_tflite_micro.check("int8", path, features)


def test_without_the_extra_the_mend_is_named(model, features, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tflite_micro", None)
    with pytest.raises(InputError, match=r"pip install 'wakeword_keras\[firmware\]'"):
        on_tflite_micro.check("int8", model, features)
