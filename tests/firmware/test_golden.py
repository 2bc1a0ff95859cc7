import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from compilers import COMPILERS, GOLDEN_SOURCES, SANITIZED, build, run
from micro_stand_in import RESOLVER
from tiny_bundle import FRAMES, FRONTEND, WAKE_WORDS, golden_clips, write

from wakeword_keras.audio.features import compute
from wakeword_keras.firmware import golden
from wakeword_keras.firmware.manifest import read_manifest


@pytest.mark.parametrize("compiler", COMPILERS)
def test_golden_test_passes_as_strictly_as_compilers_go(golden_bundle, compiler, tmp_path):
    program = build(
        compiler, GOLDEN_SOURCES, tmp_path / "golden_test", *SANITIZED, "-I.", cwd=golden_bundle
    )
    assert run(program).decode().splitlines()[-1] == "all checks passed"


@pytest.mark.parametrize("compiler", COMPILERS)
def test_lowest_threshold_compiles_too(model_path, tmp_path, compiler):
    out = write(model_path, tmp_path / "firmware", threshold_logit=-1e3)
    source = '#include "detector.h"\nint clip(const int8_t *outputs);\n'
    source += "int clip(const int8_t *outputs) { return wakeword_of_clip(outputs); }\n"
    (tmp_path / "main.c").write_text(source)
    build(compiler, [tmp_path / "main.c"], tmp_path / "main.o", "-c", f"-I{out}")


DAMAGE = {
    "decision": ("golden/golden.c", "golden_detected[] = {\n", "golden_detected[] = {\n    1,"),
    "refractory time": ("model_settings.h", "REFRACTORY_STEPS 20", "REFRACTORY_STEPS 21"),
    "front end": ("model_settings.h", "ODD_SMOOTHING 983u", "ODD_SMOOTHING 984u"),
    "threshold": ("model_settings.h", "CLIP_THRESHOLD_INT8 (11)", "CLIP_THRESHOLD_INT8 (12)"),
    "model": ("model_data.c", "0x54, 0x46, 0x4c, 0x33", "0x54, 0x46, 0x4c, 0x34"),
}


@pytest.mark.parametrize(("file", "find", "replace"), DAMAGE.values(), ids=DAMAGE)
def test_golden_test_fails_on_what_differs(golden_bundle, tmp_path, file, find, replace):
    folder = shutil.copytree(golden_bundle, tmp_path / "firmware")
    text = (folder / file).read_text()
    assert text.count(find) == 1
    (folder / file).write_text(text.replace(find, replace))
    program = build("gcc C99", GOLDEN_SOURCES, tmp_path / "golden_test", "-I.", cwd=folder)
    with pytest.raises(AssertionError, match=r"FAILED \(\d+ wrong\)"):
        run(program)


def test_files_hold_what_tflite_micro_made_of_the_clips(golden_bundle):
    said = read_manifest(golden_bundle)["golden"]["clips"]
    assert len(said) == 12
    inputs = []
    for row, clip in zip(said, golden_clips(), strict=True):
        stem = golden_bundle / "golden" / row["name"]
        audio, rate = soundfile.read(f"{stem}.wav", dtype="int16")
        np.testing.assert_array_equal(audio, clip.audio)
        assert rate == 16000
        features = np.fromfile(f"{stem}.features.bin", "<u2").reshape(FRAMES, 40)
        ours = compute(clip.audio[np.newaxis], FRONTEND)[0]
        np.testing.assert_array_equal(features, np.rint(ours * 25.6))
        by_rule = np.minimum(127, (features.astype(int) * 256 + 333) // 666 - 128)
        inputs.append(np.fromfile(f"{stem}.input.bin", np.int8).reshape(FRAMES, 40))
        np.testing.assert_array_equal(inputs[-1], by_rule)
        np.testing.assert_array_equal(np.fromfile(f"{stem}.output.bin", np.int8), row["output"])
        assert row["detected"] in (None, *WAKE_WORDS)
    model = (golden_bundle / "model_int8.tflite").read_bytes()
    outputs = golden.run_on_micro(model, np.stack(inputs))
    np.testing.assert_array_equal(outputs, [row["output"] for row in said])


def test_distances_to_the_desktops_kernels_are_stated(golden_bundle):
    against = read_manifest(golden_bundle)["golden"]["tflite_micro_against"]
    assert against.keys() == {"builtin_ref", "xnnpack"}
    assert against["builtin_ref"]["max_lsb"] <= 1
    assert against["xnnpack"]["max_lsb"] <= 5


def test_golden_stream_tries_the_rule(golden_bundle):
    said = read_manifest(golden_bundle)["golden"]["stream"]
    detections = np.fromfile(golden_bundle / "golden/stream.detected.bin", np.int8)
    assert said["steps"] == len(detections) > said["micro_steps"] > 0
    assert said["detections"] == (detections >= 0).sum() >= 4
    assert {0, 1} <= set(detections.tolist())


def test_readmes_line_in_an_empty_folder_with_a_c_compiler_alone(golden_bundle, tmp_path):
    folder = shutil.copytree(golden_bundle, tmp_path / "theirs")
    text = (folder / "README.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("cc ")]
    tools = {"PATH": os.path.dirname(shutil.which("cc") or "")}
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=folder, env=tools, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "all checks passed", done.stderr


INTERPRETER = """
#include <cstddef>
#include <cstdint>
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
namespace tflite {
struct Model {};
inline const Model* GetModel(const void*) { return nullptr; }
struct Data { int8_t* int8; };
struct Tensor { Data data; };
struct MicroInterpreter {
  template <typename R> MicroInterpreter(const Model*, const R&, uint8_t*, size_t) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  Tensor* input(int) { return nullptr; }
  Tensor* output(int) { return nullptr; }
};
}
"""


def test_readmes_program_compiles(golden_bundle, tmp_path):
    # Against stand-ins that have TFLite Micro's names: its sources are in no package.
    micro = tmp_path / "tensorflow/lite/micro"
    micro.mkdir(parents=True)
    (micro / "micro_mutable_op_resolver.h").write_text(RESOLVER)
    (micro / "micro_interpreter.h").write_text(INTERPRETER)
    text = (golden_bundle / "README.md").read_text()
    (program,) = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    (tmp_path / "main.cc").write_text(f"static void led_on() {{}}\n{program}")
    sources = [tmp_path / "main.cc"]
    build("gcc C++17", sources, tmp_path / "main.o", "-c", f"-I{tmp_path}", f"-I{golden_bundle}")
