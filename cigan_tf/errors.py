"""Errors that end a command with a one-line message, and their exit codes."""

import contextlib
import sys
import traceback
from collections.abc import Iterator

# In messages about damaged checkpoints: some errors lose their class on the way to Python.
_DAMAGE_TEXTS = ("no such file", "sstable", "corrupt", "checksum")


class UserError(ValueError):
    """A user's mistake; the message is one line: the rule, the received value, a remedy.

    Command-line entry points print the message and exit with code 2, without a traceback.
    """

    exit_code = 2


class StorageError(UserError):
    """A file system does not respond now, or is full: the same command may succeed later.

    The exit code is EX_IOERR of sysexits.h.
    """

    exit_code = 74


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


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message without its full stop, or the error's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def prefix_errors(what: str) -> Iterator[None]:
    """Prefixes the message of a UserError raised inside with its subject."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Raises UserError where TensorFlow cannot read or write a file, other errors unchanged.

    Raises:
        UserError: the file does not exist, or the account has no permission for it.
        StorageError: the file system is full or does not respond.
    """
    try:
        yield
    except Exception as error:
        if not is_storage_error(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        failure = f"A file cannot be read or written ({reason})."
        errors = sys.modules["tensorflow"].errors
        if isinstance(error, errors.ResourceExhaustedError):
            raise StorageError(f"{failure} Free space, then run the same command again.") from error
        if isinstance(
            error, (errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError)
        ):
            raise StorageError(f"{failure} Run the same command again later.") from error
        raise UserError(f"{failure} Check the address and this account's permissions.") from error


def is_storage_error(error: Exception) -> bool:
    """Returns whether an error comes from TensorFlow's file systems, which read buckets.

    They raise errors of TensorFlow, not OSError, and computations raise the same classes.
    """
    tensorflow = sys.modules.get("tensorflow")  # an import would take seconds
    classes = getattr(tensorflow, "errors", None)
    if classes is None or not isinstance(error, classes.OpError):
        return False
    # Computations never raise these two. The operations that read and write checkpoints do.
    if isinstance(error, (classes.PermissionDeniedError, classes.UnauthenticatedError)):
        return True
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return innermost.f_globals.get("__name__", "").startswith("tensorflow.python.lib.io.")


def is_damage(error: Exception) -> bool:
    """Returns whether an error of reading a checkpoint means that its files are damaged.

    TensorFlow's errors differ for bad checksums, missing files and truncated files. After other
    errors, of memory, permissions or a file system without response, the files may be intact.
    """
    errors = sys.modules["tensorflow"].errors
    of_content = (errors.DataLossError, errors.NotFoundError, errors.OutOfRangeError)
    if isinstance(error, (*of_content, FileNotFoundError, IndexError)):
        return True
    nameless = type(error) in (errors.OpError, RuntimeError)
    return nameless and any(text in str(error).lower() for text in _DAMAGE_TEXTS)
