import numpy as np
import pytest

from tfds_ddsm.sources.lesion_shapes import Box, Circle, OutsideFilmError, Polygon, on_film

SHAPE = (40, 30)


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max(), columns.min(), columns.max(), mask.sum()


def test_the_bounds_of_a_box_belong_to_it():
    assert box_of(on_film(Box(10, 14, 5, 6), SHAPE)) == (10, 14, 5, 6, 10)
    assert box_of(on_film(Box(9.5, 14.5, 4.2, 6.9), SHAPE)) == (10, 14, 5, 6, 10)
    assert box_of(on_film(Box(3, 3, 4, 4), SHAPE)) == (3, 3, 4, 4, 1)


def test_a_circle_holds_all_pixels_within_its_radius():
    rows, columns = np.ogrid[:40, :30]
    expected = (rows - 20) ** 2 + (columns - 10.5) ** 2 <= 49
    np.testing.assert_array_equal(on_film(Circle(20, 10.5, 7), SHAPE), expected)
    assert box_of(on_film(Circle(20, 10, 0.4), SHAPE)) == (20, 20, 10, 10, 1)


def test_a_polygon_is_filled_with_its_outline():
    square = Polygon(((10, 5), (10, 8), (13, 8), (13, 5)))
    assert box_of(on_film(square, SHAPE)) == (10, 13, 5, 8, 16)
    concave = Polygon(((0, 0), (0, 8), (4, 4), (8, 8), (8, 0)))
    mask = on_film(concave, SHAPE)
    assert mask[4, 2]
    assert not mask[4, 7]


@pytest.mark.parametrize(
    ("counted_from_bottom", "from_top"),
    [
        (Box(0, 9, 5, 6), Box(30, 39, 5, 6)),
        (Circle(9, 10, 4), Circle(30, 10, 4)),
        (Polygon(((0, 0), (9, 0), (9, 5))), Polygon(((39, 0), (30, 0), (30, 5)))),
    ],
)
def test_rows_counted_from_the_bottom(counted_from_bottom, from_top):
    found = on_film(counted_from_bottom, SHAPE, from_bottom=True)
    np.testing.assert_array_equal(found, on_film(from_top, SHAPE))


def test_parts_outside_the_film_are_cut_off():
    assert box_of(on_film(Box(30, 42, 20, 29), SHAPE))[:4] == (30, 39, 20, 29)
    rows, columns = np.ogrid[:40, :30]
    np.testing.assert_array_equal(
        on_film(Circle(5, 2, 6), SHAPE), (rows - 5) ** 2 + (columns - 2) ** 2 <= 36
    )
    assert box_of(on_film(Polygon(((-3, 5), (-3, 9), (9, 9), (9, 5))), SHAPE))[:4] == (0, 9, 5, 9)


@pytest.mark.parametrize(
    "outline",
    [
        Box(100, 110, 5, 6),
        Box(35, 60, 5, 6),
        Box(-20, -10, 5, 6),
        Circle(5, 300, 10),
        Circle(1e6, 1e6, 1e6),
        Polygon(((1000, 1000), (1000, 1100), (1100, 1000))),
        Box(5.2, 5.8, 5.2, 5.8),  # between pixel centres
    ],
)
def test_a_lesion_that_is_not_on_its_film_is_refused(outline):
    with pytest.raises(OutsideFilmError, match="must be on the film of 40 x 30 pixels"):
        on_film(outline, SHAPE)
