"""Native libraries' chatter, kept off the terminal unless something goes wrong."""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Of two threads that hold the descriptor, the one that ends last would put back the other's file.
_LOCK = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what native code writes to file descriptor 2; if the block raises, show it.

    Python's own `sys.stderr` is held back too while the block runs; of TensorFlow's logger, whose
    lines a notebook would show, all but errors. Another thread's block waits for this one's end.
    """
    logger = logging.getLogger("tensorflow")
    with _LOCK, tempfile.TemporaryFile() as said:
        level = logger.level
        logger.setLevel(logging.ERROR)
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            sys.stderr.flush()
            said.seek(0)
            os.write(terminal, said.read())
            raise
        finally:
            logger.setLevel(level)
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
