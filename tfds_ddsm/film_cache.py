"""Keeps the patches of finished films, so that a build that was killed need not begin again.

TFDS throws an unfinished dataset away. At paper scale the films take hours to read, so their
patches also go to a folder beside the dataset, which the next try reads and a finished one removes.
"""

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from tfds_ddsm import film_examples
from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.mammogram import Film, Source

_PICTURES = ("image", "mask")
_DTYPES = {"rescale_factor": np.float32, "tissue_fraction": np.float32, "corner": np.int32}


class FilmCache:
    """The finished films of one recipe over one folder of films.

    Args:
        folder: where the dataset's folder lies, too.
        recipe: what decides the content of the patches.
        manual_dir: where the films come from.
    """

    def __init__(self, folder: epath.Path, recipe: Mapping[str, Any], manual_dir: str):
        key = hashlib.sha256(json.dumps([recipe, manual_dir], sort_keys=True).encode())
        self._folder = epath.Path(folder) / f"unfinished_films_{key.hexdigest()[:16]}"

    def examples(
        self, source: Source, film: Film, counts: tuple[int, int, int], config: DdsmPatchesConfig
    ) -> tuple[film_examples.FilmReport, Iterator[tuple[str, dict[str, Any]]]]:
        """As `film_examples.encoded_examples`; reads the film only where it has to."""
        path = self._path(film, counts)
        if path.exists():
            first, *others = path.read_text().split("\n")
            return film_examples.FilmReport.from_json(json.loads(first)), map(_from_json, others)
        report, examples = film_examples.encoded_examples(source, film, counts, config)
        if report.error or report.left_out:
            return report, examples  # not kept: the files may be mended before the next try
        examples = list(examples)
        lines = [json.dumps(dataclasses.asdict(report))]
        lines += [_to_json(key, example) for key, example in examples]
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text("\n".join(lines))
        unfinished.replace(path)
        return report, iter(examples)

    def remove(self) -> None:
        """Deletes all films."""
        if self._folder.exists():
            self._folder.rmtree()

    def _path(self, film: Film, counts: tuple[int, int, int]) -> epath.Path:
        if not re.fullmatch(r"[\w.-]+", film.film_id, re.ASCII):
            raise ValueError(
                f"film_id must be letters, digits, '.', '_', '-'; received {film.film_id!r}."
            )
        # The plan changes where the folder of films has grown since the last try.
        return self._folder / f"{film.film_id}_{'_'.join(map(str, counts))}.jsonl"


def _to_json(key: str, example: Mapping[str, Any]) -> str:
    pictures = {name: base64.b64encode(example[name]).decode() for name in _PICTURES}
    numbers = {name: np.asarray(example[name]).tolist() for name in _DTYPES}
    return json.dumps([key, {**example, **pictures, **numbers}])


def _from_json(line: str) -> tuple[str, dict[str, Any]]:
    key, example = json.loads(line)
    pictures = {name: base64.b64decode(example[name]) for name in _PICTURES}
    numbers = {name: dtype(example[name]) for name, dtype in _DTYPES.items() if name != "corner"}
    corner = np.array(example["corner"], np.int32)
    return key, {**example, **pictures, **numbers, "corner": corner}
