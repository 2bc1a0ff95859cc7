"""What every tool shares: one clear line and exit code 1 on bad input, never a traceback."""

import errno
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from flags import config
from wakeword_keras.errors import InputError

_FAULTS = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "the disk is full: free space, run again",
    (errno.EROFS, errno.EACCES, errno.EPERM): "not allowed to read or write there: "
    "give another folder, or the right to it",
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST): "a file is where a folder should be, or a "
    "folder where a file: name another",
}
_SEVERAL = {"comma separated list of strings": ", with commas between values", "string": ""}
_AGAIN_S = 0.01
_received: list[int] = []  # signals: C code may drop their exception, or raise another in its place


def run(main: Callable[[Sequence[str]], object]) -> None:
    """Parse the flags and run a tool; does not return.

    Args:
      main: takes the arguments that are not flags, without the program's name. An InputError it
        raises, one of a flag or a full disk is printed as one line on stderr and ends with exit
        code 1; an interrupt ends with 130 and SIGTERM with 143, as shells expect.
    """
    code: int | str | None = 0
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not one that nohup ignores
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _send_again
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
    except (KeyboardInterrupt, Exception) as error:
        # After a signal, any other error is of what was left half done.
        if _received or isinstance(error, KeyboardInterrupt):
            print("interrupted: the same command goes on from here", file=sys.stderr)
            sys.exit(128 + (_received[0] if _received else signal.SIGINT))
        if isinstance(error, InputError):
            _fail(str(error))
        mend = _mend(error)
        if mend is None:
            raise
        name = getattr(error, "filename", None) or "the output folder or `cache_dir`"
        _fail(f"{name}: {mend}")


def _interrupt(number: int, _: object) -> NoReturn:
    _received.append(number)
    raise KeyboardInterrupt


def _send_again(unraisable: Any) -> None:
    """Send a signal again that came in a callback (espeak's, libsndfile's) or in a destructor.

    Python cannot raise an exception through those: it prints and forgets it.
    """
    if not (_received and unraisable.exc_type is KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    threading.Timer(_AGAIN_S, os.kill, (os.getpid(), _received[-1])).start()


def _mend(error: BaseException | None) -> str | None:
    """What the machine lacks and what mends it; None for an error of our own."""
    while error is not None:
        for numbers, mend in _FAULTS.items():
            # TensorFlow's and libsndfile's errors say it in words alone.
            words = any(os.strerror(number) in str(error) for number in numbers)
            if getattr(error, "errno", None) in numbers or words:
                return mend
        error = error.__cause__ or error.__context__
    return None


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
