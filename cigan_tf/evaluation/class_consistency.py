"""Does a classifier trained on real patches find in each infill the class that was asked for?"""

from typing import NamedTuple

import numpy as np

from cigan_tf.evaluation import checks, patient_bootstrap, roc

_RESAMPLES = 1000


class ClassConsistency(NamedTuple):
    """Result of `class_consistency`.

    Attributes:
        auc: malignant infills against non-malignant ones, by the classifier's probability.
        interval: 95 % interval of it, by resampled patients.
        agreement: share of all infills that are called what was asked for.
        agreement_malignant: share of the infills asked to be malignant that are called so.
        agreement_non_malignant: share of the infills asked not to be that are called so.
        interval_malignant: 95 % interval of `agreement_malignant`, by resampled patients.
        interval_non_malignant: that of `agreement_non_malignant`.
        num_malignant: infills asked to be malignant.
        num_non_malignant: infills asked not to be.
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
    """Judges infills by a classifier trained on real patches: 0.5 says that the class was ignored.

    Beside it belong the same figures of the same classifier on real held-out patches: the infills'
    should lie in their interval, and infills that are easier than real lesions lie above it. A
    generator that only copies a lesion's look into every mask has an agreement
    of about 1 for one class and 0 for the other, so look at both.

    Args:
        asked_for: the class each infill was made for, 0 or 1, [n], at least two of each.
        probabilities: the classifier's malignant probability for each infill, in [0, 1], [n].
        threshold: called malignant at or above it; fixed beforehand on real validation patches, for
            instance by `roc.sensitivity_at_specificity`.
        patients: [n].
        seed: of the resamples.

    Raises:
        UserError: labels outside {0, 1}, fewer than two of a class or patients with one, unequal
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
