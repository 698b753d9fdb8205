"""Walks over the folder trees in which data arrives."""

import os
from collections.abc import Iterator

from etils import epath


def walk(root: epath.Path) -> Iterator[tuple[epath.Path, list[str]]]:
    """Yields every folder at and below `root` with the names of its files, in no fixed order.

    Links to folders are followed, since large data lies on other disks. No folder that a link leads
    to is entered twice, so that links in a circle come to an end. Hidden files are left out: a Mac
    writes '._1-1.dcm' beside '1-1.dcm' on a foreign disk.
    """
    pending, visited = [root], set()
    while pending:
        top = pending.pop()
        real_path = os.path.realpath(top)
        if real_path in visited:
            continue
        visited.add(real_path)
        for folder, subfolders, files in top.walk():
            yield folder, [name for name in files if not name.startswith(".")]
            # From Python 3.12 on, links to folders are listed among the files.
            pending += [folder / name for name in subfolders + files if _is_link(folder, name)]


def _is_link(folder: epath.Path, name: str) -> bool:
    return os.path.islink(os.path.join(folder, name))
