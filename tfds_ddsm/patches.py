"""From films to patches: rescaling, breast mask, patch corners, and the plan for all films.

Pure functions of NumPy arrays. A film is uint16 [height, width], a mask is bool of the same shape,
and a corner is the (row, column) of a patch's upper left pixel.

All windows of a film are evaluated with summed-area tables (Crow, SIGGRAPH 1984). All valid corners
are therefore known, and draws are exact: uniform among them, without replacement, without retries.
"""

import hashlib
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from scipy import ndimage, sparse

from tfds_ddsm.mammogram import MAX_PIXELS, Film, UnreadableFilmError

MIN_TISSUE_FRACTION = 0.75  # the paper, section 3.1: patches of "more than 75% breast tissue"
MIN_LESION_SHARE = 0.9

_THUMBNAIL_HEIGHT = 512
# Air covers more of a film than this, unless the breast fills two thirds of it.
_MIN_AIR_SHARE = 0.35


def stable_uniform(text: str) -> float:
    """Returns a number in [0, 1) that depends only on `text`, not on the process or machine."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def stable_rng(text: str) -> np.random.Generator:
    """Returns a random generator whose seed depends only on `text`."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))


def split_of(patient_id: str) -> str:
    """Returns the split of a patient: train 80 %, validation 10 %, test 10 % (the paper, 3.1)."""
    place = stable_uniform(f"split {patient_id}")
    if place < 0.8:
        return "train"
    return "validation" if place < 0.9 else "test"


def rescale_factor(film_id: str, height: int, width: int, film_size: tuple[int, int]) -> float:
    """Returns the factor that scales a film to about `film_size` with its aspect ratio preserved.

    The paper's "target range of 1375 x 750" (section 3.1) is interpreted as in the authors' code:
    the factor is drawn uniformly between the one that fits the height and the one that fits the
    width. The film's id determines the draw.
    """
    by_height, by_width = film_size[0] / height, film_size[1] / width
    return by_height + stable_uniform(f"scale {film_id}") * (by_width - by_height)


def rescale(image: np.ndarray, factor: float) -> np.ndarray:
    """Resizes an image by area interpolation; uint16 to uint16, keeping all 65536 levels.

    A bool mask is resized in the same way; a pixel is set if at least half of its area was set.

    Raises:
        UnreadableFilmError: the result would have more pixels than a film can have.
    """
    shape = _rescaled_shape(image.shape, factor)
    if image.dtype == bool:
        return _rescale_mask(image, shape, 0.5)
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)


def with_margin(mask: np.ndarray, margin_px: int) -> np.ndarray:
    """Returns a mask, bool [height, width], with all pixels up to `margin_px` from it added."""
    if not margin_px or not mask.any():
        return mask
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # Only around the lesion, which is small compared with the film.
    place = tuple(
        slice(max(0, along[0] - margin_px), along[-1] + margin_px + 1) for along in (rows, columns)
    )
    wider = np.zeros_like(mask)
    wider[place] = ndimage.distance_transform_edt(~mask[place]) <= margin_px
    return wider


def touched(mask: np.ndarray, factor: float) -> np.ndarray:
    """Returns the pixels of the rescaled film that a mask covers at least partly."""
    return _rescale_mask(mask, _rescaled_shape(mask.shape, factor), 0)


def _rescaled_shape(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    height, width = (max(1, round(side * factor)) for side in shape)
    # The factor of a long and narrow film is large, because one of its sides is short.
    if height * width > MAX_PIXELS:
        raise UnreadableFilmError(
            f"a film must have at most {MAX_PIXELS} pixels after rescaling; received "
            f"{shape[0]} x {shape[1]} pixels, which would become {height} x {width}"
        )
    return height, width


def _rescale_mask(mask: np.ndarray, shape: tuple[int, int], min_share: float) -> np.ndarray:
    """Resizes a mask; the cost depends on the size of the lesion, not on that of the film."""
    rescaled = np.zeros(shape, bool)
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return rescaled
    top, bottom = rows[0], rows[-1] + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = columns[0], columns[-1] + 1
    rows, row_weights = _area_weights(mask.shape[0], shape[0], top, bottom)
    columns, column_weights = _area_weights(mask.shape[1], shape[1], left, right)
    share = row_weights @ mask[top:bottom, left:right].astype(float)
    share = (column_weights @ share.T).T
    # For a pixel covered to exactly one half, the result must not depend on the order of sums.
    rescaled[rows, columns] = share > max(min_share - 1e-6, 1e-6)
    return rescaled


def _area_weights(old: int, new: int, first: int, past: int) -> tuple[slice, sparse.csr_array]:
    """Returns the weights that resize a part of an axis by area interpolation.

    Args:
        old: length of the axis before resizing.
        new: length of the axis after resizing.
        first: first pixel of the part, before resizing.
        past: end of the part, exclusive.

    Returns:
        The resized pixels that the part touches, and the share of each that every pixel of the part
        covers: sparse float64 [touched, past - first]. A dense product would start the threads of
        the linear algebra library, which spend more time waiting than the sparse product takes.
    """
    step = old / new
    touched = slice(int(first / step), min(new, int(past / step) + 1))
    starts = np.arange(touched.start, touched.stop)[:, None] * step
    pixels = np.arange(first, past)
    overlap = np.minimum(starts + step, pixels + 1) - np.maximum(starts, pixels)
    return touched, sparse.csr_array(np.clip(overlap, 0, None) / step)


def breast_mask(image: np.ndarray) -> np.ndarray:
    """Finds the breast on a film, excluding labels, tape, film edges and fog along the edges.

    The mask includes the pectoral muscle of MLO views, because it has no sharp boundary on the
    film.

    Args:
        image: uint16 [height, width]; dense tissue is bright.

    Returns:
        bool [height, width]; all False on a film without contrast.
    """
    height, width = image.shape
    scale = min(1.0, _THUMBNAIL_HEIGHT / height)
    small_size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA).astype(np.float32)
    mask = _largest_part(_bright_tissue(small))
    return cv2.resize(mask.astype(np.float32), (width, height)) >= 0.5


def _bright_tissue(small: np.ndarray) -> np.ndarray:
    """Returns the parts brighter than the film's background, without thin parts and edges."""
    background, tissue = _levels(small)
    if tissue <= background:
        return np.zeros(small.shape, bool)
    darkest = float(np.percentile(small, 1))
    air = small < darkest + 0.05 * (tissue - darkest)
    if air.mean() < _MIN_AIR_SHARE:
        # The breast fills the film: the darker class of Otsu's method is its fatty tissue.
        background = darkest
    else:
        small = _without_fog(small, background, 0.5 * (tissue - background))
    bright = small > background + 0.05 * (tissue - background)
    for view in (bright, bright[::-1], bright.T, bright.T[::-1]):
        _cut_strip(view)
    radius = max(1, round(0.015 * small.shape[0]))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    # Pixels outside the film count as dark, so that a strip along any edge is thin.
    padded = np.pad(bright, 2 * radius).astype(np.uint8)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, disc)
    return opened[2 * radius : -2 * radius, 2 * radius : -2 * radius].astype(bool)


def _without_fog(small: np.ndarray, background: float, cap: float) -> np.ndarray:
    """Subtracts the light that leaked in along the film's edges.

    This light forms a band that fades inwards and is similar in all rows (columns). The darker rows
    show it without tissue. `cap` limits what is subtracted, because tissue may cover all rows.
    """
    for axis in (0, 1):
        fog = np.percentile(small, 8, axis=axis, keepdims=True) - background
        small = small - np.clip(fog, 0, cap)
    return small


def _levels(small: np.ndarray) -> tuple[float, float]:
    """Returns the grey levels of background and tissue, which Otsu's method separates."""
    low, high = float(small.min()), float(small.max())
    if low == high:
        return low, high
    as_bytes = ((small - low) * (255 / (high - low))).astype(np.uint8)
    threshold, _ = cv2.threshold(as_bytes, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return (
        float(np.median(small[as_bytes <= threshold])),
        float(np.median(small[as_bytes > threshold])),
    )


def _cut_strip(bright: np.ndarray) -> None:
    """Clears, in place, the strip along the upper edge of `bright` that is a white film edge.

    A row belongs to the strip if it is bright in at least half of the columns that are dark a
    little further down. If nearly all columns are bright there, tissue extends to the edge, and
    nothing is cleared.
    """
    depth = max(2, round(0.04 * bright.shape[0]))
    dark_below = ~bright[depth]
    if dark_below.mean() < 0.1:
        return
    for row in range(depth):
        if bright[row, dark_below].mean() < 0.5:
            break
        bright[row] = False


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """Returns the largest connected part of a mask, with its holes filled."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if len(stats) < 2:
        return np.zeros(mask.shape, bool)
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return ndimage.binary_fill_holes(labels == largest)


def window_sums(mask: np.ndarray, patch_size: int) -> np.ndarray:
    """Counts the set pixels of every window.

    Args:
        mask: bool [height, width].
        patch_size: side of the window in pixels.

    Returns:
        int32 [height - patch_size + 1, width - patch_size + 1], indexed by the window's corner;
        empty if the film is smaller than the window.
    """
    if min(mask.shape) < patch_size:
        return np.zeros((0, 0), np.int32)
    table = cv2.integral(mask.astype(np.uint8))
    return (
        table[patch_size:, patch_size:]
        - table[:-patch_size, patch_size:]
        - table[patch_size:, :-patch_size]
        + table[:-patch_size, :-patch_size]
    )


def tissue_fractions(breast: np.ndarray, patch_size: int) -> np.ndarray:
    """Returns the breast's share of every window, float32, indexed by the window's corner."""
    return (window_sums(breast, patch_size) / patch_size**2).astype(np.float32)


def lesion_patch_corners(
    lesion: np.ndarray,
    tissue: np.ndarray,
    patch_size: int,
    forbidden: np.ndarray | None = None,
) -> np.ndarray:
    """Returns every corner whose patch shows the lesion.

    Such a patch is more than 75 % breast. It contains at least 90 % of the lesion, or the lesion
    fills at least 90 % of it.

    Args:
        lesion: bool [height, width].
        tissue: `tissue_fractions` of the film.
        patch_size: side of the patch in pixels.
        forbidden: bool [height, width], pixels that the patch must not touch: for a benign lesion,
            the malignant lesions of the film.

    Returns:
        int32 [n, 2], in reading order.
    """
    area = np.count_nonzero(lesion)
    if not area or not tissue.size:
        return np.zeros((0, 2), np.int32)
    inside = window_sums(lesion, patch_size)
    enough = inside >= MIN_LESION_SHARE * min(area, patch_size**2)
    valid = (tissue > MIN_TISSUE_FRACTION) & enough
    if forbidden is not None:
        valid &= window_sums(forbidden, patch_size) == 0
    return np.argwhere(valid).astype(np.int32)


def background_patch_corners(
    lesions: np.ndarray, tissue: np.ndarray, patch_size: int
) -> np.ndarray:
    """Returns every corner whose patch is more than 75 % breast and touches no lesion.

    Args:
        lesions: bool [height, width], the union of all lesions of the film.
        tissue: `tissue_fractions` of the film.
        patch_size: side of the patch in pixels.

    Returns:
        int32 [n, 2], in reading order.
    """
    valid = (tissue > MIN_TISSUE_FRACTION) & (window_sums(lesions, patch_size) == 0)
    return np.argwhere(valid).astype(np.int32)


def draw_corners(corners: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `count` different corners uniformly, or all if there are fewer."""
    chosen = rng.choice(len(corners), size=min(count, len(corners)), replace=False)
    return corners[np.sort(chosen)]


def draw_evenly(
    corners: Sequence[np.ndarray], count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Draws `count` corners as evenly among the lists as their lengths allow, without repetition.

    Args:
        corners: for each lesion, its valid corners, int32 [n, 2]; they may overlap.
        count: total number of corners to draw.
        rng: random generator.

    Returns:
        For each lesion, the drawn corners, int32 [m, 2].
    """
    drawn = [np.zeros((0, 2), np.int32)] * len(corners)
    taken: set[tuple[int, int]] = set()
    # In order of length: the missing part of a short list is distributed to the longer ones.
    for done, index in enumerate(sorted(range(len(corners)), key=lambda i: len(corners[i]))):
        free = corners[index]
        if taken:
            free = free[[tuple(corner) not in taken for corner in free.tolist()]]
        drawn[index] = draw_corners(free, (count - len(taken)) // (len(corners) - done), rng)
        taken.update(map(tuple, drawn[index].tolist()))
    return drawn


def share_out(total: int, parts: int) -> list[int]:
    """Splits `total` into `parts` integers that differ by at most one, the larger ones spread out.

    >>> share_out(10, 4)
    [2, 3, 2, 3]
    """
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def plan_patches(
    films: Iterable[Film], patches_per_class: int, background_share: float
) -> dict[str, tuple[int, int, int]]:
    """Returns the number of patches of each kind for every film, over all splits together.

    Malignant patches are divided evenly among the patients with a malignant lesion, then among each
    patient's malignant lesions. A fraction `background_share` of the non-malignant patches is
    background, and is divided among all patients, then among their films. The other non-malignant
    patches show benign lesions and are divided like the malignant patches.

    Args:
        films: the source's index.
        patches_per_class: number of malignant patches, and of non-malignant patches.
        background_share: share of background among the non-malignant patches, 0..1. If no film has
            a benign lesion, all of them are background.

    Returns:
        By film_id, the numbers (malignant, benign, background). The sums over all films are exact,
        or zero if no film can give such a patch.
    """
    films = sorted(films, key=lambda film: film.film_id)
    has_benign = any(film.num_benign for film in films)
    background = round(patches_per_class * background_share) if has_benign else patches_per_class
    malignant = _share_by_patient(films, patches_per_class, [f.num_malignant for f in films])
    benign = _share_by_patient(films, patches_per_class - background, [f.num_benign for f in films])
    beside = _share_by_patient(films, background, [1] * len(films))
    counts = zip(malignant, benign, beside, strict=True)
    return {film.film_id: of_film for film, of_film in zip(films, counts, strict=True)}


def _share_by_patient(films: Sequence[Film], total: int, weights: Sequence[int]) -> list[int]:
    """Divides `total` evenly among the patients, then by `weights` among each patient's films.

    Patients whose films all have weight 0 get nothing.
    """
    by_patient: dict[str, list[int]] = {}
    for index, (film, weight) in enumerate(zip(films, weights, strict=True)):
        by_patient.setdefault(film.patient_id, []).extend([index] * weight)
    givers = [units for units in by_patient.values() if units]
    counts = [0] * len(films)
    for units, quota in zip(givers, share_out(total, len(givers)), strict=True):
        for index, count in zip(units, share_out(quota, len(units)), strict=True):
            counts[index] += count
    return counts
