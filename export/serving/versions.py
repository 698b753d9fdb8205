"""Numbered versions of a model, in a folder that a server may watch while they are written."""

import contextlib
import errno
import fcntl
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

from etils import epath

from cigan_tf import file_io
from cigan_tf.errors import UserError

_UNFINISHED = ".writing-"
# A folder without it is not a SavedModel.
_GRAPH_FILE = "saved_model.pb"
# An export takes minutes; older temporary folders were left by killed exports.
_ABANDONED_AFTER_S = 24 * 3600
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def write_next(output_dir: str | os.PathLike, write: Callable[[pathlib.Path], None]) -> epath.Path:
    """Writes `output_dir`/<next free number>/ atomically; exports may run in parallel.

    Buckets cannot rename folders. There, files are copied one by one, and the file that makes the
    folder a model comes last; exports into one bucket must not run in parallel.

    Args:
        output_dir: folder of the model's versions; created if it does not exist.
        write: creates and fills the folder that it is given.

    Returns:
        Path of the version's folder.

    Raises:
        UserError: `output_dir` cannot be written.
    """
    output_dir = epath.Path(output_dir)
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        if not file_io.on_disk(output_dir):
            with tempfile.TemporaryDirectory() as folder:
                write(pathlib.Path(folder, "version"))
                return _upload(pathlib.Path(folder, "version"), output_dir)
        _remove_abandoned(output_dir)
        # A server that watches output_dir only considers numbers, so it never sees partial
        # versions.
        unfinished = pathlib.Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=output_dir))
        try:
            # Not the temporary folder itself, which only its owner can read.
            write(unfinished / "version")
            return _publish(unfinished / "version", output_dir)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"output_dir {str(output_dir)!r} cannot be written to: {error}. Free up "
            "disk space, change its permissions, or pass another output_dir."
        ) from None


def _upload(version: pathlib.Path, output_dir: epath.Path) -> epath.Path:
    """Copies a finished version into a bucket, with the next number."""
    target = output_dir / str(max(numbers(output_dir), default=0) + 1)
    files = [path for path in version.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == _GRAPH_FILE):
        copy = target / path.relative_to(version).as_posix()
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target


def _publish(version: pathlib.Path, output_dir: epath.Path) -> epath.Path:
    """Moves a finished version to the next number; a parallel export may take that number first."""
    number = max(numbers(output_dir), default=0) + 1
    while True:
        target = output_dir / str(number)
        try:
            os.rename(version, target)
            return target
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            number += 1


def _remove_abandoned(output_dir: epath.Path) -> None:
    for path in file_io.matching(output_dir, f"{_UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):  # its export has just finished
            if time.time() - os.stat(path).st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(output_dir: epath.Path) -> Iterator[None]:
    """Lets only one export at a time change shared files on a disk; the others wait."""
    if not file_io.on_disk(output_dir):
        yield
        return
    descriptor = os.open(output_dir, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def numbers(output_dir: epath.Path) -> list[int]:
    """Returns the version numbers that a server would find in the folder."""
    return sorted(int(path.name) for path in output_dir.iterdir() if path.name.isdigit())
