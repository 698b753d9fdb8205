import numpy as np
import pytest
from bokeh.document import Document

from export.page.film_view import FilmView

FILM = np.random.default_rng(0).integers(0, 65_536, (900, 600), np.uint16)


@pytest.fixture
def view():
    shown = FilmView(Document())
    shown.show(FILM)
    return shown


def images(renderer):
    data = renderer.data_source.data
    return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]


def test_the_whole_film_is_in_view_with_square_pixels(view):
    x, y = view.figure.x_range, view.figure.y_range
    assert x.start <= 0 <= 600 <= x.end
    assert y.end <= 0 <= 900 <= y.start
    assert (x.end - x.start) / 600 == pytest.approx((y.start - y.end) / 800)
    whole, _ = images(view.before)
    assert (whole["x"], whole["y"], whole["width"], whole["height"]) == (0, 0, 600, 900)
    assert whole["image"].dtype == np.uint16
    assert whole["image"].shape == (800, 533)


def test_the_zoomed_film_is_shown_pixel_by_pixel(view):
    view.zoom_to((100, 180), (300, 360))
    _, part = images(view.before)
    rows = slice(part["y"], part["y"] + part["height"])
    columns = slice(part["x"], part["x"] + part["width"])
    assert rows.start <= 100 < 180 <= rows.stop < 200
    np.testing.assert_array_equal(part["image"], FILM[rows, columns])


def test_the_infilled_film_is_shown_at_the_same_place(view):
    view.zoom_to((100, 180), (300, 360))
    view.show_after(FILM // 2)
    before, after = images(view.before)[1], images(view.after)[1]
    np.testing.assert_array_equal(after["image"], before["image"] // 2)
    view.show(FILM)
    assert images(view.after) == []


@pytest.mark.parametrize(
    "ends", [(float("nan"), 1), (0, float("inf")), (-900, -100), (1e300, -1e300), (5, 5)]
)
def test_no_range_from_the_browser_breaks_the_view(view, ends):
    for axis in (view.figure.x_range, view.figure.y_range):
        axis.update(start=ends[0], end=ends[1])
    view.show_after(FILM)
    assert images(view.before)[0]["image"].shape == (800, 533)
