"""A real film, one of its real lesions, and the tiny run's generator for whole films."""

import pytest


@pytest.fixture(scope="session")
def sample_film():
    """The film P_00173_LEFT_CC: its path, its pixels and the mask of its benign mass."""
    from tfds_ddsm.sources.image_file import read_pixels
    from tfds_ddsm.sources.sample import SampleSource

    source = SampleSource()
    film = source.index()[0]
    pixels = read_pixels(source.path(film))
    pixels.flags.writeable = False
    (lesion,) = source.real_lesions(film, pixels.shape)
    return source.path(film), pixels, lesion.mask


@pytest.fixture(scope="session")
def infill(exported):
    """The tiny run's generator for whole films, at the scale of its training."""
    from export.films.film_infill import FilmInfiller

    return FilmInfiller(exported, (344, 188))
