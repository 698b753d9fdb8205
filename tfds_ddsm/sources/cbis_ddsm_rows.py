"""Parses the four CSV files of CBIS-DDSM, which have one row for each marked lesion.

The files contain line ends inside quoted cells, two spellings of one column and, if saved by a
spreadsheet, other separators, line ends and byte order marks. No text of a row is used to open a
file: folder names are looked up among the folders found on disk.
"""

import csv
import dataclasses
import io
import re

from etils import epath

from tfds_ddsm.mammogram import Description, UnreadableFilmError, grade
from tfds_ddsm.sources import storage

CSV_NAMES = tuple(
    f"{table}_case_description_{split}_set.csv"
    for table in ("mass", "calc")
    for split in ("train", "test")
)

_COLUMNS = (
    "patient id",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "pathology",
    "image file path",
    "cropped image file path",
    "roi mask file path",
)
# These may be missing; the calcification files have no shape and no margins.
_DESCRIPTION_COLUMNS = ("assessment", "subtlety", "mass shape", "mass margins")
_TABLES = ("Mass-Training", "Mass-Test", "Calc-Training", "Calc-Test")
_IS_MALIGNANT = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
_PATIENT_ID = re.compile(r"P_[0-9]{5}")
_ABNORMALITY_ID = re.compile(r"[0-9]{1,3}")
_SERIES_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_MAX_CSV_BYTES = 64 * 2**20  # the largest of the four files has 1 MB


@dataclasses.dataclass(frozen=True)
class Row:
    """One marked lesion on one copy of a film.

    Attributes:
        where: CSV file and line, for messages.
        official_split: 'train' or 'test', from the name of the CSV file.
        patient_id: such as 'P_00016'.
        laterality: 'LEFT' or 'RIGHT'.
        view: 'CC' or 'MLO'.
        lesion_type: 'mass' or 'calcification'.
        abnormality_id: number of the lesion on this copy of the film; the numbers of a film do not
            always start at 1.
        malignant: proven by pathology; False for benign with or without callback.
        density: BI-RADS density of the breast, 1 to 4; -1 if not recorded.
        description: how the radiologist described the lesion.
        film_folder: first folder of the film's path, such as 'Mass-Test_P_00016_LEFT_CC'.
        film_series: series UID of the film, the name of the folder with the file.
        lesion_folder: first folder of the lesion's crop and mask, such as
            'Mass-Test_P_00016_LEFT_CC_1'.
        lesion_series: series UIDs of crop and mask, one or two, in no meaningful order.
    """

    where: str
    official_split: str
    patient_id: str
    laterality: str
    view: str
    lesion_type: str
    abnormality_id: int
    malignant: bool
    density: int
    description: Description
    film_folder: str
    film_series: str
    lesion_folder: str
    lesion_series: tuple[str, ...]

    @property
    def film_id(self) -> str:
        """Id of the film, the same for its copies in a mass and a calcification file."""
        return f"{self.patient_id}_{self.laterality}_{self.view}"


@dataclasses.dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used.

    Attributes:
        where: CSV file and line.
        reason: why it cannot be used.
        film_id: the film with the lesion; '' if the row does not name it, or only repeats a row.
        patient_id: the patient; '' if the row does not name one.
        official_split: 'train' or 'test', from the name of the CSV file.
    """

    where: str
    reason: str
    film_id: str
    patient_id: str
    official_split: str


class _BadCellError(Exception):
    """A cell is invalid; the message names the cell and the rule."""


def read_rows(path: epath.Path) -> tuple[list[Row], list[RejectedRow]]:
    """Reads one of the four files.

    Args:
        path: the file; its name, one of `CSV_NAMES`, gives the official split.

    Returns:
        The usable rows and the others, both in the order of the file.

    Raises:
        ValueError: the file as a whole cannot be read: encoding, quoting or a missing column.
        StorageError: the file is temporarily unreadable.
    """
    text = _decode(path)
    # newline="" leaves the line ends inside quoted cells to the csv module.
    lines = io.StringIO(text, newline="")
    first_line = text.splitlines()[0] if text.strip() else ""
    reader = csv.reader(lines, delimiter=max(",;\t", key=first_line.count), strict=True)
    official_split = "train" if "train" in path.name.lower() else "test"
    rows, rejected = [], []
    header, next_line = None, 1
    try:
        for cells in reader:
            line, next_line = next_line, reader.line_num + 1
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue  # spreadsheets append lines of separators
            if header is None:
                header = _check_header(path, cells)
                continue
            row = _parse(
                dict(zip(header, cells, strict=False)), f"{path} line {line}", official_split
            )
            (rows if isinstance(row, Row) else rejected).append(row)
    except csv.Error as error:
        raise ValueError(
            f"{path} line {next_line}: the file is not well-formed CSV: {error}; download it again "
            "from TCIA."
        ) from error
    if header is None:
        raise ValueError(f"{path}: the file is empty; download it again from TCIA.")
    return rows, rejected


def read_csv(path: epath.Path) -> bytes:
    """Returns the content of one of the four files.

    Raises:
        ValueError: the file is missing or too large.
        StorageError: it is temporarily unreadable.
    """
    try:
        return storage.read_bytes(path, _MAX_CSV_BYTES)
    except UnreadableFilmError as error:
        raise ValueError(f"{error}; download it again from TCIA.") from None


def _decode(path: epath.Path) -> str:
    data = read_csv(path)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: the file is not text in {encoding}: {error.reason}; download it again from "
            "TCIA."
        ) from error


def _check_header(path: epath.Path, cells: list[str]) -> list[str]:
    """Returns the column names; the mass files have `breast_density`, the others a space."""
    header = [cell.lower().replace("_", " ") for cell in cells]
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise ValueError(
            f"{path}: the first line must name the column {missing[0]!r}; received {cells}."
        )
    return header


def _parse(cells: dict[str, str], where: str, official_split: str) -> Row | RejectedRow:
    film_id = patient_id = ""
    try:
        patient_id = _matching(cells, "patient id", _PATIENT_ID)
        laterality = _one_of(cells, "left or right breast", ("LEFT", "RIGHT"))
        view = _one_of(cells, "image view", ("CC", "MLO"))
        film_id = f"{patient_id}_{laterality}_{view}"
        abnormality_id = _matching(cells, "abnormality id", _ABNORMALITY_ID)
        lesion_type = _one_of(cells, "abnormality type", ("MASS", "CALCIFICATION")).lower()
        pathology = _one_of(cells, "pathology", tuple(_IS_MALIGNANT))
        film_folder, film_series = _folders(cells, "image file path", film_id)
        lesion_id = f"{film_id}_{abnormality_id}"
        crop_folder, crop_series = _folders(cells, "cropped image file path", lesion_id)
        mask_folder, mask_series = _folders(cells, "roi mask file path", lesion_id)
        if crop_folder != mask_folder:
            raise _BadCellError(
                f"crop and mask must be in the same folder; received {crop_folder} and "
                f"{mask_folder}"
            )
    except _BadCellError as error:
        return RejectedRow(where, str(error), film_id, patient_id, official_split)
    return Row(
        where=where,
        official_split=official_split,
        patient_id=patient_id,
        laterality=laterality,
        view=view,
        lesion_type=lesion_type,
        abnormality_id=int(abnormality_id),
        malignant=_IS_MALIGNANT[pathology],
        density=grade(cells.get("breast density", ""), 1, 4),
        description=Description.from_text(
            *(cells.get(column, "") for column in _DESCRIPTION_COLUMNS)
        ),
        film_folder=film_folder,
        film_series=film_series,
        lesion_folder=mask_folder,
        lesion_series=tuple(sorted({crop_series, mask_series})),
    )


def _matching(cells: dict[str, str], column: str, pattern: re.Pattern) -> str:
    value = cells.get(column, "")
    if not pattern.fullmatch(value):
        raise _BadCellError(f"{column!r} must match {pattern.pattern}; received {_short(value)}")
    return value


def _one_of(cells: dict[str, str], column: str, choices: tuple[str, ...]) -> str:
    value = cells.get(column, "").upper()
    if value not in choices:
        raise _BadCellError(f"{column!r} must be {' or '.join(choices)}; received {_short(value)}")
    return value


def _folders(cells: dict[str, str], column: str, subject: str) -> tuple[str, str]:
    """Returns first folder and series UID of `<first folder>/<study UID>/<series UID>/<file>`.

    The first folder repeats patient, side, view and lesion. Comparing them detects files in which a
    spreadsheet has sorted only some columns, so that films would get the labels of other films.
    """
    value = cells.get(column, "")
    first, _, series = ["", "", "", *value.replace("\\", "/").split("/")][-4:-1]
    if first not in {f"{table}_{subject}" for table in _TABLES}:
        raise _BadCellError(
            f"{column!r} must start with the folder of {subject}; received {_short(value)}"
        )
    if not _SERIES_UID.fullmatch(series):
        raise _BadCellError(
            f"{column!r} must have a series UID as its third folder; received {_short(value)}"
        )
    return first, series


def _short(value: str) -> str:
    """Returns text from a file for a message: quoted, escaped, at most 80 characters."""
    return ascii(value[:80]) + ("..." if len(value) > 80 else "")
