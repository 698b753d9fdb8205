import errno
import os
import pathlib

import pytest
from etils import epath

from tfds_ddsm import build_lock
from tfds_ddsm.dataset_config import DatasetError


def _build(folder, started, may_end, order):
    with build_lock.sole_build(epath.Path(folder)) as is_sole:
        order.send(is_sole)
        started.set()
        may_end.wait(300)
        order.send("ended")


def test_a_second_build_waits_for_the_first_even_if_it_is_killed(tmp_path, forkserver):
    # Not a queue: a thread of a process that is killed would still have to send what it holds.
    received, order = forkserver.Pipe(duplex=False)
    events = [forkserver.Event() for _ in range(4)]
    first = forkserver.Process(target=_build, args=(tmp_path, *events[:2], order))
    first.start()
    assert events[0].wait(300)
    second = forkserver.Process(target=_build, args=(tmp_path, *events[2:], order))
    second.start()
    assert not events[2].wait(1.0)
    first.kill()
    assert events[2].wait(300)
    events[3].set()
    second.join(300)
    assert [received.poll(0) and received.recv() for _ in range(3)] == [True, True, "ended"]
    assert not list(tmp_path.iterdir())


def test_a_lock_whose_file_vanishes_is_taken_again(tmp_path, monkeypatch):
    """Simulates another process that ends while this process opens the file."""
    own, calls = os.fstat, []

    def fstat(number):
        calls.append(number)
        if len(calls) == 1:
            (tmp_path / ".building").unlink()
        return own(number)

    monkeypatch.setattr(build_lock.os, "fstat", fstat)
    with build_lock.sole_build(epath.Path(tmp_path)) as is_sole:
        assert is_sole
        assert len(calls) == 2
        assert [path.name for path in tmp_path.iterdir()] == [".building"]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    folder = epath.Path(tmp_path) / "file" / "tiny"
    with (
        pytest.raises(
            DatasetError, match=rf"{folder} cannot be written to .* --data_dir"
        ) as raised,
        build_lock.sole_build(folder),
    ):
        pass
    assert "\n" not in str(raised.value)


def test_buckets_and_disks_without_locks_do_not_guarantee_a_sole_build(tmp_path, monkeypatch):
    with build_lock.sole_build(epath.Path("gs://bucket/ddsm_patches/tiny")) as is_sole:
        assert not is_sole

    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(build_lock.fcntl, "flock", no_locks)
    with build_lock.sole_build(epath.Path(tmp_path)) as is_sole:
        assert not is_sole
    assert not pathlib.Path("gs:").exists()
