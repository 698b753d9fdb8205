"""Does a classifier trained on real patches find the requested class in each infill?"""

from typing import NamedTuple

import numpy as np

from cigan_tf.evaluation import checks, patient_bootstrap, roc

_RESAMPLES = 1000


class ClassConsistency(NamedTuple):
    """Result of `class_consistency`.

    Attributes:
        auc: AUC of malignant against non-malignant infills, by the classifier's probability.
        interval: 95 % interval of `auc`, from resampled patients.
        agreement: share of all infills that are classified as the requested class.
        agreement_malignant: share of the infills requested as malignant that are classified as
            malignant.
        agreement_non_malignant: share of the infills requested as non-malignant that are classified
            as non-malignant.
        interval_malignant: 95 % interval of `agreement_malignant`, from resampled patients.
        interval_non_malignant: 95 % interval of `agreement_non_malignant`, from resampled patients.
        num_malignant: number of infills requested as malignant.
        num_non_malignant: number of infills requested as non-malignant.
    """

    auc: float
    interval: roc.Interval
    agreement: float
    agreement_malignant: float
    agreement_non_malignant: float
    interval_malignant: roc.Interval
    interval_non_malignant: roc.Interval
    num_malignant: int
    num_non_malignant: int


def class_consistency(
    asked_for, probabilities, threshold: float, patients, seed: int
) -> ClassConsistency:
    """Scores infills with a classifier trained on real patches; AUC 0.5 means the class is ignored.

    Compare the result with that of the same classifier on real held-out patches. The values for
    infills should be within the intervals for real patches; a value above its interval means that
    infills are easier to classify than real lesions. A generator that copies the same lesion into
    every mask has an agreement of about 1 for one class and 0 for the other, so check both.

    Args:
        asked_for: requested class of each infill, 0 or 1, [n], at least two of each.
        probabilities: the classifier's probability of malignancy for each infill, in [0, 1], [n].
        threshold: probability from which an infill counts as malignant, chosen on real validation
            patches, for instance by `roc.sensitivity_at_specificity`.
        patients: patient of each infill, [n].
        seed: seed of the resamples.

    Raises:
        UserError: labels outside {0, 1}, a class with fewer than two patches or patients, unequal
            lengths, probabilities outside [0, 1].
    """
    malignant = checks.check_labels(asked_for, at_least=2)
    probabilities = checks.check_probabilities(probabilities, malignant.size)
    checks.check_length("patients", np.asarray(patients), malignant.size)
    agrees = (probabilities >= threshold) == malignant
    _, patient_of_patch = np.unique(patients, return_inverse=True)
    num_patches = patient_bootstrap.patches_by_class(malignant, patient_of_patch)
    draws, _ = patient_bootstrap.draw_patients(np.random.default_rng(seed), num_patches, _RESAMPLES)
    num_agreeing = np.stack(
        [
            np.bincount(patient_of_patch, agrees & of_class, len(num_patches))
            for of_class in (malignant, ~malignant)
        ],
        axis=1,
    )
    resampled_auc = patient_bootstrap.WeightedAuc(malignant, probabilities, patient_of_patch)(draws)
    resampled = (draws @ num_agreeing) / (draws @ num_patches)
    return ClassConsistency(
        auc=roc.auc(malignant, probabilities),
        interval=_interval(resampled_auc),
        agreement=float(agrees.mean()),
        agreement_malignant=float(agrees[malignant].mean()),
        agreement_non_malignant=float(agrees[~malignant].mean()),
        interval_malignant=_interval(resampled[:, 0]),
        interval_non_malignant=_interval(resampled[:, 1]),
        num_malignant=int(np.count_nonzero(malignant)),
        num_non_malignant=int(np.count_nonzero(~malignant)),
    )


def _interval(resampled: np.ndarray) -> roc.Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return roc.Interval(float(low), float(high))
