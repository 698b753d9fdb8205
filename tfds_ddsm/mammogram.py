"""What every source of mammograms yields: an index of films, and films with their lesions."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

LESION_TYPES = ("mass", "calcification")


class UnreadableFilmError(Exception):
    """A film that cannot be used; the message names the film's file and the reason."""


@dataclasses.dataclass(frozen=True)
class Film:
    """One line of a source's index: what is known of a film before its pixels are read.

    Attributes:
        film_id: unique within the source, made of letters, digits, '.', '_' and '-' alone.
        patient_id: the same for all films of one woman, same alphabet.
        laterality: 'LEFT' or 'RIGHT'.
        view: 'CC' or 'MLO'.
        scanner: make of the film digitizer; 'unknown' where the source does not say.
        num_malignant: malignant lesions marked on the film.
        num_benign: benign lesions marked on the film.
    """

    film_id: str
    patient_id: str
    laterality: str
    view: str
    scanner: str
    num_malignant: int
    num_benign: int


@dataclasses.dataclass(frozen=True)
class Lesion:
    """One marked lesion.

    Attributes:
        lesion_type: 'mass' or 'calcification'.
        malignant: proven by pathology; benign with or without callback is False.
        mask: bool [height, width], the film's own grid.
        simulated: True where the lesion was drawn by a simulation and not found in a woman.
    """

    lesion_type: str
    malignant: bool
    mask: np.ndarray
    simulated: bool = False


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
        """Returns the film's pixels and lesions; raises UnreadableFilmError."""
