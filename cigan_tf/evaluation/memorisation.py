"""Does the generator copy its training set? The nearest training patch inside the mask.

All training patches are searched, in the eight orientations of a square and shifted by a few
pixels: first at low resolution, then the best candidates at full resolution. The audit states how
well it works: planted copies that it must find, and new patients' patches that it must not.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from cigan_tf.errors import UserError
from cigan_tf.evaluation import fidelity

SHIFT_PX = 3
FALSE_ALARMS = 0.01
_ORIENTATIONS = 8
# Side of the low resolution; a copy's position is tried to within one pixel of the full one.
_COARSE_PX = 32
_COARSE_STEP_PX = 2
# Training patches per query that are compared at full resolution.
_CANDIDATES = 32
_TRAINING_AT_A_TIME = 256
_QUERIES_AT_A_TIME = 16
# A mask that a shift moves out of the patch loses pixels: with few left, likeness is chance.
_LEAST_KEPT = 0.8
# A region whose variance is below this share of its mean square is flat: it has no correlation.
_FLAT = 1e-6
# Deviation of the noise in planted copies, as a share of the copied region's own.
_NOISE = 0.1

PLANTED = ("plain", "flipped", "shifted", "noisy")


class Nearest(NamedTuple):
    """For each patch the training patch that is most like it.

    Attributes:
        correlation: the best correlation, in [-1, 1], [n].
        index: the training patch it belongs to, by its place in the stream, [n].
    """

    correlation: np.ndarray
    index: np.ndarray


class Audit(NamedTuple):
    """Infills against training patches, and what the search finds where the truth is known.

    Attributes:
        infills: each infill's nearest training patch.
        held_out: each held-out real patch's.
        threshold: correlation above which a patch counts as a copy: that of 1 % false alarms on
            half of the held-out patients.
        share_copied: share of the infills above it.
        false_alarms: share of the other half's held-out patches above it.
        recall: share of the planted copies above it, by kind (`PLANTED`).
        num_training: training patches searched.
    """

    infills: Nearest
    held_out: Nearest
    threshold: float
    share_copied: float
    false_alarms: float
    recall: dict[str, float]
    num_training: int


def nearest_training_patch(
    patches: np.ndarray,
    masks: np.ndarray,
    training: Iterable[Mapping[str, np.ndarray]],
    groups: np.ndarray | None = None,
) -> Nearest:
    """Finds the training patch with the highest correlation inside each patch's mask.

    The correlation is the zero-mean normalised one over the mask's pixels, at any brightness and
    contrast, the best over eight orientations and shifts of up to 3 px; 0 where either patch is
    flat there. The best of many is above 0 by chance, the more so the smaller the mask is.

    Args:
        patches: in [0, 1], [n, p, p, 1].
        masks: {0, 1}, none of them empty, [n, p, p, 1].
        training: chunks of training patches, iterated twice: `image` [m, p, p, 1] in [0, 1], and
            `group` [m] where `groups` is given.
        groups: [n]; a patch is not compared with training patches of its own group, such as its
            film.

    Raises:
        UserError: shapes differ, a mask is empty, no training patch.

    References:
        Lewis. Fast Normalized Cross-Correlation. Vision Interface, 1995, equation 2.
    """
    patches, masks = (np.asarray(values, np.float32) for values in (patches, masks))
    if patches.shape != masks.shape:
        raise UserError(
            f"patches and masks must be of one size; received shapes {patches.shape} and "
            f"{masks.shape}."
        )
    empty = np.flatnonzero(~masks.any(axis=(1, 2, 3)))
    if empty.size:
        raise UserError(f"every patch must have a mask; received an empty one at {empty[0]}.")
    candidates = _coarse(patches, masks, training, groups)
    return _fine(patches, masks, training, candidates)


def _coarse(patches, masks, training, groups):
    """Returns score, training index and pose of each query's best candidates, [n, candidates]."""
    poses = list(_poses(range(-_COARSE_STEP_PX, _COARSE_STEP_PX + 1, _COARSE_STEP_PX)))
    factor = max(1, patches.shape[1] // _COARSE_PX)
    num = len(patches)
    score = np.full((num, _CANDIDATES), -np.inf, np.float32)
    index = np.full((num, _CANDIDATES), -1)
    pose = np.zeros((num, _CANDIDATES), np.int64)
    templates = [
        _posed(patches[part], masks[part], poses, factor)
        for part in _parts(num, _QUERIES_AT_A_TIME)
    ]
    for first, images, group in _chunks(training, patches.shape[1:]):
        small = _shrunk(images[..., 0], factor).reshape(len(images), -1)
        # Correlation does not see a constant, but the difference of two large sums would.
        small = small - small.mean(axis=1, keepdims=True)
        for part, template in zip(_parts(num, _QUERIES_AT_A_TIME), templates, strict=True):
            found = _correlations(*template, small).reshape(-1, len(poses), len(images))
            best_pose = found.argmax(axis=1)
            best = np.take_along_axis(found, best_pose[:, None], axis=1)[:, 0]
            if groups is not None:
                best[np.asarray(groups)[part][:, None] == np.asarray(group)[None]] = -np.inf
            merged = np.concatenate([score[part], best], axis=1)
            order = np.argsort(-merged, axis=1, kind="stable")[:, :_CANDIDATES]
            numbers = np.broadcast_to(first + np.arange(len(images)), best.shape)
            for kept, new in ((score, best), (index, numbers), (pose, best_pose)):
                both = np.concatenate([kept[part], new], axis=1)
                kept[part] = np.take_along_axis(both, order, axis=1)
    if not np.isfinite(score[:, 0]).all():
        raise UserError("there must be at least one training patch to compare with each patch.")
    return index, pose, poses


def _fine(patches, masks, training, candidates) -> Nearest:
    index, pose, poses = candidates
    correlation, nearest = np.full(len(patches), -np.inf), np.full(len(patches), -1)
    for first, images, _ in _chunks(training, patches.shape[1:]):
        inside = (index >= first) & (index < first + len(images))
        for query, place in zip(*np.nonzero(inside), strict=True):
            orientation, down, right = poses[pose[query, place]]
            near = [
                (orientation, d, r)
                for _, d, r in _poses(range(-1, 2), orientations=1, around=(down, right))
            ]
            image = images[index[query, place] - first].reshape(1, -1)
            template = _posed(patches[query : query + 1], masks[query : query + 1], near, 1)
            value = _correlations(*template, image - image.mean()).max()
            if value > correlation[query]:
                correlation[query], nearest[query] = value, index[query, place]
    return Nearest(correlation, nearest)


def audit(
    infills: Mapping[str, np.ndarray],
    held_out: Mapping[str, np.ndarray],
    training: Iterable[Mapping[str, np.ndarray]],
    seed: int,
) -> Audit:
    """Compares how near infills are to the training set with how near patches of new patients are.

    Copies are planted in the held-out patches: inside the mask a training patch as it is, in
    another orientation, shifted by up to 3 px, or with noise of 0.1 of its deviation.

    Args:
        infills: `image`, `mask`; and `group` [n] where infills stand in training patches, which
            are then not compared with training patches of their own group.
        held_out: real patches of patients outside the training split, with masks of like sizes:
            `image`, `mask`, `patient_id`.
        training: as `nearest_training_patch` takes it.
        seed: of the halves and of the planted copies.

    Raises:
        UserError: as `nearest_training_patch`; a set without patches; one held-out patient alone.
    """
    if not len(infills["image"]) or not len(held_out["image"]):
        raise UserError(
            f"both sets must have patches; received {len(infills['image'])} infills and "
            f"{len(held_out['image'])} held-out patches."
        )
    of_infills = nearest_training_patch(
        infills["image"], infills["mask"], training, infills.get("group")
    )
    of_held_out = nearest_training_patch(held_out["image"], held_out["mask"], training)
    calibrating = fidelity.first_half(held_out["patient_id"], seed)
    # The threshold is a patch's own value, and only what is above it counts.
    threshold = float(
        np.quantile(of_held_out.correlation[calibrating], 1 - FALSE_ALARMS, method="higher")
    )
    recall = {}
    for kind in PLANTED:
        copies = planted_copies(held_out["image"], held_out["mask"], training, kind, seed)
        found = nearest_training_patch(copies, held_out["mask"], training)
        recall[kind] = float(np.mean(found.correlation > threshold))
    return Audit(
        of_infills,
        of_held_out,
        threshold,
        share_copied=float(np.mean(of_infills.correlation > threshold)),
        false_alarms=float(np.mean(of_held_out.correlation[~calibrating] > threshold)),
        recall=recall,
        num_training=sum(len(chunk["image"]) for chunk in training),
    )


def planted_copies(
    images: np.ndarray,
    masks: np.ndarray,
    training: Iterable[Mapping[str, np.ndarray]],
    kind: str,
    seed: int,
) -> np.ndarray:
    """Returns images with a training patch pasted inside each mask, as `kind` of `PLANTED` says.

    Args:
        images: [n, p, p, 1].
        masks: {0, 1}, [n, p, p, 1].
        training: as `nearest_training_patch` takes it.
        kind: one of `PLANTED`.
        seed: of the choice, the orientations, the shifts and the noise.
    """
    rng = np.random.default_rng(seed)
    num_training = sum(len(chunk["image"]) for chunk in training)
    chosen = rng.integers(num_training, size=len(images))
    copies = np.array(images, np.float32)
    for first, chunk, _ in _chunks(training, copies.shape[1:]):
        for i in np.flatnonzero((chosen >= first) & (chosen < first + len(chunk))):
            source, inside = chunk[chosen[i] - first][..., 0], np.asarray(masks[i, ..., 0]) != 0
            if kind == "flipped":
                source = _oriented(source, int(rng.integers(1, _ORIENTATIONS)))
            elif kind == "shifted":
                down, right = rng.integers(-SHIFT_PX, SHIFT_PX + 1, size=2)
                padded = np.pad(source, SHIFT_PX, mode="edge")
                rows, columns = SHIFT_PX - down, SHIFT_PX - right
                source = padded[rows : rows + len(source), columns : columns + len(source)]
            elif kind == "noisy":
                source = source + rng.normal(0, _NOISE * source[inside].std(), source.shape)
            copies[i, ..., 0] = np.where(inside, source, copies[i, ..., 0])
    return copies


def _parts(count: int, at_a_time: int) -> list[slice]:
    return [slice(start, start + at_a_time) for start in range(0, count, at_a_time)]


def _chunks(training, shape) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Yields the place of the first patch, the images and their groups, few at a time."""
    first = 0
    for chunk in training:
        images, group = np.asarray(chunk["image"]), chunk.get("group")
        if images.shape[1:] != shape:
            raise UserError(
                "patches and training patches must be of one size; received shapes "
                f"{shape} and {images.shape[1:]}."
            )
        for part in _parts(len(images), _TRAINING_AT_A_TIME):
            here = images[part].astype(np.float32)
            yield first, here, None if group is None else group[part]
            first += len(here)
    if not first:
        raise UserError("there must be at least one training patch; received none.")


def _poses(steps, orientations=_ORIENTATIONS, around=(0, 0)) -> Iterator[tuple[int, int, int]]:
    for orientation in range(orientations):
        for down in steps:
            for right in steps:
                at = around[0] + down, around[1] + right
                if max(map(abs, at)) <= SHIFT_PX:
                    yield orientation, *at


def _oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """Returns one of the eight orientations of a square image [p, p]."""
    turned = np.rot90(image, orientation % 4)
    return turned.T if orientation >= 4 else turned


def _moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Returns an image [p, p] moved, with zeros where nothing was."""
    height, width = image.shape
    moved = np.zeros_like(image)
    moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)] = image[
        max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)
    ]
    return moved


def _posed(patches, masks, poses, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns templates and their weights, [n * poses, cells], in each of the poses."""
    posed = np.empty((2, len(patches), len(poses), *patches.shape[1:3]), np.float32)
    for i, (image, mask) in enumerate(zip(patches[..., 0], masks[..., 0], strict=True)):
        mask = (mask != 0).astype(np.float32)
        # With its mean taken away, what is outside the mask and beyond the patch is 0.
        image = (image - image[mask > 0].mean()) * mask
        turned = {o: (_oriented(image, o), _oriented(mask, o)) for o, _, _ in poses}
        for j, (orientation, down, right) in enumerate(poses):
            for k in range(2):
                posed[k, i, j] = _moved(turned[orientation][k], down, right)
            if posed[1, i, j].sum() < _LEAST_KEPT * mask.sum():
                posed[:, i, j] = 0
    values, weights = (
        _shrunk(part.reshape(-1, *part.shape[2:]), factor).reshape(part.shape[0] * len(poses), -1)
        for part in posed
    )
    # A cell's value is the mean of its pixels inside the mask.
    values = values / np.where(weights > 0, weights, 1)
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    mean = (values * weights).sum(axis=1, keepdims=True) / total
    centred = (values - mean) * weights
    energy = np.sum(centred * (values - mean), axis=1, keepdims=True)
    flat = energy <= 1e-12 * total
    return centred / np.sqrt(np.where(flat, np.inf, energy)), weights


def _shrunk(images: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return np.asarray(images, np.float32)
    size = images.shape[1] // factor
    return np.stack(
        [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images]
    )


def _correlations(template: np.ndarray, weights: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Returns the correlation of each template with each training patch, [n, m]."""
    square_sum = weights @ (training**2).T
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    energy = square_sum - (weights @ training.T) ** 2 / total
    flat = energy <= _FLAT * square_sum
    # The template's sum is 0, so the training patch's mean inside the mask drops out.
    return np.clip(template @ training.T / np.sqrt(np.where(flat, np.inf, energy)), -1, 1)
