"""Reads DDSM from the University of South Florida: .LJPEG films, .OVERLAY outlines, .ics files.

Data: Heath et al., "The Digital Database for Screening Mammography", IWDM 2000, 212-218.

The films were scanned with digitisers that have four different characteristic curves. Grey levels
from different digitisers can be compared only after conversion to optical density. The curves are
from USF's calibration pages, http://www.eng.usf.edu/cvprg/Mammography/DDSM/calibrate/.
"""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath

from tfds_ddsm.grey_levels import WHITE
from tfds_ddsm.mammogram import (
    MAX_PIXELS,
    NOT_RECORDED,
    Film,
    Lesion,
    Mammogram,
    Skipped,
    Source,
    UnreadableFilmError,
)
from tfds_ddsm.sources import ddsm_records, folders, ljpeg, ljpeg_header, storage
from tfds_ddsm.sources.ddsm_records import FilmRecord, Mark

# A_1459_1.LEFT_CC.LJPEG: hospital, case number, version, view. Files with other names (*.LJPEG.1,
# *.ics~, ...) are not the database's. This also keeps unchecked text out of ids.
_FILM_NAME = re.compile(
    r"(?P<film_id>(?P<patient_id>[A-Z]_[0-9]{1,6})_[0-9]{1,3}"
    r"\.(?P<laterality>LEFT|RIGHT)_(?P<view>CC|MLO))\.(?P<kind>LJPEG|OVERLAY)"
)
_ICS_NAME = re.compile(r"[A-Z]-[0-9]{1,6}-[0-9]{1,3}\.ics")

_MAX_TEXT_BYTES = 2**20  # an overlay with many outlines has about 100 KB
# 16 bits per sample: compression does not enlarge any film.
_MAX_LJPEG_BYTES = 2 * MAX_PIXELS

# Optical density at grey level g, by hospital (the first letter of a case) and digitiser:
# Massachusetts General Hospital (A), Wake Forest and Sacred Heart (B, C), ISMD (D).
_SCANNERS = {
    ("A", "DBA"): "dba",
    ("A", "HOWTEK"): "howtek_mgh",
    ("B", "LUMISYS"): "lumisys",
    ("C", "LUMISYS"): "lumisys",
    ("D", "HOWTEK"): "howtek_ismd",
}
_OPTICAL_DENSITY = {
    "dba": lambda g: (4.80662 - np.log10(g + 1)) / 1.07553,  # + 1: level 0 has no logarithm
    "howtek_mgh": lambda g: 3.789 - 0.00094568 * g,
    "lumisys": lambda g: (4096.99 - g) / 1009.01,
    "howtek_ismd": lambda g: 3.96604095240593 - 0.00099055807612 * g,
}
# CBIS-DDSM's scale, so that models can be used for both: density 3.0 is 0, density 0.05 is 65535,
# rounded down. Neither its paper nor its tools document this scale, but its films show it: on this
# scale, each of their levels is a level of the Lumisys (22.017 = 65535 / (1009.01 * 2.95) apart).
# Beyond density 3.0 the digitisers record noise.
_BRIGHTEST_DENSITY, _DARKEST_DENSITY = 0.05, 3.0


@dataclasses.dataclass(frozen=True)
class _Catalogue:
    """Available and missing films.

    Attributes:
        folders: by film_id, the folder of each film.
        skipped: films that an .ics or .OVERLAY file names but that have no .LJPEG file, and films
            that were found in two folders with different files.
    """

    folders: dict[str, str]
    skipped: tuple[Skipped, ...]


@dataclasses.dataclass(frozen=True)
class DdsmSource(Source):
    """The films of the original DDSM, with the lesions from their overlays.

    Attributes:
        manual_dir: folder with the case folders (`case1459`, ...), at any depth.
    """

    manual_dir: str | os.PathLike

    # Cached in the instance and pickled with it, so that Beam workers need not walk the tree again.
    @functools.cached_property
    def _catalogue(self) -> _Catalogue:
        root = epath.Path(self.manual_dir).expanduser()
        found, named, names_found = {}, {}, collections.Counter()
        for folder, names in folders.walk(root):
            names_found.update(map(folders.kind_of, names))
            for name in names:
                match = _FILM_NAME.fullmatch(name)
                if match and match["kind"] == "LJPEG":
                    found.setdefault(match["film_id"], []).append(folder)
                elif match:
                    named.setdefault(match["film_id"], folder / name)
                elif _ICS_NAME.fullmatch(name):
                    for film_id in self._named_by(folder / name):
                        named.setdefault(film_id, folder / name)
        if not found:
            raise ValueError(
                f"{root}: no film of DDSM, like A_1459_1.LEFT_CC.LJPEG, is here or below"
                f"{folders.advice(names_found)}."
            )
        skipped = [
            Skipped(
                "film",
                film_id,
                f"{named[film_id]} names the film {film_id}, which has no .LJPEG file",
            )
            for film_id in sorted(named.keys() - found.keys())
        ]
        single = {}
        for film_id in sorted(found):
            first, *others = sorted(found[film_id])
            other = next((o for o in others if not _same_film(film_id, first, o)), None)
            if other is None:
                single[film_id] = str(first)
            else:
                # On USF's site, 18 cases are in two volumes, some with different overlays.
                reason = (
                    f"{first} and {other} both contain {film_id}.LJPEG, their files differ, and it "
                    "is not known which overlay is right"
                )
                skipped.append(Skipped("film", film_id, reason))
        return _Catalogue(single, tuple(skipped))

    def _named_by(self, ics_path: epath.Path) -> Sequence[str]:
        """Returns the films listed in a case's .ics file."""
        try:
            case = ddsm_records.parse_ics(_read_text(ics_path))
        except UnreadableFilmError:
            return ()
        case_id = ics_path.name.removesuffix(".ics").replace("-", "_")
        return [f"{case_id}.{view}" for view in case.films]

    def index(self) -> Sequence[Film]:
        """Returns every film, sorted by film_id, without reading pixels.

        A film whose .ics or .OVERLAY file cannot be used is listed with scanner 'unknown' and
        without lesions; `read` raises the error. A film in two folders is listed if the records and
        the size of its .LJPEG file are the same in both.

        Raises:
            ValueError: there are no films.
        """
        return [self._index_film(film_id) for film_id in self._catalogue.folders]

    def skipped(self) -> Sequence[Skipped]:
        """Returns films that are named but missing, and films that differ between two folders."""
        return self._catalogue.skipped

    def fingerprint(self, film: Film) -> str:
        """Returns the path, size and modification time of each of the film's three files."""
        folder = self._folder(film.film_id)
        names = (f"{film.film_id}.LJPEG", f"{film.film_id}.OVERLAY", _ics_name(film.film_id))
        return f"{[storage.state(folder / name) for name in names]}"

    def _index_film(self, film_id: str) -> Film:
        name = _FILM_NAME.fullmatch(f"{film_id}.LJPEG")
        try:
            scanner, density, record, marks = self._read_records(film_id)
        except UnreadableFilmError:
            scanner, density, record, marks = "unknown", NOT_RECORDED, None, ()
        pathologies = [mark.pathology for mark in marks if not mark.why_unusable(record)]
        num_malignant = pathologies.count(ddsm_records.MALIGNANT)
        return Film(
            film_id=film_id,
            patient_id=name["patient_id"],
            laterality=name["laterality"],
            view=name["view"],
            scanner=scanner,
            num_malignant=num_malignant,
            num_benign=len(pathologies) - num_malignant,
            density=density,
        )

    def read(self, film: Film) -> Mammogram:
        """Returns the film on the common grey scale and its lesions.

        The class is the overlay's PATHOLOGY, never the folder: `cancers` contains benign lesions
        too. A lesion is in `left_out` if its pathology is neither malignant nor benign, its type is
        neither mass nor calcification, or its outline is missing or unusable; draw only malignant
        patches from a film with such a lesion.

        Raises:
            UnreadableFilmError: one of the film's three files is missing or damaged, or the
                calibration of its digitiser is unknown.
            StorageError: a file is temporarily unreadable.
            ValueError: the film does not belong to this source.
        """
        scanner, _, record, marks = self._read_records(film.film_id)
        path = self._folder(film.film_id) / f"{film.film_id}.LJPEG"
        image = _grey_levels(scanner)[_read_samples(path, record)]
        lesions, left_out = [], []
        for mark in marks:
            reason = mark.why_unusable(record)
            if reason:
                overlay = path.with_suffix(".OVERLAY")
                left_out.append(f"{overlay}: abnormality {mark.number}: {reason}")
            else:
                lesions.append(
                    Lesion(
                        mark.lesion_type,
                        mark.pathology == ddsm_records.MALIGNANT,
                        _fill(mark, image.shape),
                        description=mark.description,
                    )
                )
        return Mammogram(film, image, tuple(lesions), tuple(left_out))

    def _folder(self, film_id: str) -> epath.Path:
        found = self._catalogue.folders.get(film_id)
        if found is None:
            raise ValueError(f"film_id must be in the index; received {film_id!r}.")
        return epath.Path(found)

    def _read_records(self, film_id: str) -> tuple[str, int, FilmRecord, tuple[Mark, ...]]:
        """Returns the scanner, the density, the film's .ics entry, and the marks of its overlay."""
        folder = self._folder(film_id)
        view = film_id.split(".")[1]
        ics_path = folder / _ics_name(film_id)
        case = ddsm_records.parse_ics(_read_text(ics_path))
        if view not in case.films:
            raise UnreadableFilmError(f"{ics_path}: the file has no line with the size of {view}")
        scanner = _SCANNERS.get((film_id[0], case.digitizer))
        if scanner is None:
            raise UnreadableFilmError(
                f"{ics_path}: no calibration is known for hospital {film_id[0]} with DIGITIZER "
                f"{case.digitizer!r}"
            )
        record = case.films[view]
        overlay_path = folder / f"{film_id}.OVERLAY"
        if not record.has_overlay and not storage.exists(overlay_path):
            return scanner, case.density, record, ()
        try:
            marks = ddsm_records.parse_overlay(_read_text(overlay_path))
        except ddsm_records.RecordError as error:
            raise UnreadableFilmError(f"{overlay_path}: {error}") from None
        return scanner, case.density, record, marks


def _ics_name(film_id: str) -> str:
    return f"{film_id.split('.')[0].replace('_', '-')}.ics"


def _same_film(film_id: str, folder: epath.Path, other: epath.Path) -> bool:
    """Returns whether two folders contain the same film with the same records."""
    return _film_files(film_id, folder) == _film_files(film_id, other)


def _film_files(film_id: str, folder: epath.Path) -> tuple:
    """Returns values that distinguish two films with the same id, without reading pixels."""
    overlay = folder / f"{film_id}.OVERLAY"
    film = folder / f"{film_id}.LJPEG"
    try:
        num_bytes = storage.retried(film, film.stat).length
        case = ddsm_records.parse_ics(_read_text(folder / _ics_name(film_id)))
        marks = _read_text(overlay) if storage.exists(overlay) else ""
    except UnreadableFilmError:
        return (str(folder),)
    record = case.films.get(film_id.split(".")[1])
    return num_bytes, case.digitizer, case.density, record, marks


def _read_text(path: epath.Path) -> str:
    return storage.read_bytes(path, _MAX_TEXT_BYTES).decode("ascii", errors="replace")


def _read_samples(path: epath.Path, record: FilmRecord) -> np.ndarray:
    """Returns the digitiser's grey levels, uint16 [LINES, PIXELS_PER_LINE] of the .ics file.

    Some streams have a header in which the numbers of lines and of samples per line are swapped,
    although the samples are in the film's order; a reshape corrects this.
    """
    shape = (record.num_lines, record.pixels_per_line)
    data = storage.read_bytes(path, _MAX_LJPEG_BYTES)
    try:
        frame = ljpeg_header.parse_header(data).frame
        declared = (frame.num_lines, frame.samples_per_line)
        if declared not in (shape, shape[::-1]):
            raise UnreadableFilmError(
                f"{path}: contains {declared[0]} x {declared[1]} samples, but the .ics file says "
                f"{shape[0]} x {shape[1]}"
            )
        return ljpeg.decode(data).reshape(shape)
    except ljpeg.LjpegError as error:
        raise UnreadableFilmError(f"{path}: {error}") from None


@functools.cache
def _grey_levels(scanner: str) -> np.ndarray:
    """Returns the level on the common scale for each grey level of a scanner, uint16 [65536].

    65535 is optical density 0.05 or less, that of the least exposed film and the densest tissue; 0
    is density 3.0 or more.
    """
    density = _OPTICAL_DENSITY[scanner](np.arange(2.0**16))
    span = _DARKEST_DENSITY - _BRIGHTEST_DENSITY
    share = np.clip((_DARKEST_DENSITY - density) / span, 0, 1)
    return np.floor(WHITE * share).astype(np.uint16)


def _fill(mark: Mark, shape: tuple[int, int]) -> np.ndarray:
    """Returns the mark's outlines and their interior, bool [height, width]."""
    mask = np.zeros(shape, np.uint8)
    for outline in mark.outlines:
        cv2.fillPoly(mask, [outline], 1)
    return mask.view(bool)
