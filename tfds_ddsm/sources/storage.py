"""Reads files from disks and networks that may fail temporarily or permanently."""

import errno
import os
import time

from absl import logging
from etils import epath

from tfds_ddsm.mammogram import StorageError, UnreadableFilmError

# Errors of the file, not of the disk: a retry would give the same result.
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_RETRY_AFTER_SECONDS = (1, 5, 25)


def check_location(path: str | os.PathLike, name: str) -> None:
    """Raises ValueError for an unsupported bucket: TensorFlow reads only those at gs://.

    Args:
        path: a folder given by the user.
        name: name of the flag or argument, for the message.
    """
    scheme, _, rest = os.fspath(path).partition("://")
    if rest and scheme.lower() != "gs":
        raise ValueError(
            f"{name} must be on this machine, mounted, or in a bucket at gs://; {scheme}:// cannot "
            f"be used here. Received: {os.fspath(path)!r}."
        )


def read_bytes(path: epath.Path, max_bytes: int) -> bytes:
    """Returns a file's content; retries if the disk or the network fails.

    Args:
        path: the file.
        max_bytes: larger files are not read.

    Raises:
        UnreadableFilmError: the file is missing, a folder, or too large.
        StorageError: the file cannot be read now, although it may be intact. A build must stop: the
            dataset would differ without this film.
    """
    for delay in (*_RETRY_AFTER_SECONDS, None):
        try:
            num_bytes = path.stat().length
            if num_bytes > max_bytes:
                raise UnreadableFilmError(
                    f"{path}: {num_bytes} bytes are more than a film can have"
                )
            return path.read_bytes()
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, FileNotFoundError) or error.errno in _OF_THE_FILE:
                raise UnreadableFilmError(f"{path}: {reason}") from None
            if delay is None or isinstance(error, PermissionError):
                raise StorageError(
                    f"{path} cannot be read ({reason}); run the same command again when it can: "
                    "finished films are kept"
                ) from error
        logging.warning("%s: %s; next try in %d s.", path, reason, delay)
        time.sleep(delay)


def state(path: epath.Path) -> str:
    """Returns a file's path, size and modification time; only the path if it is missing."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return str(path)
    return f"{path} {stat.length} {stat.mtime}"
