import errno
import os

import pytest
import tensorflow as tf
from etils import epath

from tfds_ddsm.mammogram import StorageError, UnreadableFilmError
from tfds_ddsm.sources import storage


class FailingPath:
    """A file on a disk that fails a few times before it works."""

    def __init__(self, path, *errors):
        self.errors = list(errors)
        self._path = path

    def __fspath__(self):
        return str(self._path)

    __str__ = __fspath__

    def stat(self):
        return self._path.stat()

    def open(self, mode):
        if self.errors:
            raise self.errors.pop()
        return self._path.open(mode)


@pytest.fixture
def waits(monkeypatch):
    seconds = []
    monkeypatch.setattr(storage.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def path(tmp_path):
    path = epath.Path(tmp_path / "film.dcm")
    path.write_bytes(b"pixels")
    return path


def test_a_temporary_network_error_is_retried(path, waits):
    failing = FailingPath(path, *[OSError(errno.ESTALE, "Stale file handle")] * 3)
    assert storage.read_bytes(failing, 100) == b"pixels"
    assert waits == [1, 5, 25]


def test_a_persistent_disk_failure_is_not_a_damaged_film(path, waits):
    failing = FailingPath(path, *[OSError(errno.EIO, "Input/output error")] * 4)
    with pytest.raises(StorageError, match=r"film.dcm cannot be read \(Input/output error\); run"):
        storage.read_bytes(failing, 100)
    assert not failing.errors


def test_permanent_errors_are_raised_without_a_retry(tmp_path, path, waits):
    with pytest.raises(StorageError, match="Permission denied"):
        storage.read_bytes(FailingPath(path, PermissionError(13, "Permission denied")), 100)
    for bad, reason in (
        (tmp_path / "absent", "No such file"),
        (tmp_path, "Is a directory"),
        (path / "below", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UnreadableFilmError, match=reason):
            storage.read_bytes(epath.Path(bad), 10**6)
    with pytest.raises(UnreadableFilmError, match="at most 5 bytes; received 6"):
        storage.read_bytes(path, 5)
    os.mkfifo(tmp_path / "pipe")
    for endless in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(UnreadableFilmError, match="regular file; received a device or pipe"):
            storage.read_bytes(epath.Path(endless), 100)
    assert not waits


def test_no_more_than_the_limit_is_read_of_a_file_that_states_no_size():
    with pytest.raises(UnreadableFilmError, match="at most 5 bytes; received 6"):
        storage.read_bytes(epath.Path("/proc/self/status"), 5)


def test_the_state_of_a_file_changes_with_its_content(tmp_path, path):
    before = storage.state(path)
    path.write_bytes(b"pixel")
    assert storage.state(path) != before
    assert storage.state(tmp_path / "absent") == str(tmp_path / "absent")


def test_a_file_whose_state_is_unknown_stops_the_build(path, waits, monkeypatch):
    def stale(self, **options):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(type(path), "stat", stale)
    for ask in (storage.state, storage.exists):
        with pytest.raises(StorageError, match=r"film.dcm cannot be read \(Stale file handle\)"):
            ask(path)
    assert waits == [1, 5, 25, 1, 5, 25]


def bucket_error(name):
    return getattr(tf.errors, name)(
        None, None, "HTTP response code 4xx\nwhen reading gs://b/film.dcm"
    )


def test_errors_of_a_bucket_are_handled_like_those_of_a_disk(path, waits):
    failing = FailingPath(path, *[bucket_error("UnavailableError")] * 3)
    assert storage.read_bytes(failing, 100) == b"pixels"
    assert waits == [1, 5, 25]
    for name in ("PermissionDeniedError", "UnauthenticatedError"):
        with pytest.raises(StorageError, match="cannot be read"):
            storage.read_bytes(FailingPath(path, bucket_error(name)), 100)
    with pytest.raises(UnreadableFilmError, match=r"film\.dcm"):
        storage.read_bytes(FailingPath(path, bucket_error("NotFoundError")), 100)
    assert waits == [1, 5, 25]


def test_a_refusal_by_a_bucket_gives_one_line():
    with (
        pytest.raises(StorageError, match=r"PermissionDeniedError.* when reading gs://b") as raised,
        storage.bucket_errors(),
    ):
        raise bucket_error("PermissionDeniedError")
    assert "\n" not in str(raised.value)
    with pytest.raises(KeyError), storage.bucket_errors():
        raise KeyError("another fault")
