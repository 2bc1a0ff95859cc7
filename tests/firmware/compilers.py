"""C compilers, found and run as strictly as they go."""

import shutil
import subprocess

import pytest

STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
SANITIZED = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
COMPILERS = {
    "gcc C99": ("gcc", "-std=c99", "-xc"),
    "gcc C11": ("gcc", "-std=c11", "-xc"),
    "gcc C++17": ("g++", "-std=c++17", "-xc++"),
    "clang C99": ("clang", "-std=c99", "-xc"),
    "clang C++17": ("clang++", "-std=c++17", "-xc++"),
}
GOLDEN_SOURCES = (
    "golden_test.c",
    "front_end.c",
    "model_data.c",
    "golden/golden.c",
    "golden/golden_audio.c",
)


def build(compiler, sources, out, *flags, cwd=None):
    """Compile with a key of COMPILERS; skip the test where it is not installed."""
    name, *options = COMPILERS[compiler]
    if shutil.which(name) is None:
        pytest.skip(f"no {name}: apt-get install {name.split('+')[0]}")
    command = [name, *options, *STRICT, *flags, *map(str, sources), "-o", str(out)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if "libclang_rt" in done.stderr:
        pytest.skip("clang without its sanitizers: apt-get install libclang-rt-14-dev")
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
    return out


def run(program, *arguments, stdin=b""):
    """What a program prints; it must end with 0."""
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return done.stdout
