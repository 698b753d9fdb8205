"""Walks the folder trees of downloaded data."""

import collections
import errno
import functools
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from etils import epath

from tfds_ddsm.mammogram import UnreadableFilmError
from tfds_ddsm.sources import storage

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_NUM_KINDS = 4
# Of file systems and desktops: users may often not read them, and they contain no films.
_SKIPPED_FOLDERS = (".", "lost+found")


def walk(root: epath.Path) -> Iterator[tuple[epath.Path, list[str]]]:
    """Yields `root` and every folder below it with the names of its files, in no fixed order.

    Links to folders are followed, because large data sets are often on other disks. Each target
    folder is visited only once, so circular links end. Hidden files are skipped: macOS writes
    '._1-1.dcm' next to '1-1.dcm' on disks formatted for other systems. On a disk, hidden
    folders and lost+found are skipped too. A bucket is listed with one request per level of
    folders, not with one per file.

    Raises:
        StorageError: a folder is temporarily unreadable; its films would be lost.
    """
    if "://" in os.fspath(root):
        yield from _walk_bucket(root)
        return
    pending, visited = [root], set()
    while pending:
        top = pending.pop()
        real_path = os.path.realpath(top)
        if real_path in visited:
            continue
        visited.add(real_path)
        below = [top]
        while below:
            folder = below.pop()
            try:
                entries = storage.retried(folder, functools.partial(_entries, folder))
            except UnreadableFilmError:  # the root is missing, or the folder was just removed
                continue
            yield folder, [e.name for e in entries if not e.is_folder and e.name[0] != "."]
            for entry in entries:
                if entry.is_folder and not entry.name.startswith(_SKIPPED_FOLDERS):
                    (pending if entry.is_link else below).append(folder / entry.name)


def _walk_bucket(root: epath.Path) -> Iterator[tuple[epath.Path, list[str]]]:
    # Brackets in the address are not a pattern.
    top = epath.Path(re.sub(r"([*?\[\]\\])", r"\\\1", os.fspath(root)))
    names = collections.defaultdict(list)  # of the files and folders in each folder
    pattern = "*"
    while found := list(top.glob(pattern)):
        for path in found:
            names[path.parent].append(path.name)
        pattern += "/*"
    for folder, children in names.items():
        yield folder, [n for n in children if not n.startswith(".") and folder / n not in names]


class _Entry(NamedTuple):
    name: str
    is_folder: bool
    is_link: bool


def _entries(folder: epath.Path) -> list[_Entry]:
    with os.scandir(folder) as entries:
        return [_Entry(entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise


def kind_of(file_name: str) -> str:
    """Returns a name's suffix in lower case, or '', as for '1-1' and '1.2.840'."""
    suffix = pathlib.PurePath(file_name).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z][a-z0-9_]{0,11}|\.7z", suffix) else ""


def advice(counts: Mapping[str, int]) -> str:
    """Describes the files in a folder without films, and says what to do.

    Args:
        counts: number of files by `kind_of`.

    Returns:
        The end of an error message without its full stop.
    """
    if not counts:
        return "; the folder has no files"
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
