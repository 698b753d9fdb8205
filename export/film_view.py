"""A 16-bit film on a page: zoomed, moved and windowed as on a viewing station.

The browser holds the part that is looked at, averaged to about the screen's pixels, with all of its
grey levels: the window is changed there at once. The rest stays on the server.
"""

import math

import cv2
import numpy as np
from bokeh.document import Document
from bokeh.events import RangesUpdate
from bokeh.models import ColumnDataSource, LinearColorMapper, PanTool, Range1d, WheelZoomTool
from bokeh.palettes import Greys256
from bokeh.plotting import figure

from . import png

_REFRESH_MS = 120
_NO_IMAGES = {"image": [], "x": [], "y": [], "width": [], "height": []}


class FilmView:
    """Shows a film before and after.

    Args:
        document: the page.

    Attributes:
        figure: the plot; its coordinates are columns and rows of the film, row 0 on top.
        window: maps grey levels to black to white; `low` and `high` are the window.
        pan: the tool that moves the film.
        before: the renderer of the film as it was.
        after: the renderer of the film with its infills.
    """

    def __init__(self, document: Document):
        self._document = document
        self._films: dict[ColumnDataSource, np.ndarray] = {}
        self._refresh_is_due = False
        # Of the frame on the screen: a guess, until the browser has drawn it.
        self._size_px = {"inner_width": 600, "inner_height": 800}
        self.pan = PanTool()
        zoom = WheelZoomTool()
        self.figure = figure(
            name="film",
            tools=[self.pan, zoom],
            active_drag=self.pan,
            active_scroll=zoom,
            toolbar_location=None,
            sizing_mode="stretch_both",
            x_range=Range1d(0, 1),
            y_range=Range1d(1, 0),
            background_fill_color="black",
            x_axis_label="column",
            y_axis_label="row",
            min_border=0,
        )
        self.figure.grid.visible = False
        self.window = LinearColorMapper(palette=Greys256, low=0, high=png.WHITE)
        self.before, self.after = (
            self.figure.image(
                image="image",
                x="x",
                y="y",
                dw="width",
                dh="height",
                source=ColumnDataSource(_NO_IMAGES),
                color_mapper=self.window,
            )
            for _ in range(2)
        )
        self.after.visible = False
        self.figure.on_event(RangesUpdate, self._refresh_soon)
        for side in self._size_px:
            self.figure.on_change(side, self._resize)

    def show(self, film: np.ndarray) -> None:
        """Shows a film, uint16 [height, width], whole and as it is."""
        self._films = {self.before.data_source: film}
        self.after.data_source.data = _NO_IMAGES
        low, high = np.percentile(film[::8, ::8], [2, 99.8])
        self.window.update(low=float(low), high=float(max(high, low + 1)))
        self._fit()

    def show_after(self, film: np.ndarray) -> None:
        """Adds the same film after infilling, where the view stands."""
        self._films[self.after.data_source] = film
        self._refresh()

    def zoom_to(self, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        """Shows a part of the film, in the middle of the view."""
        width, height = self._size_px.values()
        step = max((rows[1] - rows[0]) / height, (columns[1] - columns[0]) / width)
        row, column = sum(rows) / 2, sum(columns) / 2
        self.figure.x_range.update(start=column - step * width / 2, end=column + step * width / 2)
        self.figure.y_range.update(start=row + step * height / 2, end=row - step * height / 2)
        self._refresh()

    def _fit(self) -> None:
        if self._films:
            height, width = self._films[self.before.data_source].shape
            self.zoom_to((0, height), (0, width))

    def _resize(self, side: str, _, size_px: int) -> None:
        self._size_px[side] = max(1, size_px)
        self._fit()

    def _refresh_soon(self, _) -> None:
        """Waits for the end of a gesture, which changes the ranges many times."""
        if not self._refresh_is_due:
            self._refresh_is_due = True
            self._document.add_timeout_callback(self._refresh, _REFRESH_MS)

    def _refresh(self) -> None:
        self._refresh_is_due = False
        for source, film in self._films.items():
            source.data = self._images(film)

    def _images(self, film: np.ndarray) -> dict[str, list]:
        """Returns the whole film in coarse pixels and, over it, the part in view in fine ones."""
        across, down = self._size_px.values()
        x, y = self.figure.x_range, self.figure.y_range
        ends = (y.start, y.end, x.start, x.end)
        rows, columns = (0, film.shape[0]), (0, film.shape[1])
        parts = [_averaged(film, rows, columns, max(film.shape[0] / down, film.shape[1] / across))]
        if all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
            rows = _whole_pixels(*sorted(ends[:2]), film.shape[0])
            columns = _whole_pixels(*sorted(ends[2:]), film.shape[1])
            step = abs(x.end - x.start) / across
            if rows[0] < rows[1] and columns[0] < columns[1]:
                parts.append(_averaged(film, rows, columns, step))
        return {name: [part[name] for part in parts] for name in _NO_IMAGES}


def _whole_pixels(start: float, end: float, size: int) -> tuple[int, int]:
    return math.floor(min(max(start, 0), size)), math.ceil(min(max(end, 0), size))


def _averaged(
    film: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], step: float
) -> dict[str, np.ndarray | int]:
    """Returns a part of the film in pixels of `step` film pixels, and its place."""
    part = film[slice(*rows), slice(*columns)]
    if step > 1:
        shape = [max(1, round(side / step)) for side in part.shape]
        part = cv2.resize(part, shape[::-1], interpolation=cv2.INTER_AREA)
    return {
        "image": np.ascontiguousarray(part),
        "x": columns[0],
        "y": rows[0],
        "width": columns[1] - columns[0],
        "height": rows[1] - rows[0],
    }
