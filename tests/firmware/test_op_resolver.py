import re

import pytest
from compilers import build, run
from micro_stand_in import RESOLVER

from wakeword_keras.errors import InputError
from wakeword_keras.firmware.op_resolver import METHODS, resolver_header


def test_resolver_adds_each_operator_once_and_no_other(tmp_path):
    operators = ["CONV_2D", "DEPTHWISE_CONV_2D", "HARD_SWISH", "MEAN"]
    header = tmp_path / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    header.parent.mkdir(parents=True)
    header.write_text(RESOLVER)
    (tmp_path / "op_resolver.h").write_text(resolver_header(operators))
    (tmp_path / "main.cc").write_text(
        '#include "op_resolver.h"\nint main() {\n'
        "  tflite::MicroMutableOpResolver<WAKEWORD_OPERATORS> resolver;\n"
        "  return WakewordAddOperators(resolver); }\n"
    )
    program = build("gcc C++17", ["main.cc"], tmp_path / "main", "-I.", cwd=tmp_path)
    assert run(program).decode().split() == [METHODS[operator] for operator in operators]


def test_methods_are_named_as_tflite_micro_names_them():
    for operator, method in METHODS.items():
        assert re.fullmatch(r"Add[A-Za-z0-9]+", method)
        assert method[3:].upper() == operator.replace("_", "")


def test_unknown_operator_is_named():
    with pytest.raises(InputError, match="GELU"):
        resolver_header(["CONV_2D", "GELU"])
