"""Parses films.csv, the table of a user's own films: a row per lesion, or per film without lesions.

A film with an invalid row is skipped, because a lesion in that row could otherwise be treated as
healthy tissue.
"""

import collections
import csv
import dataclasses
import hashlib
import io
import math
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence

from tfds_ddsm.mammogram import OTHER_LESION, SPLITS, Description, Film, grade
from tfds_ddsm.sources.lesion_shapes import Box, Circle, Polygon, Shape

TABLE_NAME = "films.csv"

LABELS = ("malignant", "benign", "normal")
_REQUIRED = ("film", "patient_id", "label")
_BOX = ("row_min", "row_max", "col_min", "col_max")
_CIRCLE = ("center_row", "center_col", "radius")
# These must be equal in all rows of a film.
_OF_FILM = ("patient_id", "laterality", "view", "split", "scanner", "density", "bits")
_DESCRIPTION = ("assessment", "subtlety", "mass_shape", "mass_margins")
COLUMNS = (
    *("film", "label", "lesion_type", *_OF_FILM, *_DESCRIPTION),
    *("mask", *_BOX, *_CIRCLE, "polygon", "origin"),
)

_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TEXT = re.compile(r"[ -~]{1,64}")
_LATERALITIES = {"L": "LEFT", "LEFT": "LEFT", "R": "RIGHT", "RIGHT": "RIGHT"}
_TYPES = {
    **{"mass": "mass", "masses": "mass", "calc": "calcification"},
    **{"calcification": "calcification", "calcifications": "calcification"},
    **{"microcalcification": "calcification", "microcalcifications": "calcification"},
}
_DENSITIES = dict(zip("ABCD", (1, 2, 3, 4), strict=True))
_LARGEST_NUMBER = 1e6
_BEYOND_HEADER = "BEYOND"  # key of a row's first cell without a column; names are lower case
_MAX_ID = 100
# Each takes a mask of the film's size. Films of INbreast have up to 300 outlined calcifications.
_MAX_LESIONS = 500


@dataclasses.dataclass(frozen=True)
class LesionLine:
    """A lesion of the table.

    Attributes:
        where: such as 'films.csv line 3', for messages.
        malignant: True for malignant, False for benign.
        lesion_type: 'mass', 'calcification' or 'other'.
        shape: the lesion's outline; None if the lesion has a mask or an unknown location.
        mask: path of the lesion's mask relative to the table's folder, or ''.
        from_bottom: whether rows are counted from the film's bottom.
        description: the radiologist's description.
    """

    # Not compared, because the number changes if earlier lines are added or removed.
    where: str = dataclasses.field(compare=False, repr=False)
    malignant: bool
    lesion_type: str
    shape: Shape | None
    mask: str
    from_bottom: bool
    description: Description

    @property
    def has_place(self) -> bool:
        """Whether the table contains the lesion's location on the film."""
        return bool(self.shape or self.mask)


@dataclasses.dataclass(frozen=True)
class FilmLines:
    """A film of the table.

    Attributes:
        film: its entry in the source's index.
        path: the film's file relative to the table's folder.
        bits: the film's bit depth; None if not given.
        lesions: in the table's order.
    """

    film: Film
    path: str
    bits: int | None
    lesions: tuple[LesionLine, ...]


@dataclasses.dataclass(frozen=True)
class Fault:
    """An invalid row.

    Attributes:
        film_id: the film skipped because of this row; '' if the row names none.
        reason: file, line number and error.
    """

    film_id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class FilmsTable:
    """All of films.csv.

    Attributes:
        films: by film_id, sorted.
        faults: in the table's order.
        num_lines: number of rows below the header.
        unused_columns: unknown columns.
        splits: by patient_id, the only split that the table gives, also in invalid rows.
    """

    films: Mapping[str, FilmLines]
    faults: tuple[Fault, ...]
    num_lines: int
    unused_columns: tuple[str, ...]
    splits: Mapping[str, str]


class _LineError(ValueError):
    """An invalid row; the message does not include the file and line number."""


def parse_table(text: str) -> FilmsTable:
    """Reads the table.

    Column names may be in capitals and in any order. The separator may also be ';', as written by
    spreadsheets in some countries.

    Raises:
        ValueError: the text is not a table with the required columns.
    """
    header, rows = _rows(text)
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise ValueError(
            f"{TABLE_NAME}: the columns {', '.join(_REQUIRED)} are required; missing: "
            f"{', '.join(missing)}; received {', '.join(header)[:200] or 'none'}."
        )
    lines, faults, without_film = collections.defaultdict(list), [], []
    for line, cells in rows:
        where = f"{TABLE_NAME} line {line}"
        row = {name: cells.get(name, "") for name in (*COLUMNS, _BEYOND_HEADER)}
        try:
            path = _path_below(row["film"], "film")
        except _LineError as error:
            faults.append(("", f"{where}: {error}"))
            without_film.append([row])
        else:
            lines[path].append((where, row))
    film_ids = _film_ids(lines)
    films = {}
    for path, of_film in lines.items():
        try:
            films[film_ids[path]] = _film_lines(film_ids[path], path, of_film)
        except _LineError as error:
            faults.append((film_ids[path], str(error)))
    by_film = [[row for _, row in of_film] for of_film in lines.values()]
    splits = _splits([*by_film, *without_film])
    faults += _in_two_splits(films, splits)
    left_out = {film_id for film_id, _ in faults}
    return FilmsTable(
        films={film_id: films[film_id] for film_id in sorted(films.keys() - left_out)},
        faults=tuple(Fault(film_id, reason) for film_id, reason in faults),
        num_lines=len(rows),
        unused_columns=tuple(name for name in header if name and name not in COLUMNS),
        splits={patient: min(named) for patient, named in splits.items() if len(named) == 1},
    )


def _rows(text: str) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Returns the header, and the line number and cells of every row that is not blank."""
    first = text.split("\n", 1)[0]
    delimiter = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header, rows = [], []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            if not header:
                header = [cell.lower() for cell in cells]
                while not header[-1]:  # spreadsheets keep cleared columns
                    header.pop()
                names = [name for name in header if name]
                if len(set(names)) < len(names):
                    raise ValueError(
                        f"{TABLE_NAME}: column names must be unique; received {', '.join(names)}."
                    )
            else:
                row = dict(zip(header, cells, strict=False))
                row[_BEYOND_HEADER] = next(filter(None, cells[len(header) :]), "")
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise ValueError(f"{TABLE_NAME} line {reader.line_num}: {error}.") from None
    return header, rows


def _path_below(text: str, column: str) -> str:
    path = posixpath.normpath(text.replace("\\", "/")) if text else ""
    if not path or path == "." or path.startswith(("/", "../")) or path == "..":
        raise _LineError(
            f"{column} must be the path of a file below the folder of {TABLE_NAME}; received "
            f"{text!r}"
        )
    return path


def _film_ids(paths: Iterable[str]) -> dict[str, str]:
    """Returns an id for each path, with the path's own characters if possible."""
    plain = {path: re.sub(r"[^A-Za-z0-9.-]+", "_", path) for path in paths}
    counts = collections.Counter(plain.values())
    ids = {}
    for path, name in plain.items():
        if counts[name] > 1 or len(name) > _MAX_ID:
            name = f"{name[-_MAX_ID:]}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"
        ids[path] = name
    return ids


def _film_lines(
    film_id: str, path: str, lines: Sequence[tuple[str, Mapping[str, str]]]
) -> FilmLines:
    """Joins the rows of one film.

    Raises:
        _LineError: a row is invalid, or rows contradict each other.
    """
    of_film = {}
    for where, row in lines:
        for name in _OF_FILM:
            value, (first, known) = row[name], of_film.get(name, ("", ""))
            if value and known and value != known:
                raise _LineError(
                    f"{where}: {name} of the film {path} is {value!r}, but {known!r} in {first}"
                )
            if value and not known:
                of_film[name] = where, value
    values = {name: of_film.get(name, ("", ""))[1] for name in _OF_FILM}
    where = lines[0][0]
    if not values["patient_id"]:
        raise _LineError(f"{where}: the film {path} has no patient_id")
    if not _ID.fullmatch(values["patient_id"]):
        raise _LineError(
            f"{where}: patient_id must consist of 1 to 64 letters, digits, '.', '_' or '-'; "
            f"received {values['patient_id']!r}"
        )
    lesions = []
    for line_where, row in lines:
        try:
            lesion = _lesion(line_where, row)
        except _LineError as error:
            raise _LineError(f"{line_where}: {error}") from None
        if lesion and lesion not in lesions:  # a repeated row is one lesion
            lesions.append(lesion)
        if len(lesions) > _MAX_LESIONS:
            raise _LineError(
                f"{line_where}: the film {path} must have at most {_MAX_LESIONS} lesions; received "
                "more: list those that are close together as one lesion with a mask"
            )
    labels = {row["label"].lower() for _, row in lines}
    if "normal" in labels and len(labels) > 1:
        raise _LineError(f"{where}: the film {path} is normal in one row but not in another")
    try:
        _check_split(values["split"])
        bits = _bits(values["bits"])
        film = _film(film_id, values, lesions)
    except _LineError as error:
        raise _LineError(f"{where}: {error}") from None
    return FilmLines(film, path, bits, tuple(lesions))


def _film(film_id: str, values: Mapping[str, str], lesions: Sequence[LesionLine]) -> Film:
    placed = [lesion.malignant for lesion in lesions if lesion.has_place]
    for name in ("view", "scanner"):
        if values[name] and not _TEXT.fullmatch(values[name]):
            raise _LineError(
                f"{name} must have at most 64 ASCII characters; received {values[name]!r}"
            )
    laterality = values["laterality"].upper()
    if laterality and laterality not in _LATERALITIES:
        raise _LineError(f"laterality must be LEFT or RIGHT; received {values['laterality']!r}")
    density = values["density"].upper()
    return Film(
        film_id=film_id,
        patient_id=values["patient_id"],
        laterality=_LATERALITIES.get(laterality, "unknown"),
        view=values["view"].upper() or "unknown",
        scanner=values["scanner"] or "unknown",
        num_malignant=placed.count(True),
        num_benign=placed.count(False),
        density=_DENSITIES.get(density, grade(density, 1, 4)),
    )


def _check_split(text: str) -> None:
    if text.lower() not in ("", *SPLITS):
        raise _LineError(f"split must be one of {', '.join(SPLITS)}; received {text!r}")


def _bits(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,2}", text, re.ASCII) or not 8 <= int(text) <= 16:
        raise _LineError(f"bits must be an integer from 8 to 16; received {text!r}")
    return int(text)


def _lesion(where: str, row: Mapping[str, str]) -> LesionLine | None:
    """Returns the lesion of a row, or None if its film is normal."""
    if row[_BEYOND_HEADER]:
        raise _LineError(
            "a row must not have more cells than the header; received the extra cell "
            f"{row[_BEYOND_HEADER][:40]!r}: enclose text that contains commas in quotation marks"
        )
    label = row["label"].lower()
    if label not in LABELS:
        raise _LineError(f"label must be one of {', '.join(LABELS)}; received {row['label']!r}")
    given = [
        name
        for name, columns in (
            ("mask", ("mask",)),
            ("box", _BOX),
            ("circle", _CIRCLE),
            ("polygon", ("polygon",)),
        )
        if any(row[column] for column in columns)
    ]
    if len(given) > 1:
        raise _LineError(
            "a lesion must have only one of mask, box, circle and polygon; received "
            f"{' and '.join(given)}"
        )
    if label == "normal":
        if given:
            raise _LineError(f"a normal film must have no lesion; received a {given[0]}")
        return None
    origin = row["origin"].lower()
    if origin not in ("", "top", "bottom"):
        raise _LineError(f"origin must be top or bottom; received {row['origin']!r}")
    type_words = row["lesion_type"].lower()
    return LesionLine(
        where=where,
        malignant=label == "malignant",
        lesion_type=_TYPES.get(type_words, OTHER_LESION),
        shape=_shape(given[0], row) if given and given != ["mask"] else None,
        mask=_path_below(row["mask"], "mask") if given == ["mask"] else "",
        from_bottom=origin == "bottom",
        description=Description.from_text(*(row[name] for name in _DESCRIPTION)),
    )


def _shape(kind: str, row: Mapping[str, str]) -> Shape:
    if kind == "polygon":
        return _polygon(row["polygon"])
    columns = _BOX if kind == "box" else _CIRCLE
    missing = [name for name in columns if not row[name]]
    if missing:
        raise _LineError(f"a {kind} needs {', '.join(columns)}; missing: {', '.join(missing)}")
    numbers = {name: _number(row[name], name) for name in columns}
    if kind == "circle":
        if numbers["radius"] <= 0:
            raise _LineError(f"radius must be larger than 0; received {row['radius']!r}")
        return Circle(**numbers)
    box = Box(**numbers)
    if box.row_min > box.row_max or box.col_min > box.col_max:
        raise _LineError(
            "row_min and col_min must be at most row_max and col_max; received rows "
            f"{box.row_min:g} to {box.row_max:g}, columns {box.col_min:g} to {box.col_max:g}"
        )
    return box


def _polygon(text: str) -> Polygon:
    points = []
    for pair in text.split():
        numbers = pair.split(",")
        if len(numbers) != 2:
            raise _LineError(
                f"polygon must be 'row,col row,col ...'; received the point {pair[:40]!r}"
            )
        points.append((_number(numbers[0], "polygon row"), _number(numbers[1], "polygon column")))
    if len(set(points)) < 3:
        raise _LineError(
            f"polygon must have at least 3 distinct points; received {len(set(points))}"
        )
    return Polygon(tuple(points))


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST_NUMBER:
        raise _LineError(
            f"{name} must be a number of pixels from -{_LARGEST_NUMBER:.0f} to "
            f"{_LARGEST_NUMBER:.0f}; received {text[:40]!r}"
        )
    return value


def _splits(by_film: Iterable[Sequence[Mapping[str, str]]]) -> dict[str, set[str]]:
    """Returns the splits given for each patient, also in rows that are invalid otherwise.

    If they did not count, correcting a row or skipping it could move the patient to another split.

    Args:
        by_film: the rows of each film, any of which may contain the patient and the split.
    """
    splits = collections.defaultdict(set)
    for rows in by_film:
        of_film = [{row[name] for row in rows} - {""} for name in ("patient_id", "split")]
        for row in rows:
            for patient_id in {row["patient_id"]} - {""} or of_film[0]:
                named = {row["split"]} - {""} or of_film[1]
                splits[patient_id] |= {split.lower() for split in named} & set(SPLITS)
    return splits


def _in_two_splits(
    films: Mapping[str, FilmLines], splits: Mapping[str, set[str]]
) -> list[tuple[str, str]]:
    """Returns a fault for every film of a patient who is in different splits."""
    return [
        (
            film_id,
            f"{TABLE_NAME}: the patient {lines.film.patient_id} of the film {lines.path} is in the "
            f"splits {' and '.join(sorted(splits[lines.film.patient_id]))}",
        )
        for film_id, lines in sorted(films.items())
        if len(splits[lines.film.patient_id]) > 1
    ]
