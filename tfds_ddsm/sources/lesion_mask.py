"""Lesion masks from images."""

import numpy as np


class UnusableMaskError(Exception):
    """A lesion's mask cannot be used although its file can be read; the message says why."""


def binary(pixels: np.ndarray) -> np.ndarray:
    """Returns bool [height, width], set on the brighter of two values.

    An image of more values, such as a JPEG, is thresholded at half the range of its bits.

    Raises:
        UnusableMaskError: no pixel is set, or all pixels are.
    """
    low, high = pixels.min(), pixels.max()
    two_values = np.all((pixels == low) | (pixels == high))
    middle = np.iinfo(pixels.dtype).max // 2
    mask = pixels == high if two_values and low < high else pixels > middle
    if not mask.any():
        raise UnusableMaskError(
            f"the mask is empty: a lesion must be brighter than {middle}, half the range of a file "
            f"of {8 * pixels.dtype.itemsize} bits; the brightest pixel has {high}"
        )
    if mask.all():
        raise UnusableMaskError("the mask covers the whole film")
    return mask
