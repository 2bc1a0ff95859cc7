"""The golden test on emulated microcontrollers: the decisions of the PC, and what they weigh."""

import shutil
import subprocess
from pathlib import Path

import pytest
from compilers import GOLDEN_SOURCES, STRICT, build, run

PACKAGES = {
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}
BOARDS = {
    "mps2-an385": ("cortex-m3", "mps2.ld"),
    "mps2-an386": ("cortex-m4", "mps2.ld"),
    "mps2-an500": ("cortex-m7", "mps2.ld"),
    "mps3-an547": ("cortex-m55", "mps3.ld"),
}
SUPPORT = Path(__file__).with_name("cortex_m")
WEIGHED = """
#include "detector.h"
#include "front_end.h"
wakeword_detector detector;
wakeword_front_end front_end;
int step(const int8_t *outputs) { return wakeword_detector_step(&detector, outputs); }
"""


def _cross(processor, sources, out, *flags, cwd):
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"apt-get install {' '.join(missing)}")
    command = ["arm-none-eabi-gcc", f"-mcpu={processor}", "-mthumb", "-std=c99", "-Os", *STRICT]
    command += ["-ffunction-sections", "-fdata-sections", "-I.", *flags]
    command += [*map(str, sources), "-o", str(out)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def _size(path):
    printed = subprocess.run(
        ["arm-none-eabi-size", path], capture_output=True, text=True, check=True
    ).stdout
    text, data, bss = map(int, printed.splitlines()[1].split()[:3])
    return {"flash": text + data, "ram": data + bss}


@pytest.mark.slow
@pytest.mark.parametrize("board", BOARDS)
def test_golden_test_prints_on_a_cortex_m_what_it_prints_on_a_pc(
    either_bundle, tmp_path, board, capsys
):
    processor, memories = BOARDS[board]
    program = _cross(
        processor,
        [SUPPORT / "start.c", *GOLDEN_SOURCES],
        tmp_path / "golden_test.elf",
        "-nostartfiles",
        "--specs=rdimon.specs",
        "-Wl,--gc-sections",
        f"-T{SUPPORT / memories}",
        cwd=either_bundle,
    )
    emulator = ["qemu-system-arm", "-M", board, "-nographic", "-kernel", str(program)]
    emulator += ["-semihosting-config", "enable=on,target=native"]
    done = subprocess.run(emulator, capture_output=True, text=True, timeout=120, check=False)
    on_pc = build("gcc C99", GOLDEN_SOURCES, tmp_path / "golden_test", "-I.", cwd=either_bundle)
    assert done.stdout.splitlines() == run(on_pc).decode().splitlines()
    assert done.returncode == 0
    with capsys.disabled():
        print(f"\n{processor} under {board}: {_weights(processor, either_bundle, tmp_path)}")


def _weights(processor, bundle, folder):
    (folder / "weighed.c").write_text(WEIGHED)
    flags = ("-c", f"-I{bundle}")
    front_end = _cross(processor, ["front_end.c"], folder / "front_end.o", *flags, cwd=bundle)
    rest = _cross(processor, [folder / "weighed.c"], folder / "rest.o", *flags, cwd=bundle)
    code, state = _size(front_end), _size(rest)
    return (
        f"front end {code['flash']} bytes of flash, detector {state['flash']}, "
        f"both {state['ram']} bytes of RAM"
    )
