"""Errors that end a command with a one-line message, and their exit codes."""

import contextlib
import sys
import traceback
from collections.abc import Iterator

# Texts by which errors about damaged checkpoints are recognised: some of these errors lose their
# class on the way from C++ to Python.
_DAMAGE_TEXTS = ("no such file", "sstable", "corrupt", "checksum")


class UserError(ValueError):
    """A user's mistake. The message is one line with the rule, the received value and a remedy.

    Command-line entry points print the message and exit with code 2, without a traceback.
    """

    exit_code = 2


class StorageError(UserError):
    """A file system is full or does not respond; the same command may succeed later.

    The exit code is EX_IOERR of sysexits.h.
    """

    exit_code = 74


class DivergedError(ArithmeticError):
    """A loss or gradient is NaN or infinite, and the run stops."""

    exit_code = 3


class Preempted(Exception):  # noqa: N818 - nothing went wrong
    """The command was asked to stop by SIGTERM or Ctrl-C; the same command resumes its work.

    The exit code after SIGTERM is EX_TEMPFAIL of sysexits.h.
    """

    exit_code = 75

    def __init__(self, message: str, exit_code: int = exit_code):
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message without its full stop.

    If the message is empty, returns the name of the error's class.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def prefix_errors(what: str) -> Iterator[None]:
    """Prefixes the message of a UserError raised inside with `what`, the message's subject."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Replaces TensorFlow's errors of reading and writing files; other errors pass unchanged.

    Raises:
        UserError: a file cannot be read or written, for instance because it does not exist or the
            account lacks the permission.
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
            raise StorageError(
                f"{failure} If the disk is full, free some space. Then run the same command again."
            ) from error
        if isinstance(
            error, (errors.UnavailableError, errors.DeadlineExceededError, errors.AbortedError)
        ):
            raise StorageError(f"{failure} Run the same command again later.") from error
        raise UserError(f"{failure} Check the address and this account's permissions.") from error


def is_storage_error(error: Exception) -> bool:
    """Returns whether an error comes from TensorFlow's file systems, which read buckets.

    TensorFlow's file systems do not raise OSError, but the same classes as its computations.
    """
    tensorflow = sys.modules.get("tensorflow")  # an import would take seconds
    classes = getattr(tensorflow, "errors", None)
    if classes is None or not isinstance(error, classes.OpError):
        return False
    # Computations never raise these two classes; operations that read or write checkpoints do.
    if isinstance(error, (classes.PermissionDeniedError, classes.UnauthenticatedError)):
        return True
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return innermost.f_globals.get("__name__", "").startswith("tensorflow.python.lib.io.")


def is_damage(error: Exception) -> bool:
    """Returns whether an error raised on reading a checkpoint means that its files are damaged.

    TensorFlow raises different errors for bad checksums, missing files and truncated files. After
    any other error, such as too little memory, a missing permission or a file system that does not
    respond, the files may be intact.
    """
    errors = sys.modules["tensorflow"].errors
    of_content = (errors.DataLossError, errors.NotFoundError, errors.OutOfRangeError)
    if isinstance(error, (*of_content, FileNotFoundError, IndexError)):
        return True
    nameless = type(error) in (errors.OpError, RuntimeError)
    return nameless and any(text in str(error).lower() for text in _DAMAGE_TEXTS)
