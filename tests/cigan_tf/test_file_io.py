"""Files are complete or do not exist."""

import errno
import pathlib

import pytest
import tensorflow as tf

from cigan_tf import file_io


def test_write_whole_replaces_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "page.html"
    file_io.write_whole(path, "first")
    file_io.write_whole(path, b"second")
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    file_io.write_whole(path, "old")

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_io.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        file_io.write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_writer_leaves_no_file(tmp_path):
    def write():
        with file_io.written_locally(tmp_path / "classifier.keras") as path:
            assert path.endswith(".classifier.keras")
            pathlib.Path(path).touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


def test_two_writers_of_a_file_do_not_share_a_temporary_one(tmp_path):
    with file_io.whole_file(tmp_path / "a") as first, file_io.whole_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"


def refuse_locks(monkeypatch, number, text):
    def flock(*args):
        raise OSError(number, text)

    monkeypatch.setattr(file_io.fcntl, "flock", flock)


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, capsys):
    assert file_io.has_locks(tmp_path)
    assert not file_io.has_locks("ram://folder")
    refuse_locks(monkeypatch, errno.ENOSYS, "Function not implemented")
    with file_io.lock(tmp_path) as is_locked:
        assert is_locked
    assert "cannot be locked ([Errno 38] Function not implemented)" in capsys.readouterr().err
    assert not file_io.has_locks(tmp_path)


def test_a_failure_of_a_lock_is_raised(tmp_path, monkeypatch):
    refuse_locks(monkeypatch, errno.EIO, "Input/output error")

    def lock():
        with file_io.lock(tmp_path):
            pass

    for locked in (lock, lambda: file_io.has_locks(tmp_path)):
        with pytest.raises(OSError, match="Input/output error"):
            locked()


def test_brackets_in_a_folders_name_are_not_a_pattern(tmp_path):
    for folder in (tmp_path / "year [2024]", tmp_path / "year 2"):
        folder.mkdir()
        for name in ("ckpt-2.index", "ckpt-1.index", "other", ".ckpt-3.index"):
            (folder / name).touch()
    found = file_io.matching(tmp_path / "year [2024]", "ckpt-*.index")
    assert [path.name for path in found] == ["ckpt-1.index", "ckpt-2.index"]
    assert {path.parent for path in found} == {tmp_path / "year [2024]"}
    assert [path.name for path in file_io.matching(found[0].parent, ".*")] == [".ckpt-3.index"]
    assert file_io.matching(tmp_path / "absent", "*") == []


def test_tensorflow_reads_a_checkpoint_below_brackets(tmp_path):
    saved, restored = (tf.train.Checkpoint(value=tf.Variable(value)) for value in (7, 0))
    prefix = saved.write(str(tmp_path / "year [2024]" / "ckpt"))
    with pytest.raises(tf.errors.NotFoundError):
        restored.read(prefix)
    restored.read(file_io.literal_path(prefix)).assert_consumed()
    assert int(restored.value) == 7
    assert file_io.literal_path(tmp_path / "plain") == str(tmp_path / "plain")


def test_a_checkpoint_manager_below_brackets_removes_only_its_own_checkpoints(tmp_path):
    ours, other = tmp_path / "run [12]", tmp_path / "run 1"
    for folder in (other, ours):
        folder.mkdir()
        checkpoint = tf.train.Checkpoint(value=tf.Variable(1))
        path = file_io.literal_path(folder)
        manager = tf.train.CheckpointManager(checkpoint, path, max_to_keep=1)
        manager.save(checkpoint_number=1)
    manager.save(checkpoint_number=2)
    assert [path.name for path in file_io.matching(ours, "*.index")] == ["ckpt-2.index"]
    assert [path.name for path in file_io.matching(other, "*.index")] == ["ckpt-1.index"]
