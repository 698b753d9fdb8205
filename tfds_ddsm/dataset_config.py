"""The config of the dataset `ddsm_patches`, and its validation."""

import dataclasses
import re
from typing import Any

import tensorflow_datasets as tfds
from absl import app

SOURCES = ("cbis_ddsm", "ddsm", "sample", "phantom", "films")


class DatasetError(ValueError, app.UsageError):
    """An error in the config or the data folder; `tfds build` prints it without a traceback."""

    exitcode = 2


@dataclasses.dataclass(eq=False)
class DdsmPatchesConfig(tfds.core.BuilderConfig):
    """Configuration of a dataset.

    Attributes:
        source: 'cbis_ddsm', 'ddsm', 'sample', 'phantom', or 'films' (the user's own, in films.csv).
        patch_size: side of a patch in pixels, a power of two from 32 to 512.
        film_size: height and width in pixels that films are rescaled to.
        patches_per_class: number of patches of each class, over all splits.
        mask_margin_px: width of the margin added to every lesion mask, in pixels of the rescaled
            film, 0 to 100. Outlines are drawn tightly, so without a margin the soft edge of a
            removed mass remains, and an inserted one has no room for its own.
        background_share: share of the non-malignant patches that touch no lesion, 0 to 1.
        seed: seed of the drawn corners and of simulated lesions.
        official_split: use TCIA's own split; only for the source 'cbis_ddsm'. TCIA's training
            patients are split into train and validation by a hash of their id; patients in both of
            TCIA's sets are skipped.
        allow_skipped: continue if a CSV file is missing, more than 5 % of the films cannot be used,
            or films.csv has errors.
        simulated_lesions: number of simulated lesions per film, drawn into real tissue; only for
            the source 'sample'.
        num_patients: number of patients of the source 'phantom'.
        difficulty: difficulty of simulated lesions, 0 (classes easy to distinguish) to 1.
    """

    source: str = "cbis_ddsm"
    patch_size: int = 256
    film_size: tuple[int, int] = (1375, 750)
    patches_per_class: int = 100_000
    mask_margin_px: int = 0
    background_share: float = 0.5
    seed: int = 0
    official_split: bool = False
    allow_skipped: bool = False
    simulated_lesions: int = 0
    num_patients: int = 100
    difficulty: float = 0.5

    def __new__(cls, *args, **values):
        """Raises DatasetError for the name of a field that does not exist."""
        fields = [field.name for field in dataclasses.fields(cls)]
        unknown = ", ".join(sorted(set(values) - set(fields)))
        _check(not unknown, f"a config's fields must be among {', '.join(fields)}", unknown)
        return super().__new__(cls)

    def __post_init__(self):
        """Raises DatasetError for the first invalid value."""
        _check(
            isinstance(self.name, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name),
            "name must be made of letters, digits, '_', '-' and '.', because it names a folder",
            self.name,
        )
        _check(self.source in SOURCES, f"source must be one of {', '.join(SOURCES)}", self.source)
        _check(
            _is_whole(self.patch_size, 32, 512) and self.patch_size & (self.patch_size - 1) == 0,
            "patch_size must be a power of two from 32 to 512",
            self.patch_size,
        )
        _check(
            isinstance(self.film_size, list | tuple)
            and len(self.film_size) == 2
            and all(_is_whole(side, self.patch_size, 20_000) for side in self.film_size),
            f"film_size must be [height, width], each from patch_size ({self.patch_size}) to 20000",
            self.film_size,
        )
        self.film_size = tuple(self.film_size)  # JSON has no tuples
        for name, low, high in (
            ("patches_per_class", 1, 10**8),
            ("mask_margin_px", 0, 100),
            ("seed", 0, 2**63 - 1),
            ("simulated_lesions", 0, 100),
            ("num_patients", 1, 10**6),
        ):
            value = getattr(self, name)
            _check(
                _is_whole(value, low, high),
                f"{name} must be an integer from {low} to {high}",
                value,
            )
        for name in ("background_share", "difficulty"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            _check(is_number and 0 <= value <= 1, f"{name} must be a number from 0 to 1", value)
        for name in ("official_split", "allow_skipped"):
            value = getattr(self, name)
            _check(isinstance(value, bool), f"{name} must be true or false", value)
        _check(
            not self.official_split or self.source == "cbis_ddsm",
            f"official_split is only for the source 'cbis_ddsm', not for {self.source!r}",
            self.official_split,
        )
        _check(
            not self.simulated_lesions or self.source == "sample",
            f"simulated_lesions is only for the source 'sample', not for {self.source!r}",
            self.simulated_lesions,
        )

    def recipe(self) -> dict[str, Any]:
        """Returns the fields that determine the content of the dataset, as JSON values."""
        inherited = {field.name for field in dataclasses.fields(tfds.core.BuilderConfig)}
        fields = [field.name for field in dataclasses.fields(self) if field.name not in inherited]
        values = {name: getattr(self, name) for name in fields}
        return values | {"film_size": list(self.film_size)}


def _check(holds: object, rule: str, received: object) -> None:
    if not holds:
        raise DatasetError(f"{rule}; received {received!r}.")


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
