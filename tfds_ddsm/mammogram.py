"""What every source of mammograms yields: an index of films, and films with their lesions."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

SPLITS = ("train", "validation", "test")
LESION_TYPES = ("mass", "calcification")
OTHER_LESION = "other"  # of another type, or of one that the source does not say
NOT_RECORDED = -1

_WORDS = re.compile(r"[A-Z][A-Z_ /-]{0,79}")


class UnreadableFilmError(Exception):
    """A film that cannot be used; the message names the film's file and the reason."""


class StorageError(Exception):
    """A file that cannot be read now, though it may be whole: the disk or the network fails."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """One line of the table of what the source holds and the dataset does not.

    Attributes:
        kind: 'film', 'lesion', 'patient', 'CSV row', 'CSV file' or 'other files'.
        name: film or patient id; '' where there is none.
        reason: why, with the path of the file or the CSV line.
        split: the split that lacks it; '' where that is not known.
    """

    kind: str
    name: str
    reason: str
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Film:
    """One line of a source's index: what is known of a film before its pixels are read.

    Attributes:
        film_id: unique within the source, made of letters, digits, '.', '_' and '-' only.
        patient_id: the same for all films of one woman, same alphabet.
        laterality: 'LEFT' or 'RIGHT'; 'unknown' where the source does not say.
        view: 'CC' or 'MLO', or another one; 'unknown' where the source does not say.
        scanner: make of the film digitizer; 'unknown' where the source does not say.
        num_malignant: malignant lesions marked on the film.
        num_benign: benign lesions marked on the film.
        density: BI-RADS density of the breast, 1 (fatty) to 4 (dense); -1 where not recorded.
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
    """How a radiologist described a lesion.

    Attributes:
        assessment: BI-RADS assessment, 0 to 5; -1 where not recorded.
        subtlety: 1 (subtle) to 5 (obvious); -1 where not recorded.
        mass_shape: such as 'IRREGULAR'; several are joined by '-'; '' where there is none.
        mass_margins: such as 'SPICULATED', likewise.
    """

    assessment: int = NOT_RECORDED
    subtlety: int = NOT_RECORDED
    mass_shape: str = ""
    mass_margins: str = ""

    @classmethod
    def from_text(
        cls, assessment: str, subtlety: str, mass_shape: str, mass_margins: str
    ) -> "Description":
        """Returns what a source's text files say; what cannot be read counts as not recorded."""
        return cls(
            assessment=grade(assessment, 0, 5),
            subtlety=grade(subtlety, 1, 5),
            mass_shape=_words(mass_shape),
            mass_margins=_words(mass_margins),
        )


def grade(text: str, lowest: int, highest: int) -> int:
    """Returns a grade of a scale, -1 where the text is none; spreadsheets write 3 as 3.0, too."""
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
        lesion_type: 'mass' or 'calcification'; 'other' in the user's own films only.
        malignant: proven by pathology; benign with or without callback is False.
        mask: bool [height, width], the film's own grid.
        simulated: True where the lesion was drawn by a simulation and not found in a woman.
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
        film: its line in the index.
        image: uint16 [height, width], bright is dense tissue, 0..65535.
        lesions: every lesion that is marked on any copy of the film.
        left_out: one line for each marked lesion that could not be used, with the reason. It lies
            somewhere on the film and may be malignant: where there is one, the film gives no
            background patch and no benign one.
    """

    film: Film
    image: np.ndarray
    lesions: tuple[Lesion, ...]
    left_out: tuple[str, ...] = ()


class Source(Protocol):
    """One public form of the data. Picklable, so that Beam workers can read films."""

    def index(self) -> Sequence[Film]:
        """Returns every film, sorted by film_id, without reading pixels."""

    def read(self, film: Film) -> Mammogram:
        """Returns the film's pixels and lesions.

        Raises:
            UnreadableFilmError: a file of the film is missing or damaged.
            StorageError: a file cannot be read now; a build should stop.
        """

    def skipped(self) -> Sequence[Skipped]:
        """Returns what the index leaves out."""
        return ()

    def fingerprint(self, film: Film) -> str:
        """Returns a text that changes when the film's files, or its lines in a table, change."""
        return ""
