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
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from tensorflow_datasets.core.utils import py_utils

from tfds_ddsm import film_examples
from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.mammogram import Film, Source

_PICTURES = ("image", "mask")
_DTYPES = {"rescale_factor": np.float32, "tissue_fraction": np.float32, "corner": np.int32}
_TO_TRY_AGAIN = ".try_again"
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
    and its images. It is reused as long as this package's code, the film's entry in the index and
    the film's own files are unchanged.

    Args:
        folder: parent of the dataset's folder.
        recipe: values that determine the content of the patches: config, version and features.
        manual_dir: folder of the films.
    """

    def __init__(self, folder: epath.Path, recipe: Mapping[str, Any], manual_dir: str):
        key = hashlib.sha256(json.dumps([recipe, manual_dir, _rules()], sort_keys=True).encode())
        self._folder = epath.Path(folder) / f"{FOLDER_PREFIX}{key.hexdigest()[:16]}"

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
                return finished
        report, examples = film_examples.encoded_examples(source, film, counts, config)
        if report.error or report.left_out:
            path = path_to_try_again
        self._folder.mkdir(parents=True, exist_ok=True)
        # Under a unique name until it is complete, because two workers may get the same film.
        with py_utils.incomplete_file(path) as unfinished, unfinished.open("wb") as file:
            file.write(_line(dataclasses.asdict(report)))
            for key, example in examples:
                _write_example(file, key, example)
        return path

    def num_finished(self) -> int:
        """Counts the films that were read, completely or not."""
        return len(self._finished())

    def num_bytes(self) -> int:
        """Returns the total size of the cached films."""
        return sum(path.stat().length for path in self._finished())

    def _finished(self) -> list[epath.Path]:
        if not self._folder.exists():
            return []
        return [path for path in self._folder.iterdir() if not py_utils.is_incomplete_file(path)]

    def forget_incomplete_films(self) -> None:
        """Deletes films that were not read completely, because their files may have been fixed."""
        if not self._folder.exists():
            return
        # Not by a pattern, because epath treats brackets in a folder's name as a pattern.
        for path in self._folder.iterdir():
            if path.name.endswith(_TO_TRY_AGAIN):
                path.unlink()

    def remove(self) -> None:
        """Deletes all films."""
        if self._folder.exists():
            self._folder.rmtree()

    def _path(self, film: Film, counts: tuple[int, int, int], fingerprint: str) -> epath.Path:
        if not re.fullmatch(r"[\w.-]+", film.film_id, re.ASCII):
            raise ValueError(
                "film_id must have only letters, digits, '.', '_' and '-'; received "
                f"{film.film_id!r}."
            )
        # The plan changes if films were added since the last build.
        key = json.dumps([dataclasses.asdict(film), counts, fingerprint])
        return self._folder / f"{film.film_id}_{hashlib.sha256(key.encode()).hexdigest()[:16]}.film"


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _write_example(file, key: str, example: Mapping[str, Any]) -> None:
    pictures = [example[name] for name in _PICTURES]
    sizes = {name: len(example[name]) for name in _PICTURES}
    numbers = {name: example[name].tolist() for name in _DTYPES}
    file.write(b"".join([_line([key, {**example, **sizes, **numbers}]), *pictures]))


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
