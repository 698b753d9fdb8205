"""DDSM as the University of South Florida serves it: .LJPEG films, .OVERLAY outlines, .ics files.

Data: Heath et al., "The Digital Database for Screening Mammography", IWDM 2000, 212-218.

Four digitizers with four characteristic curves made these films, so equal grey levels mean equal
film only after conversion to optical density. The curves are those of USF's calibration pages,
http://www.eng.usf.edu/cvprg/Mammography/DDSM/calibrate/.
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

# A_1459_1.LEFT_CC.LJPEG: hospital, case number, version, view. Whatever is named otherwise
# (*.LJPEG.1, *.ics~, ...) is not the database's. So no text of an unchecked form gets into ids.
_FILM_NAME = re.compile(
    r"(?P<film_id>(?P<patient_id>[A-Z]_[0-9]{1,6})_[0-9]{1,3}"
    r"\.(?P<laterality>LEFT|RIGHT)_(?P<view>CC|MLO))\.(?P<kind>LJPEG|OVERLAY)"
)
_ICS_NAME = re.compile(r"[A-Z]-[0-9]{1,6}-[0-9]{1,3}\.ics")

_MAX_TEXT_BYTES = 2**20  # an overlay of many outlines has some 100 KB
# 16 bits a sample: no film gains nothing by its compression.
_MAX_LJPEG_BYTES = 2 * ljpeg_header.MAX_SAMPLES

# Optical density at grey level g, by hospital (the first letter of a case) and digitizer:
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
# CBIS-DDSM's scale, so that models move between the two: density 3.0 is 0, density 0.05 is 65535,
# rounded down. Neither its paper nor its tools say so; the levels of its own films do, every one of
# which is then a level of the Lumisys (22.017 = 65535 / (1009.01 * 2.95) apart). Beyond density 3.0
# the digitizers record noise.
_BRIGHTEST_DENSITY, _DARKEST_DENSITY = 0.05, 3.0


def film_id_of(file_name: str) -> str | None:
    """Returns the film's id, like 'A_1459_1.LEFT_CC', or None where the file is no film."""
    match = _FILM_NAME.fullmatch(file_name)
    return match["film_id"] if match and match["kind"] == "LJPEG" else None


@dataclasses.dataclass(frozen=True)
class _Catalogue:
    """What was found.

    Attributes:
        folders: by film_id, the folder of each film.
        skipped: films that an .ics or .OVERLAY file names and no .LJPEG file holds, and those whose
            two cases differ.
    """

    folders: dict[str, str]
    skipped: tuple[Skipped, ...]


@dataclasses.dataclass(frozen=True)
class DdsmSource(Source):
    """The films of the original DDSM with the lesions of their overlays.

    Attributes:
        manual_dir: folder with the case folders (`case1459`, ...), anywhere below it.
    """

    manual_dir: str | os.PathLike

    # Kept in the instance, and so pickled with it: Beam workers need not walk the tree again.
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
                "film", film_id, f"{named[film_id]} names the film {film_id}, no .LJPEG holds it"
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
                # 18 cases of USF's own site stand in two volumes, some with different overlays.
                reason = (
                    f"{first} and {other} both hold {film_id}.LJPEG, their files differ, and which "
                    "overlay is right is not known"
                )
                skipped.append(Skipped("film", film_id, reason))
        return _Catalogue(single, tuple(skipped))

    def _named_by(self, ics_path: epath.Path) -> Sequence[str]:
        """Returns the films that a case's .ics file lists."""
        try:
            case = ddsm_records.parse_ics(_read_text(ics_path))
        except UnreadableFilmError:
            return ()
        case_id = ics_path.name.removesuffix(".ics").replace("-", "_")
        return [f"{case_id}.{view}" for view in case.films]

    def index(self) -> Sequence[Film]:
        """Returns every film, sorted by film_id, without reading pixels.

        A film whose .ics or .OVERLAY file cannot be used is listed with scanner 'unknown' and no
        lesions; `read` says what is wrong with it. A film that is in two folders is listed where
        its files are the same in both.

        Raises:
            ValueError: there is no film.
        """
        return [self._index_film(film_id) for film_id in self._catalogue.folders]

    def skipped(self) -> Sequence[Skipped]:
        """Returns the films that are named and not there, and those whose two cases differ."""
        return self._catalogue.skipped

    def fingerprint(self, film: Film) -> str:
        """Returns size and time of the film's three files."""
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

        The class is the overlay's PATHOLOGY, never the folder: `cancers` holds benign lesions too.
        A lesion of unproven pathology, or whose outline cannot be used, stands in `left_out`; no
        background should be drawn from such a film.

        Raises:
            UnreadableFilmError: one of the film's three files is missing or damaged, or no
                calibration is known for its digitizer.
            StorageError: a file cannot be read now.
            ValueError: the film is not one of this source's.
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
            raise ValueError(f"film_id must be one of the index, received {film_id!r}.")
        return epath.Path(found)

    def _read_records(self, film_id: str) -> tuple[str, int, FilmRecord, tuple[Mark, ...]]:
        """Returns scanner, density, the film's line of the .ics file, the marks of its overlay."""
        folder = self._folder(film_id)
        view = film_id.split(".")[1]
        ics_path = folder / _ics_name(film_id)
        case = ddsm_records.parse_ics(_read_text(ics_path))
        if view not in case.films:
            raise UnreadableFilmError(f"{ics_path}: no line with the size of {view}")
        scanner = _SCANNERS.get((film_id[0], case.digitizer))
        if scanner is None:
            raise UnreadableFilmError(
                f"{ics_path}: no calibration is known for hospital {film_id[0]} with DIGITIZER "
                f"{case.digitizer!r}"
            )
        record = case.films[view]
        overlay_path = folder / f"{film_id}.OVERLAY"
        if not record.has_overlay and not overlay_path.exists():
            return scanner, case.density, record, ()
        try:
            marks = ddsm_records.parse_overlay(_read_text(overlay_path))
        except ddsm_records.RecordError as error:
            raise UnreadableFilmError(f"{overlay_path}: {error}") from None
        return scanner, case.density, record, marks


def _ics_name(film_id: str) -> str:
    return f"{film_id.split('.')[0].replace('_', '-')}.ics"


def _same_film(film_id: str, folder: epath.Path, other: epath.Path) -> bool:
    """Says whether two folders hold the same film with the same records."""
    return _film_files(film_id, folder) == _film_files(film_id, other)


def _film_files(film_id: str, folder: epath.Path) -> tuple:
    """Returns what tells two films of one name apart, without reading pixels."""
    overlay = folder / f"{film_id}.OVERLAY"
    num_bytes = (folder / f"{film_id}.LJPEG").stat().length
    try:
        case = ddsm_records.parse_ics(_read_text(folder / _ics_name(film_id)))
    except UnreadableFilmError:
        return (str(folder),)
    record = case.films.get(film_id.split(".")[1])
    marks = _read_text(overlay) if overlay.exists() else ""
    return num_bytes, case.digitizer, case.density, record, marks


def _read_text(path: epath.Path) -> str:
    return storage.read_bytes(path, _MAX_TEXT_BYTES).decode("ascii", errors="replace")


def _read_samples(path: epath.Path, record: FilmRecord) -> np.ndarray:
    """Returns the digitizer's grey levels, uint16 [LINES, PIXELS_PER_LINE] of the .ics file.

    Some streams were written with lines and samples swapped in their header, the samples in the
    film's order all the same: a reshape sets that right.
    """
    shape = (record.num_lines, record.pixels_per_line)
    data = storage.read_bytes(path, _MAX_LJPEG_BYTES)
    try:
        frame = ljpeg_header.parse_header(data).frame
        declared = (frame.num_lines, frame.samples_per_line)
        if declared not in (shape, shape[::-1]):
            raise UnreadableFilmError(
                f"{path}: holds {declared[0]} x {declared[1]} samples, and the .ics file says "
                f"{shape[0]} x {shape[1]}"
            )
        return ljpeg.decode(data).reshape(shape)
    except ljpeg.LjpegError as error:
        raise UnreadableFilmError(f"{path}: {error}") from None


@functools.cache
def _grey_levels(scanner: str) -> np.ndarray:
    """Returns the common scale for each grey level of a scanner, uint16 [65536].

    65535 is optical density 0.05 or less, the least exposed film and the densest tissue; 0 is
    density 3.0 or more.
    """
    density = _OPTICAL_DENSITY[scanner](np.arange(2.0**16))
    span = _DARKEST_DENSITY - _BRIGHTEST_DENSITY
    share = np.clip((_DARKEST_DENSITY - density) / span, 0, 1)
    return np.floor(WHITE * share).astype(np.uint16)


def _fill(mark: Mark, shape: tuple[int, int]) -> np.ndarray:
    """Returns the mark's outlines and what they enclose, bool [height, width]."""
    mask = np.zeros(shape, np.uint8)
    for outline in mark.outlines:
        cv2.fillPoly(mask, [outline], 1)
    return mask.astype(bool)
