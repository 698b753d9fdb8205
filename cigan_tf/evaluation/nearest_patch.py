"""Search for the training patch most similar to each patch within that patch's lesion mask.

All training patches are searched, in the eight orientations of a square and with shifts of up to
3 px. Candidates are found at low resolution; the nearest is the candidate with the highest
correlation of detail. Detail is what remains of a patch after subtracting a smooth surface: small
lesions have similar brightness and differ in detail.
"""

import concurrent.futures
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import threadpoolctl

from cigan_tf import terminal
from cigan_tf.errors import UserError

SHIFT_PX = 3
ORIENTATIONS = 8
# Minimum number of low-resolution cells in a mask, and the largest side of a cell.
_LEAST_CELLS = 32
_MAX_CELL_PX = 8
# Training patches per query that are compared at full resolution.
_CANDIDATES = 32
# Share of the training patches that are compared at every shift of a small mask.
_SCREENED_SHARE = 0.05
# Number of shrunk training patches processed together: the templates of all shifts are made once
# for each such chunk.
_TRAINING_AT_A_TIME = 4096
# Degree of the polynomial in row and column that is subtracted.
_SURFACE_DEGREE = 2
# A region with a variance below this share of its mean square is flat; its correlation is 0.
_FLAT = 1e-6
# The same limit for its detail, whose deviation is then about one grey level of 16 bits.
_NO_DETAIL = 1e-9
# Searches shorter than this have no progress bar.
_SILENT_S = 2

# Pairs (down, right) in pixels.
Shifts = list[tuple[int, int]]


class Nearest(NamedTuple):
    """The most similar training patch of each patch.

    Attributes:
        correlation: its correlation of detail with the patch, in [-1, 1], [n].
        index: its index in the stream of training patches, [n].
    """

    correlation: np.ndarray
    index: np.ndarray


def nearest_training_patch(
    patches: np.ndarray,
    masks: np.ndarray,
    training: Iterable[Mapping[str, np.ndarray]],
    groups: np.ndarray | None = None,
) -> Nearest:
    """Finds the training patch with the highest correlation of detail inside each patch's mask.

    Detail is the residual inside the mask after subtracting the least-squares quadratic surface in
    row and column. The correlation of detail does not depend on brightness, contrast or gradients;
    it is 0 if one of the two patches has no detail. The result is the maximum over eight
    orientations and shifts of up to 3 px, for which training patches are extended beyond their
    border by repeating the edge. The maximum of many correlations is above 0 by chance, more so for
    small masks.

    Args:
        patches: in [0, 1], [n, p, p, 1].
        masks: {0, 1}, none of them empty, [n, p, p, 1].
        training: chunks of training patches, iterated twice: `image` [m, p, p, 1] in [0, 1], and
            `group` [m] if `groups` is given.
        groups: group of each patch, such as its film, [n]; a patch is not compared with training
            patches of its own group.

    Raises:
        UserError: shapes differ, a mask is empty, or a patch has no training patch to be compared
            with.

    References:
        Lewis. Fast Normalized Cross-Correlation. Vision Interface, 1995, equation 2.
    """
    patches, masks = (np.asarray(values, np.float32) for values in (patches, masks))
    if patches.shape != masks.shape:
        raise UserError(
            f"patches and masks must have the same shape; received {patches.shape} and "
            f"{masks.shape}."
        )
    empty = np.flatnonzero(~masks.any(axis=(1, 2, 3)))
    if empty.size:
        raise UserError(
            "every mask must cover at least one pixel; received an empty mask for patch "
            f"{empty[0]}."
        )
    queries = [
        _Query(image, mask != 0, None if groups is None else group)
        for image, mask, group in zip(
            patches[..., 0], masks[..., 0], patches if groups is None else groups, strict=True
        )
    ]
    with (
        terminal.progress_bar(
            desc=f"Comparing {len(queries)} patches with", unit=" training patches", delay=_SILENT_S
        ) as progress,
        # One thread per patch, because the products are too small to be shared by several.
        threadpoolctl.threadpool_limits(1),
        concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        for first, images, group in chunks(training, patches.shape[1:]):
            shrunk = {
                cell_px: _shrunk(images, cell_px)
                for cell_px in sorted({query.cell_px for query in queries})
            }
            considered = pool.map(
                lambda query, first=first, shrunk=shrunk, group=group: query.consider(
                    first, shrunk[query.cell_px], group
                ),
                queries,
            )
            for number, _ in enumerate(considered, start=1):
                progress.update(first + len(images) * number // len(queries) - progress.n)
            del shrunk, considered  # before the next maps are made: they can take a GB
    if not all(len(query.index) for query in queries):
        raise UserError(
            "every patch must have a training patch of another group to be compared with; received "
            "a patch whose group contains all training patches."
        )
    for first, images, _ in chunks(training, patches.shape[1:]):
        for query in queries:
            query.compare(first, images)
    return Nearest(
        np.array([query.correlation for query in queries]),
        np.array([query.nearest for query in queries]),
    )


class _Query:
    """One patch whose nearest training patch is searched for.

    Attributes:
        cell_px: side of a low-resolution cell.
        index: indices of the best candidates in the stream of training patches.
        correlation: highest correlation of detail so far.
        nearest: index of the candidate with this correlation.
    """

    def __init__(self, image: np.ndarray, inside: np.ndarray, group):
        self._image, self._inside, self._group = image, inside, group
        self.cell_px = _cell_px(int(inside.sum()))
        # Each shift of up to 3 px is at most 1 px from one of these in each direction; `compare`
        # tries the shifts around the best one.
        step = max(1, min(SHIFT_PX, self.cell_px // 2))
        self._shifts = _grid(step)
        # A few shifts are enough to rule out most patches; all of these are tried on the rest.
        self._is_screened = len(self._shifts) > len(_grid(SHIFT_PX))
        self.index, self._pose = np.zeros(0, int), np.zeros(0, int)
        self._score = np.zeros(0, np.float32)
        self.correlation, self.nearest = -np.inf, -1

    def consider(self, first: int, shrunk: np.ndarray, group: np.ndarray | None) -> None:
        """Updates the best candidates with shrunk training patches [cells, cells, m]."""
        places = np.arange(shrunk.shape[-1])
        excluded = np.zeros(len(places), bool)
        if self._group is not None:
            excluded = np.asarray(group) == self._group
        num_kept = max(_CANDIDATES, int(_SCREENED_SHARE * len(places)))
        if self._is_screened and num_kept < len(places):
            score, _ = self._best_poses(shrunk, self._screening_templates)
            score[excluded] = -np.inf
            places = np.sort(np.argpartition(-score, num_kept)[:num_kept])
            shrunk = shrunk[..., places]
        score, pose = self._best_poses(shrunk, self._templates(self._shifts))
        others = ~excluded[places]
        index = np.concatenate([self.index, first + places[others]])
        score = np.concatenate([self._score, score[others]])
        pose = np.concatenate([self._pose, pose[others]])
        kept = np.argsort(-score, kind="stable")[:_CANDIDATES]
        self.index, self._score, self._pose = index[kept], score[kept], pose[kept]

    @functools.cached_property
    def _screening_templates(self) -> list[tuple]:
        return self._templates(_grid(SHIFT_PX))

    def _templates(self, shifts: Shifts) -> list[tuple]:
        """Returns the result of the function `_templates` for each orientation."""
        return [
            _templates(
                oriented(self._image, orientation),
                oriented(self._inside, orientation),
                shifts,
                self.cell_px,
            )
            for orientation in range(ORIENTATIONS)
        ]

    def _best_poses(
        self, shrunk: np.ndarray, templates: list[tuple]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns each training patch's best correlation, and the pose that gives it, both [m].

        A pose is the orientation times the number of shifts, plus the index of the shift.
        """
        best = np.full(shrunk.shape[-1], -np.inf, np.float32)
        pose = np.zeros(shrunk.shape[-1], int)
        for orientation, (box, template, weights) in enumerate(templates):
            found = _correlations(template, weights, shrunk[box].reshape(-1, best.size))
            which = found.argmax(axis=0)
            score = np.take_along_axis(found, which[None], axis=0)[0]
            better = score > best
            best[better] = score[better]
            pose[better] = orientation * len(template) + which[better]
        return best, pose

    def compare(self, first: int, images: np.ndarray) -> None:
        """Correlates the patch's detail with that of its candidates among the images [m, p, p]."""
        here = np.flatnonzero((self.index >= first) & (self.index < first + len(images)))
        if not here.size:
            return
        rows, columns = np.nonzero(self._inside)
        pixels, of_candidate = [], []
        for i in here:
            orientation, shift = divmod(int(self._pose[i]), len(self._shifts))
            padded = np.pad(images[self.index[i] - first], SHIFT_PX, mode="edge")
            at = _pixels_of(self._inside.shape, orientation)[rows, columns]
            for down, right in _around(self._shifts[shift]):
                pixels.append(padded[at[:, 0] + down + SHIFT_PX, at[:, 1] + right + SHIFT_PX])
                of_candidate.append(self.index[i])
        correlation = _detail_correlation(
            self._image[rows, columns], np.stack(pixels), _surfaces(rows, columns)
        )
        best = int(correlation.argmax())
        if correlation[best] > self.correlation:
            self.correlation, self.nearest = float(correlation[best]), int(of_candidate[best])


def chunks(
    training: Iterable[Mapping[str, np.ndarray]], shape: tuple[int, ...]
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Yields large chunks: the index of the first patch, the images [m, p, p] and the groups.

    Args:
        training: see `nearest_training_patch`.
        shape: required shape of a patch, (p, p, 1).

    Raises:
        UserError: a patch has a different shape, or there are no patches.
    """
    first, images, groups = 0, [], []

    def whole():
        group = np.concatenate(groups) if groups else None
        return first, np.concatenate(images).astype(np.float32)[..., 0], group

    for chunk in training:
        image = np.asarray(chunk["image"])
        if image.shape[1:] != shape:
            raise UserError(
                "patches and training patches must have the same shape; received "
                f"{shape} and {image.shape[1:]}."
            )
        images.append(image)
        if "group" in chunk:
            groups.append(np.asarray(chunk["group"]))
        if sum(map(len, images)) >= _TRAINING_AT_A_TIME:
            yield whole()
            first, images, groups = first + sum(map(len, images)), [], []
    if sum(map(len, images)):
        yield whole()
    elif not first:
        raise UserError("there must be at least one training patch; received none.")


def _grid(step_px: int) -> Shifts:
    """Returns the shifts of up to 3 px in both directions, in steps of `step_px`."""
    steps = [at for at in range(-SHIFT_PX, SHIFT_PX + 1) if at % step_px == 0]
    return [(down, right) for down in steps for right in steps]


def _cell_px(area_px: int) -> int:
    cell_px = 1
    while cell_px < _MAX_CELL_PX and area_px >= _LEAST_CELLS * (2 * cell_px) ** 2:
        cell_px *= 2
    return cell_px


def _margin_px(cell_px: int) -> int:
    """Returns the margin around a patch that shifts need, in pixels, as whole cells."""
    return -(-SHIFT_PX // cell_px) * cell_px


def _shrunk(images: np.ndarray, cell_px: int) -> np.ndarray:
    """Returns images [m, p, p], extended beyond their border, as cells [c, c, m] with mean 0."""
    size = images.shape[1]
    before = _margin_px(cell_px)
    # Pads to whole cells if the size is not a multiple of the cell's.
    after = before + -size % cell_px
    padded = np.pad(images, ((0, 0), (before, after), (before, after)), mode="edge")
    cells = padded.shape[1] // cell_px
    shrunk = padded.reshape(len(images), cells, cell_px, cells, cell_px).mean(axis=(2, 4))
    # Correlation ignores a constant, but the difference of two large sums would lose precision.
    shrunk -= shrunk.mean(axis=(1, 2), keepdims=True)
    return np.ascontiguousarray(shrunk.transpose(1, 2, 0))


def oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns one of the eight orientations of a square image [p, p]."""
    turned = np.rot90(image, orientation % 4)
    return turned.T if orientation >= 4 else turned


@functools.lru_cache(maxsize=2 * ORIENTATIONS)
def _pixels_of(shape: tuple[int, int], orientation: int) -> np.ndarray:
    """Returns the position of each pixel of a square after orienting it, [p, p, 2]."""
    rows, columns = np.indices(shape)
    at = np.empty((*shape, 2), int)
    from_row, from_column = (oriented(index, orientation) for index in (rows, columns))
    at[from_row, from_column] = np.stack([rows, columns], axis=-1)
    return at


def _around(shift: tuple[int, int]) -> Shifts:
    return [
        (down, right)
        for down in range(shift[0] - 1, shift[0] + 2)
        for right in range(shift[1] - 1, shift[1] + 2)
        if max(abs(down), abs(right)) <= SHIFT_PX
    ]


def _templates(image: np.ndarray, inside: np.ndarray, shifts: Shifts, cell_px: int):
    """Returns the box of cells that a shifted mask can cover, and the templates and weights in it.

    Both are [shifts, cells]. A weight is the share of a cell inside the shifted mask. A template is
    the weighted deviation of the cells from their weighted mean, with weighted norm 1 and sum 0.
    """
    margin = _margin_px(cell_px)
    cells, box = [], []
    for axis in (1, 0):
        along = np.flatnonzero(inside.any(axis=axis))
        low, high = along[0] + margin - SHIFT_PX, along[-1] + margin + SHIFT_PX
        box.append(slice(low // cell_px, high // cell_px + 1))
        cells.append(box[-1].stop - box[-1].start)
    moved = np.stack(
        [
            _shifted(_in_box(part, box, margin, cell_px), shifts)
            for part in (np.where(inside, image, 0), inside)
        ]
    )
    shrunk = moved.reshape(2, len(shifts), cells[0], cell_px, cells[1], cell_px).mean(axis=(3, 5))
    values, weights = shrunk.reshape(2, len(shifts), -1)
    # The value of a cell is the mean of its pixels inside the mask.
    values = values / np.where(weights > 0, weights, 1)
    mean = (values * weights).sum(axis=1, keepdims=True) / weights.sum(axis=1, keepdims=True)
    centred = (values - mean) * weights
    energy = np.sum(centred * (values - mean), axis=1, keepdims=True)
    flat = energy <= _FLAT * np.sum(weights * values**2, axis=1, keepdims=True)
    return tuple(box), centred / np.sqrt(np.where(flat, np.inf, energy)), weights


def _shifted(image: np.ndarray, shifts: Shifts) -> np.ndarray:
    """Returns an image [h, w] moved by each shift, [shifts, h, w], padded with zeros."""
    down, right = np.transpose(shifts)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, SHIFT_PX), image.shape)
    return windows[SHIFT_PX - down, SHIFT_PX - right]


def _in_box(image: np.ndarray, box: list[slice], margin: int, cell_px: int) -> np.ndarray:
    """Returns an image [p, p] padded with zeros and cut to a box of cells."""
    rows, columns = (slice(part.start * cell_px, part.stop * cell_px) for part in box)
    return np.pad(image.astype(np.float32), margin + cell_px)[
        rows.start + cell_px : rows.stop + cell_px,
        columns.start + cell_px : columns.stop + cell_px,
    ]


def _correlations(template: np.ndarray, weights: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Returns the correlation of templates [s, cells] with training patches [cells, m], [s, m]."""
    square_sum = weights @ (training**2)
    energy = square_sum - (weights @ training) ** 2 / weights.sum(axis=1, keepdims=True)
    flat = energy <= _FLAT * square_sum
    # The template's sum is 0, so the mean of the training patch inside the mask cancels.
    return template @ training / np.sqrt(np.where(flat, np.inf, energy))


def _surfaces(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns an orthonormal basis of the polynomials in row and column, [pixels, terms]."""
    y, x = ((at - at.mean()) / max(1.0, np.ptp(at)) for at in (rows, columns))
    degrees = range(_SURFACE_DEGREE + 1)
    terms = [y**i * x**j for i in degrees for j in degrees if i + j <= _SURFACE_DEGREE]
    vectors, values, _ = np.linalg.svd(np.stack(terms, axis=1), full_matrices=False)
    # A mask with few rows or columns supports fewer surfaces.
    return vectors[:, values > 1e-9 * values[0]]


def _detail_correlation(query: np.ndarray, others: np.ndarray, surfaces: np.ndarray) -> np.ndarray:
    """Returns the correlation of the query's detail [pixels] with that of others [k, pixels]."""

    def detail(values):
        centred = values - values.mean(axis=1, keepdims=True)
        rest = centred - centred @ surfaces @ surfaces.T
        energy = np.sum(rest**2, axis=1, keepdims=True)
        flat = energy <= _NO_DETAIL * np.sum(values**2, axis=1, keepdims=True)
        return rest / np.sqrt(np.where(flat, np.inf, energy))

    return detail(others.astype(np.float64)) @ detail(query.astype(np.float64)[None])[0]
