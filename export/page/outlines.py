"""Outlines on a film and lesion masks, each from the other."""

import cv2
import numpy as np

from cigan_tf.errors import UserError

from ..films.film_infill import FilmLesion

_MAX_POINTS = 20_000
# cv2.fillPoly takes fractions of a pixel in so many bits.
_FRACTION_BITS = 4


def lesion_of(xs, ys, malignant: bool, shape: tuple[int, int]) -> FilmLesion:
    """Returns the lesion that an outline encloses; what reaches beyond the film is cut off.

    Args:
        xs: columns of the outline's points; pixel i reaches from i to i + 1.
        ys: their rows.
        malignant: the class to infill.
        shape: the film's height and width.

    Raises:
        UserError: the points are none, too many, no numbers, or all beyond the film.
    """
    try:
        points = np.array([xs, ys], np.float64).T
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or not 3 <= len(points) <= _MAX_POINTS or not np.isfinite(points).all():
        raise UserError(f"An outline must have 3 to {_MAX_POINTS} points, all of them numbers.")
    height, width = shape
    inside = np.clip(points, 0, [width, height])
    left, top = np.floor(inside.min(axis=0)).astype(int)
    right, bottom = np.ceil(inside.max(axis=0)).astype(int)
    if right == left or bottom == top:
        raise UserError("An outline must enclose a part of the film.")
    # The centre of pixel i lies at i + 0.5.
    fixed = np.round((inside - [left + 0.5, top + 0.5]) * 2**_FRACTION_BITS).astype(np.int32)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [fixed], 1, shift=_FRACTION_BITS)
    return FilmLesion(mask.astype(bool), int(top), int(left), malignant)


def outline_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns and rows of the outline of a mask's largest part.

    Raises:
        UserError: the mask is empty.
    """
    # Room around it: OpenCV follows no outline along the picture's edge.
    padded = np.pad(mask.astype(np.uint8), 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        raise UserError("The lesion mask is empty; its bright pixels are the lesion.")
    largest = max(contours, key=len)[:, 0].astype(float) - 0.5
    return largest[:, 0], largest[:, 1]


def circle(diameter: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns and rows of a circle's points around (0, 0)."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return diameter / 2 * np.cos(angle), diameter / 2 * np.sin(angle)
