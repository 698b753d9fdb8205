"""Does the generator copy its training set? The nearest training patch inside the mask."""

from typing import NamedTuple

import numpy as np

from cigan_tf.errors import UserError

# Patches of either set held as float64 at a time: 64 MiB each at 256 x 256 px.
_PATCHES_AT_A_TIME = 128
# A region whose variance is below this share of its mean square is flat: it has no correlation.
_FLAT = 1e-9


class Nearest(NamedTuple):
    """For each patch the training patch that is most like it.

    Attributes:
        correlation: the best correlation, in [-1, 1], [n].
        index: the training patch it belongs to, [n].
    """

    correlation: np.ndarray
    index: np.ndarray


class Memorisation(NamedTuple):
    """Infills against training patches, and held-out real patches against the same.

    Attributes:
        infills: each infill's nearest training patch.
        held_out: each held-out patch's nearest training patch.
        share_nearer: share of the infills that are nearer to their training patch than 95 % of the
            held-out patches are to theirs; about 0.05 where infills are no nearer than new
            patients.
    """

    infills: Nearest
    held_out: Nearest
    share_nearer: float


def nearest_training_patch(
    patches: np.ndarray, masks: np.ndarray, training_patches: np.ndarray
) -> Nearest:
    """Finds the training patch with the highest correlation inside each patch's mask.

    The correlation is the zero-mean normalised one over the mask's pixels, both patches at the same
    position: 1 for a copy at any brightness and contrast, 0 where either is flat there. The best of
    many is above 0 by chance, the more so the smaller the mask is.

    Args:
        patches: any range, [n, height, width, 1].
        masks: {0, 1}, none of them empty, [n, height, width, 1].
        training_patches: [m, height, width, 1].

    Raises:
        UserError: shapes differ, a mask is empty, no training patch.

    References:
        Lewis. Fast Normalized Cross-Correlation. Vision Interface, 1995, equation 2.
    """
    patches, masks, training_patches = map(np.asarray, (patches, masks, training_patches))
    if patches.shape != masks.shape or patches.shape[1:] != training_patches.shape[1:]:
        raise UserError(
            "patches, masks and training patches must be of one size; received shapes "
            f"{patches.shape}, {masks.shape} and {training_patches.shape}."
        )
    if not len(training_patches):
        raise UserError("there must be at least one training patch; received none.")
    empty = np.flatnonzero(~masks.any(axis=(1, 2, 3)))
    if empty.size:
        raise UserError(f"every patch must have a mask; received an empty one at {empty[0]}.")

    correlation, index = np.full(len(patches), -np.inf), np.zeros(len(patches), np.int64)
    for start in range(0, len(patches), _PATCHES_AT_A_TIME):
        part = slice(start, start + _PATCHES_AT_A_TIME)
        inside = _rows(masks[part] != 0)
        template = _template(_rows(patches[part]), inside)
        for first in range(0, len(training_patches), _PATCHES_AT_A_TIME):
            found = _correlations(
                template, inside, _rows(training_patches[first : first + _PATCHES_AT_A_TIME])
            )
            best = found.argmax(axis=1)
            value = found[np.arange(len(found)), best]
            nearer = value > correlation[part]
            correlation[part][nearer], index[part][nearer] = value[nearer], first + best[nearer]
    return Nearest(correlation, index)


def memorisation(
    infills: np.ndarray,
    infill_masks: np.ndarray,
    held_out: np.ndarray,
    held_out_masks: np.ndarray,
    training_patches: np.ndarray,
) -> Memorisation:
    """Compares how near infills are to the training set with how near patches of new patients are.

    Give both sets masks of like sizes, such as the same masks: a small mask is nearer by chance.

    Args:
        infills: [n, height, width, 1].
        infill_masks: {0, 1}, none empty, [n, height, width, 1].
        held_out: real patches of patients outside the training split, [k, height, width, 1].
        held_out_masks: {0, 1}, none empty, [k, height, width, 1].
        training_patches: real patches that the generator was trained on, [m, height, width, 1].

    Raises:
        UserError: as `nearest_training_patch`; a set without patches.
    """
    if not len(infills) or not len(held_out):
        raise UserError(
            f"both sets must have patches; received {len(infills)} infills and {len(held_out)} "
            "held-out patches."
        )
    of_infills = nearest_training_patch(infills, infill_masks, training_patches)
    of_held_out = nearest_training_patch(held_out, held_out_masks, training_patches)
    usual = np.quantile(of_held_out.correlation, 0.95, method="higher")
    return Memorisation(of_infills, of_held_out, float(np.mean(of_infills.correlation > usual)))


def _rows(patches: np.ndarray) -> np.ndarray:
    return patches.reshape(len(patches), -1).astype(np.float64)


def _template(patches: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Returns each patch, of mean 0 and norm 1 inside its mask, 0 elsewhere; flat ones all 0."""
    mean = (patches * inside).sum(axis=1) / inside.sum(axis=1)
    centred = (patches - mean[:, None]) * inside
    energy = np.sum(centred**2, axis=1)
    flat = energy <= _FLAT * np.sum(patches**2 * inside, axis=1)
    return centred / np.sqrt(np.where(flat, np.inf, energy))[:, None]


def _correlations(template: np.ndarray, inside: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Returns the correlation of each template with each training patch, [n, m]."""
    # Correlation does not see a constant, but the difference of two large sums below would.
    training = training - training.mean(axis=1, keepdims=True)
    square_sum = inside @ (training**2).T
    energy = square_sum - (inside @ training.T) ** 2 / inside.sum(axis=1, keepdims=True)
    flat = energy <= _FLAT * square_sum
    # The template's sum is 0, so the training patch's mean inside the mask drops out.
    return np.clip(template @ training.T / np.sqrt(np.where(flat, np.inf, energy)), -1, 1)
