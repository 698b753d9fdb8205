"""Writes small CBIS-DDSM trees with given pixels, in the layouts of TCIA's tools and Kaggle."""

import csv
import dataclasses
import hashlib
import io
import pathlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
import pydicom

LAYOUTS = ("classic", "renamed", "rest", "descriptive", "descriptive NA", "series", "jpeg")
ARRANGEMENTS = ("mask first", "mask second", "split series", "swapped columns")

_COMMON = ("left or right breast", "image view", "abnormality id", "abnormality type")
_PATHS = ("image file path", "cropped image file path", "ROI mask file path")
_HEADERS = {
    "mass": (
        *("patient_id", "breast_density", *_COMMON, "mass shape", "mass margins"),
        *("assessment", "pathology", "subtlety", *_PATHS),
    ),
    "calcification": (
        *("patient_id", "breast density", *_COMMON, "calc type", "calc distribution"),
        *("assessment", "pathology", "subtlety", *_PATHS),
    ),
}


@dataclasses.dataclass(frozen=True)
class Abnormality:
    """A row of a CSV file with the pixels of its film and mask."""

    film: np.ndarray
    mask: np.ndarray
    patient_id: str = "P_00173"
    laterality: str = "LEFT"
    view: str = "CC"
    number: int = 1
    lesion_type: str = "mass"
    pathology: str = "BENIGN"
    split: str = "test"

    @property
    def film_id(self) -> str:
        return f"{self.patient_id}_{self.laterality}_{self.view}"

    @property
    def film_folder(self) -> str:
        table = "Mass" if self.lesion_type == "mass" else "Calc"
        return f"{table}-{'Training' if self.split == 'train' else 'Test'}_{self.film_id}"

    @property
    def lesion_folder(self) -> str:
        return f"{self.film_folder}_{self.number}"

    @property
    def crop(self) -> np.ndarray:
        rows, columns = (
            slice(np.flatnonzero(hit)[0], np.flatnonzero(hit)[-1] + 1)
            for hit in (self.mask.any(axis=1), self.mask.any(axis=0))
        )
        return self.film[rows, columns]


def uid(text: str) -> str:
    """Returns a UID like those of the collection, always the same for the same text."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:15], "big") % 10**36
    return f"1.3.6.1.4.1.9590.100.1.2.{number + 10**36}"


def csv_paths(abnormality: Abnormality, arrangement: str) -> tuple[str, str, str]:
    """Returns the cells for film, crop and mask with TCIA's file names, which may be wrong."""
    film, lesion = abnormality.film_folder, abnormality.lesion_folder
    film_cell = f"{film}/{uid(film + ' study')}/{uid(film)}/000000.dcm"
    crop, mask = (f"{lesion}/{uid(lesion + s + ' study')}/{uid(lesion + s)}" for s in (" c", " m"))
    if arrangement == "split series":
        return film_cell, f"{crop}/000000.dcm", f"{mask}/000000.dcm"
    if arrangement == "swapped columns":
        return film_cell, f"{mask}/000000.dcm", f"{crop}/000000.dcm"
    crop_name, mask_name = ("000000.dcm", "000001.dcm")[:: 1 if abnormality.number % 2 else -1]
    return film_cell, f"{mask}/{crop_name}", f"{mask}/{mask_name}"


def csv_text(abnormalities: Sequence[Abnormality], lesion_type: str, arrangement: str) -> str:
    """Returns a CSV file with a line end inside quotes in every row, like TCIA's files."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(_HEADERS[lesion_type])
    for a in abnormalities:
        film, crop, mask = csv_paths(a, arrangement)
        crop, mask = (crop, mask + "\n") if lesion_type == "mass" else (crop + "\n", mask)
        start = (a.patient_id, 2, a.laterality, a.view, a.number, lesion_type, "OVAL", "N/A", 3)
        writer.writerow((*start, a.pathology, 5, film, crop, mask))
    return text.getvalue()


def csv_name(lesion_type: str, split: str) -> str:
    """Returns TCIA's name of the file."""
    return f"{'mass' if lesion_type == 'mass' else 'calc'}_case_description_{split}_set.csv"


def write_csvs(root: pathlib.Path, abnormalities: Sequence[Abnormality], arrangement: str) -> None:
    """Writes the files, of four, that have rows."""
    root.mkdir(parents=True, exist_ok=True)
    for key in {(a.lesion_type, a.split) for a in abnormalities}:
        rows = [a for a in abnormalities if (a.lesion_type, a.split) == key]
        # write_text would convert the line ends inside quotes to those of the platform.
        (root / csv_name(*key)).write_bytes(csv_text(rows, key[0], arrangement).encode())


def write_tree(
    root: pathlib.Path,
    abnormalities: Sequence[Abnormality],
    layout: str = "classic",
    arrangement: str = "mask first",
) -> None:
    """Writes films, crops, masks and CSV files below `root`."""
    write_csvs(root / "csv", abnormalities, arrangement)
    for a in abnormalities:
        film = a.film_folder
        write_image(root / _path(layout, film, film, "full mammogram images", 1), a.film)
        lesion, mask = a.lesion_folder, a.mask.astype(np.uint8) * 255
        mask_series, crop_series = f"{lesion} m", f"{lesion} m"
        mask_number, crop_number = (2, 1) if arrangement == "mask second" else (1, 2)
        crop_description = "ROI mask images"
        if arrangement in ("split series", "swapped columns"):
            crop_series, crop_number, crop_description = f"{lesion} c", 1, "cropped images"
        write_image(root / _path(layout, lesion, mask_series, "ROI mask images", mask_number), mask)
        write_image(
            root / _path(layout, lesion, crop_series, crop_description, crop_number), a.crop
        )


def _path(layout: str, first_folder: str, series: str, description: str, number: int) -> str:
    study, series = uid(series + " study"), uid(series)
    match layout:
        case "classic":
            return f"CBIS-DDSM/{first_folder}/{study}/{series}/{number - 1:06d}.dcm"
        case "renamed":
            return f"CBIS-DDSM/{first_folder}/{study}/{series}/1-{number}.dcm"
        case "rest":
            return f"{first_folder}/{study}/{series}/1-{number:03d}.dcm"
        case "descriptive" | "descriptive NA":
            date = "07-21-2016-DDSM" + layout.removeprefix("descriptive").replace(" ", "-")
            folder = f"1.000000-{description}-{series[-5:]}"
            return (
                f"manifest-1/CBIS-DDSM/{first_folder}/{date}-{study[-5:]}/{folder}/1-{number}.dcm"
            )
        case "series":
            return f"{series}/1-{number}.dcm"
        case "jpeg":
            return f"jpeg/{series}/2-{203 + number}.jpg"


def write_image(path: pathlib.Path, pixels: np.ndarray) -> None:
    """Writes DICOM or JPEG (the upper 8 of 16 bits), depending on the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        pixels = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(path, quality=90)
    else:
        dicom(pixels).save_as(path)


def dicom(pixels: np.ndarray) -> pydicom.FileDataset:
    """Returns a secondary capture with the attributes of TCIA's films."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid("instance")
    dataset = pydicom.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "MG"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    return dataset
