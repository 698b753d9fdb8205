"""Keeps the patches of finished films on disk until the dataset is complete.

TFDS discards an unfinished dataset, and at the paper's scale the films take hours to read. With
this cache, a killed build need not start over, and many workers can read films before one process
writes the records. The patches are in a folder next to the dataset; the next build reuses it, and a
finished build removes it.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorflow_datasets.core.utils import py_utils

from tfds_ddsm import film_examples
from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.mammogram import Film, Source

_PICTURES = ("image", "mask")
_DTYPES = {"rescale_factor": np.float32, "tissue_fraction": np.float32, "corner": np.int32}
_FINISHED, _TO_TRY_AGAIN = ".film", ".again"
FOLDER_PREFIX = "unfinished_films_"


@functools.cache
def _rules() -> str:
    """Returns a hash of this package's code, all of which may affect a film's patches."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class FilmCache:
    """The finished films of one recipe and one folder of films. Picklable.

    The file for a film contains the report as a line of JSON, then for each example a line of JSON
    and its images. It is reused as long as this package's code, the film's entry in the index, its
    share of the plan and its own files are unchanged.

    Args:
        folder: parent of the dataset's folder.
        recipe: values that determine the content of the patches: config, version and features.
        manual_dir: folder of the films.
    """

    def __init__(self, folder: epath.Path, recipe: Mapping[str, Any], manual_dir: str):
        key = _digest(json.dumps([recipe, manual_dir, _rules()], sort_keys=True))
        self._folder = epath.Path(folder) / f"{FOLDER_PREFIX}{key}"

    def examples(
        self, source: Source, film: Film, counts: tuple[int, int, int], config: DdsmPatchesConfig
    ) -> tuple[film_examples.FilmReport, Iterator[tuple[str, dict[str, Any]]]]:
        """Like `film_examples.encoded_examples`; reads the film only if it is not cached."""
        path = self.keep(source, film, counts, config)
        with path.open("rb") as file:
            report = film_examples.FilmReport.from_json(json.loads(file.readline()))
        return report, _read_examples(path)

    def keep(
        self, source: Source, film: Film, counts: tuple[int, int, int], config: DdsmPatchesConfig
    ) -> epath.Path:
        """Reads a film that is not cached; returns the file with its report and examples."""
        path = self._path(film, counts, source.fingerprint(film))
        path_to_try_again = path.with_suffix(_TO_TRY_AGAIN)
        for finished in (path, path_to_try_again):
            if finished.exists():
                if _is_whole(finished):
                    return finished
                finished.unlink()
        report, examples = film_examples.encoded_examples(source, film, counts, config)
        if report.error or report.left_out:
            path = path_to_try_again
        self._folder.mkdir(parents=True, exist_ok=True)
        # Under a unique name until it is complete, because two workers may get the same film.
        with py_utils.incomplete_file(path) as unfinished, unfinished.open("wb") as file:
            file.write(_line(dataclasses.asdict(report)))
            for key, example in examples:
                _write_example(file, key, example)
            if "://" not in os.fspath(unfinished):  # a bucket stores a file when it is closed
                file.flush()
                os.fsync(file.fileno())
        return path

    def num_finished(self) -> int:
        """Counts the films that were read, completely or not, once for each film."""
        return len({path.name.rpartition("_")[0] for path in self._finished()})

    def num_bytes(self) -> int:
        """Returns the total size of the cached films."""
        return sum(path.stat().length for path in self._finished())

    def _finished(self) -> list[epath.Path]:
        if not self._folder.exists():
            return []
        return [path for path in self._folder.iterdir() if not py_utils.is_incomplete_file(path)]

    def begin(self, shares: Iterable[tuple[Film, tuple[int, int, int]]]) -> None:
        """Deletes the films that a build cannot use.

        These have another share of the plan, or were not read completely: their files may have been
        fixed.

        Args:
            shares: all films of the build with their shares of the plan.
        """
        if not self._folder.exists():
            return
        planned = {self._name(film, counts) for film, counts in shares}
        # Not by a pattern, because epath treats brackets in a folder's name as a pattern.
        for path in self._folder.iterdir():
            if path.suffix != _FINISHED or path.name.rpartition("_")[0] not in planned:
                path.unlink()

    def remove(self) -> None:
        """Deletes all films."""
        if self._folder.exists():
            self._folder.rmtree()

    def _path(self, film: Film, counts: tuple[int, int, int], fingerprint: str) -> epath.Path:
        return self._folder / f"{self._name(film, counts)}_{_digest(fingerprint)}{_FINISHED}"

    def _name(self, film: Film, counts: tuple[int, int, int]) -> str:
        """Returns the part of a file's name that is known without a look at the film's files."""
        if not re.fullmatch(r"[\w.-]+", film.film_id, re.ASCII):
            raise ValueError(
                "film_id must have only letters, digits, '.', '_' and '-'; received "
                f"{film.film_id!r}."
            )
        # The plan changes if films were added since the last build.
        return f"{film.film_id}_{_digest(json.dumps([dataclasses.asdict(film), counts]))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _write_example(file, key: str, example: Mapping[str, Any]) -> None:
    pictures = [example[name] for name in _PICTURES]
    sizes = {name: len(example[name]) for name in _PICTURES}
    numbers = {name: example[name].tolist() for name in _DTYPES}
    file.write(b"".join([_line([key, {**example, **sizes, **numbers}]), *pictures]))


def _is_whole(path: epath.Path) -> bool:
    """Returns whether a file has its report and all examples of the report; skips the images."""
    num_bytes = path.stat().length
    try:
        with path.open("rb") as file:
            for _ in range(sum(json.loads(file.readline())["made"])):
                _, example = json.loads(file.readline())
                file.seek(file.tell() + sum(example[name] for name in _PICTURES))
            return file.tell() == num_bytes
    except (ValueError, TypeError, KeyError):  # an unwritten block of the disk contains zeros
        return False


def _read_examples(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open("rb") as file:
        file.readline()  # the report
        while line := file.readline():
            key, example = json.loads(line)
            pictures = {name: file.read(example[name]) for name in _PICTURES}
            numbers = {
                name: np.asarray(example[name], dtype)[()] for name, dtype in _DTYPES.items()
            }
            yield key, {**example, **pictures, **numbers}
