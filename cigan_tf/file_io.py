"""Writes files atomically, on disk or in a bucket, and locks folders."""

import atexit
import contextlib
import errno
import fcntl
import fnmatch
import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from etils import epath

from cigan_tf import terminal
from cigan_tf.errors import UserError

LOCK_FILE = ".lock"
# Errors from network file systems that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def on_disk(path: str | os.PathLike) -> bool:
    """Returns whether a path is in a file system of this machine, not an address like gs://."""
    return "://" not in os.fspath(path)


def matching(folder: str | os.PathLike, pattern: str) -> list[epath.Path]:
    """Returns the files and folders in a folder whose names match a pattern, sorted.

    Unlike `glob`, it takes brackets in the folder's own name literally.

    Args:
        folder: may be missing; then nothing matches.
        pattern: a pattern of `fnmatch`, except that names with a leading dot match only patterns
            with a leading dot.
    """
    folder = epath.Path(folder)
    if not folder.exists():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if fnmatch.fnmatchcase(path.name, pattern)
        and path.name.startswith(".") <= pattern.startswith(".")
    )


def literal_path(path: str | os.PathLike) -> str:
    """Returns an equivalent path whose folders have no characters that TensorFlow expands.

    TensorFlow finds and removes checkpoints by patterns. Brackets in a folder's name would make it
    find no checkpoints, or those of another folder. Such a folder is therefore reached through a
    link in a temporary folder, which is removed when the process ends.

    Args:
        path: a folder, or the prefix of a checkpoint's files. If it is not an existing folder, the
            link leads to its parent, which is created.
    """
    path = epath.Path(path)
    if not on_disk(path) or not set(os.fspath(path)) & set("[]*?\\"):
        return os.fspath(path)
    if path.is_dir():
        return _link(os.path.abspath(path))
    return os.path.join(_link(os.path.abspath(path.parent)), path.name)


@functools.cache
def _link(folder: str) -> str:
    os.makedirs(folder, exist_ok=True)
    links = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    link = os.path.join(links, "link")
    os.symlink(folder, link)
    return link


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[epath.Path]:
    """Yields a temporary path; the file written there is renamed to `path` when it is complete."""
    path = epath.Path(path)
    # Unique on all machines that share a disk. The extension is kept, because some writers choose
    # the format by it.
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")
    try:
        yield temporary
        if on_disk(temporary):
            # Some file systems commit a rename before the data; after a power failure the file
            # would be empty.
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file atomically."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def local_file(path: str | os.PathLike) -> Iterator[str]:
    """Yields the path of a local file with the content of a file that may be in a bucket."""
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
    """Yields a local path; the file written there is moved to `path` when it is complete.

    Use it for writers that do not support buckets.
    """
    path = epath.Path(path)
    if on_disk(path):
        with whole_file(path) as temporary:
            yield os.fspath(temporary)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = epath.Path(folder) / path.name
        yield os.fspath(local)
        write_whole(path, local.read_bytes())


def has_locks(folder: str | os.PathLike) -> bool:
    """Returns whether `lock` can exclude other processes from an existing folder."""
    if not on_disk(folder):
        return False
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
    return True


@contextlib.contextmanager
def lock(folder: str | os.PathLike, wait: bool = False) -> Iterator[bool]:
    """Locks a folder against other processes until the context or the process ends.

    Buckets and some network file systems have no locks. In them, no process is kept out; on such a
    network file system, a warning is printed.

    Args:
        folder: created if it does not exist.
        wait: whether to wait until no other process holds the lock.

    Yields:
        False if another process holds the lock, otherwise True.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder = epath.Path(folder)
    if not on_disk(folder):
        yield True
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("wb")
    except OSError as error:
        raise UserError(
            f"The folder {str(folder)!r} cannot be written to: {error}. "
            "Free up disk space, change its permissions, or pass another folder."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            terminal.say(
                f"warning: {str(folder)!r} cannot be locked ({error}); do not run another command "
                "in it at the same time."
            )
        yield True
