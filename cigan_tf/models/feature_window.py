"""Which part of each VGG-19 map a lesion mask can change: geometry alone.

Real and infilled patches agree outside the mask, so their maps agree wherever no convolution has
carried the mask's inside to. Of each map two concentric squares are of interest: the change, where
the two patches' maps may differ, and the real patch's map around it, wide enough that no
convolution further on misses a neighbour. Both follow, layer by layer backwards, from the cells of
the last map that the mask reaches; their sides depend on the number of those cells alone.
"""

import dataclasses
from collections.abc import Sequence

from keras import layers


@dataclasses.dataclass(frozen=True)
class Squares:
    """What is computed of one map, in its own pixels.

    Attributes:
        per_cell: this map's pixels per cell of the last map.
        offset: from the first cell's first pixel to the real map's first.
        real: side of the real patch's map.
        change: side of the change, in the middle of it.
    """

    per_cell: int
    offset: int
    real: int
    change: int

    @property
    def ring(self) -> int:
        """Pixels of the real map on each side of the change."""
        return (self.real - self.change) // 2


class FeatureWindow:
    """The squares of every map for a network of 3x3 convolutions and 2x2 pools in a row.

    Args:
        network: its `Conv2D` and `MaxPooling2D` layers in order; the last one is a pool.
        reach_px: pixels of the patch up to which a change is followed beyond a mask. VGG-19 up to
            pool3 carries it 22 px, up to pool1 2 px; what lies further is left out.
    """

    def __init__(self, network: Sequence[layers.Layer], reach_px: int):
        self.network = tuple(network)
        stride, grown, followed = 1, 0, []
        for layer in self.network:
            if isinstance(layer, layers.MaxPooling2D):
                stride *= 2
            followed.append(isinstance(layer, layers.Conv2D) and grown + stride <= reach_px)
            grown += stride * followed[-1]
        self.followed = tuple(followed)  # per layer: does the change grow by one pixel a side?
        self.cell_px = stride
        self.grown_px = grown

    def first_and_last_cell(self, first_px, last_px):
        """Returns the cells that pixels from `first_px` to `last_px` change, along one axis."""
        return (
            (first_px - self.grown_px) // self.cell_px,
            (last_px + self.grown_px) // self.cell_px,
        )

    def squares(self, cells: int) -> list[Squares]:
        """Returns those of the patch and of each layer's output, for so many cells a side."""
        squares = [Squares(per_cell=1, offset=0, real=cells, change=cells)]
        for layer, followed in zip(self.network[::-1], self.followed[::-1], strict=True):
            after = squares[-1]
            if isinstance(layer, layers.MaxPooling2D):
                before = Squares(*(2 * value for value in dataclasses.astuple(after)))
            else:
                before = dataclasses.replace(
                    after,
                    offset=after.offset - 1,
                    real=after.real + 2,
                    change=after.change - 2 * followed,
                )
            squares.append(before)
        return squares[::-1]

    def sizes(self, patch_size: int) -> list[int]:
        """Returns the numbers of cells worth a window of their own, ascending.

        About five, for each is compiled; those left out that cost more than the whole patch.
        """
        cells = patch_size // self.cell_px
        step = max(1, cells // 6)
        return [
            size
            for size in range(cells - step, 0, -step)
            if self.squares(size)[0].change > 0 and self._pays(size, patch_size)
        ][::-1]

    def _pays(self, cells: int, patch_size: int) -> bool:
        """Returns whether a window needs fewer multiplications than the whole patch.

        The real map is computed forwards; the infilled one, or the change, both ways.
        """
        window = whole = 0
        side = patch_size
        for layer, squares in zip(self.network, self.squares(cells)[1:], strict=True):
            if isinstance(layer, layers.MaxPooling2D):
                side //= 2
            else:
                weights = layer.kernel.shape[-2] * layer.filters
                window += weights * (squares.real**2 + 2 * squares.change**2)
                whole += weights * 3 * side**2
        return window < whole
