"""Lesion masks from images."""

import numpy as np


class UnusableMaskError(Exception):
    """A lesion's mask cannot be used although its file can be read; the message says why."""


def binary(pixels: np.ndarray) -> np.ndarray:
    """Returns bool [height, width]; grey values, as in JPEG, are thresholded at half the range.

    Raises:
        UnusableMaskError: no pixel is set, or all pixels are.
    """
    low, high = pixels.min(), pixels.max()
    two_values = np.all((pixels == low) | (pixels == high))
    mask = pixels == high if two_values and low < high else pixels > np.iinfo(pixels.dtype).max // 2
    if not mask.any():
        raise UnusableMaskError("the mask is empty")
    if mask.all():
        raise UnusableMaskError("the mask covers the whole film")
    return mask
