"""A source of small films that are quick to draw."""

import dataclasses

import numpy as np

from tfds_ddsm.dataset_config import DdsmPatchesConfig
from tfds_ddsm.mammogram import Film, Lesion, Mammogram, Source

CONFIG = DdsmPatchesConfig(
    name="discs", source="phantom", patch_size=32, film_size=(200, 150), patches_per_class=60
)


@dataclasses.dataclass(frozen=True)
class DiscSource(Source):
    """One film per patient: half a disc of breast with a malignant disc in it.

    Attributes:
        num_films: number of films, one per patient; 21 fill three splits.
        error: raised instead of returning a film.
    """

    num_films: int
    error: Exception | None = None

    def index(self):
        names = [f"P_{number:05}" for number in range(self.num_films)]
        return [Film(f"{name}_LEFT_CC", name, "LEFT", "CC", "unknown", 1, 0) for name in names]

    def read(self, film):
        if self.error:
            raise self.error
        rows, columns = np.ogrid[:200, :150]
        breast = (rows - 100) ** 2 + columns**2 < 95**2
        image = np.where(breast, 30_000 + 5 * rows * columns, 500).astype(np.uint16)
        mask = (rows - 100) ** 2 + (columns - 40) ** 2 < 8**2
        return Mammogram(film, image, (Lesion("mass", True, mask),))
