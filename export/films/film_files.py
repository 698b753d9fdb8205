"""Reads films and lesion masks from files, and writes the files of a film with infilled lesions."""

import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
import pydicom
from etils import epath
from scipy import ndimage

from cigan_tf import file_io
from cigan_tf.errors import UserError
from tfds_ddsm import png_file
from tfds_ddsm.mammogram import StorageError, UnreadableFilmError
from tfds_ddsm.sources import image_file
from tfds_ddsm.sources.image_file import FilmPixels

from . import derived_dicom
from .before_after import before_after
from .film_infill import FilmLesion, InfilledLesion

_GREY_OF_CLASS = {False: 128, True: 255}
# Endings of the files written together; the film is last, so that its masks exist before it.
_ENDINGS = ("_seg.dcm", "_mask.png", "_before_after.png", ".dcm")
# Holes due to noise are smaller; holes of an outline or of an inverted mask are larger.
_MAX_HOLE_SHARE = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class FilmFile:
    """A film read from a file.

    Attributes:
        name: name or path of the file, for messages.
        film: the film's stored values and their meaning, and its header.
    """

    name: str
    film: FilmPixels

    @property
    def pixels(self) -> np.ndarray:
        """Grey levels, uint16 [height, width]; dense tissue is bright."""
        return self.film.grey

    @property
    def header(self) -> pydicom.Dataset | None:
        """The DICOM attributes without the pixels; None for other formats."""
        return self.film.header

    @property
    def warning(self) -> str | None:
        """One line if the depth of the film was estimated; otherwise None."""
        warning = self.film.scale.warning
        return None if warning is None else f"{self.name}: {warning}."


def read_film(data: bytes, name: str, bits: int | None = None, voi: bool = False) -> FilmFile:
    """Reads a film from the content of a DICOM, PNG, PGM, TIFF or JPEG file.

    Args:
        data: the content.
        name: name for messages.
        bits: depth of the film; None: given by the file, or estimated from its values.
        voi: whether to apply a DICOM file's VOI LUT or window.

    Raises:
        UserError: the content is damaged, is not a grey film, or cannot be decoded at present.
    """
    try:
        return FilmFile(name, image_file.decode_film(data, name, bits, voi))
    except (UnreadableFilmError, StorageError) as error:
        raise UserError(str(error)) from None


def read_mask(data: bytes, name: str) -> np.ndarray:
    """Reads a lesion mask from a greyscale image: bool, True above the middle of the image's range.

    Raises:
        UserError: the content is damaged, is not a greyscale image or cannot be decoded at present,
            or the bright pixels surround a hole.
    """
    try:
        pixels = image_file.decode(data, name)
    except (UnreadableFilmError, StorageError) as error:
        raise UserError(str(error)) from None
    low, high = int(pixels.min()), int(pixels.max())
    mask = pixels > ((low + high) / 2 if low < high else 0)
    hole = int(np.count_nonzero(ndimage.binary_fill_holes(mask))) - int(np.count_nonzero(mask))
    if hole > _MAX_HOLE_SHARE * np.count_nonzero(mask):
        raise UserError(
            f"{name}: the mask's bright pixels surround a hole of {hole} pixels. The lesion must "
            "be bright and filled. Is the image inverted, or an outline?"
        )
    return mask


def read_file(path: str | os.PathLike) -> bytes:
    """Returns the content of a film or a mask; raises UserError if it cannot be read."""
    try:
        # Only a path on this machine: that of a bucket loses its double slash.
        return image_file.read_file(epath.Path(pathlib.Path(path).expanduser()))
    except (UnreadableFilmError, StorageError) as error:
        raise UserError(f"{error}.") from None


def files_of(
    film: FilmFile,
    pixels: np.ndarray,
    lesions: Sequence[FilmLesion],
    seed: int,
    generator_id: str,
    keep_patient: bool = False,
) -> dict[str, bytes]:
    """Returns the files of a film with infilled lesions, by the ending of their names.

    Args:
        film: the source.
        pixels: uint16 [height, width], the grey levels after infilling.
        lesions: the infilled lesions.
        seed: seed of the first infill; each following infill adds 1.
        generator_id: identifies the generator, at most 64 characters.
        keep_patient: whether the film stays with the source's patient and study; otherwise it is in
            a new study without patient data.

    Returns:
        `_seg.dcm`: the lesions' masks as a DICOM segmentation. `_mask.png`: the same as one image,
        uint8 [height, width]: 0 outside, 128 non-malignant, 255 malignant. `.dcm`: the film. These
        three record the class and the seed of every infill. `_before_after.png`: a picture of both
        films.

    Raises:
        UserError: the source's attributes do not allow a valid DICOM object.
    """
    dicom = dicom_files(film, pixels, lesions, seed, generator_id, keep_patient)
    picture = np.zeros(pixels.shape, np.uint8)
    for lesion in lesions:
        picture[lesion.on_film(pixels.shape)] = _GREY_OF_CLASS[lesion.malignant]
    comment = derived_dicom.description(lesions, seed)
    return {
        "_seg.dcm": dicom["_seg.dcm"],
        "_mask.png": png_file.encode(picture[..., None], comment),
        "_before_after.png": before_after(film.pixels, pixels, lesions),
        ".dcm": dicom[".dcm"],
    }


def dicom_files(
    film: FilmFile,
    pixels: np.ndarray,
    lesions: Sequence[FilmLesion],
    seed: int,
    generator_id: str,
    keep_patient: bool = False,
) -> dict[str, bytes]:
    """Returns `.dcm` and `_seg.dcm` of `files_of`, which has the same arguments and errors."""
    try:
        with image_file.refusing(film.name):
            infilled = film.film.with_grey(pixels)
            derived = derived_dicom.derived_film(
                infilled, lesions, seed, generator_id, keep_patient
            )
            masks = derived_dicom.segmentation(derived, lesions, seed, generator_id)
            datasets = {".dcm": derived, "_seg.dcm": masks}
            return {ending: derived_dicom.to_bytes(d) for ending, d in datasets.items()}
    except UnreadableFilmError as error:
        raise UserError(str(error)) from None


def zipped_patches(lesions: Sequence[FilmLesion], parts: Sequence[InfilledLesion]) -> bytes:
    """Returns a zip file with the infilled patches as 16-bit PNGs, and their masks as 8-bit PNGs.

    Args:
        lesions: the infilled lesions.
        parts: the result of each infill, in the same order.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (lesion, part) in enumerate(zip(lesions, parts, strict=True), 1):
            mask = part.patch_mask.astype(np.uint8) * 255
            for ending, picture in (("", part.patch), ("_mask", mask)):
                name = f"patch_{number}_{lesion.label}_seed_{part.seed}{ending}.png"
                archive.writestr(name, png_file.encode(picture[..., None]))
    return buffer.getvalue()


def check_outputs(output: pathlib.Path, inputs: Sequence[str], overwrite: bool) -> None:
    """Raises UserError if `write_files` could not write a file, or must not replace it.

    Args:
        output: path of the film to write.
        inputs: files that were read; they are never replaced.
        overwrite: whether other files may be replaced.
    """
    read = [pathlib.Path(path).expanduser() for path in inputs]
    for path in _paths_of(output):
        try:
            is_there = path.exists()
            is_read = is_there and any(one.exists() and path.samefile(one) for one in read)
        except OSError as error:
            raise UserError(
                f"output {str(path)!r} cannot be written: {error.strerror}; pass another name."
            ) from None
        if is_read:
            raise UserError(
                f"output {str(output)!r} would overwrite the input {str(path)!r}; "
                "pass another name."
            )
        if is_there and not overwrite:
            raise UserError(
                f"output {str(path)!r} already exists; pass another name, or --overwrite."
            )


def write_files(output: pathlib.Path, files: dict[str, bytes]) -> list[pathlib.Path]:
    """Writes the result of `files_of`.

    Raises:
        UserError: the folder cannot be written.
    """
    paths = _paths_of(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        for path, ending in zip(paths, _ENDINGS, strict=True):
            file_io.write_whole(path, files[ending])
    except OSError as error:
        raise UserError(f"output {str(output)!r} cannot be written: {error.strerror}.") from None
    return paths


def _paths_of(output: pathlib.Path) -> list[pathlib.Path]:
    return [output.with_name(output.stem + ending) for ending in _ENDINGS]
