"""Flags of the command line; importing this package starts TensorFlow without its chatter.

TensorFlow writes a page about processors and missing GPUs straight to file descriptor 2 when it is
imported and when it first lists devices. A person at a terminal would look for our line in it.
"""

import os
import sys
import tempfile

import wakeword_keras  # noqa: F401  (chooses Keras 2 before TensorFlow starts)


def _start_tensorflow_quietly() -> None:
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            said.seek(0)
            os.write(terminal, said.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


_start_tensorflow_quietly()
