"""Finds the films of CBIS-DDSM on disk, from any download tool, without reading pixels.

TCIA provides three forms of one tree, and Kaggle a fourth:

    classic       Mass-Test_P_00016_LEFT_CC/<study UID>/<series UID>/1-1.dcm
    descriptive   Mass-Test_P_00016_LEFT_CC/10-04-2016-DDSM-09887/1.000000-full mammogram.../1-1.dcm
    series        <series UID>/1-001.dcm
    JPEG copy     jpeg/<series UID>/1-249.jpg

A file belongs to the outermost folder above it that the CSV files name, as first folder or as
series UID. File names are not used: tools count from 0 or 1, with one to six digits.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from tfds_ddsm.mammogram import LESION_TYPES, NOT_RECORDED, Description, Film
from tfds_ddsm.sources import cbis_ddsm_rows, folders
from tfds_ddsm.sources.cbis_ddsm_rows import CSV_NAMES, RejectedRow, Row
from tfds_ddsm.sources.image_file import JPEG_SUFFIXES

_IMAGE_SUFFIXES = (".dcm", *JPEG_SUFFIXES)
_UID = re.compile(r"[0-9]+(\.[0-9]+){3,}")
_NUM_LESION_FILES = 2  # crop and mask

_Files = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class LesionFiles:
    """One marked lesion and its files: crop and mask, which can be told apart only by their pixels.

    Attributes:
        name: such as 'P_00016_LEFT_CC mass 1', for messages.
        lesion_type: 'mass' or 'calcification'.
        malignant: proven by pathology.
        paths: files relative to the root, crop and mask in unreliable order.
        description: how the radiologist described the lesion.
    """

    name: str
    lesion_type: str
    malignant: bool
    paths: tuple[str, ...]
    description: Description


@dataclasses.dataclass(frozen=True)
class FilmFiles:
    """A film of the index with its files.

    Attributes:
        film: the film's entry in the index.
        path: file of its pixels, relative to the root.
        lesions: every usable lesion, from all copies of the film.
        left_out: one line for each rejected row of the film.
    """

    film: Film
    path: str
    lesions: tuple[LesionFiles, ...]
    left_out: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LeftOutFilm:
    """A film in the CSV files that is not in the index.

    Attributes:
        film_id: the id it would have in the index.
        path: the missing or incomplete folder, or the CSV file and line.
        reason: why it is not in the index.
    """

    film_id: str
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class CbisDdsmIndex:
    """All facts about the data that are known before any pixels are read.

    Attributes:
        films: by film_id, sorted.
        left_out: films of the CSV files that have missing files or no usable row, sorted.
        rejected_rows: CSV rows that cannot be used, or repeat another row.
        csv_paths: the CSV files that were read.
        missing_csv_names: those of `CSV_NAMES` that were not found.
        num_files_by_layout: number of image files with a CSV row, by the layout of their tree.
        num_unknown_files: image files in folders without a CSV row.
        official_splits: by patient_id, the splits of TCIA's files that list the patient.
    """

    films: Mapping[str, FilmFiles]
    left_out: tuple[LeftOutFilm, ...]
    rejected_rows: tuple[RejectedRow, ...]
    csv_paths: tuple[str, ...]
    missing_csv_names: tuple[str, ...]
    num_files_by_layout: Mapping[str, int]
    num_unknown_files: int
    official_splits: Mapping[str, frozenset[str]]


def build_index(root: epath.Path) -> CbisDdsmIndex:
    """Walks the tree below `root` once and matches its folders with the rows of the CSV files.

    Raises:
        ValueError: no CSV file or none of the films was found, or a CSV file cannot be read.
        StorageError: a folder or a CSV file is temporarily unreadable.
    """
    csv_paths, image_paths, counts = _find_files(root)
    if not csv_paths:
        raise ValueError(
            f"{root}: none of {', '.join(CSV_NAMES)} is here or in a "
            f"subfolder{folders.advice(counts)}; download them from the CBIS-DDSM page of "
            "cancerimagingarchive.net."
        )
    rows, rejected = _read_all_rows(root, csv_paths)
    known = {name for row in rows for name in (row.film_folder, row.film_series)}
    known.update(name for row in rows for name in (row.lesion_folder, *row.lesion_series))
    files, layouts = _files_by_folder(image_paths, known)
    films, left_out = _assemble(rows, rejected, files)
    if not films:
        raise ValueError(
            f"{root}: the CSV files list {len(left_out)} films, and none of them is complete among "
            f"the {len(image_paths)} .dcm and .jpg files here"
            f"{_what_is_here(image_paths, counts, layouts)}{_example(left_out)}"
        )
    official_splits = collections.defaultdict(set)
    for row in (*rows, *rejected):  # otherwise a patient of both files would seem to be in one
        official_splits[row.patient_id].add(row.official_split)
    return CbisDdsmIndex(
        films=films,
        left_out=tuple(left_out),
        rejected_rows=tuple(rejected),
        csv_paths=tuple(csv_paths.values()),
        missing_csv_names=tuple(name for name in CSV_NAMES if name not in csv_paths),
        num_files_by_layout=dict(layouts),
        num_unknown_files=len(image_paths) - sum(layouts.values()),
        official_splits={patient: frozenset(s) for patient, s in official_splits.items()},
    )


def _find_files(root: epath.Path) -> tuple[dict[str, str], list[str], collections.Counter]:
    """Returns the CSV files by name, all image files, sorted, and the number of files by kind.

    Paths are relative to `root`.
    """
    csv_paths, image_paths, counts = {}, [], collections.Counter()
    for folder, file_names in folders.walk(root):
        counts.update(map(folders.kind_of, file_names))
        below = "/".join(folder.parts[len(root.parts) :])
        for name in file_names:
            path = f"{below}/{name}" if below else name
            if name.lower().endswith(_IMAGE_SUFFIXES):
                image_paths.append(path)
            elif name.lower() in CSV_NAMES:
                csv_paths.setdefault(name.lower(), []).append(path)
    csv_paths = {name: _only_version(root, csv_paths[name]) for name in sorted(csv_paths)}
    return csv_paths, sorted(image_paths), counts


def _only_version(root: epath.Path, paths: Sequence[str]) -> str:
    """Returns the first copy of a CSV file; raises ValueError if other copies differ from it."""
    first, *others = sorted(paths)
    for path in others:
        if cbis_ddsm_rows.read_csv(root / path) != cbis_ddsm_rows.read_csv(root / first):
            raise ValueError(f"{root}: {first} and {path} differ; keep only the one from TCIA.")
    return first


def _read_all_rows(
    root: epath.Path, csv_paths: Mapping[str, str]
) -> tuple[list[Row], list[RejectedRow]]:
    """Returns the rows of all files, without repeated lesions, and the rejected rows."""
    rows, rejected = {}, []
    for path in csv_paths.values():
        good, bad = cbis_ddsm_rows.read_rows(root / path)
        rejected += bad
        for row in good:
            first = rows.setdefault((row.film_id, row.lesion_type, row.abnormality_id), row)
            if first is not row:
                rejected.append(_repeated(row, first))
    return list(rows.values()), rejected


def _repeated(row: Row, first: Row) -> RejectedRow:
    """Reports a repeated row; its film loses a lesion only if the two rows disagree."""
    same = (row.malignant, row.lesion_folder) == (first.malignant, first.lesion_folder)
    verb, film_id = ("repeats", "") if same else ("contradicts", row.film_id)
    reason = f"{verb} {first.where}"
    return RejectedRow(row.where, reason, film_id, row.patient_id, row.official_split)


def _files_by_folder(
    paths: Iterable[str], known: set[str]
) -> tuple[dict[str, list[str]], collections.Counter]:
    """Returns image files by their folder in the CSV files, and their number by layout."""
    files, layouts = collections.defaultdict(list), collections.Counter()
    for path in paths:
        parts = path.split("/")
        key = next((part for part in parts[:-1] if part in known), None)
        if key is not None:
            files[key].append(path)
            layouts[_layout(parts)] += 1
    for key, found in files.items():
        # If a folder has both, prefer DICOM with 16 bits to the JPEG copy with 8.
        files[key] = [p for p in found if not _is_jpeg(p)] or found
    return dict(files), layouts


def _layout(parts: Sequence[str]) -> str:
    """Returns the layout of a tree from the folders above one of its files."""
    if _is_jpeg(parts[-1]):
        return "JPEG copy"
    if not _UID.fullmatch(parts[-2]):
        return "descriptive"
    return "classic" if len(parts) > 2 and _UID.fullmatch(parts[-3]) else "series"


def _is_jpeg(path: str) -> bool:
    return path.lower().endswith(JPEG_SUFFIXES)


def _assemble(
    rows: Iterable[Row], rejected: Iterable[RejectedRow], files: _Files
) -> tuple[dict[str, FilmFiles], list[LeftOutFilm]]:
    """Joins all rows of a film, of both copies if it has two, with their files.

    A film is complete if one copy's pixels and the files of every lesion of every copy exist.
    Without this rule, a lesion without a mask could be treated as healthy tissue.
    """
    rows_by_film, rejected_by_film = collections.defaultdict(list), collections.defaultdict(list)
    for row in rows:
        rows_by_film[row.film_id].append(row)
    for bad in rejected:
        if bad.film_id:
            rejected_by_film[bad.film_id].append(bad)
    films, left_out = {}, []
    for film_id in sorted({*rows_by_film, *rejected_by_film}):
        bad = rejected_by_film[film_id]
        film_rows = sorted(
            rows_by_film[film_id],
            key=lambda r: (LESION_TYPES.index(r.lesion_type), r.abnormality_id),
        )
        found = _film_files(film_rows, bad, files) if film_rows else bad[0]
        if isinstance(found, FilmFiles):
            films[film_id] = found
        elif isinstance(found, RejectedRow):
            left_out.append(LeftOutFilm(film_id, found.where, found.reason))
        else:
            left_out.append(found)
    return films, left_out


def _film_files(
    rows: Sequence[Row], rejected: Sequence[RejectedRow], files: _Files
) -> FilmFiles | LeftOutFilm:
    film_id = rows[0].film_id
    film_paths = [p for row in rows for p in _lookup(files, row.film_folder, (row.film_series,))]
    if not film_paths:
        reason = f"the film's file is missing ({rows[0].where})"
        return LeftOutFilm(film_id, rows[0].film_folder, reason)
    lesions = []
    for row in rows:
        paths = _lookup(files, row.lesion_folder, row.lesion_series)
        if len(paths) < _NUM_LESION_FILES:
            reason = (
                f"{len(paths)} of {_NUM_LESION_FILES} files, crop and mask, were found "
                f"({row.where})"
            )
            return LeftOutFilm(film_id, row.lesion_folder, reason)
        name = f"{film_id} {row.lesion_type} {row.abnormality_id}"
        lesions.append(
            LesionFiles(name, row.lesion_type, row.malignant, tuple(paths), row.description)
        )
    num_malignant = sum(lesion.malignant for lesion in lesions)
    film = Film(
        film_id=film_id,
        patient_id=rows[0].patient_id,
        laterality=rows[0].laterality,
        view=rows[0].view,
        scanner="unknown",  # neither the CSV files nor the DICOM headers name the digitiser
        num_malignant=num_malignant,
        num_benign=len(lesions) - num_malignant,
        density=next((row.density for row in rows if row.density > 0), NOT_RECORDED),
    )
    return FilmFiles(
        film, film_paths[0], tuple(lesions), tuple(f"{bad.where}: {bad.reason}" for bad in rejected)
    )


def _lookup(files: _Files, first_folder: str, series_uids: Iterable[str]) -> Sequence[str]:
    """Returns the files of a first folder; if it has none, those of the series."""
    return files.get(first_folder) or [p for uid in series_uids for p in files.get(uid, ())]


def _what_is_here(
    image_paths: Sequence[str], counts: Mapping[str, int], layouts: Mapping[str, int]
) -> str:
    """Explains why the existing files may not belong to any film."""
    if layouts:
        return ""
    if image_paths:
        return f"; one is {image_paths[0]}, but no folder above it is in the CSV files"
    return folders.advice(counts)


def _example(left_out: Sequence[LeftOutFilm]) -> str:
    return f" ({left_out[0].path}: {left_out[0].reason})." if left_out else "."
