"""Patches and masks for the tests of the search for copied training patches."""

import numpy as np
from scipy import ndimage

SIZE = 32


def tissue(rng, num):
    smooth = ndimage.gaussian_filter(rng.normal(size=(num, SIZE, SIZE, 1)), (0, 1.5, 1.5, 0))
    return (0.5 + 0.5 * smooth).astype(np.float32)


def random_masks(rng, num):
    masks = np.zeros((num, SIZE, SIZE, 1), np.float32)
    for mask in masks:
        top, left = rng.integers(4, SIZE // 2 - 4, size=2)
        mask[top : top + 12, left : left + 14] = 1
    return masks


def training_chunks():
    """Returns two chunks with 150 training patches."""
    images = tissue(np.random.default_rng(0), 150)
    return [{"image": images[:100]}, {"image": images[100:]}]
