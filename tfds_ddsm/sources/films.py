"""Reads a user's own films: a folder with one table, films.csv, and the films listed in it."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence

import numpy as np
from absl import logging
from etils import epath

from tfds_ddsm import patches
from tfds_ddsm.mammogram import (
    Film,
    Lesion,
    Mammogram,
    Skipped,
    Source,
    UnreadableFilmError,
)
from tfds_ddsm.sources import films_table, folders, image_file, lesion_mask, lesion_shapes, storage
from tfds_ddsm.sources.films_table import TABLE_NAME, FilmLines, FilmsTable, LesionLine

_MAX_TABLE_BYTES = 2**30
# For a table of fewer films, a bucket is not listed: it may contain many other files.
_LISTED_FROM = 1000


@dataclasses.dataclass(frozen=True)
class FilmsSource(Source):
    """The films listed in a table, with the lesions given in its rows.

    Attributes:
        manual_dir: folder with films.csv; the table's paths are relative to it.
    """

    manual_dir: str | os.PathLike

    # Cached in the instance and pickled with it, so that Beam workers need not read the table
    # again.
    @functools.cached_property
    def table(self) -> FilmsTable:
        """The table, parsed without reading films.

        Raises:
            ValueError: the table is missing or invalid.
        """
        try:
            return films_table.parse_table(self._table_bytes().decode("utf-8-sig"))
        except UnicodeDecodeError:
            path = self._root / TABLE_NAME
            raise ValueError(f"{path}: the text is not UTF-8; save it as 'CSV UTF-8'.") from None

    def table_sha256(self) -> str:
        """Returns the current SHA-256 of films.csv, as a hexadecimal string.

        Raises:
            ValueError: the table is missing.
            StorageError: it is temporarily unreadable.
        """
        return hashlib.sha256(self._table_bytes()).hexdigest()

    def _table_bytes(self) -> bytes:
        try:
            return storage.read_bytes(self._root / TABLE_NAME, _MAX_TABLE_BYTES)
        except UnreadableFilmError as error:
            raise ValueError(f"{error}; write the table of your films there.") from None

    @functools.cached_property
    def _found(self) -> tuple[Mapping[str, FilmLines], tuple[Skipped, ...]]:
        """The films that yield patches, judging by file names, and the skipped items."""
        films, in_bucket = {}, self._in_bucket()
        skipped = [
            Skipped("film" if fault.film_id else "CSV row", fault.film_id, fault.reason)
            for fault in self.table.faults
        ]
        for film_id, lines in self.table.films.items():
            paths = [lines.path, *(lesion.mask for lesion in lines.lesions if lesion.mask)]
            paths = [self._root / path for path in paths]
            missing = [p for p in paths if p not in in_bucket and not storage.exists(p)]
            if missing:
                skipped.append(Skipped("film", film_id, f"{missing[0]} is missing"))
            elif _hides_malignant(lines) and not lines.film.num_malignant:
                reason = f"{_hides_malignant(lines)[0]}; the film yields no patches"
                skipped.append(Skipped("lesion", film_id, reason))
            else:
                films[film_id] = lines
        return films, tuple(skipped)

    def _in_bucket(self) -> frozenset[epath.Path]:
        """Lists the files in a bucket if the table is long; otherwise returns none.

        A listing needs only a few requests; looking for each file would need one per file.
        """
        if "://" not in os.fspath(self._root) or len(self.table.films) < _LISTED_FROM:
            return frozenset()
        return frozenset(
            folder / name for folder, names in folders.walk(self._root) for name in names
        )

    @property
    def _root(self) -> epath.Path:
        return epath.Path(self.manual_dir).expanduser()

    def index(self) -> Sequence[Film]:
        """Returns every film that yields patches, sorted by film_id, without reading pixels.

        Raises:
            ValueError: the table is missing or invalid, or none of its films can be used.
        """
        films = self.usable_films()
        if not films:
            skipped = self.skipped()
            example = f"; for example, {skipped[0].reason}" if skipped else ""
            raise ValueError(f"{self._root / TABLE_NAME}: no film can be used{example}.")
        return films

    def usable_films(self) -> Sequence[Film]:
        """Returns the same films as `index`, without an error if there are none."""
        return [lines.film for lines in self._found[0].values()]

    def skipped(self) -> Sequence[Skipped]:
        """Returns invalid rows, films with missing files, and lesions of unknown location.

        A lesion of unknown location is listed only if it is malignant and no other malignant lesion
        of its film has a location; such a film yields no patches.
        """
        return self._found[1]

    def split_of(self, film: Film) -> str:
        """Returns the split of the film's patient.

        It is taken from the table, also from its invalid rows, or, if the table gives none, from a
        hash of patient_id. If the table has no validation patients, a tenth of its training
        patients are used for validation.
        """
        by_hash = patches.split_of(film.patient_id)
        named = self.table.splits.get(film.patient_id)
        if named == "train" and by_hash == "validation" and "validation" not in self._split_names:
            return "validation"
        return named or by_hash

    @functools.cached_property
    def _split_names(self) -> frozenset[str]:
        return frozenset(self.table.splits.values())

    def fingerprint(self, film: Film) -> str:
        """Returns the film's rows in the table, and the size and modification time of its files."""
        lines = self._lines(film)
        paths = [lines.path, *(lesion.mask for lesion in lines.lesions if lesion.mask)]
        return f"{lines} {[storage.state(self._root / path) for path in paths]}"

    def read(self, film: Film) -> Mammogram:
        """Returns the film's pixels and lesions.

        A malignant lesion of unknown location is in `left_out`. A benign one is not, because the
        film's other patches are non-malignant wherever that lesion is.

        Raises:
            UnreadableFilmError: a file is damaged, a lesion lies outside the film, or a mask cannot
                be used, for instance because its size differs from the film's.
            StorageError: a file is temporarily unreadable.
            ValueError: the film does not belong to this source.
        """
        pixels = self.read_pixels(film)
        if pixels.scale.warning:
            path = self._lines(film).path
            logging.log_first_n(logging.WARNING, "%s: %s", 3, path, pixels.scale.warning)
        return self.with_lesions(film, pixels.grey)

    def read_pixels(self, film: Film) -> image_file.FilmPixels:
        """Returns the film without its lesions; raises the same errors as `read`."""
        lines = self._lines(film)
        return image_file.read_film(self._root / lines.path, lines.bits)

    def with_lesions(self, film: Film, image: np.ndarray) -> Mammogram:
        """Returns the film with lesions from masks or shapes; raises the same errors as `read`."""
        lines = self._lines(film)
        lesions = tuple(
            Lesion(
                lesion.lesion_type,
                lesion.malignant,
                self._mask(lesion, image.shape),
                description=lesion.description,
            )
            for lesion in lines.lesions
            if lesion.has_place
        )
        return Mammogram(film, image, lesions, _hides_malignant(lines))

    def _lines(self, film: Film) -> FilmLines:
        lines = self._found[0].get(film.film_id)
        if lines is None:
            raise ValueError(f"film_id must be in the index; received {film.film_id!r}.")
        return lines

    def _mask(self, lesion: LesionLine, film_shape: tuple[int, int]) -> np.ndarray:
        """Returns the lesion's mask on the film's grid."""
        try:
            if lesion.shape:
                return lesion_shapes.on_film(lesion.shape, film_shape, lesion.from_bottom)
            pixels = image_file.read_pixels(self._root / lesion.mask)
            if pixels.shape != film_shape:
                raise lesion_mask.UnusableMaskError(
                    f"the mask must have the film's {film_shape[0]} x {film_shape[1]} pixels; "
                    f"received {pixels.shape[0]} x {pixels.shape[1]}"
                )
            mask = lesion_mask.binary(pixels)
            if _is_white_outside(mask):
                raise lesion_mask.UnusableMaskError(
                    "the mask appears to be inverted, because it is bright along all edges of the "
                    "film; invert it, so that the lesion is bright on a dark background"
                )
            return mask
        except (lesion_shapes.OutsideFilmError, lesion_mask.UnusableMaskError) as error:
            name = f" ({self._root / lesion.mask})" if lesion.mask else ""
            raise UnreadableFilmError(f"{lesion.where}: {error}{name}") from None


def _hides_malignant(lines: FilmLines) -> tuple[str, ...]:
    """Returns a message for each malignant lesion of unknown location."""
    return tuple(
        f"{lesion.where}: the malignant lesion has no location"
        for lesion in lines.lesions
        if lesion.malignant and not lesion.has_place
    )


def _is_white_outside(mask: np.ndarray) -> bool:
    return all(edge.mean() > 0.5 for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
