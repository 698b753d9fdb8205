"""Draws the masks of lesions that are given by a box, a circle or a polygon.

Rows and columns are counted from 0 at the film's upper left pixel, whose centre is (0, 0).
"""

import dataclasses
import math
from typing import Protocol

import cv2
import numpy as np

# A lesion at the edge may extend beyond it. If most of it does, its units are wrong.
_MIN_SHARE_ON_FILM = 0.5


class OutsideFilmError(ValueError):
    """A lesion outside its film; the message describes both."""


class Shape(Protocol):
    """A lesion's outline."""

    def extent(self) -> tuple[float, float, float, float]:
        """Returns first row, last row, first column and last column."""

    def flipped(self, height: int) -> "Shape":
        """Converts rows counted from the film's bottom to rows counted from its top."""

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns bool [height, width], set on the lesion."""


@dataclasses.dataclass(frozen=True)
class Box:
    """All pixels from the first to the last row and column, both included."""

    row_min: float
    row_max: float
    col_min: float
    col_max: float

    def extent(self) -> tuple[float, float, float, float]:
        """See `Shape`."""
        return self.row_min, self.row_max, self.col_min, self.col_max

    def flipped(self, height: int) -> "Box":
        """See `Shape`."""
        last = height - 1
        return Box(last - self.row_max, last - self.row_min, self.col_min, self.col_max)

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        """See `Shape`."""
        mask = np.zeros(shape, bool)
        mask[_window(self, shape)] = True
        return mask


@dataclasses.dataclass(frozen=True)
class Circle:
    """All pixels whose centre is at most `radius` away from the circle's centre."""

    center_row: float
    center_col: float
    radius: float

    def extent(self) -> tuple[float, float, float, float]:
        """See `Shape`."""
        row, column, radius = self.center_row, self.center_col, self.radius
        return row - radius, row + radius, column - radius, column + radius

    def flipped(self, height: int) -> "Circle":
        """See `Shape`."""
        return dataclasses.replace(self, center_row=height - 1 - self.center_row)

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        """See `Shape`."""
        mask = np.zeros(shape, bool)
        rows, columns = _window(self, shape)
        below = np.arange(rows.start, rows.stop)[:, None] - self.center_row
        beside = np.arange(columns.start, columns.stop) - self.center_col
        mask[rows, columns] = below**2 + beside**2 <= self.radius**2
        return mask


@dataclasses.dataclass(frozen=True)
class Polygon:
    """The outline through `points` (pairs of row and column) and its interior."""

    points: tuple[tuple[float, float], ...]

    def extent(self) -> tuple[float, float, float, float]:
        """See `Shape`."""
        rows, columns = zip(*self.points, strict=True)
        return min(rows), max(rows), min(columns), max(columns)

    def flipped(self, height: int) -> "Polygon":
        """See `Shape`."""
        return Polygon(tuple((height - 1 - row, column) for row, column in self.points))

    def draw(self, shape: tuple[int, int]) -> np.ndarray:
        """See `Shape`."""
        mask = np.zeros(shape, np.uint8)
        points = np.round([(column, row) for row, column in self.points]).astype(np.int32)
        cv2.fillPoly(mask, [points], 1)
        return mask.view(bool)


def on_film(outline: Shape, film_shape: tuple[int, int], from_bottom: bool = False) -> np.ndarray:
    """Returns the mask of a lesion on its film; parts beyond the edge are cut off.

    Args:
        outline: the lesion's shape.
        film_shape: height and width.
        from_bottom: whether the shape's rows are counted upwards from the film's last row.

    Returns:
        bool [height, width], with at least one pixel set.

    Raises:
        OutsideFilmError: less than half of the shape's bounding box, or no pixel of the shape, is
            on the film.
    """
    if from_bottom:
        outline = outline.flipped(film_shape[0])
    top, bottom, left, right = outline.extent()
    share = _share(top, bottom, film_shape[0]) * _share(left, right, film_shape[1])
    mask = outline.draw(film_shape) if share >= _MIN_SHARE_ON_FILM else np.zeros((1, 1), bool)
    if not mask.any():
        raise OutsideFilmError(
            f"at least half of the lesion (rows {top:g} to {bottom:g}, columns {left:g} to "
            f"{right:g}), and at least one pixel of it, must be on the film of {film_shape[0]} x "
            f"{film_shape[1]} pixels"
        )
    return mask


def _share(first: float, last: float, length: int) -> float:
    """Returns the share of the pixels from `first` to `last` that are among 0 to `length` - 1."""
    inside = min(last, length - 1) - max(first, 0) + 1
    return max(0.0, inside) / (last - first + 1)


def _window(outline: Shape, film_shape: tuple[int, int]) -> tuple[slice, slice]:
    top, bottom, left, right = outline.extent()
    return tuple(
        slice(max(0, math.ceil(first)), max(0, min(length, math.floor(last) + 1)))
        for first, last, length in ((top, bottom, film_shape[0]), (left, right, film_shape[1]))
    )
