"""The interface of all sources of mammograms: an index of films, and films with their lesions."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

SPLITS = ("train", "validation", "test")
LESION_TYPES = ("mass", "calcification")
OTHER_LESION = "other"  # of another type, or of a type that the source does not specify
NOT_RECORDED = -1
# A film of 24 x 30 cm at 42 um, the finest pitch of DDSM's digitisers, has 41 million pixels.
MAX_PIXELS = 50_000_000

_WORDS = re.compile(r"[A-Z][A-Z_ /-]{0,79}")


class UnreadableFilmError(Exception):
    """A film that cannot be used; the message gives the film's file and the reason."""


class StorageError(Exception):
    """A file that is temporarily unreadable but may be intact: the disk or network fails."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An item of the source that is missing from the dataset.

    Attributes:
        kind: 'film', 'lesion', 'patient', 'CSV row', 'CSV file' or 'other files'.
        name: film or patient id, or ''.
        reason: why, with the path of the file or the CSV line.
        split: the split that lacks it, or '' if unknown.
    """

    kind: str
    name: str
    reason: str
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Film:
    """One entry of a source's index: the facts of a film known before its pixels are read.

    Attributes:
        film_id: unique within the source, made of letters, digits, '.', '_' and '-' only.
        patient_id: the same for all films of one patient; the same characters are allowed.
        laterality: 'LEFT' or 'RIGHT'; 'unknown' if the source does not specify it.
        view: 'CC', 'MLO' or another view; 'unknown' if the source does not specify it.
        scanner: device that made or digitised the film; 'unknown' if not specified.
        num_malignant: malignant lesions marked on the film.
        num_benign: benign lesions marked on the film.
        density: BI-RADS density of the breast, 1 (fatty) to 4 (dense); -1 if not recorded.
    """

    film_id: str
    patient_id: str
    laterality: str
    view: str
    scanner: str
    num_malignant: int
    num_benign: int
    density: int = NOT_RECORDED


@dataclasses.dataclass(frozen=True)
class Description:
    """A radiologist's description of a lesion.

    Attributes:
        assessment: BI-RADS assessment, 0 to 5; -1 if not recorded.
        subtlety: 1 (subtle) to 5 (obvious); -1 if not recorded.
        mass_shape: such as 'IRREGULAR'; several words are joined by '-'; '' if not recorded.
        mass_margins: such as 'SPICULATED', in the same form.
    """

    assessment: int = NOT_RECORDED
    subtlety: int = NOT_RECORDED
    mass_shape: str = ""
    mass_margins: str = ""

    @classmethod
    def from_text(
        cls, assessment: str, subtlety: str, mass_shape: str, mass_margins: str
    ) -> "Description":
        """Parses the texts of a source; invalid texts count as not recorded."""
        return cls(
            assessment=grade(assessment, 0, 5),
            subtlety=grade(subtlety, 1, 5),
            mass_shape=_words(mass_shape),
            mass_margins=_words(mass_margins),
        )


def grade(text: str, lowest: int, highest: int) -> int:
    """Returns the grade in a text, or -1 if it is invalid; spreadsheets also write 3 as 3.0."""
    match = re.fullmatch(r"([0-9])(\.0*)?", text.strip(), re.ASCII)
    value = int(match[1]) if match else NOT_RECORDED
    return value if lowest <= value <= highest else NOT_RECORDED


def _words(text: str) -> str:
    text = text.strip().upper()
    return text if _WORDS.fullmatch(text) and text not in ("N/A", "NA") else ""


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One marked lesion.

    Attributes:
        lesion_type: 'mass' or 'calcification'; 'other' only in the user's own films.
        malignant: proven by pathology; False for benign with or without callback.
        mask: bool [height, width], on the film's own grid.
        simulated: whether the lesion was simulated, as opposed to found in a patient.
        description: how a radiologist described it.
    """

    lesion_type: str
    malignant: bool
    mask: np.ndarray
    simulated: bool = False
    description: Description = Description()


@dataclasses.dataclass(frozen=True)
class Mammogram:
    """A film with its pixels and lesions.

    Attributes:
        film: its entry in the index.
        image: uint16 [height, width], 0..65535; dense tissue is bright.
        lesions: every usable lesion marked on any copy of the film.
        left_out: one line for each marked lesion that could not be used, with the reason. Such a
            lesion may be malignant and anywhere on the film, so the film gives no background or
            benign patches.
    """

    film: Film
    image: np.ndarray
    lesions: tuple[Lesion, ...]
    left_out: tuple[str, ...] = ()


class Source(Protocol):
    """One distribution of the data. Picklable, so that Beam workers can read films."""

    def index(self) -> Sequence[Film]:
        """Returns every film, sorted by film_id, without reading pixels."""

    def read(self, film: Film) -> Mammogram:
        """Returns the film's pixels and lesions.

        Raises:
            UnreadableFilmError: a file of the film is missing or damaged.
            StorageError: a file is temporarily unreadable; a build should stop.
        """

    def skipped(self) -> Sequence[Skipped]:
        """Returns the items that the index skips."""
        return ()

    def fingerprint(self, film: Film) -> str:
        """Returns a text that changes when the film's files, or its lines in a table, change."""
        return ""
