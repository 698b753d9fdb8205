"""A 16-bit film on a page, with zoom, pan and grey-level window as on a viewing station.

The browser has the visible part, averaged to about the screen's pixels, with all its grey levels,
so that the window changes without delay. The rest stays on the server.
"""

import math

import cv2
import numpy as np
from bokeh.document import Document
from bokeh.events import RangesUpdate
from bokeh.layouts import row
from bokeh.models import (
    ColumnDataSource,
    GlyphRenderer,
    LinearColorMapper,
    PanTool,
    Range1d,
    WheelZoomTool,
)
from bokeh.palettes import Greys256
from bokeh.plotting import figure

from tfds_ddsm import grey_levels

_REFRESH_MS = 120
_NO_IMAGES = {"image": [], "x": [], "y": [], "width": [], "height": []}


class FilmView:
    """Shows a film before and after infilling, overlaid or side by side.

    Args:
        document: the page.

    Attributes:
        layout: both plots, for the page.
        figure: the plot of the film before infilling, overlaid by the film after; its coordinates
            are columns and rows of the film, with row 0 at the top.
        beside: a plot of only the film after, with the same ranges; hidden at first.
        window: maps grey levels to brightness, from black at `low` to white at `high`.
        pan: the tool that moves the film in `figure`.
        before: the renderer of the original film.
        after: the renderer of the infilled film, above `before`; hidden at first.
    """

    def __init__(self, document: Document):
        self._document = document
        self._films: dict[ColumnDataSource, np.ndarray] = {}
        self._refresh_is_due = False
        self._shows_all = True
        # Size of the frame on the screen: a guess until the browser has drawn it.
        self._size_px = {"inner_width": 600, "inner_height": 800}
        self._ranges = {"x_range": Range1d(0, 1), "y_range": Range1d(1, 0)}
        self.window = LinearColorMapper(palette=Greys256, low=0, high=grey_levels.WHITE)
        self.figure = self._plot("film")
        self.beside = self._plot("beside")
        self.beside.visible = False
        self.layout = row(self.figure, self.beside, sizing_mode="stretch_both", name="films")
        self.pan = self.figure.select_one(PanTool)
        sources = ColumnDataSource(_NO_IMAGES), ColumnDataSource(_NO_IMAGES)
        self.before, self.after = (self._image(self.figure, source) for source in sources)
        self.after.visible = False
        self._image(self.beside, self.after.data_source)
        for side in self._size_px:
            self.figure.on_change(side, self._resize)

    def show(self, film: np.ndarray) -> None:
        """Shows a film, uint16 [height, width], as a whole."""
        self._films = {self.before.data_source: film}
        self.after.data_source.data = _NO_IMAGES
        low, high = np.percentile(film[::8, ::8], [2, 99.8])
        self.window.update(low=float(low), high=float(max(high, low + 1)))
        self.fit()

    def show_after(self, film: np.ndarray) -> None:
        """Adds the infilled film without changing the view."""
        self._films[self.after.data_source] = film
        self._refresh()

    def forget(self) -> None:
        """Releases the films; the browser keeps its picture."""
        self._films = {}

    def fit(self) -> None:
        """Shows the whole film."""
        if self._films:
            height, width = self._films[self.before.data_source].shape
            self.zoom_to((0, height), (0, width))
            self._shows_all = True

    def zoom_to(self, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        """Shows a part of the film, centred in the view."""
        width, height = self._size_px.values()
        step = max((rows[1] - rows[0]) / height, (columns[1] - columns[0]) / width)
        self._centre(sum(rows) / 2, sum(columns) / 2, step)

    def _centre(self, row: float, column: float, step: float) -> None:
        """Shows the surroundings of a point, at `step` film pixels per screen pixel."""
        width, height = self._size_px.values()
        x, y = self._ranges.values()
        x.update(start=column - step * width / 2, end=column + step * width / 2)
        y.update(start=row + step * height / 2, end=row - step * height / 2)
        self._shows_all = False
        self._refresh()

    def _plot(self, name: str) -> figure:
        pan, zoom = PanTool(), WheelZoomTool()
        plot = figure(
            name=name,
            tools=[pan, zoom],
            active_drag=pan,
            active_scroll=zoom,
            toolbar_location=None,
            sizing_mode="stretch_both",
            background_fill_color="black",
            x_axis_label="column",
            y_axis_label="row",
            min_border=0,
            **self._ranges,
        )
        plot.grid.visible = False
        plot.xaxis.ticker.desired_num_ticks = 4
        plot.on_event(RangesUpdate, self._refresh_soon)
        return plot

    def _image(self, plot: figure, source: ColumnDataSource) -> GlyphRenderer:
        return plot.image(
            image="image",
            x="x",
            y="y",
            dw="width",
            dh="height",
            source=source,
            color_mapper=self.window,
        )

    def _resize(self, side: str, _, size_px: int) -> None:
        """Keeps centre and scale of the view when the plot is resized."""
        if self._shows_all or not self._ends_are_finite():
            self._size_px[side] = max(1, size_px)
            self.fit()
            return
        x, y = self._ranges.values()
        step = abs(x.end - x.start) / self._size_px["inner_width"]
        self._size_px[side] = max(1, size_px)
        self._centre((y.start + y.end) / 2, (x.start + x.end) / 2, step)

    def _ends_are_finite(self) -> bool:
        ends = [end for span in self._ranges.values() for end in (span.start, span.end)]
        return all(isinstance(end, int | float) and math.isfinite(end) for end in ends)

    def _refresh_soon(self, _) -> None:
        """Waits for the end of a gesture, which changes the ranges many times."""
        self._shows_all = False
        if not self._refresh_is_due:
            self._refresh_is_due = True
            self._document.add_timeout_callback(self._refresh, _REFRESH_MS)

    def _refresh(self) -> None:
        self._refresh_is_due = False
        for source, film in self._films.items():
            source.data = self._images(film)

    def _images(self, film: np.ndarray) -> dict[str, list]:
        """Returns the whole film in coarse pixels and, above it, the visible part in fine ones."""
        across, down = self._size_px.values()
        x, y = self._ranges.values()
        rows, columns = (0, film.shape[0]), (0, film.shape[1])
        parts = [_averaged(film, rows, columns, max(film.shape[0] / down, film.shape[1] / across))]
        if self._ends_are_finite():
            rows = _whole_pixels(*sorted((y.start, y.end)), film.shape[0])
            columns = _whole_pixels(*sorted((x.start, x.end)), film.shape[1])
            step = abs(x.end - x.start) / across
            if rows[0] < rows[1] and columns[0] < columns[1]:
                parts.append(_averaged(film, rows, columns, step))
        return {name: [part[name] for part in parts] for name in _NO_IMAGES}


def _whole_pixels(start: float, end: float, size: int) -> tuple[int, int]:
    return math.floor(min(max(start, 0), size)), math.ceil(min(max(end, 0), size))


def _averaged(
    film: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], step: float
) -> dict[str, np.ndarray | int]:
    """Returns a part of the film in pixels of `step` film pixels, and its position."""
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
