import os
import re
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
from compilers import COMPILERS, GOLDEN_SOURCES, SANITIZED, build, run
from micro_stand_in import RESOLVER
from tiny_bundle import (
    FRAMES,
    FRONTEND,
    STEP_FRAMES,
    STEPS,
    WAKE_WORDS,
    golden_clips,
    write,
)

from wakeword_keras.affine import quantize
from wakeword_keras.audio.features import compute
from wakeword_keras.firmware import golden
from wakeword_keras.firmware.manifest import read_manifest
from wakeword_keras.tflite.interpreter import micro_interpreter


@pytest.mark.parametrize("compiler", COMPILERS)
def test_golden_test_passes_as_strictly_as_compilers_go(either_bundle, compiler, tmp_path):
    program = build(
        compiler, GOLDEN_SOURCES, tmp_path / "golden_test", *SANITIZED, "-I.", cwd=either_bundle
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
    outputs = golden.run_on_micro(model, np.stack(inputs)[:, np.newaxis])
    np.testing.assert_array_equal(np.concatenate(outputs), [row["output"] for row in said])


def _step_by_step(bundle):
    """Of each golden clip of a streaming bundle: name, inputs, outputs."""
    manifest = read_manifest(bundle)
    assert manifest["golden"]["runs"] == STEPS
    for row in manifest["golden"]["clips"]:
        stem = bundle / "golden" / row["name"]
        inputs = np.fromfile(f"{stem}.input.bin", np.int8).reshape(STEPS, STEP_FRAMES, 40)
        outputs = np.fromfile(f"{stem}.output.bin", np.int8).reshape(STEPS, len(WAKE_WORDS))
        np.testing.assert_array_equal(outputs[-1], row["output"])
        yield stem, inputs, outputs


def test_a_streaming_models_vectors_go_from_cold_states_to_the_first_window(
    streaming_bundle, streaming_path
):
    model = (streaming_bundle / "model_int8_streaming.tflite").read_bytes()
    assert model == streaming_path.read_bytes()
    window = streaming_path.with_name("window.tflite").read_bytes()
    for stem, inputs, outputs in _step_by_step(streaming_bundle):
        audio, _ = soundfile.read(f"{stem}.wav", dtype="int16")
        frames = compute(audio[np.newaxis], FRONTEND)[0]
        ours = quantize(frames, FRONTEND.input_affine)
        np.testing.assert_array_equal(inputs.reshape(-1, 40), ours)
        (again,) = golden.run_on_micro(model, [inputs])
        np.testing.assert_array_equal(again, outputs)
        # The last window: what the window model gives for the same frames.
        (expected,) = golden.run_on_micro(window, [ours[np.newaxis, -FRAMES:]])
        np.testing.assert_array_equal(outputs[-1:], expected)


@pytest.mark.parametrize("reset", [False, True], ids=["no reset", "reset"])
def test_what_the_states_held_before_is_gone_after_the_warm_up(streaming_bundle, reset):
    model = (streaming_bundle / "model_int8_streaming.tflite").read_bytes()
    interpreter = micro_interpreter(model)
    equal = []
    for _, inputs, outputs in _step_by_step(streaming_bundle):
        if reset:
            interpreter.reset()
        given = []
        for row in inputs:
            interpreter.set_input(row[np.newaxis], 0)
            interpreter.invoke()
            given.append(np.array(interpreter.get_output(0))[0])
        np.testing.assert_array_equal(given[-1], outputs[-1])
        equal.append(np.array_equal(given[:-1], outputs[:-1]))
    # This TFLite Micro's reset fills the states with their zero points: RESET of the bundle.
    assert all(equal) == reset


# A model that has learnt the golden vectors by heart, and a state that counts steps.
REPLAY = """
#include <string.h>
#include "golden/golden.h"
static int row, begun;
int wakeword_begin(void) { begun = 1; return 0; }
int wakeword_run(const int8_t *input, int8_t *output) {
  if (memcmp(input, wakeword_golden_inputs[row], WAKEWORD_INPUT_BYTES)) return 1;
  if (row % WAKEWORD_GOLDEN_RUNS == 0 && WAKEWORD_GOLDEN_RUNS > 1 && !begun) return 1;
  begun = 0;
  memcpy(output, wakeword_golden_outputs[row], WAKEWORD_COUNT);
  if (row++ == WRONG_ROW) output[0] = (int8_t)(output[0] > 0 ? output[0] - 2 : output[0] + 2);
  return 0;
}
"""


@pytest.mark.parametrize("steps", [None, 1, 2], ids=["equal", "two apart", "two accepted"])
def test_outputs_of_a_devices_model_are_compared_run_by_run(either_bundle, tmp_path, steps):
    replay = tmp_path / "replay.c"
    replay.write_text(REPLAY.replace("WRONG_ROW", "-1" if steps is None else "10"))
    flags = ("-I.", "-DWAKEWORD_WITH_MODEL", f"-DWAKEWORD_MODEL_STEPS={steps or 0}")
    sources = [*GOLDEN_SOURCES, replay]
    program = build("gcc C99", sources, tmp_path / "test", *flags, cwd=either_bundle)
    if steps == 1:
        with pytest.raises(AssertionError, match=r"outputs of all clips +FAILED \(1 wrong\)"):
            run(program)
    else:
        assert "all checks passed" in run(program).decode()


def test_distances_to_the_desktops_kernels_are_stated(either_bundle):
    against = read_manifest(either_bundle)["golden"]["tflite_micro_against"]
    assert against.keys() == {"builtin_ref", "xnnpack"}
    assert against["builtin_ref"]["max_lsb"] <= 1
    assert against["xnnpack"]["max_lsb"] <= 5


def test_golden_stream_tries_the_rule(either_bundle):
    said = read_manifest(either_bundle)["golden"]["stream"]
    detections = np.fromfile(either_bundle / "golden/stream.detected.bin", np.int8)
    assert said["steps"] == len(detections) > said["micro_steps"] > 0
    assert said["detections"] == (detections >= 0).sum() >= 4
    assert {0, 1} <= set(detections.tolist())


def test_readmes_line_in_an_empty_folder_with_a_c_compiler_alone(either_bundle, tmp_path):
    folder = shutil.copytree(either_bundle, tmp_path / "theirs")
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
#pragma once
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
namespace tflite {
struct Model {};
inline const Model* GetModel(const void*) { return nullptr; }
struct Data { int8_t* int8; };
struct Tensor { Data data; };
struct MicroAllocator {
  static MicroAllocator* Create(uint8_t*, size_t) { return nullptr; }
};
struct MicroResourceVariables {
  static MicroResourceVariables* Create(MicroAllocator*, int) { return nullptr; }
};
struct MicroInterpreter {
  template <typename R>
  MicroInterpreter(const Model*, const R&, MicroAllocator*, MicroResourceVariables*) {}
  template <typename R> MicroInterpreter(const Model*, const R&, uint8_t*, size_t) {}
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  Tensor* input(int) { return nullptr; }
  Tensor* output(int) { return nullptr; }
};
}
"""


def test_readmes_program_compiles(either_bundle, tmp_path):
    # Against stand-ins that have TFLite Micro's names: its sources are in no package.
    micro = tmp_path / "tensorflow/lite/micro"
    micro.mkdir(parents=True)
    (micro / "micro_mutable_op_resolver.h").write_text(RESOLVER)
    (micro / "micro_interpreter.h").write_text(INTERPRETER)
    for name in ("micro_allocator.h", "micro_resource_variable.h"):
        (micro / name).write_text('#include "tensorflow/lite/micro/micro_interpreter.h"\n')
    text = (either_bundle / "README.md").read_text()
    (program,) = re.findall(r"```cpp\n(.*?)```", text, re.DOTALL)
    (tmp_path / "main.cc").write_text(f"static void led_on() {{}}\n{program}")
    sources = [tmp_path / "main.cc"]
    build("gcc C++17", sources, tmp_path / "main.o", "-c", f"-I{tmp_path}", f"-I{either_bundle}")
