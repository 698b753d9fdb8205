"""Files are whole or absent."""

import pytest

from cigan_tf import file_io


def test_write_whole_replaces_and_leaves_nothing_beside(tmp_path):
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
