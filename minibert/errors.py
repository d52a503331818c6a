"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a flag, a checkpoint.

    Its text is one sentence that says what is wrong, where, and what to do. The command line
    prints that sentence without a traceback and exits with code 2; a program that uses the
    package catches this one class.
    """
