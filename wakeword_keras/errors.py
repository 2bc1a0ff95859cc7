"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Something given to us (a file, a flag, a run directory) is wrong.

    The message is one line: it names the offending file, flag or value and says what mends it.
    The command line prints it without a traceback and exits with code 1.
    """

    # Raised inside `fit`, AutoGraph would put pages of its own around the line.
    ag_pass_through = True
