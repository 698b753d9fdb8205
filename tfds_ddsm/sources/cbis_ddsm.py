"""Reads CBIS-DDSM from TCIA or Kaggle: films as DICOM or JPEG, lesions as masks with crops.

Data: Lee et al., "Curated Breast Imaging Subset of DDSM", The Cancer Imaging Archive, 2016; doi
10.7937/K9/TCIA.2016.7O02S9CY.
Paper: Lee et al., "A curated mammography data set for use in computer-aided detection and diagnosis
research", Scientific Data 4, 170177, 2017; doi 10.1038/sdata.2017.177.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np
from absl import logging
from etils import epath

from tfds_ddsm.mammogram import (
    Film,
    Lesion,
    Mammogram,
    Skipped,
    Source,
    UnreadableFilmError,
)
from tfds_ddsm.sources import lesion_mask, storage
from tfds_ddsm.sources.cbis_ddsm_index import CbisDdsmIndex, LesionFiles, build_index
from tfds_ddsm.sources.image_file import FilmPixels, read_film, read_pixels
from tfds_ddsm.sources.lesion_mask import UnusableMaskError

# A mask whose grid differs from its film's was drawn on a scan with a different pitch:
# 4386 / 5041 = 0.870 = 43.5 um / 50 um. The digitisers' pitches of 42, 43.5 and
# 50 um give factors of 0.84 to 1.19.
_MIN_MASK_SCALE, _MAX_MASK_SCALE = 0.8, 1.25
# Rounding of sizes to whole pixels changes their ratio by less than this at the film's edge.
_MASK_TOLERANCE_PIXELS = 2


@dataclasses.dataclass(frozen=True)
class CbisDdsmSource(Source):
    """The films of CBIS-DDSM with every lesion in the four CSV files.

    Attributes:
        manual_dir: folder with the image tree and the CSV files, at any depth.
    """

    manual_dir: str | os.PathLike

    # Cached in the instance and pickled with it, so that Beam workers need not walk the tree again.
    @functools.cached_property
    def catalogue(self) -> CbisDdsmIndex:
        """Available and missing items, and the files of each film.

        Raises:
            ValueError: no CSV file or none of the films was found, or a CSV file cannot be read.
        """
        return build_index(self._root)

    @property
    def _root(self) -> epath.Path:
        return epath.Path(self.manual_dir).expanduser()

    def index(self) -> Sequence[Film]:
        """Returns every complete film, sorted by film_id, without reading pixels.

        The other films are in `catalogue.left_out`.

        Raises:
            ValueError: see `catalogue`.
        """
        return [files.film for files in self.catalogue.films.values()]

    def skipped(self) -> Sequence[Skipped]:
        """Returns missing CSV files, skipped films, unusable rows, and the files without a row."""
        catalogue = self.catalogue
        skipped = [
            Skipped(
                "CSV file",
                "",
                f"{name} is missing: its lesions could be treated as healthy tissue",
            )
            for name in catalogue.missing_csv_names
        ]
        skipped += [
            Skipped("film", film.film_id, f"{film.path}: {film.reason}")
            for film in catalogue.left_out
        ]
        # A row that names its film is reported with the film, as a lesion or film left out.
        skipped += [
            Skipped("CSV row", "", f"{row.where}: {row.reason}")
            for row in catalogue.rejected_rows
            if not row.film_id
        ]
        if catalogue.num_unknown_files:
            count = catalogue.num_unknown_files
            reason = f"{count} .dcm or .jpg files are in folders without a CSV row"
            skipped.append(Skipped("other files", "", reason))
        return skipped

    def fingerprint(self, film: Film) -> str:
        """Returns the film's index entry, and the size and modification time of each file."""
        files = self.catalogue.films[film.film_id]
        paths = [files.path, *(path for lesion in files.lesions for path in lesion.paths)]
        states = [storage.state(self._root / path) for path in paths]
        return f"{files} {states}"

    def official_split(self, film: Film) -> str | None:
        """Returns TCIA's split of a film's patient, 'train' or 'test'; None if it is in both.

        31 patients are in the train file of one lesion type and the test file of the other.
        """
        splits = self.catalogue.official_splits[film.patient_id]
        return next(iter(splits)) if len(splits) == 1 else None

    def read(self, film: Film) -> Mammogram:
        """Returns the film's pixels and its lesions.

        A film that is in both a mass and a calcification file has the lesions from both. 8-bit
        films are scaled by 257 to 0..65535. A lesion whose mask is unusable (it does not fit the
        film, is empty or covers the whole film) is in `left_out`; draw only malignant patches from
        such a film.

        Raises:
            UnreadableFilmError: a file is damaged, or none of a lesion's files is a mask.
            StorageError: a file is temporarily unreadable.
            ValueError: the film does not belong to this source.
        """
        files = self.catalogue.films.get(film.film_id)
        if files is None:
            raise ValueError(f"film_id must be in the index; received {film.film_id!r}.")
        image = _grey(read_film(self._root / files.path), files.path)
        lesions, left_out = [], list(files.left_out)
        for lesion in files.lesions:
            try:
                mask = self._read_mask(lesion, image.shape)
            except UnusableMaskError as error:
                left_out.append(str(error))
            else:
                lesions.append(
                    Lesion(
                        lesion.lesion_type,
                        lesion.malignant,
                        mask,
                        description=lesion.description,
                    )
                )
        return Mammogram(film, image, tuple(lesions), tuple(left_out))

    def _read_mask(self, lesion: LesionFiles, film_shape: tuple[int, int]) -> np.ndarray:
        """Returns the lesion's mask, bool, on the film's grid."""
        candidates, errors = {}, []
        for path in lesion.paths:
            try:
                candidates[path] = read_pixels(self._root / path)
            except UnreadableFilmError as error:
                errors.append(error)
        path = _pick_mask(candidates, film_shape)
        if errors and (path is None or candidates[path].shape != film_shape):
            raise errors[0]  # the damaged file may be the mask, and the other one the crop
        if path is None:
            folder = self._root / lesion.paths[0]
            raise UnreadableFilmError(f"{folder.parent}: no file here is the mask of {lesion.name}")
        try:
            return _on_film_grid(lesion_mask.binary(candidates[path]), film_shape)
        except UnusableMaskError as error:
            raise UnusableMaskError(f"{self._root / path}: {error} ({lesion.name})") from None


def _grey(film: FilmPixels, path: str) -> np.ndarray:
    if film.scale.bits == 8:
        logging.log_first_n(
            logging.WARNING,
            "%s and perhaps other films have 8 bits per pixel, but TCIA's have 16: scaled by 257.",
            1,
            path,
        )
    elif film.scale.warning:
        logging.warning("%s: %s.", path, film.scale.warning)
    return film.grey


def _pick_mask(candidates: dict[str, np.ndarray], film_shape: tuple[int, int]) -> str | None:
    """Returns the path of the mask, distinguished from the crop by its pixels, or None.

    The mask has two values and covers the whole film; the crop is a greyscale image of a part
    of the film. The columns of the CSV files and the order of the files are wrong for many lesions.
    """
    masks = [p for p, pixels in candidates.items() if _has_two_values(pixels)]
    if not masks:
        masks = [p for p, pixels in candidates.items() if _fits(pixels.shape, film_shape)]
    return max(masks, key=lambda path: candidates[path].size, default=None)


def _has_two_values(pixels: np.ndarray) -> bool:
    low, high = pixels.min(), pixels.max()
    if np.all((pixels == low) | (pixels == high)):
        return True
    # JPEG blurs only the outline of a mask.
    return pixels.dtype == np.uint8 and np.mean((pixels >= 64) & (pixels < 192)) < 0.02


def _fits(shape: tuple[int, int], film_shape: tuple[int, int]) -> bool:
    """Returns whether a factor within the digitisers' range scales `shape` to the film's shape."""
    scale = film_shape[0] / shape[0]
    return (
        _MIN_MASK_SCALE <= scale <= _MAX_MASK_SCALE
        and abs(shape[1] * scale - film_shape[1]) <= _MASK_TOLERANCE_PIXELS
    )


def _on_film_grid(mask: np.ndarray, film_shape: tuple[int, int]) -> np.ndarray:
    """Resizes a mask to the film's shape by nearest-neighbour interpolation.

    Raises:
        UnusableMaskError: the digitisers' different pixel pitches do not explain the difference in
            size, so the mask belongs to another film or to a part of this film.
    """
    if mask.shape == film_shape:
        return mask
    if not _fits(mask.shape, film_shape):
        raise UnusableMaskError(
            f"the mask has {mask.shape[0]} x {mask.shape[1]} pixels and does not fit the film of "
            f"{film_shape[0]} x {film_shape[1]}"
        )
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(film_shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
