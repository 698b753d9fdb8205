"""Reads files from disks and networks that may fail temporarily or permanently."""

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from absl import logging
from etils import epath

from tfds_ddsm.mammogram import StorageError, UnreadableFilmError

# Errors of the file, not of the disk: a retry would give the same result.
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_RETRY_AFTER_SECONDS = (1, 5, 25)

_Result = TypeVar("_Result")


def check_location(path: str | os.PathLike, name: str) -> None:
    """Raises ValueError for an address with an unsupported scheme: only gs:// can be read.

    Args:
        path: a folder given by the user.
        name: name of the flag or argument, for the message.
    """
    scheme, _, rest = os.fspath(path).partition("://")
    if rest and scheme.lower() != "gs":
        raise ValueError(
            f"{name} must be a folder on this machine, a mounted folder or a bucket at gs://; "
            f"{scheme}:// cannot be used here. Received: {os.fspath(path)!r}."
        )


def read_bytes(path: epath.Path, max_bytes: int) -> bytes:
    """Returns a file's content; retries if the disk or the network fails.

    Args:
        path: the file.
        max_bytes: larger files are not read.

    Raises:
        UnreadableFilmError: the file is missing or too large, or the path is not that of a file.
        StorageError: the file is temporarily unreadable but may be intact. A build must stop: the
            dataset would differ without this film.
    """
    return retried(path, lambda: _read_bounded(path, max_bytes))


def _read_bounded(path: epath.Path, max_bytes: int) -> bytes:
    name = os.fspath(path)
    # A pipe would be waited for, and a device may have no end. A folder is refused when opened.
    if "://" not in name and stat.S_IFMT(os.stat(name).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise UnreadableFilmError(
            f"{path}: a film must be a regular file; received a device or pipe"
        )
    num_bytes = path.stat().length
    if num_bytes <= max_bytes:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)  # the size may be 0, as below /proc, or outdated
        num_bytes = max(num_bytes, len(content))
    if num_bytes > max_bytes:
        raise UnreadableFilmError(
            f"{path}: the file must have at most {max_bytes} bytes; received {num_bytes}"
        )
    return content


def retried(path: epath.Path, access: Callable[[], _Result]) -> _Result:
    """Returns the result of `access`; calls it again if the disk or the network fails.

    Args:
        path: the file or folder that is accessed, for messages.
        access: may raise OSError, or the errors of a bucket.

    Raises:
        UnreadableFilmError: the file or folder is missing, or is of the wrong kind.
        StorageError: it is temporarily unreadable but may be intact.
    """
    for delay in (*_RETRY_AFTER_SECONDS, None):
        try:
            return access()
        except Exception as error:
            if not isinstance(error, (OSError, *_bucket_errors("OpError"))):
                raise
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            code = getattr(error, "errno", None)
            missing = FileNotFoundError, *_bucket_errors("NotFoundError")
            if isinstance(error, missing) or code in _OF_THE_FILE:
                raise UnreadableFilmError(f"{path}: {reason}") from None
            refused = _bucket_errors("PermissionDeniedError", "UnauthenticatedError")
            if delay is None or isinstance(error, (PermissionError, *refused)):
                raise StorageError(
                    f"{path} cannot be read ({reason}); run the same command again when it can "
                    "be read"
                ) from error
        logging.warning("%s: %s; next try in %d s.", path, reason, delay)
        time.sleep(delay)


@contextlib.contextmanager
def bucket_errors() -> Iterator[None]:
    """Raises StorageError if a bucket cannot be read or written."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _bucket_errors("OpError")):
            raise
        text = " ".join(str(error).split())
        raise StorageError(
            f"A file cannot be read or written ({type(error).__name__}: {text}); check the address "
            "and this account's permissions, then run the same command again."
        ) from error


def _bucket_errors(*names: str) -> tuple[type[Exception], ...]:
    """Returns the named exception classes of TensorFlow, whose file systems read the buckets.

    If TensorFlow has not been imported, no bucket has been read, and the result is empty. It is not
    imported here, because that would take seconds.
    """
    classes = getattr(sys.modules.get("tensorflow"), "errors", None)
    return tuple(getattr(classes, name) for name in names) if classes else ()


def state(path: epath.Path) -> str:
    """Returns a file's path, size and modification time; only the path if it is missing.

    Raises:
        StorageError: the file is temporarily unreadable.
    """
    try:
        found = retried(path, path.stat)
    except UnreadableFilmError:
        return str(path)
    return f"{path} {found.length} {found.mtime}"


def exists(path: epath.Path) -> bool:
    """Returns whether a file or folder exists; raises StorageError if that cannot be found out."""
    # On a disk, `exists` would return False for a path that cannot be read.
    access = path.exists if "://" in os.fspath(path) else path.stat
    try:
        return retried(path, access) is not False
    except UnreadableFilmError:
        return False
