"""Converts outlines on a film to lesion masks, and back."""

import cv2
import numpy as np

from cigan_tf.errors import UserError

from ..films.film_infill import FilmLesion

_MAX_POINTS = 20_000
# Fractional bits of a pixel in cv2.fillPoly.
_FRACTION_BITS = 4


def lesion_of(xs, ys, malignant: bool, shape: tuple[int, int]) -> FilmLesion:
    """Returns the lesion enclosed by an outline; parts beyond the film are cut off.

    Args:
        xs: columns of the outline's points; pixel i extends from i to i + 1.
        ys: rows of the outline's points.
        malignant: the class to infill.
        shape: height and width of the film.

    Raises:
        UserError: the points are too few, too many or not numbers, or enclose nothing of the film.
    """
    try:
        points = np.array([xs, ys], np.float64).T
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2:
        points = np.zeros((0, 2))
    is_finite = np.isfinite(points).all(axis=1)
    if not 3 <= len(points) <= _MAX_POINTS or not is_finite.all():
        raise UserError(
            f"An outline must have 3 to {_MAX_POINTS} points with finite coordinates. Received: "
            f"{len(points)} points, {np.count_nonzero(is_finite)} of them finite."
        )
    height, width = shape
    inside = np.clip(points, 0, [width, height])
    left, top = np.floor(inside.min(axis=0)).astype(int)
    right, bottom = np.ceil(inside.max(axis=0)).astype(int)
    if right == left or bottom == top:
        raise UserError("An outline must enclose a part of the film.")
    # The centre of pixel i is at i + 0.5.
    fixed = np.round((inside - [left + 0.5, top + 0.5]) * 2**_FRACTION_BITS).astype(np.int32)
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [fixed], 1, shift=_FRACTION_BITS)
    return FilmLesion(mask.view(bool), int(top), int(left), malignant)


def outline_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns and rows of the outline of a mask's largest part.

    Raises:
        UserError: the mask is empty.
    """
    # A margin is needed: OpenCV does not follow outlines along the image's edge.
    padded = np.pad(mask.astype(np.uint8), 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        raise UserError("The lesion mask has no bright pixels; draw the lesion in white.")
    largest = max(contours, key=len)[:, 0].astype(float) - 0.5
    return largest[:, 0], largest[:, 1]


def circle(diameter: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the columns and rows of a circle's points around (0, 0)."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    return diameter / 2 * np.cos(angle), diameter / 2 * np.sin(angle)
