"""Resampling of patients with replacement, and the AUCs of many resamples at once."""

import numpy as np

from cigan_tf.errors import UserError


class WeightedAuc:
    """AUCs of one classifier on many resamples; scores are sorted once, then weights are summed.

    If a resample contains a patient k times, each patch of the patient has weight k. The AUC is the
    weight of the correctly ranked malignant / non-malignant pairs, ties counting half, divided by
    the weight of all pairs. It is NaN for a resample that lacks a class.
    """

    def __init__(self, malignant: np.ndarray, scores: np.ndarray, patient_of_patch: np.ndarray):
        """Sorts the patches by score.

        Args:
            malignant: bool [n].
            scores: float [n].
            patient_of_patch: int [n], patients numbered from 0.
        """
        order = np.argsort(scores, kind="stable")
        self._malignant, self._patients = malignant[order], patient_of_patch[order]
        self._starts_of_ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))

    def __call__(self, multiplicities: np.ndarray) -> np.ndarray:
        """Returns the AUC of each resample, [resamples].

        Args:
            multiplicities: how often a resample contains each patient, int [resamples, patients].
        """
        weights = multiplicities[:, self._patients]
        malignant = np.add.reduceat(weights * self._malignant, self._starts_of_ties, axis=1)
        others = np.add.reduceat(weights * ~self._malignant, self._starts_of_ties, axis=1)
        others_below = np.cumsum(others, axis=1) - others / 2
        pairs = malignant.sum(axis=1) * others.sum(axis=1)
        return (malignant * others_below).sum(axis=1) / pairs


def patches_by_class(malignant: np.ndarray, patient_of_patch: np.ndarray) -> np.ndarray:
    """Returns each patient's numbers of malignant and non-malignant patches, int [patients, 2].

    Raises:
        UserError: a class has patches from fewer than two patients.
    """
    num_patients = patient_of_patch.max() + 1
    num_patches = np.stack(
        [
            np.bincount(patient_of_patch[of_class], minlength=num_patients)
            for of_class in (malignant, ~malignant)
        ],
        axis=1,
    )
    with_malignant, with_others = np.count_nonzero(num_patches, axis=0)
    if min(with_malignant, with_others) < 2:
        raise UserError(
            "resampling patients needs at least two patients per class; received "
            f"{with_malignant} with a malignant patch and {with_others} with a non-malignant patch."
        )
    return num_patches


def draw_patients(
    rng: np.random.Generator, num_patches: np.ndarray, num_draws: int
) -> tuple[np.ndarray, int]:
    """Draws resamples, each of as many patients as there are, with replacement.

    A resample without patches of a class has no AUC and is drawn again.

    Args:
        rng: source of the random draws.
        num_patches: result of `patches_by_class`.
        num_draws: number of resamples.

    Returns:
        Multiplicity of each patient in each resample, int [num_draws, patients], and the number of
        resamples that were drawn again.
    """
    num_patients = len(num_patches)
    shares = np.full(num_patients, 1 / num_patients)
    multiplicities = rng.multinomial(num_patients, shares, size=num_draws)
    num_redrawn = 0
    while (lost := np.any(multiplicities @ num_patches == 0, axis=1)).any():
        num_lost = np.count_nonzero(lost)
        multiplicities[lost] = rng.multinomial(num_patients, shares, size=num_lost)
        num_redrawn += num_lost
    return multiplicities, num_redrawn
