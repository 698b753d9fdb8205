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
    """The run was asked to stop (SIGTERM), and has saved where it was.

    Its exit code is that of EX_TEMPFAIL in sysexits.h: the same command goes on from there.
    """

    exit_code = 75


@contextlib.contextmanager
def concerning(what: str) -> Iterator[None]:
    """Puts before the message of a UserError raised inside what it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
