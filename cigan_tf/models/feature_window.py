"""Geometry of the part of a patch that determines the feature loss.

Real and infilled patches are equal outside the lesion mask, so their maps are equal wherever no
convolution has propagated a difference. A window around the mask gives the same loss if it is wide
enough: the effect of zero padding at its edges must not reach the cells that the mask affects.
Positions are counted in cells of the last map, whose grid is aligned with all pools.
"""

from collections.abc import Sequence

import tensorflow as tf
from keras import layers

# Limits the time for tracing, because every size is traced separately.
_MAX_SIZES = 5


class FeatureWindow:
    """Windows for a sequence of 3x3 convolutions and 2x2 pools that ends with a pool.

    Args:
        network: the `Conv2D` and `MaxPooling2D` layers in order.
        reach_px: distance in pixels of the patch up to which a difference is followed, outwards
            from the mask and inwards from the window's edges. VGG-19 propagates it 22 px up to
            pool3 and 2 px up to pool1.
    """

    def __init__(self, network: Sequence[layers.Layer], reach_px: int):
        stride, carried_px = 1, 0
        for layer in network:
            if isinstance(layer, layers.MaxPooling2D):
                stride *= 2
            else:
                carried_px += stride
        self.cell_px = stride
        self._reach_px = min(carried_px, reach_px)

    def first_and_last_cell(self, first_px, last_px, patch_size: int):
        """Returns the first and last cell that a mask's window must contain, along any axes.

        Args:
            first_px: first row or column of the mask in the patch, int tensor or array.
            last_px: last row or column of the mask.
            patch_size: side of the patch in pixels.
        """
        spoiled = -(-self._reach_px // self.cell_px)
        first = (first_px - self._reach_px) // self.cell_px - spoiled
        last = (last_px + self._reach_px) // self.cell_px + spoiled
        end = patch_size // self.cell_px - 1
        return tf.clip_by_value(first, 0, end), tf.clip_by_value(last, 0, end)

    def sizes(self, patch_size: int) -> list[int]:
        """Returns the sides of windows in cells, ascending; the last one is the whole patch.

        Only the whole patch is returned if there is no pool, if the last pool drops the patch's
        edge, or if no window is smaller.
        """
        whole = patch_size // self.cell_px
        if self.cell_px == 1 or patch_size % self.cell_px:
            return [whole]
        step = -(-whole // 12)
        middle_px = patch_size // 2
        first, last = self.first_and_last_cell(middle_px, middle_px, patch_size)
        smallest = int(last - first) + 1
        # A window that is only one step smaller than the patch is not worth its tracing.
        smaller = range(whole - 2 * step, smallest - 1, -step)[:_MAX_SIZES]
        return [*reversed(smaller), whole]
