import pytest
from tiny_bundle import LISTENING, convert, convert_streaming, golden_clips, write

from wakeword_keras.firmware.manifest import read_manifest
from wakeword_keras.tflite.interpreter import micro_installed


@pytest.fixture(scope="session")
def model_path(tmp_path_factory):
    """The tiny model's .tflite file."""
    return convert(tmp_path_factory.mktemp("model") / "int8.tflite")


@pytest.fixture(scope="session")
def bundle(model_path, tmp_path_factory):
    """A bundle without golden vectors."""
    return write(model_path, tmp_path_factory.mktemp("run") / "firmware")


@pytest.fixture(scope="session")
def manifest(bundle):
    """Of the bundle without golden vectors."""
    return read_manifest(bundle)


@pytest.fixture(scope="session")
def golden_bundle(model_path, tmp_path_factory):
    """A bundle with everything."""
    if not micro_installed():
        pytest.skip("needs the extra firmware")
    out = tmp_path_factory.mktemp("run") / "firmware"
    return write(model_path, out, golden_clips=golden_clips())


@pytest.fixture(scope="session")
def streaming_path(tmp_path_factory):
    """The tiny streaming model's .tflite file."""
    return convert_streaming(tmp_path_factory.mktemp("streaming") / "int8.tflite")


@pytest.fixture(scope="session")
def streaming_bundle(streaming_path, tmp_path_factory):
    """A bundle with everything, of a streaming model."""
    if not micro_installed():
        pytest.skip("needs the extra firmware")
    out = tmp_path_factory.mktemp("run") / "firmware"
    return write(streaming_path, out, golden_clips=golden_clips(), listening=LISTENING)


@pytest.fixture(params=["golden_bundle", "streaming_bundle"], ids=["window", "streaming"])
def either_bundle(request):
    """A bundle with everything: of a window model, of a streaming one."""
    return request.getfixturevalue(request.param)
