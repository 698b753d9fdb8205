"""Does a classifier trained on real patches find in each infill the class that was asked for?"""

from typing import NamedTuple

import numpy as np

from cigan_tf.evaluation import checks, roc


class ClassConsistency(NamedTuple):
    """Result of `class_consistency`.

    Attributes:
        auc: malignant infills against non-malignant ones, by the classifier's probability.
        interval: DeLong's 95 % interval of it; infills of one patient count as independent.
        agreement: share of all infills that are called what was asked for.
        agreement_malignant: share of the infills asked to be malignant that are called so.
        agreement_non_malignant: share of the infills asked not to be that are called so.
        num_malignant: infills asked to be malignant.
        num_non_malignant: infills asked not to be.
    """

    auc: float
    interval: roc.Interval
    agreement: float
    agreement_malignant: float
    agreement_non_malignant: float
    num_malignant: int
    num_non_malignant: int


def class_consistency(asked_for, probabilities, threshold: float) -> ClassConsistency:
    """Judges infills by a classifier trained on real patches: 0.5 says that the class was ignored.

    Beside it belong the same figures of the same classifier on real held-out patches, the most that
    can be expected. A generator that only copies a lesion's look into every mask has an agreement
    of about 1 for one class and 0 for the other, so look at both.

    Args:
        asked_for: the class each infill was made for, 0 or 1, [n], at least two of each.
        probabilities: the classifier's malignant probability for each infill, in [0, 1], [n].
        threshold: called malignant at or above it; fixed beforehand on real validation patches, for
            instance by `roc.sensitivity_at_specificity`.

    Raises:
        UserError: labels outside {0, 1}, fewer than two of a class, unequal lengths, probabilities
            outside [0, 1].
    """
    malignant = checks.check_labels(asked_for, at_least=2)
    probabilities = checks.check_probabilities(probabilities, malignant.size)
    agrees = (probabilities >= threshold) == malignant
    return ClassConsistency(
        auc=roc.auc(malignant, probabilities),
        interval=roc.auc_confidence_interval(malignant, probabilities),
        agreement=float(agrees.mean()),
        agreement_malignant=float(agrees[malignant].mean()),
        agreement_non_malignant=float(agrees[~malignant].mean()),
        num_malignant=int(np.count_nonzero(malignant)),
        num_non_malignant=int(np.count_nonzero(~malignant)),
    )
