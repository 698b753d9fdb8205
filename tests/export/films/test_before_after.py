"""The picture that compares a film before and after infilling."""

import cv2
import numpy as np
import pytest

from export.films.before_after import before_after
from export.films.film_infill import FilmLesion

FILM = np.random.default_rng(0).integers(10_000, 40_000, (480, 300)).astype(np.uint16)
GAP_PX, FILM_WIDTH_PX = 12, 600


def lesion(row, column, malignant=True):
    return FilmLesion(np.ones((40, 30), bool), row, column, malignant)


def drawn(lesions, after=FILM):
    """Returns the picture as int [height, width, 3]."""
    picture = cv2.imdecode(
        np.frombuffer(before_after(FILM, after, lesions), np.uint8), cv2.IMREAD_COLOR
    )
    return picture.astype(int)


def is_coloured(view):
    return (np.ptp(view, axis=2) > 20).any()


def test_the_film_before_is_outlined_and_the_film_after_is_not():
    picture = drawn([lesion(200, 100)])
    before = picture[:, :FILM_WIDTH_PX]
    after = picture[:, FILM_WIDTH_PX + GAP_PX :][:, :FILM_WIDTH_PX]
    coloured = np.argwhere(np.ptp(before, axis=2) > 20)
    # Film pixels are enlarged two times.
    np.testing.assert_allclose(coloured.min(axis=0), (400, 200), atol=3)
    np.testing.assert_allclose(coloured.max(axis=0), (480, 260), atol=3)
    assert not is_coloured(after)


def test_the_change_is_shown_with_the_lesions_surroundings():
    after = FILM.copy()
    after[200:240, 100:130] = 60_000
    unchanged, changed = drawn([lesion(200, 100)]), drawn([lesion(200, 100)], after)
    left = 2 * (FILM_WIDTH_PX + GAP_PX)
    np.testing.assert_array_equal(changed[:, :FILM_WIDTH_PX], unchanged[:, :FILM_WIDTH_PX])
    side = (changed.shape[0] - GAP_PX) // 2
    before_crop, after_crop = changed[:side, left:], changed[side + GAP_PX :, left:]
    centre = slice(side // 2 - 20, side // 2 + 20)
    # The infill is brighter than the film and does not saturate.
    assert 250 > after_crop[centre, centre].mean() > before_crop[centre, centre].mean() + 50


@pytest.mark.parametrize("corner", [(0, 0), (440, 270)])
def test_a_lesion_in_the_corner_is_shown(corner):
    assert is_coloured(drawn([lesion(*corner, malignant=False)])[:, 2 * (FILM_WIDTH_PX + GAP_PX) :])


def test_three_lesions_of_many_are_shown_in_close_up():
    many = [lesion(row, 100) for row in (0, 100, 200, 300, 400)]
    picture = drawn(many)
    crops = picture[:, 2 * (FILM_WIDTH_PX + GAP_PX) :]
    gaps = np.flatnonzero((crops[:, 0] == 255).all(axis=-1))
    assert len(gaps) == 2 * GAP_PX


@pytest.mark.parametrize("shape", [(4000, 2), (2, 4000)])
def test_a_film_of_any_shape_gives_a_picture(shape):
    film = np.full(shape, 30_000, np.uint16)
    picture = before_after(film, film, [FilmLesion(np.ones((2, 2), bool), 0, 0, malignant=True)])
    decoded = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape[0] == 960
    assert decoded.shape[1] < 5000
