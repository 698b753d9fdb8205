"""Errors that end a command with a one-line message, and their exit codes."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """A user's mistake; the message is one line: the rule, the received value, a remedy.

    Command-line entry points print the message and exit with code 2, without a traceback.
    """

    exit_code = 2


class DivergedError(ArithmeticError):
    """A loss or gradient became NaN or infinite, and the run is configured to stop."""

    exit_code = 3


class Preempted(Exception):  # noqa: N818 - nothing went wrong
    """The command was asked to stop (SIGTERM, Ctrl-C) and has saved its state.

    After SIGTERM the exit code is EX_TEMPFAIL of sysexits.h: run the same command to resume.
    """

    exit_code = 75

    def __init__(self, message: str, exit_code: int = exit_code):
        super().__init__(message)
        self.exit_code = exit_code


@contextlib.contextmanager
def prefix_errors(what: str) -> Iterator[None]:
    """Prefixes the message of a UserError raised inside with its subject."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None
