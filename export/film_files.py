"""Films and lesion masks from files, and the files of a film with infilled lesions."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pydicom

from cigan_tf import workdir
from cigan_tf.errors import UserError
from export import derived_dicom
from export.film_infill import FilmLesion
from tfds_ddsm import png_file
from tfds_ddsm.mammogram import UnreadableFilmError
from tfds_ddsm.sources import image_file
from tfds_ddsm.sources.image_file import FilmPixels

_GREY_OF_CLASS = {False: 128, True: 255}


@dataclasses.dataclass(frozen=True, eq=False)
class FilmFile:
    """A film as it was read.

    Attributes:
        name: the file's name or path, for messages.
        film: what the file holds, and what its stored values mean.
    """

    name: str
    film: FilmPixels

    @property
    def pixels(self) -> np.ndarray:
        """Grey levels, uint16 [height, width], bright is dense tissue."""
        return self.film.grey

    @property
    def header(self) -> pydicom.Dataset | None:
        """The DICOM attributes without the pixels; None for other files."""
        return self.film.header

    @property
    def warning(self) -> str | None:
        """One line, where the depth of the film had to be guessed; else None."""
        warning = self.film.scale.warning
        return None if warning is None else f"{self.name}: {warning}."


def read_film(data: bytes, name: str, bits: int | None = None, voi: bool = False) -> FilmFile:
    """Reads a film from the content of a DICOM, PNG, PGM, TIFF or JPEG file.

    Args:
        data: the content.
        name: for messages.
        bits: depth of the film; None: as the file says, or its values suggest.
        voi: whether to apply a DICOM file's VOI LUT or window.

    Raises:
        UserError: the content is damaged or no grey film.
    """
    try:
        return FilmFile(name, image_file.decode_film(data, name, bits, voi))
    except UnreadableFilmError as error:
        raise UserError(str(error)) from None


def read_mask(data: bytes, name: str) -> np.ndarray:
    """Reads a lesion mask from a grey picture: bool, True above 0.

    Raises:
        UserError: the content is damaged or no grey picture.
    """
    try:
        return image_file.decode(data, name) > 0
    except UnreadableFilmError as error:
        raise UserError(str(error)) from None


def read_file(path: str | os.PathLike) -> bytes:
    """Returns a file's content; raises UserError where it is missing."""
    try:
        return pathlib.Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}.") from None


def files_of(
    film: FilmFile, pixels: np.ndarray, lesions: Sequence[FilmLesion], generator_id: str
) -> dict[str, bytes]:
    """Returns the files of a film with infilled lesions, by what follows the name of the output.

    Returns:
        `_seg.dcm`: the lesions' masks as DICOM segmentation. `_mask.png`: the same as one picture,
        uint8 [height, width]: 0 outside, 128 non-malignant, 255 malignant. `.dcm`: the film.

    Raises:
        UserError: the source's attributes make no valid DICOM object.
    """
    try:
        with image_file.refusing(film.name):
            infilled = film.film.with_grey(pixels)
            derived = derived_dicom.derived_film(infilled, lesions, generator_id)
            masks = derived_dicom.segmentation(derived, lesions, generator_id)
            dicom_files = [derived_dicom.to_bytes(dataset) for dataset in (masks, derived)]
    except UnreadableFilmError as error:
        raise UserError(str(error)) from None
    picture = np.zeros(pixels.shape, np.uint8)
    for lesion in lesions:
        picture[lesion.on_film(pixels.shape)] = _GREY_OF_CLASS[lesion.malignant]
    return {
        "_seg.dcm": dicom_files[0],
        "_mask.png": png_file.encode(picture[..., None]),
        ".dcm": dicom_files[1],
    }


def write_files(output: pathlib.Path, files: dict[str, bytes]) -> list[pathlib.Path]:
    """Writes the files beside each other, the film last: where it is, its masks are.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = [output.with_name(output.stem + ending) for ending in files]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, files.values(), strict=True):
            workdir.write_whole(path, content)
    except OSError as error:
        raise UserError(f"output {str(output)!r} cannot be written: {error.strerror}.") from None
    return paths
