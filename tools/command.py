"""What every tool shares: one clear line and exit code 1 on bad input, never a traceback."""

import errno
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from absl import app, flags, logging

from flags import config
from wakeword_keras.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SEVERAL = {"comma separated list of strings": ", with commas between values", "string": ""}


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Parse the flags and run a tool; does not return.

    Args:
      main: takes the arguments that are not flags, without the program's name. An InputError it
        raises, one of a flag or a full disk is printed as one line on stderr and ends with exit
        code 1; an interrupt ends with 130, as shells expect.
    """
    code: int | str | None = 0
    try:
        app.run(lambda argv: _guarded(main, argv[1:]), flags_parser=_parse)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: when training ends in an error, TensorFlow's input threads still call into
    # Python, and an interpreter that shuts down under them waits for ever.
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def refuse_arguments(arguments: Sequence[str]) -> None:
    """Raise InputError for anything on the command line that is not a flag."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags begin with --")


def _guarded(main: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    try:
        main(arguments)
    except InputError as error:
        _fail(str(error))
    except Exception as error:
        if not _disk_full(error):
            raise
        name = getattr(error, "filename", None) or "the output folder"
        _fail(f"{name}: the disk is full: free space, run again")
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _disk_full(error: Exception) -> bool:
    # HDF5's and TensorFlow's errors say it in words alone.
    return getattr(error, "errno", None) in _FULL or any(
        os.strerror(number) in str(error) for number in _FULL
    )


def _parse(argv: Sequence[str]) -> list[str]:
    # absl's own parser prints the same error over three lines.
    app.define_help_flags()
    try:
        _refuse_repeated(argv[1:])
        return flags.FLAGS(argv)
    except flags.Error as error:
        _fail(str(error))


def _refuse_repeated(arguments: Iterable[str]) -> None:
    """End on a text or list that is given twice: absl would drop the first without a word.

    A flagfile may be overridden on the command line; its own lines are checked by themselves.
    """
    seen = set()
    for argument in itertools.takewhile(lambda argument: argument != "--", arguments):
        name, _, value = argument.strip().lstrip("-").partition("=")
        if name == "flagfile" and os.path.isfile(value):
            _refuse_repeated(Path(value).read_text("utf-8").splitlines())
        elif argument.startswith("-") and name in seen:
            _fail(f"--{name} is given twice: give it once{_SEVERAL.get(_kind(name), '')}")
        elif argument.startswith("-") and _kind(name) in _SEVERAL:
            seen.add(name)


def _kind(name: str) -> str:
    known = name in flags.FLAGS and name not in ("flagfile", "undefok")
    return flags.FLAGS[name].flag_type() if known else ""


def _fail(message: str) -> NoReturn:
    print(f"error: {config.with_flags(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(1)
