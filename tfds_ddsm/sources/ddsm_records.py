"""Parses DDSM's text files: the .ics file of a case, and the .OVERLAY file of a film's lesions.

Format: "DDSM: case description", University of South Florida,
http://www.eng.usf.edu/cvprg/Mammography/DDSM/case_description.html. Thousands of these files were
typed by hand, so they are parsed by their keywords, independently of counts, order and indents.
"""

import dataclasses
import itertools
import re

import numpy as np

from tfds_ddsm.mammogram import LESION_TYPES, NOT_RECORDED, Description, grade

MALIGNANT = "MALIGNANT"
BENIGN = ("BENIGN", "BENIGN_WITHOUT_CALLBACK")

# CBIS-DDSM lists at most 7 for one film of DDSM. Each needs a mask of the film's size.
_MAX_ABNORMALITIES = 32

_FILM_LINE = re.compile(r"(?:LEFT|RIGHT)_(?:CC|MLO)")
_ABNORMALITY = re.compile(r"^[ \t]*ABNORMALITY\b", re.MULTILINE)
_TOTAL = re.compile(r"^[ \t]*TOTAL_ABNORMALITIES[ \t]+([0-9]{1,6})\b", re.MULTILINE)
_LESION_TYPE = re.compile(r"^[ \t]*LESION_TYPE[ \t]+(\S+)", re.MULTILINE)
_PATHOLOGY = re.compile(r"^[ \t]*PATHOLOGY[ \t]+(\S+)", re.MULTILINE)
_MASS = re.compile(r"^[ \t]*LESION_TYPE[ \t]+MASS\b(.*)", re.MULTILINE | re.IGNORECASE)
_BOUNDARY = re.compile(r"^[ \t]*BOUNDARY\b([0-9\s]*#?)", re.MULTILINE)

_NOT_DESCRIBED = Description()

# Steps of column and row for the codes 0..7: 0 is up, then clockwise.
_STEPS = np.array([(0, -1), (1, -1), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1)])


class RecordError(ValueError):
    """A text file that cannot be used; the message is one line without the file's path."""


@dataclasses.dataclass(frozen=True)
class FilmRecord:
    """A film's line in the .ics file."""

    num_lines: int
    pixels_per_line: int
    has_overlay: bool


@dataclasses.dataclass(frozen=True)
class CaseRecord:
    """The content of an .ics file.

    Attributes:
        digitizer: make of the digitiser: 'DBA', 'HOWTEK' or 'LUMISYS'; '' if not recorded.
        films: the listed films by 'LEFT_CC', 'LEFT_MLO', 'RIGHT_CC' and 'RIGHT_MLO'.
        density: BI-RADS density of the breasts, 1 to 4; -1 if not recorded.
    """

    digitizer: str
    films: dict[str, FilmRecord]
    density: int = NOT_RECORDED


@dataclasses.dataclass(frozen=True)
class Mark:
    """One abnormality of an overlay, as a radiologist marked it.

    Attributes:
        number: 1 for the first in the overlay.
        lesion_type: 'mass' or 'calcification', whichever is named first; '' if neither is named.
        pathology: 'MALIGNANT', 'BENIGN', 'BENIGN_WITHOUT_CALLBACK', 'UNPROVEN'; '' if missing.
        outlines: each int32 [points, 2], column and row. The cores of an abnormality, which lie
            inside its outline, are omitted.
        problem: why there are no outlines, or ''.
        description: the radiologist's description.
    """

    number: int
    lesion_type: str
    pathology: str
    outlines: tuple[np.ndarray, ...]
    problem: str = ""
    description: Description = _NOT_DESCRIBED

    def why_unusable(self, film: FilmRecord) -> str:
        """Returns why the mark does not give a lesion's class, type and location, or ''."""
        if self.problem:
            return self.problem
        if not self.lesion_type:
            return "LESION_TYPE is neither MASS nor CALCIFICATION"
        if self.pathology not in (MALIGNANT, *BENIGN):
            return f"PATHOLOGY is {self.pathology!r}, neither malignant nor benign"
        points = np.concatenate(self.outlines)
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        if min(left, top) < 0 or right >= film.pixels_per_line or bottom >= film.num_lines:
            return (
                f"the outline (rows {top} to {bottom}, columns {left} to {right}) leaves the film "
                f"of {film.num_lines} x {film.pixels_per_line} pixels"
            )
        return ""


def parse_ics(text: str) -> CaseRecord:
    """Reads an .ics file.

    Lines are identified by their first word. Blank lines, trailing blanks, unknown lines and any
    order are allowed. A film's line without a size is ignored.
    """
    digitizer, films, density = "", {}, NOT_RECORDED
    for words in map(str.split, text.splitlines()):
        if len(words) > 1 and words[0] == "DIGITIZER":
            digitizer = words[1].upper()[:32]
        elif len(words) > 1 and words[0] == "DENSITY":
            density = grade(words[1], 1, 4)
        elif words and _FILM_LINE.fullmatch(words[0]):
            num_lines = _number_after("LINES", words)
            pixels_per_line = _number_after("PIXELS_PER_LINE", words)
            if num_lines and pixels_per_line:
                films[words[0]] = FilmRecord(num_lines, pixels_per_line, "OVERLAY" in words)
    return CaseRecord(digitizer, films, density)


def _number_after(keyword: str, words: list[str]) -> int:
    """Returns the integer of at most 5 digits after a keyword, or 0 if there is none."""
    for word, value in itertools.pairwise(words):
        if word == keyword and re.fullmatch("[0-9]{1,5}", value):
            return int(value)
    return 0


def parse_overlay(text: str) -> tuple[Mark, ...]:
    """Reads an .OVERLAY file.

    TOTAL_OUTLINES is wrong in many files and is not used. If an abnormality has several types, the
    first known one is used. If TOTAL_ABNORMALITIES is larger than the number of abnormalities in
    the file, the last of the returned marks stands for the missing ones.

    Raises:
        RecordError: the file is not an overlay, or has too many abnormalities.
    """
    text = "\n".join(text.splitlines())
    total = _TOTAL.search(text)
    if total is None:
        raise RecordError("the file has no TOTAL_ABNORMALITIES")
    _, *blocks = _ABNORMALITY.split(text)
    if len(blocks) > _MAX_ABNORMALITIES:
        raise RecordError(
            f"an overlay must have at most {_MAX_ABNORMALITIES} abnormalities; received "
            f"{len(blocks)}"
        )
    marks = [_parse_mark(number, block) for number, block in enumerate(blocks, start=1)]
    if len(marks) < int(total[1]):
        problem = f"TOTAL_ABNORMALITIES is {total[1]}, but the file lists {len(marks)}"
        marks.append(Mark(len(marks) + 1, "", "", (), problem))
    return tuple(marks)


def _parse_mark(number: int, block: str) -> Mark:
    named_types = [name.lower() for name in _LESION_TYPE.findall(block)]
    lesion_type = next((name for name in named_types if name in LESION_TYPES), "")
    pathology = _PATHOLOGY.search(block)
    pathology = pathology[1].upper()[:32] if pathology else ""
    chains = _BOUNDARY.findall(block)
    try:
        if not chains:
            raise RecordError("BOUNDARY is missing")
        outlines = tuple(map(_trace, chains))
    except RecordError as error:
        return Mark(number, lesion_type, pathology, (), str(error))
    return Mark(number, lesion_type, pathology, outlines, description=_description(block))


def _description(block: str) -> Description:
    def value(keyword: str, text: str) -> str:
        match = re.search(rf"(?:^|[ \t]){keyword}[ \t]+(\S+)", text, re.MULTILINE)
        return match[1] if match else ""

    mass = _MASS.search(block)
    mass = mass[1] if mass else ""
    return Description.from_text(
        value("ASSESSMENT", block),
        value("SUBTLETY", block),
        value("SHAPE", mass),
        value("MARGINS", mass),
    )


def _trace(chain: str) -> np.ndarray:
    """Returns the points of a chain code, 'column row code code ... #', int32 [n, 2]."""
    if not chain.endswith("#"):
        raise RecordError("the outline's chain code must end with '#'")
    start, codes = chain[:-1].split()[:2], chain[:-1].split()[2:]
    if len(codes) < 3 or any(len(number) > 5 for number in start):
        raise RecordError(
            "the outline's chain code must have a start and at least 3 steps; received "
            f"{chain[:40]!r}"
        )
    if unknown := sorted(set(codes) - set("01234567")):
        raise RecordError(
            f"the steps of the outline's chain code must be 0 to 7; received {unknown[0][:20]!r}"
        )
    steps = _STEPS[np.array(codes, np.int64)]
    origin = np.array([start], np.int64)
    return np.concatenate((origin, origin + np.cumsum(steps, axis=0))).astype(np.int32)
