"""Walks over the folder trees in which data arrives."""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping

from etils import epath

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_NUM_KINDS = 4


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


def kind_of(file_name: str) -> str:
    """Returns a name's suffix in lower case; '' where it has none, as in '1-1' and '1.2.840'."""
    suffix = pathlib.PurePath(file_name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z][a-z0-9_]{0,11}|\.7z", suffix) else ""


def advice(counts: Mapping[str, int]) -> str:
    """Says what lies in a folder in which no film was found, and what to do with it.

    Args:
        counts: number of files by `kind_of`.

    Returns:
        A part of a sentence, to be put behind what was not found.
    """
    if not counts:
        return "; there is no file at all"
    names = [
        f"{count} {kind or 'without a suffix'}"
        for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    text = f"; the files here are {', '.join(names[:_NUM_KINDS])}"
    text += " and others" if len(names) > _NUM_KINDS else ""
    if any(kind in _ARCHIVES for kind in counts):
        text += ": unpack the archives"
    elif counts.get(""):
        text += ": if those without a suffix are DICOM, name them .dcm"
    return text
