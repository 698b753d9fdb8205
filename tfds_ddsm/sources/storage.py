"""Files of films on disks and networks that may fail for a moment, or for good."""

import errno
import os
import time

from absl import logging
from etils import epath

from tfds_ddsm.mammogram import StorageError, UnreadableFilmError

# Of the film and not of the disk: another try gives the same answer.
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
_RETRY_AFTER_SECONDS = (1, 5, 25)


def check_location(path: str | os.PathLike, name: str) -> None:
    """Raises ValueError for a bucket that cannot be used: TensorFlow reads those at gs:// alone.

    Args:
        path: a folder as the user gives it.
        name: of the flag or argument, for the message.
    """
    scheme, _, rest = os.fspath(path).partition("://")
    if rest and scheme.lower() != "gs":
        raise ValueError(
            f"{name} must be on this machine, mounted, or in a bucket at gs://; {scheme}:// cannot "
            f"be used here. Received: {os.fspath(path)!r}."
        )


def read_bytes(path: epath.Path, max_bytes: int) -> bytes:
    """Returns a file's content; tries again where the disk or the network fails.

    Args:
        path: the file.
        max_bytes: what is larger is not read.

    Raises:
        UnreadableFilmError: the file is missing, a folder, or too large.
        StorageError: the file cannot be read now, though it may be whole. A build has to stop:
            without this film it would be another dataset.
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
    """Returns a file's path, size and time of change; the path alone where it is missing."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return str(path)
    return f"{path} {stat.length} {stat.mtime}"
