import numpy as np
import pytest
import soundfile
from compilers import COMPILERS, GOLDEN_SOURCES, SANITIZED, build, run
from tiny_bundle import FRAMES, FRONTEND, WAKE_WORDS, golden_clips

from wakeword_keras.audio.features import compute
from wakeword_keras.firmware import golden
from wakeword_keras.firmware.manifest import read_manifest


@pytest.mark.parametrize("compiler", COMPILERS)
def test_golden_test_passes_as_strictly_as_compilers_go(golden_bundle, compiler, tmp_path):
    program = build(
        compiler, GOLDEN_SOURCES, tmp_path / "golden_test", *SANITIZED, "-I.", cwd=golden_bundle
    )
    assert run(program).decode().splitlines()[-1] == "all checks passed"


@pytest.mark.parametrize(
    ("file", "find", "replace"),
    [
        ("golden/golden.c", "wakeword_golden_detected[] = {\n    -1,", "wakeword_golden_detected[] = {\n    1,"),
        ("model_settings.h", "#define WAKEWORD_REFRACTORY_STEPS 20", "#define WAKEWORD_REFRACTORY_STEPS 21"),
        ("model_settings.h", "#define WAKEWORD_ODD_SMOOTHING 983u", "#define WAKEWORD_ODD_SMOOTHING 984u"),
        ("model_settings.h", "#define WAKEWORD_CLIP_THRESHOLD_INT8 (11)", "#define WAKEWORD_CLIP_THRESHOLD_INT8 (12)"),
        ("model_data.c", "0x54, 0x46, 0x4c, 0x33", "0x54, 0x46, 0x4c, 0x34"),
    ],
    ids=["decision", "refractory time", "front end", "threshold", "model"],
)  # fmt: skip
def test_golden_test_fails_on_what_differs(golden_bundle, tmp_path, file, find, replace):
    sources = [golden_bundle / name for name in GOLDEN_SOURCES]
    text = (golden_bundle / file).read_text()
    assert text.count(find) == 1
    changed = tmp_path / file
    changed.parent.mkdir(exist_ok=True)
    changed.write_text(text.replace(find, replace))
    for name in ("golden_test.c", "front_end.c", "front_end.h", "detector.h"):
        (tmp_path / name).write_bytes((golden_bundle / name).read_bytes())
    own = [tmp_path / name for name in GOLDEN_SOURCES]
    sources = [new if new.exists() else old for new, old in zip(own, sources, strict=True)]
    program = build(
        "gcc C99", sources, tmp_path / "golden_test", f"-I{tmp_path}", f"-I{golden_bundle}"
    )
    with pytest.raises(AssertionError, match="1 checks FAILED"):
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
