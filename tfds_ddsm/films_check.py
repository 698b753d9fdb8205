"""Reads all films listed in films.csv and collects the errors."""

import collections
import dataclasses

import tqdm

from tfds_ddsm.film_examples import picture_sha256
from tfds_ddsm.mammogram import Film, UnreadableFilmError
from tfds_ddsm.sources.films import FilmsSource

_LINES = "lines that cannot be used"
_MISSING = "films whose file or mask is missing"
_UNREADABLE = "films that cannot be read, or whose lesions do not fit"
_PATIENTS = "films with the image of another patient's film"
_NO_LOCATION = "malignant films without the lesion's location, which yield no patches"


@dataclasses.dataclass
class Findings:
    """Result of the check.

    Attributes:
        films: films that can be used.
        problems: for each kind of problem, a message for each case.
        depths: number of films by bit depth.
        sizes: number of films by height and width.
        warnings: assumptions about films whose files do not state their bit depth.
        guessed_depths: the assumed bit depths.
    """

    films: list[Film] = dataclasses.field(default_factory=list)
    problems: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    depths: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    warnings: list[str] = dataclasses.field(default_factory=list)
    guessed_depths: set[int] = dataclasses.field(default_factory=set)

    @property
    def has_faults(self) -> bool:
        """Whether a build would stop with an error."""
        return any(title != _NO_LOCATION for title in self.problems)

    def add(self, title: str, line: str) -> None:
        """Adds a problem."""
        self.problems.setdefault(title, []).append(line)


def read_all(source: FilmsSource) -> Findings:
    """Reads every film and mask.

    Raises:
        ValueError: the table cannot be read.
        StorageError: a file is temporarily unreadable.
    """
    findings = Findings()
    table_faults = {fault.reason for fault in source.table.faults}
    for item in source.skipped():
        title = _LINES if item.reason in table_faults else _MISSING
        findings.add(_NO_LOCATION if item.kind == "lesion" else title, item.reason)
    films_by_picture: dict[str, Film] = {}
    # None: no bar if stderr is a file, which would contain every state of the bar.
    films = tqdm.tqdm(source.usable_films(), desc="Reading films", unit=" films", disable=None)
    for film in films:
        path = source.table.films[film.film_id].path
        try:
            pixels = source.read_pixels(film)
            source.with_lesions(film, pixels.grey)
        except UnreadableFilmError as error:
            findings.add(_UNREADABLE, str(error))
            continue
        first = films_by_picture.setdefault(picture_sha256(pixels.grey), film)
        if first.patient_id != film.patient_id:
            other = source.table.films[first.film_id].path
            findings.add(_PATIENTS, f"{path} ({film.patient_id}) and {other} ({first.patient_id})")
        height, width = pixels.stored.shape
        findings.sizes[f"{height} x {width}"] += 1
        findings.depths[f"{pixels.scale.bits} bits"] += 1
        if pixels.scale.warning:
            findings.warnings.append(f"{path}: {pixels.scale.warning}")
            findings.guessed_depths.add(pixels.scale.bits)
        findings.films.append(film)
    return findings
