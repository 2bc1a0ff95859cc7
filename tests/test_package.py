import os
import subprocess
import sys

import pytest


def python(code):
    """Run code in a Python of its own, without the variable that chooses a Keras."""
    environment = {name: v for name, v in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "imports",
    ["import wakeword_keras; import tensorflow as tf", "import tensorflow as tf, wakeword_keras"],
)
def test_in_either_order_tf_keras_is_keras_2(imports):
    done = python(f"{imports}\nprint(tf.keras.Model.__module__)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tf_keras.")


def test_a_program_that_has_touched_keras_3_is_told_the_mend():
    done = python("import tensorflow as tf; tf.keras.Model; import wakeword_keras")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "import wakeword_keras before the first use of tf.keras" in last
    assert "TF_USE_LEGACY_KERAS=1" in last


def test_importing_the_package_does_not_start_tensorflow():
    done = python("import sys, wakeword_keras; print('tensorflow' in sys.modules)")
    assert (done.stdout, done.stderr) == ("False\n", "")
