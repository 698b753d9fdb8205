"""What ends a command early: one line, and the exit code that says why."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """A user's mistake; the message is one line: the rule, the value received, what to do.

    Command-line entry points print the message and exit with code 2, without a traceback.
    """

    exit_code = 2


class DivergedError(ArithmeticError):
    """A loss or gradient became NaN or infinite, and the run was to stop there."""

    exit_code = 3


class Preempted(Exception):  # noqa: N818 - nothing went wrong
    """The command was asked to stop (SIGTERM, Ctrl-C), and has saved where it was.

    The exit code after SIGTERM is that of EX_TEMPFAIL in sysexits.h: the same command resumes.
    """

    exit_code = 75

    def __init__(self, message: str, exit_code: int = exit_code):
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def concerning(what: str) -> Iterator[None]:
    """Puts before the message of a UserError raised inside what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
