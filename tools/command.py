"""What every tool shares: one clear line and exit code 1 on bad input, never a traceback."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from wakeword_keras.errors import InputError


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Parse the flags and run a tool; does not return.

    Args:
      main: takes the arguments that are not flags, without the program's name. An InputError it
        raises, or one of a flag, is printed as one line on stderr and ends with exit code 1; an
        interrupt ends with 130, as shells expect.
    """

    def guarded(argv: Sequence[str]) -> None:
        try:
            main(argv[1:])
        except InputError as error:
            _fail(error)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    # absl's own parser prints the same error over three lines.
    app.define_help_flags()
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(1)
