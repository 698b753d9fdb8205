"""Inserts lesions into a whole film, or removes them, at the film's full resolution.

The generator works at its training scale, on a square patch of the rescaled film. On the full film,
a pixel is the sum of a coarse part that survives rescaling and the rest, the film's grain.
Inside the lesion mask, the coarse part is replaced by that of the infill (fading in from the mask's
edge within one pixel of the rescaled film), and the grain is kept. Pixels outside the mask do not
change. If the infill is brighter or darker than the tissue along the mask's edge, the step would be
visible; it is removed from the outermost pixels of the infill.

The grain of a removed lesion may contain its sharpest parts, mainly calcifications. The grain is
therefore limited to the strength of the grain in a rim around the mask.
"""

import dataclasses
import math
import os
from collections.abc import Sequence

import cv2
import numpy as np
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

from cigan_tf.errors import UserError, prefix_errors
from cigan_tf.patch_format import CLASS_NAMES
from tfds_ddsm import grey_levels, patches
from tfds_ddsm.mammogram import UnreadableFilmError

MAX_LESIONS = 16

# Width of the rim in which grain is measured, in pixels of the rescaled film.
_RIM_PX = 4
# In a normal distribution one pixel in 370 is beyond this; a calcification is far beyond.
_GRAIN_LIMIT_SIGMAS = 3.0
_SIGMAS_PER_MAD = 1.4826
# In pixels of the rescaled film: the Gaussian width for measuring a step along and across the
# mask's edge, and the depth inside the mask over which the step is evened out.
_STEP_SIGMA_PX = 1.5
_STEP_FADE_PX = 6.0
# The influence of a pixel on a cubic spline falls by a factor of 3.7 per pixel.
_SPLINE_MARGIN_PX = 8


@dataclasses.dataclass(frozen=True)
class FilmLesion:
    """A lesion to insert into a film or to remove.

    Attributes:
        mask: bool [height, width], the lesion's shape in pixels of the film.
        row: film row of the mask's first row.
        column: film column of the mask's first column.
        malignant: the class to infill; non-malignant removes a lesion.
    """

    mask: np.ndarray
    row: int
    column: int
    malignant: bool

    @classmethod
    def centred(cls, mask: np.ndarray, row: int, column: int, malignant: bool) -> "FilmLesion":
        """Returns a lesion whose mask image is centred on a pixel of the film."""
        return cls(mask, row - mask.shape[0] // 2, column - mask.shape[1] // 2, malignant)

    @property
    def label(self) -> str:
        """The class name used in the dataset."""
        return CLASS_NAMES[int(self.malignant)]

    def on_film(self, shape: tuple[int, int]) -> np.ndarray:
        """Returns the mask on a film's grid, bool `shape`; raises UserError if it does not fit."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            raise UserError("The lesion mask has no bright pixels; draw the lesion in white.")
        top, bottom = self.row + rows[0], self.row + rows[-1] + 1
        left, right = self.column + columns[0], self.column + columns[-1] + 1
        if top < 0 or left < 0 or bottom > shape[0] or right > shape[1]:
            raise UserError(
                f"A lesion mask must be inside the film of {shape[0]} x {shape[1]} pixels. "
                f"Received: rows {top} to {bottom - 1}, columns {left} to {right - 1}."
            )
        placed = np.zeros(shape, bool)
        inside = self.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        placed[top:bottom, left:right] = inside
        return placed


@dataclasses.dataclass(frozen=True)
class InfilledLesion:
    """Result of infilling one lesion.

    Attributes:
        pixels: uint16 [height, width], the part of the infilled film around the mask.
        row: film row of the part's first row.
        column: film column of the part's first column.
        patch: uint16 [p, p], the infilled patch at the generator's scale.
        patch_mask: bool [p, p], the lesion mask in the patch.
        seed: seed of the patch's random noise.
        tissue_fraction: share of the patch that is breast, 0 to 1; training patches have more than
            `patches.MIN_TISSUE_FRACTION`.
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
        """Rows and columns of the part on the film."""
        height, width = self.pixels.shape
        return slice(self.row, self.row + height), slice(self.column, self.column + width)


def check_count(count: int) -> None:
    """Raises UserError if a film cannot take this number of lesions at a time."""
    if not 1 <= count <= MAX_LESIONS:
        raise UserError(f"A film takes 1 to {MAX_LESIONS} lesions at a time. Received: {count}.")


def check_lesions(shape: tuple[int, int], lesions: Sequence[FilmLesion], seed: int) -> None:
    """Raises UserError if no generator could infill the lesions of a film.

    Args:
        shape: height and width of the film.
        lesions: the lesions to infill.
        seed: seed of the first lesion.
    """
    check_count(len(lesions))
    if not 0 <= seed < 2**31 - MAX_LESIONS:
        raise UserError(f"seed must be in [0, 2**31 - {MAX_LESIONS}). Received: {seed}.")
    for number, lesion in enumerate(lesions, 1):
        with prefix_errors(f"Lesion {number}"):
            lesion.on_film(shape)


class FilmInfiller:
    """Infills lesions of whole films with an exported generator.

    Args:
        saved_model: the SavedModel's folder, a folder of numbered versions, or a preset's name.
        film_size: height and width that the generator's training films were rescaled to; None: the
            value in its provenance record.

    Attributes:
        generator: the generator of patches.
        film_size: the height and width that are used.
        scale_warning: one line if `film_size` contradicts the record, otherwise None.
        patch_size: side of the generator's patches in pixels.
        generator_id: identifies the generator by its kind and a digest of its weights.

    Raises:
        UserError: the generator does not exist, its film_size is neither recorded nor given, or its
            patches are larger than film_size.
    """

    def __init__(self, saved_model: str | os.PathLike, film_size: tuple[int, int] | None = None):
        # Imported here, so that a command's flags are parsed before TensorFlow loads.
        from cigan_tf.exported_generator import open_generator

        self.generator = open_generator(saved_model)
        recorded = ((self.generator.provenance or {}).get("dataset") or {}).get("film_size")
        self.film_size = film_size = _film_size(recorded, film_size, self.generator.path)
        self.scale_warning = _scale_warning(recorded, film_size)
        self.generator_id = f"{self.generator.kind} {self.generator.sha256[:40]}"
        self.patch_size = self.generator.patch_size
        if min(film_size) < self.patch_size:
            raise UserError(
                f"film_size must be at least the generator's patch size, {self.patch_size} pixels, "
                f"in both dimensions. Received: {film_size[0]},{film_size[1]}."
            )
        # The first call of a SavedModel takes longer than all later ones.
        blank = np.zeros((1, self.patch_size, self.patch_size, 1), np.float32)
        self.generator(blank, blank, np.zeros(1, np.int32), np.zeros(1, np.int32))

    def __call__(
        self, film: np.ndarray, lesions: Sequence[FilmLesion], seed: int
    ) -> tuple[np.ndarray, list[InfilledLesion]]:
        """Infills lesions one after another, each into the result of the previous one.

        Args:
            film: uint16 [height, width].
            lesions: the lesions to infill.
            seed: seed of the first lesion; each following lesion adds 1.

        Returns:
            The infilled film, uint16 [height, width], and the result of each lesion.

        Raises:
            UserError: a lesion does not fit the film or the patch; the message names it.
        """
        check_lesions(film.shape, lesions, seed)
        film = film.copy()
        infilled = []
        for index, lesion in enumerate(lesions):
            with prefix_errors(f"Lesion {index + 1}"):
                part = self._infill(film, lesion, seed + index)
            film[part.place] = part.pixels
            infilled.append(part)
        return film, infilled

    def _infill(self, film: np.ndarray, lesion: FilmLesion, seed: int) -> InfilledLesion:
        mask = lesion.on_film(film.shape)
        factor = self.scale(film.shape)
        try:
            before = patches.rescale(film, factor)
        except UnreadableFilmError as error:
            raise UserError(f"The film cannot be used: {error}.") from None
        if min(before.shape) < self.patch_size:
            raise UserError(
                f"The film must be at least {self.patch_size} pixels wide and high at the "
                f"generator's scale. Received: {before.shape[0]} x {before.shape[1]} pixels at "
                "that scale."
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
        """Returns the scale factor of a film: the middle of the range used in training."""
        return (self.film_size[0] / shape[0] + self.film_size[1] / shape[1]) / 2


def _film_size(
    recorded: Sequence[int] | None, given: tuple[int, int] | None, path: os.PathLike
) -> tuple[int, int]:
    if given is None and recorded is None:
        raise UserError(
            f"The SavedModel {str(path)!r} does not record the film_size of its training; pass "
            "--film_size=HEIGHT,WIDTH of its dataset (the paper's: 1375,750)."
        )
    return given or (recorded[0], recorded[1])


def _scale_warning(recorded: Sequence[int] | None, used: tuple[int, int]) -> str | None:
    if recorded is None or tuple(recorded) == used:
        return None
    return (
        "The generator was trained on films rescaled to about {},{}; with --film_size={},{} the "
        "tissue has a different scale.".format(*recorded, *used)
    )


def off_the_breast(infilled: Sequence[InfilledLesion]) -> str | None:
    """Returns a warning about lesions with too little breast around them, or None."""
    lesions = [
        f"lesion {number} ({part.tissue_fraction:.0%})"
        for number, part in enumerate(infilled, 1)
        if part.tissue_fraction <= patches.MIN_TISSUE_FRACTION
    ]
    if not lesions:
        return None
    return (
        f"Too little breast in the patch around {', '.join(lesions)}; the generator was trained on "
        f"patches with more than {patches.MIN_TISSUE_FRACTION:.0%} breast."
    )


def _patch_around(mask: np.ndarray, patch_size: int) -> tuple[int, int, np.ndarray]:
    """Returns the corner of the patch around the mask, centred if possible, and the mask in it."""
    corner = []
    for axis in (0, 1):
        places = np.flatnonzero(mask.any(axis=1 - axis))
        if not places.size:
            raise UserError(
                "The lesion mask is too small: it covers no pixel at the generator's scale; use a "
                "larger mask."
            )
        extent = places[-1] + 1 - places[0]
        if extent > patch_size:
            raise UserError(
                f"A lesion must be at most {patch_size} pixels high and wide at the generator's "
                f"scale, to fit into its patch. Received: {extent} pixels; use a smaller mask, or "
                "a generator with larger patches."
            )
        middle = (places[0] + places[-1] + 1 - patch_size) // 2
        corner.append(int(np.clip(middle, 0, mask.shape[axis] - patch_size)))
    row, column = corner
    return row, column, mask[row : row + patch_size, column : column + patch_size]


def _without_step(context: np.ndarray, infilled: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Removes the grey-level step between an infill and its surroundings at the mask's edge.

    Args:
        context: float32 [p, p], the patch before infilling.
        infilled: float32 [p, p], equal to `context` outside the mask.
        mask: bool [p, p].

    Returns:
        float32 [p, p]: the infill, whose mean level at the mask's edge equals that outside.
    """
    if mask.all():
        return infilled

    def mean_level(image, weight):
        summed = cv2.GaussianBlur(image * weight, (0, 0), _STEP_SIGMA_PX)
        return summed / np.maximum(cv2.GaussianBlur(weight, (0, 0), _STEP_SIGMA_PX), 1e-6)

    inside = mask.astype(np.float32)
    step = mean_level(context, 1 - inside) - mean_level(infilled, inside)
    # Each pixel gets the step at the nearest pixel outside the edge, where both means are valid.
    depth, nearest = ndimage.distance_transform_edt(mask, return_indices=True)
    fade = np.exp((1 - depth) / _STEP_FADE_PX).astype(np.float32)
    return np.where(mask, infilled + fade * step[tuple(nearest)], infilled)


def _on_film(
    film: np.ndarray, mask: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Transfers the change between two rescaled films to the mask on the film.

    Args:
        film: uint16 [height, width].
        mask: bool [height, width].
        before: the rescaled film, grey levels, any smaller shape.
        after: the rescaled film with the infill.

    Returns:
        The region around the mask, and the infilled film's pixels there, uint16.
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
    # Within one rescaled pixel of the edge, the steps of the rescaled film would be visible.
    depth = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    weight = np.minimum(depth / max(steps), 1)
    return place, _to_uint16(film[place] + weight * (infilled - film[place]))


def _range_around(used: np.ndarray, margin: int) -> slice:
    places = np.flatnonzero(used)
    return slice(max(0, places[0] - margin), min(len(used), places[-1] + 1 + margin))


def _enlarged(
    rescaled: np.ndarray, place: tuple[slice, slice], steps: tuple[float, float]
) -> np.ndarray:
    """Returns a region of the film interpolated from the rescaled film, cubic spline, float64."""
    points, cut = [], []
    for wanted, step, size in zip(place, steps, rescaled.shape, strict=True):
        # The centre of film pixel i is at i + 0.5; that of pixel j of the rescaled film is at
        # (j + 0.5) * step.
        at = (np.arange(wanted.start, wanted.stop) + 0.5) / step - 0.5
        first = max(0, int(at[0]) - _SPLINE_MARGIN_PX)
        cut.append(slice(first, min(size, int(at[-1]) + 2 + _SPLINE_MARGIN_PX)))
        points.append(at - first)
    part = rescaled[tuple(cut)]
    return RectBivariateSpline(*map(np.arange, part.shape), part)(*points)


def _to_uint16(grey: np.ndarray) -> np.ndarray:
    return np.clip(np.round(grey), 0, grey_levels.WHITE).astype(np.uint16)
