import collections
import re

import pytest
from etils import epath

from tfds_ddsm.sources import folders


def _found(root):
    return sorted(
        str(folder / name) for folder, names in folders.walk(epath.Path(root)) for name in names
    )


def test_links_to_folders_are_followed_and_circles_end(tmp_path):
    disk, root = tmp_path / "disk", tmp_path / "root"
    (disk / "a").mkdir(parents=True)
    (disk / "a" / "1-1.dcm").touch()
    (root / "plain").mkdir(parents=True)
    (root / "plain" / "1-1.dcm").touch()
    (root / "link").symlink_to(disk)
    (disk / "a" / "back").symlink_to(root)
    assert _found(root) == [str(root / "link/a/1-1.dcm"), str(root / "plain/1-1.dcm")]


def test_hidden_files_are_left_out(tmp_path):
    (tmp_path / "._1-1.dcm").touch()
    (tmp_path / "1-1.dcm").touch()
    assert _found(tmp_path) == [str(tmp_path / "1-1.dcm")]


def test_absent_folder_holds_nothing(tmp_path):
    assert _found(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        ([], "; there are no files"),
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
