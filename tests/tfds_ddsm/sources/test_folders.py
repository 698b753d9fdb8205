import collections
import errno
import os
import re

import pytest
import tensorflow as tf
from etils import epath

from tfds_ddsm.mammogram import StorageError
from tfds_ddsm.sources import folders, storage


def _found(root):
    return sorted(
        str(folder / name) for folder, names in folders.walk(epath.Path(root)) for name in names
    )


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    disk, root = tmp_path / "disk", tmp_path / "root"
    (disk / "a").mkdir(parents=True)
    (disk / "a" / "1-1.dcm").touch()
    (root / "plain").mkdir(parents=True)
    (root / "plain" / "1-1.dcm").touch()
    (root / "link").symlink_to(disk)
    (disk / "a" / "back").symlink_to(root)
    (root / "self").symlink_to("self")  # leads to no folder
    found = [name for name in _found(root) if name != str(root / "self")]
    assert found == [str(root / "link/a/1-1.dcm"), str(root / "plain/1-1.dcm")]


def test_hidden_files_are_left_out(tmp_path):
    for name in ("._1-1.dcm", "1-1.dcm", ".Trash/1-1.dcm", "lost+found/1-1.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert _found(tmp_path) == [str(tmp_path / "1-1.dcm")]


def test_a_missing_folder_is_empty(tmp_path):
    assert _found(tmp_path / "absent") == []


def test_a_folder_that_cannot_be_listed_stops_the_build(tmp_path, monkeypatch):
    (tmp_path / "P_1" / "left").mkdir(parents=True)
    listed, waits = os.scandir, []

    def failing(folder):
        if os.path.basename(folder) == "left":
            raise OSError(errno.EIO, "Input/output error")
        return listed(folder)

    monkeypatch.setattr(folders.os, "scandir", failing)
    monkeypatch.setattr(storage.time, "sleep", waits.append)
    with pytest.raises(StorageError, match=r"P_1/left cannot be read \(Input/output error\)"):
        _found(tmp_path)
    assert waits == [1, 5, 25]


def test_a_bucket_is_listed_once_per_level_of_folders(bucket, monkeypatch):
    root = epath.Path(f"{bucket} [1]")
    for name in ("table.csv", "P_1/left/1-1.dcm", "P_1/left/._1-1.dcm", "P_2/1-1.dcm", "P_2/1-2"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    elsewhere = epath.Path(f"{bucket} 1")
    elsewhere.mkdir()
    (elsewhere / "1-1.dcm").touch()
    requests = []
    for name in ("exists", "glob", "isdir", "listdir", "stat", "walk"):
        asked = getattr(tf.io.gfile, name)
        monkeypatch.setattr(
            tf.io.gfile, name, lambda *args, n=name, f=asked: requests.append(n) or f(*args)
        )
    assert _found(root) == [
        f"{root}/{name}" for name in ("P_1/left/1-1.dcm", "P_2/1-1.dcm", "P_2/1-2", "table.csv")
    ]
    assert requests == 4 * ["glob"]


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        ([], "; the folder has no files"),
        (
            ["1-1", "1.2.840.113"],
            "; the files here are 2 without a suffix: if those .* name them .dcm",
        ),
        (["a.ZIP", "b.zip", "c.PNG"], "; the files here are 2 .zip, 1 .png: unpack the archives"),
        (list("abcde"), "5 without a suffix"),
        (["a.b", "a.c", "a.d", "a.e", "a.f"], "1 .b, 1 .c, 1 .d, 1 .e and others"),
    ],
)
def test_advice_names_what_was_found(names, advice):
    counts = collections.Counter(map(folders.kind_of, names))
    assert re.match(f".*{advice}", folders.advice(counts))
