"""Files written whole or not at all, on a disk or in a bucket, and folders held by one process."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator

from etils import epath

from cigan_tf.errors import UserError

LOCK_FILE = ".lock"


def on_disk(path: str | os.PathLike) -> bool:
    """Returns whether a path is one of this machine's file systems, not an address like gs://."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[epath.Path]:
    """Yields where to write a file that nobody must see half of: it is renamed once it is whole."""
    path = epath.Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    yield beside
    if on_disk(beside):
        # Some file systems rename before they write: after a power cut the file would be empty.
        with beside.open("rb") as file:
            os.fsync(file.fileno())
    beside.replace(path)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file as a whole or not at all."""
    with whole_file(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def local_file(path: str | os.PathLike) -> Iterator[str]:
    """Yields a file on this machine's disk with the content of a file that may lie in a bucket."""
    path = epath.Path(path)
    if on_disk(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = epath.Path(folder) / path.name
        local.write_bytes(path.read_bytes())
        yield os.fspath(local)


@contextlib.contextmanager
def written_locally(path: str | os.PathLike) -> Iterator[str]:
    """Yields where on this machine's disk to write a file; it is moved to `path` once it is whole.

    For writers that know no buckets.
    """
    path = epath.Path(path)
    if on_disk(path):
        # The name's end may tell the writer what to write.
        beside = path.with_name(f".{os.getpid()}.{path.name}")
        yield os.fspath(beside)
        beside.replace(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = epath.Path(folder) / path.name
        yield os.fspath(local)
        write_whole(path, local.read_bytes())


@contextlib.contextmanager
def lock(folder: str | os.PathLike, wait: bool = False) -> Iterator[bool]:
    """Holds a folder, so that no other process writes into it; the end of the process releases it.

    A bucket has no locks: there every process holds every folder.

    Args:
        folder: made if it is missing.
        wait: wait for another process that holds it.

    Yields:
        Whether the folder is held: False where another process holds it.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = epath.Path(folder)
    if not on_disk(folder):
        yield True
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("wb")
    except OSError as error:
        raise UserError(f"The folder {str(folder)!r} cannot be written: {error}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
