"""DDSM as the University of South Florida serves it: .LJPEG films, .OVERLAY outlines, .ics files.

Data: Heath et al., "The Digital Database for Screening Mammography", IWDM 2000, 212-218.

Four digitizers with four characteristic curves made these films, so equal grey levels mean equal
film only after conversion to optical density. The curves are those of USF's calibration pages,
http://www.eng.usf.edu/cvprg/Mammography/DDSM/calibrate/.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Sequence

import cv2
import numpy as np
from etils import epath

from tfds_ddsm.mammogram import NOT_RECORDED, Film, Lesion, Mammogram, UnreadableFilmError
from tfds_ddsm.sources import ddsm_records, folders, ljpeg
from tfds_ddsm.sources.ddsm_records import FilmRecord, Mark

# A_1459_1.LEFT_CC.LJPEG: hospital, case number, version, view. Whatever is named otherwise
# (*.LJPEG.1, *.ics~, ...) is not the database's. So no text of an unchecked form gets into ids.
_FILM_NAME = re.compile(
    r"(?P<film_id>(?P<patient_id>[A-Z]_[0-9]{1,6})_[0-9]{1,3}"
    r"\.(?P<laterality>LEFT|RIGHT)_(?P<view>CC|MLO))\.LJPEG"
)

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
    return match and match["film_id"]


@dataclasses.dataclass(frozen=True)
class DdsmSource:
    """The films of the original DDSM with the lesions of their overlays.

    Attributes:
        manual_dir: folder with the case folders (`case1459`, ...), anywhere below it.
    """

    manual_dir: str | os.PathLike

    # Kept in the instance, and so pickled with it: Beam workers need not walk the tree again.
    @functools.cached_property
    def _folders(self) -> dict[str, tuple[str, ...]]:
        """The folders that hold each film, by film_id."""
        root = epath.Path(self.manual_dir).expanduser()
        found = {}
        for folder, names in folders.walk(root):
            where = str(folder)
            for film_id in filter(None, map(film_id_of, names)):
                found.setdefault(film_id, []).append(where)
        if not found:
            raise ValueError(
                f"{root}: no film of DDSM, like A_1459_1.LEFT_CC.LJPEG, is here or below."
            )
        return {film_id: tuple(sorted(found[film_id])) for film_id in sorted(found)}

    def index(self) -> Sequence[Film]:
        """Returns every film, sorted by film_id, without reading pixels.

        A film whose .ics or .OVERLAY file cannot be used is listed with scanner 'unknown' and no
        lesions; `read` says what is wrong with it.

        Raises:
            ValueError: there is no film.
        """
        return [self._index_film(film_id) for film_id in self._folders]

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
            UnreadableFilmError: one of the film's three files is missing or damaged, no calibration
                is known for its digitizer, or two cases of the same number hold it.
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
        found = self._folders.get(film_id)
        if found is None:
            raise ValueError(f"film_id must be one of the index, received {film_id!r}.")
        if len(found) > 1:
            # So do 18 cases of USF's own site, some with different overlays for the same name.
            raise UnreadableFilmError(
                f"{found[0]} and {found[1]} both hold {film_id}.LJPEG, and which of their overlays "
                "is right is not known"
            )
        return epath.Path(found[0])

    def _read_records(self, film_id: str) -> tuple[str, int, FilmRecord, tuple[Mark, ...]]:
        """Returns scanner, density, the film's line of the .ics file, the marks of its overlay."""
        folder = self._folder(film_id)
        case_id, view = film_id.split(".")
        ics_path = folder / f"{case_id.replace('_', '-')}.ics"
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


def _read_text(path: epath.Path) -> str:
    return _read_bytes(path).decode("ascii", errors="replace")


def _read_bytes(path: epath.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFilmError(f"{path}: {error.strerror or error}") from None


def _read_samples(path: epath.Path, record: FilmRecord) -> np.ndarray:
    """Returns the digitizer's grey levels, uint16 [LINES, PIXELS_PER_LINE] of the .ics file.

    Some streams were written with lines and samples swapped in their header, the samples in the
    film's order all the same: a reshape sets that right.
    """
    try:
        samples = ljpeg.decode(_read_bytes(path))
    except ljpeg.LjpegError as error:
        raise UnreadableFilmError(f"{path}: {error}") from None
    shape = (record.num_lines, record.pixels_per_line)
    if samples.shape not in (shape, shape[::-1]):
        raise UnreadableFilmError(
            f"{path}: holds {samples.shape[0]} x {samples.shape[1]} samples, and the .ics file "
            f"says {shape[0]} x {shape[1]}"
        )
    return samples.reshape(shape)


@functools.cache
def _grey_levels(scanner: str) -> np.ndarray:
    """Returns the common scale for each grey level of a scanner, uint16 [65536].

    65535 is optical density 0.05 or less, the least exposed film and the densest tissue; 0 is
    density 3.0 or more.
    """
    density = _OPTICAL_DENSITY[scanner](np.arange(2.0**16))
    span = _DARKEST_DENSITY - _BRIGHTEST_DENSITY
    share = np.clip((_DARKEST_DENSITY - density) / span, 0, 1)
    return np.floor(65535 * share).astype(np.uint16)


def _fill(mark: Mark, shape: tuple[int, int]) -> np.ndarray:
    """Returns the mark's outlines and what they enclose, bool [height, width]."""
    mask = np.zeros(shape, np.uint8)
    for outline in mark.outlines:
        cv2.fillPoly(mask, [outline], 1)
    return mask.astype(bool)
