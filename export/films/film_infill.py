"""Lesions put into a whole film, or taken out of it, at the film's full resolution.

The generator works where it was trained: on a square patch of the rescaled film. Back on the film,
a pixel is the sum of what is coarse enough to survive rescaling and of the rest, the film's grain.
Inside the lesion mask the coarse part becomes the infill's (fading in from the mask's edge within
one pixel of the rescaled film) and the grain stays the film's own; outside no pixel changes. Where
the infill is brighter or darker along the mask's edge than the tissue beyond, the step would show
where the mask was: it is taken out of the infill's outermost pixels.

The grain of a lesion that is taken out may hold its sharpest parts, calcifications above all. So it
is limited to what the grain in a rim around the mask reaches.
"""

import dataclasses
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from cigan_tf.errors import UserError
from cigan_tf.exported_generator import open_generator
from cigan_tf.patch_format import CLASS_NAMES
from tfds_ddsm import grey_levels, patches

MAX_LESIONS = 16

# Width of the rim in which grain is measured, in pixels of the rescaled film.
_RIM_PX = 4
# A normal distribution leaves one pixel in 370 beyond; a calcification lies far beyond.
_GRAIN_LIMIT_SIGMAS = 3.0
_SIGMAS_PER_MAD = 1.4826
# In pixels of the rescaled film: how far along and across the mask's edge a step is measured, and
# how far into the mask it is evened out.
_STEP_SIGMA_PX = 1.5
_STEP_FADE_PX = 6.0
# A cubic spline forgets what lies further off: its weights fall by 3.7 a pixel.
_SPLINE_MARGIN_PX = 8


@dataclasses.dataclass(frozen=True)
class FilmLesion:
    """Where on a film something is to be put in or taken out.

    Attributes:
        mask: bool [height, width], the lesion's shape in pixels of the film.
        row: film row of the mask's first row.
        column: film column of the mask's first column.
        malignant: the class to infill; non-malignant takes a lesion out.
    """

    mask: np.ndarray
    row: int
    column: int
    malignant: bool

    @classmethod
    def centred(cls, mask: np.ndarray, row: int, column: int, malignant: bool) -> "FilmLesion":
        """Returns a lesion whose mask picture has its centre on a pixel of the film."""
        return cls(mask, row - mask.shape[0] // 2, column - mask.shape[1] // 2, malignant)

    @property
    def label(self) -> str:
        """The class as the dataset calls it."""
        return CLASS_NAMES[int(self.malignant)]

    def on_film(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the mask on a film's grid, bool `shape`; raises UserError if it reaches out."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            raise UserError("The lesion mask is empty; its bright pixels are the lesion.")
        top, bottom = self.row + rows[0], self.row + rows[-1] + 1
        left, right = self.column + columns[0], self.column + columns[-1] + 1
        if top < 0 or left < 0 or bottom > shape[0] or right > shape[1]:
            raise UserError(
                f"A lesion mask must lie on the film of {shape[0]} x {shape[1]} pixels. Received: "
                f"rows {top} to {bottom - 1}, columns {left} to {right - 1}."
            )
        placed = np.zeros(shape, bool)
        inside = self.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        placed[top:bottom, left:right] = inside
        return placed


@dataclasses.dataclass(frozen=True)
class InfilledLesion:
    """What infilling one lesion gave.

    Attributes:
        pixels: uint16 [height, width], the part of the new film around the mask.
        row: film row of the part's first row.
        column: film column of its first column.
        patch: uint16 [p, p], the infilled patch at the generator's scale.
        patch_mask: bool [p, p].
        seed: of its random noise.
        tissue_fraction: of the patch, the part that is breast, 0 to 1; training's patches have
            more than `patches.MIN_TISSUE_FRACTION`.
    """

    pixels: np.ndarray
    row: int
    column: int
    patch: np.ndarray
    patch_mask: np.ndarray
    seed: int
    tissue_fraction: float

    @property
    def place(self) -> tuple[slice, slice]:
        """The part's rows and columns on the film."""
        height, width = self.pixels.shape
        return slice(self.row, self.row + height), slice(self.column, self.column + width)


class FilmInfiller:
    """Infills lesions of whole films through an exported generator.

    Args:
        saved_model: the SavedModel's folder, a folder of numbered versions, or a preset's name.
        film_size: height and width that the films of its training were rescaled towards; None:
            as the provenance record of the generator says.

    Attributes:
        generator: the generator of patches.
        film_size: the one that is used.
        scale_warning: one line where it contradicts the record, else None.
        patch_size: side in pixels of its patches.
        generator_id: tells the generator from every other: what it is, and a digest of its weights.

    Raises:
        UserError: there is no such SavedModel, its film_size is neither recorded nor given, or its
            patch does not fit into it.
    """

    def __init__(self, saved_model: str | os.PathLike, film_size: tuple[int, int] | None = None):
        self.generator = open_generator(saved_model)
        recorded = ((self.generator.provenance or {}).get("dataset") or {}).get("film_size")
        self.film_size = film_size = _film_size(recorded, film_size, self.generator.path)
        self.scale_warning = _scale_warning(recorded, film_size)
        self.generator_id = f"{self.generator.kind} {self.generator.sha256[:40]}"
        self.patch_size = self.generator.patch_size
        if min(film_size) < self.patch_size:
            raise UserError(
                f"film_size must be at least the generator's patch of {self.patch_size} pixels, "
                f"both ways. Received: {film_size[0]},{film_size[1]}."
            )
        # The first call of a SavedModel takes longer than all that follow.
        blank = np.zeros((1, self.patch_size, self.patch_size, 1), np.float32)
        self.generator(blank, blank, np.zeros(1, np.int32), np.zeros(1, np.int32))

    def __call__(
        self, film: np.ndarray, lesions: Sequence[FilmLesion], seed: int
    ) -> tuple[np.ndarray, list[InfilledLesion]]:
        """Infills lesions one after the other, each into the film that the last one left.

        Args:
            film: uint16 [height, width].
            lesions: what to infill.
            seed: of the first lesion; the next has the next.

        Returns:
            The new film, uint16 [height, width], and one entry per lesion.

        Raises:
            UserError: a lesion does not fit the film or the patch; the message tells which.
        """
        if not 1 <= len(lesions) <= MAX_LESIONS:
            raise UserError(
                f"A film takes 1 to {MAX_LESIONS} lesions at a time. Received: {len(lesions)}."
            )
        if not 0 <= seed < 2**31 - MAX_LESIONS:
            raise UserError(f"seed must be in [0, 2**31 - {MAX_LESIONS}). Received: {seed}.")
        film = film.copy()
        infilled = []
        for index, lesion in enumerate(lesions):
            try:
                part = self._infill(film, lesion, seed + index)
            except UserError as error:
                raise UserError(f"Lesion {index + 1}: {error}") from None
            film[part.place] = part.pixels
            infilled.append(part)
        return film, infilled

    def _infill(self, film: np.ndarray, lesion: FilmLesion, seed: int) -> InfilledLesion:
        mask = lesion.on_film(film.shape)
        factor = self.scale(film.shape)
        before = patches.rescale(film, factor)
        if min(before.shape) < self.patch_size:
            raise UserError(
                f"The film must hold a patch of {self.patch_size} pixels at the generator's "
                f"scale. Received: {before.shape[0]} x {before.shape[1]} pixels there."
            )
        row, column, patch_mask = _patch_around(patches.rescale(mask, factor), self.patch_size)
        window = slice(row, row + self.patch_size), slice(column, column + self.patch_size)
        infilled = self.generator(
            image=before[window][None, ..., None].astype(np.float32) / grey_levels.WHITE,
            mask=patch_mask[None, ..., None].astype(np.float32),
            label=np.array([lesion.malignant], np.int32),
            seed=np.array([seed], np.int32),
        )[0, ..., 0]
        after = before.astype(np.float32)
        after[window] = _without_step(after[window], infilled * grey_levels.WHITE, patch_mask)
        place, pixels = _on_film(film, mask, before, after)
        return InfilledLesion(
            pixels=pixels,
            row=place[0].start,
            column=place[1].start,
            patch=_to_uint16(after[window]),
            patch_mask=patch_mask,
            seed=seed,
            tissue_fraction=float(patches.breast_mask(before)[window].mean()),
        )

    def scale(self, shape: tuple[int, int]) -> float:
        """Returns the factor that a film is rescaled by: the middle of those in training."""
        return (self.film_size[0] / shape[0] + self.film_size[1] / shape[1]) / 2


def _film_size(
    recorded: Sequence[int] | None, given: tuple[int, int] | None, path: os.PathLike
) -> tuple[int, int]:
    if given is None and recorded is None:
        raise UserError(
            f"The SavedModel {str(path)!r} does not record the film_size of its training; pass "
            "--film_size=HEIGHT,WIDTH, that of its dataset (the paper's: 1375,750)."
        )
    return given or (recorded[0], recorded[1])


def _scale_warning(recorded: Sequence[int] | None, used: tuple[int, int]) -> str | None:
    if recorded is None or tuple(recorded) == used:
        return None
    return (
        "The generator was trained on films rescaled towards {},{}; --film_size={},{} shows it "
        "tissue of another size.".format(*recorded, *used)
    )


def off_the_breast(infilled: Sequence[InfilledLesion]) -> str | None:
    """Returns the line that tells which lesions lie where the generator was not trained, if any."""
    lesions = [
        f"lesion {number} ({part.tissue_fraction:.0%})"
        for number, part in enumerate(infilled, 1)
        if part.tissue_fraction <= patches.MIN_TISSUE_FRACTION
    ]
    if not lesions:
        return None
    return (
        f"The generator knows patches that are breast by more than "
        f"{patches.MIN_TISSUE_FRACTION:.0%}; the patch around {', '.join(lesions)} is not."
    )


def _patch_around(mask: np.ndarray, patch_size: int) -> tuple[int, int, np.ndarray]:
    """Returns the corner of the patch with the mask in its middle, and the mask in it."""
    corner = []
    for axis in (0, 1):
        places = np.flatnonzero(mask.any(axis=1 - axis))
        if not places.size:
            raise UserError(
                "The lesion mask is too small: it fills no pixel at the generator's scale."
            )
        extent = places[-1] + 1 - places[0]
        if extent > patch_size:
            raise UserError(
                f"A lesion must fit into the generator's patch of {patch_size} pixels. Received: "
                f"{extent} pixels at the generator's scale; a smaller mask, or larger patches, fit."
            )
        middle = (places[0] + places[-1] + 1 - patch_size) // 2
        corner.append(int(np.clip(middle, 0, mask.shape[axis] - patch_size)))
    row, column = corner
    return row, column, mask[row : row + patch_size, column : column + patch_size]


def _without_step(context: np.ndarray, infilled: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Evens out the step between an infill and its surroundings at the mask's edge.

    Args:
        context: float32 [p, p], the patch before.
        infilled: float32 [p, p], the same outside of the mask.
        mask: bool [p, p].

    Returns:
        float32 [p, p]: the infill, which begins at the mask's edge with the mean level beyond it.
    """
    if mask.all():
        return infilled

    def mean_level(image, weight):
        summed = cv2.GaussianBlur(image * weight, (0, 0), _STEP_SIGMA_PX)
        return summed / np.maximum(cv2.GaussianBlur(weight, (0, 0), _STEP_SIGMA_PX), 1e-6)

    inside = mask.astype(np.float32)
    step = mean_level(context, 1 - inside) - mean_level(infilled, inside)
    # Each pixel takes the step of the pixel beyond the edge that is nearest: both means hold there.
    depth, nearest = ndimage.distance_transform_edt(mask, return_indices=True)
    fade = np.exp((1 - depth) / _STEP_FADE_PX).astype(np.float32)
    return np.where(mask, infilled + fade * step[tuple(nearest)], infilled)


def _on_film(
    film: np.ndarray, mask: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Writes the change between two rescaled films into the mask on the film.

    Args:
        film: uint16 [height, width].
        mask: bool [height, width].
        before: the rescaled film, grey levels, any smaller shape.
        after: the same with the infill.

    Returns:
        The place around the mask, and the new film's pixels there, uint16.
    """
    steps = film.shape[0] / before.shape[0], film.shape[1] / before.shape[1]
    place = tuple(
        _range_around(mask.any(axis=1 - axis), math.ceil(_RIM_PX * steps[axis])) for axis in (0, 1)
    )
    inside = mask[place]
    grain = film[place] - _enlarged(before, place, steps)
    outside = grain[~inside]
    sigma = _SIGMAS_PER_MAD * np.median(np.abs(outside)) if outside.size else np.inf
    limit = _GRAIN_LIMIT_SIGMAS * sigma
    infilled = _enlarged(after, place, steps) + np.clip(grain, -limit, limit)
    # Within one pixel of the rescaled film from the mask's edge its steps would show.
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    weight = np.minimum(depth / max(steps), 1)
    return place, _to_uint16(film[place] + weight * (infilled - film[place]))


def _range_around(used: np.ndarray, margin: int) -> slice:
    places = np.flatnonzero(used)
    return slice(max(0, places[0] - margin), min(len(used), places[-1] + 1 + margin))


def _enlarged(
    rescaled: np.ndarray, place: tuple[slice, slice], steps: tuple[float, float]
) -> np.ndarray:
    """Returns a place on the film as the rescaled film shows it: a cubic spline, float64."""
    points, cut = [], []
    for wanted, step, size in zip(place, steps, rescaled.shape, strict=True):
        # The centre of film pixel i lies at i + 0.5; of pixel j of the rescaled film, at
        # (j + 0.5) * step.
        at = (np.arange(wanted.start, wanted.stop) + 0.5) / step - 0.5
        first = max(0, int(at[0]) - _SPLINE_MARGIN_PX)
        cut.append(slice(first, min(size, int(at[-1]) + 2 + _SPLINE_MARGIN_PX)))
        points.append(at - first)
    part = rescaled[tuple(cut)]
    return RectBivariateSpline(*map(np.arange, part.shape), part)(*points)


def _to_uint16(grey: np.ndarray) -> np.ndarray:
    return np.clip(np.round(grey), 0, grey_levels.WHITE).astype(np.uint16)
