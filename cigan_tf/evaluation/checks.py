"""Checks of labels, scores and groups; each failure is a one-line UserError."""

import numpy as np

from cigan_tf.errors import UserError


def check_labels(y_true, at_least: int = 0) -> np.ndarray:
    """Returns the labels as bool [n], True for malignant.

    Args:
        y_true: labels, 0 (non-malignant) or 1 (malignant), [n], n > 0.
        at_least: minimum number of patches of each class.

    Raises:
        UserError: wrong shape, values other than 0 and 1, or too few patches of a class.
    """
    labels = np.asarray(y_true)
    if labels.ndim != 1 or labels.size == 0:
        raise UserError(f"labels must be of shape (patches,); received shape {labels.shape}.")
    valid = np.isin(labels, (0, 1)) if labels.dtype.kind in "biuf" else np.zeros(labels.shape, bool)
    if not valid.all():
        raise UserError(
            "labels must be 0 (non-malignant) or 1 (malignant); received "
            f"{np.unique(labels[~valid])[:5].tolist()}."
        )
    malignant = labels.astype(bool)
    num_malignant = np.count_nonzero(malignant)
    if min(num_malignant, malignant.size - num_malignant) < at_least:
        raise UserError(
            f"each class must have at least {at_least} patches; received {num_malignant} malignant "
            f"and {malignant.size - num_malignant} non-malignant."
        )
    return malignant


def check_scores(scores, num_patches: int) -> np.ndarray:
    """Returns the scores as float64 [num_patches]; raises UserError unless all are finite."""
    scores = np.asarray(scores, np.float64)
    check_length("scores", scores, num_patches)
    num_bad = np.count_nonzero(~np.isfinite(scores))
    if num_bad:
        raise UserError(
            f"scores must be finite; {num_bad} of {scores.size} are NaN or infinite. "
            "Check the classifier that produced them."
        )
    return scores


def check_probabilities(probabilities, num_patches: int) -> np.ndarray:
    """Returns probabilities as float64 [num_patches]; raises UserError unless all are in [0, 1]."""
    probabilities = check_scores(probabilities, num_patches)
    low, high = probabilities.min(), probabilities.max()
    if low < 0 or high > 1:
        raise UserError(
            f"probabilities must be in [0, 1]; received {low:g} to {high:g}. "
            "Apply a sigmoid to logits first."
        )
    return probabilities


def check_length(name: str, values: np.ndarray, length: int) -> None:
    """Raises UserError unless there are `length` values, one per patch."""
    if values.shape != (length,):
        raise UserError(
            f"{name} must be of shape ({length},), like the labels; received {values.shape}."
        )


def check_share(name: str, share: float, ends: bool = True) -> None:
    """Raises UserError unless the share is in [0, 1], or in (0, 1) if `ends` is False."""
    if not (0 <= share <= 1 if ends else 0 < share < 1):
        span = "[0, 1]" if ends else "(0, 1)"
        raise UserError(f"{name} must be a share in {span}; received {share}. Write 90 % as 0.9.")
