"""Simulated masses and microcalcification clusters, inserted into real or simulated films.

Brightness is added along the film's own characteristic curve. A screen film responds to log
exposure with a sigmoid (Hurter and Driffield 1890), so a lesion adds to the logit of the
brightness. The lesion is visible in fat, fades into dense tissue, keeps the grain and never clips.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from tfds_ddsm import mammogram
from tfds_ddsm.grey_levels import WHITE
from tfds_ddsm.sources.phantom_shapes import LesionPlan, draw_lesion

MASS_DIAMETER_MM = (7.0, 22.0)
CLUSTER_DIAMETER_MM = (5.0, 18.0)
GAP_MM = 3.0  # between the outlines of two lesions
_ROOM_CELL_MM = 1.0


def plan_lesion(malignant: bool, difficulty: float, rng: np.random.Generator) -> LesionPlan:
    """Draws one lesion's type, size, appearance and contrast.

    An observer of `suspicion` itself would reach an AUC of Phi(sqrt(2) * separation): 0.996 at
    difficulty 0, 0.94 at 0.5 and 0.74 at 1. In the images, only noisy shapes show the suspicion.
    """
    is_mass = rng.random() < 0.75
    smallest, largest = MASS_DIAMETER_MM if is_mass else CLUSTER_DIAMETER_MM
    separation = np.interp(difficulty, (0, 0.5, 1), (1.9, 1.1, 0.45))
    latent = (separation if malignant else -separation) + rng.normal()
    contrast = rng.uniform(0.5, 0.85) if is_mass else rng.uniform(1.0, 1.8)
    return LesionPlan(
        lesion_type="mass" if is_mass else "calcification",
        malignant=malignant,
        diameter_mm=smallest + (largest - smallest) * rng.beta(1.6, 2.4),
        suspicion=1 / (1 + math.exp(-1.5 * latent)),
        contrast=contrast * (1.4 - 0.8 * difficulty),
    )


def insert_lesions(
    image: np.ndarray,
    tissue: np.ndarray,
    occupied: np.ndarray,
    *,
    num_lesions: int,
    pixel_size_mm: float,
    difficulty: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[mammogram.Lesion, ...]]:
    """Draws simulated lesions into a film; every second one, starting with the first, is malignant.

    Args:
        image: uint16 [height, width]; dense tissue is bright; not changed.
        tissue: bool [height, width], the breast; lesions are completely inside it.
        occupied: bool [height, width], existing lesions; new ones are at least GAP_MM away.
        num_lesions: number of lesions to draw; those without room are omitted.
        pixel_size_mm: side of one pixel in the breast.
        difficulty: 0 (bright, the classes far apart) to 1 (faint, the classes overlap).
        rng: random generator.

    Returns:
        The film with the added lesions, and these lesions, with masks bool [height, width].

    Raises:
        ValueError: arrays have wrong shapes or types, or a number is out of its range.
    """
    _check_arrays(image, tissue, occupied)
    if num_lesions < 0:
        raise ValueError(f"num_lesions must be 0 or more; received {num_lesions}.")
    check_difficulty(difficulty)
    plans = [plan_lesion(i % 2 == 0, difficulty, rng) for i in range(num_lesions)]
    return insert_planned(image, tissue, occupied, plans, pixel_size_mm, rng)


def insert_planned(
    image: np.ndarray,
    tissue: np.ndarray,
    occupied: np.ndarray,
    plans: Sequence[LesionPlan],
    pixel_size_mm: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, tuple[mammogram.Lesion, ...]]:
    """Draws the planned lesions into a film, shrinking those that do not fit at their size.

    The other arguments, the results and the errors are those of `insert_lesions`.
    """
    _check_arrays(image, tissue, occupied)
    if not 0.01 <= pixel_size_mm <= 1.0:
        raise ValueError(f"pixel_size_mm must be in [0.01, 1]; received {pixel_size_mm}.")
    image = image.copy()
    room = _Room(tissue, occupied, pixel_size_mm)
    lesions = []
    for plan in plans:
        placed = _draw_where_it_fits(room, plan, pixel_size_mm, rng)
        if placed is None:
            continue
        step, shape, (top, left) = placed
        # The faint ends of spicules may extend beyond the film; the outline never does.
        rows = slice(max(top, 0), min(top + step.shape[0], image.shape[0]))
        columns = slice(max(left, 0), min(left + step.shape[1], image.shape[1]))
        part = (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )
        image[rows, columns] = _add_to_film(image[rows, columns], step[part])
        mask = np.zeros(image.shape, bool)
        mask[rows, columns] = shape[part]
        room.occupy(mask, rows, columns)
        lesions.append(
            mammogram.Lesion(
                lesion_type=plan.lesion_type, malignant=plan.malignant, mask=mask, simulated=True
            )
        )
    return image, tuple(lesions)


def check_difficulty(difficulty: float) -> None:
    """Raises ValueError unless difficulty is in [0, 1]."""
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty must be in [0, 1], from easy to hard; received {difficulty}.")


def _check_arrays(image: np.ndarray, tissue: np.ndarray, occupied: np.ndarray) -> None:
    if image.ndim != 2 or image.dtype != np.uint16:
        raise ValueError(
            f"image must be uint16 [height, width]; received {image.dtype} {list(image.shape)}."
        )
    for name, array in (("tissue", tissue), ("occupied", occupied)):
        if array.dtype != bool or array.shape != image.shape:
            raise ValueError(
                f"{name} must be bool {list(image.shape)} like the image; "
                f"received {array.dtype} {list(array.shape)}."
            )


def _add_to_film(pixels: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Adds `step` to the logit of the brightness of uint16 `pixels`."""
    brightness = (pixels.astype(np.float32) + 0.5) / (WHITE + 1)
    odds = brightness / (1 - brightness) * np.exp(step)
    changed = np.clip(np.rint(odds / (1 + odds) * (WHITE + 1) - 0.5), 0, WHITE).astype(np.uint16)
    return np.where(step == 0, pixels, changed)


def _draw_where_it_fits(room, plan, pixel_size_mm, rng):
    """Returns step, outline and top left corner of a lesion, or None if there is no room."""
    room_mm = room.radius_mm()
    smallest_mm = (MASS_DIAMETER_MM if plan.lesion_type == "mass" else CLUSTER_DIAMETER_MM)[0]
    while True:
        step, shape = draw_lesion(plan, pixel_size_mm, rng)
        centre = step.shape[0] // 2
        rows, columns = np.nonzero(shape)
        reach_mm = np.hypot(rows - centre, columns - centre).max() * pixel_size_mm
        cells = np.flatnonzero(room_mm >= reach_mm)
        if cells.size:
            cell = np.unravel_index(rng.choice(cells), room_mm.shape)
            top, left = (int((index + 0.5) * room.cell_px) - centre for index in cell)
            return step, shape, (top, left)
        if plan.diameter_mm <= smallest_mm:
            return None
        plan = dataclasses.replace(plan, diameter_mm=max(smallest_mm, 0.75 * plan.diameter_mm))


class _Room:
    """The free room for lesions, in cells of about 1 mm; the film itself is scanned only once."""

    def __init__(self, tissue: np.ndarray, occupied: np.ndarray, pixel_size_mm: float):
        self.cell_px = max(1, round(_ROOM_CELL_MM / pixel_size_mm))
        self._cell_mm = self.cell_px * pixel_size_mm
        # An additional cell all around counts as outside, so that lesions avoid the film's edge.
        free = np.pad(_all_in_cells(tissue, self.cell_px), 1)
        self._to_edge_mm = self._distance_mm(free)
        self._clear = _all_in_cells(~occupied, self.cell_px)

    def occupy(self, mask: np.ndarray, rows: slice, columns: slice) -> None:
        """Marks the room of a lesion within `rows` and `columns` of the film as occupied."""
        size = self.cell_px
        top, bottom = rows.start // size, -(-rows.stop // size)
        left, right = columns.start // size, -(-columns.stop // size)
        part = mask[top * size : bottom * size, left * size : right * size]
        clear = _all_in_cells(~part, size)
        height, width = clear.shape
        self._clear[top : top + height, left : left + width] &= clear

    def radius_mm(self) -> np.ndarray:
        """Returns the free radius around the centre of every cell."""
        to_lesion_mm = np.inf
        if not self._clear.all():
            clear = np.pad(self._clear, 1, constant_values=True)
            to_lesion_mm = self._distance_mm(clear) - GAP_MM
        return np.minimum(self._to_edge_mm, to_lesion_mm)[1:-1, 1:-1]

    def _distance_mm(self, cells: np.ndarray) -> np.ndarray:
        return (ndimage.distance_transform_edt(cells) - 1) * self._cell_mm


def _all_in_cells(array: np.ndarray, cell_px: int) -> np.ndarray:
    height, width = (n // cell_px for n in array.shape)
    whole = array[: height * cell_px, : width * cell_px]
    return whole.reshape(height, cell_px, width, cell_px).all(axis=(1, 3))
