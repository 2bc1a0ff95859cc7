"""The whole line, from recordings or a phrase to an INT8 model, its report and a firmware bundle.

python -m tools.train --flagfile=flags/quickstart.flags
Run again with the same flags, an interrupted run goes on where it was.
"""

from collections.abc import Sequence

from absl import flags

from flags import run_flags
from tools import command
from wakeword_keras.run import pipeline

flags.adopt_module_key_flags(run_flags)  # so that --helpshort lists them


def main(arguments: Sequence[str]) -> None:
    """Train what the flags describe."""
    command.refuse_arguments(arguments)
    pipeline.run(run_flags.read(), run_flags.replayable())


if __name__ == "__main__":
    command.run(main)
