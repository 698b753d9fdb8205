"""Allows only one process at a time to build a dataset, so that none deletes another's files."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from absl import logging
from etils import epath

from tfds_ddsm.dataset_config import DatasetError

_LOCK_FILE = ".building"


@contextlib.contextmanager
def sole_build(folder: epath.Path) -> Iterator[bool]:
    """Waits until no other process builds in a folder, then locks it.

    The lock is released when the process ends, for any reason.

    Args:
        folder: created if it does not exist.

    Yields:
        Whether this process is known to be the only one: False if the folder is in a bucket, or on
        a disk without locks.

    Raises:
        DatasetError: the folder is not writable.
    """
    if "://" in os.fspath(folder):
        yield False
        return
    path = pathlib.Path(folder) / _LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path)
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be written to ({error.strerror}): pass --data_dir=DIR with a "
            "writable folder."
        ) from error
    try:
        yield file is not None
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


def _locked(path: pathlib.Path):
    """Returns the open lock file, or None if the disk has no locks."""
    while True:
        file = path.open("wb")
        try:
            _wait_for(file, path)
        except OSError as error:
            file.close()
            logging.warning("%s: %s; build this dataset in one process at a time.", path, error)
            return None
        # The process that held the lock deletes the file when it ends.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


def _wait_for(file, path: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.warning("Another process is building in %s; waiting for it to end.", path.parent)
        fcntl.flock(file, fcntl.LOCK_EX)
