"""Which part of a patch decides the feature loss: geometry alone.

Real and infilled patches agree outside the lesion mask, so their maps agree wherever no convolution
has carried the mask's inside to. A window around it leaves the loss as it is if it is wide enough:
what its edges spoil, where zeros stand for the patch's pixels, must not reach what the mask
changes. Positions are counted in cells of the last map, on whose grid all pools agree.
"""

from collections.abc import Sequence

import tensorflow as tf
from keras import layers

# Each is compiled; the larger ones save little.
_MAX_SIZES = 5


class FeatureWindow:
    """Windows for a network of 3x3 convolutions and 2x2 pools in a row that ends with a pool.

    Args:
        network: its `Conv2D` and `MaxPooling2D` layers in order.
        reach_px: pixels of the patch up to which a change is followed, from the mask outwards and
            from the window's edges inwards. VGG-19 up to pool3 carries it 22 px, up to pool1 2 px.
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
        """Returns the cells that a window must hold for a mask, along one axis or several.

        Args:
            first_px: the mask's first row or column in the patch, int tensor or array.
            last_px: its last one.
            patch_size: side of the patch in pixels; beyond it lies nothing to hold.
        """
        spoiled = -(-self._reach_px // self.cell_px)
        first = (first_px - self._reach_px) // self.cell_px - spoiled
        last = (last_px + self._reach_px) // self.cell_px + spoiled
        end = patch_size // self.cell_px - 1
        return tf.clip_by_value(first, 0, end), tf.clip_by_value(last, 0, end)

    def sizes(self, patch_size: int) -> list[int]:
        """Returns the sides of windows in cells, ascending; the last one is the whole patch.

        The whole patch alone where there is no pool, the last one leaves out the patch's edge, or
        no window is smaller.
        """
        whole = patch_size // self.cell_px
        if self.cell_px == 1 or patch_size % self.cell_px:
            return [whole]
        step = -(-whole // 12)
        middle_px = patch_size // 2
        first, last = self.first_and_last_cell(middle_px, middle_px, patch_size)
        smallest = int(last - first) + 1
        # A window that leaves out one step alone is not worth its compilation.
        smaller = range(whole - 2 * step, smallest - 1, -step)[:_MAX_SIZES]
        return [*reversed(smaller), whole]
