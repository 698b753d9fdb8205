"""Composition: does an infill of its own class leave a patch unchanged (Monteiro et al. 2023)?

Such an infill should change nothing. The generator does not see the pixels inside the mask, so the
change is not 0. A generator that ignores the surrounding tissue changes a patch as much as another
patient's lesion in the same place would.

Reversibility is not a separate measure: infilling the opposite class first does not change what the
generator sees, so infilling the own class afterwards gives the same result.
"""

import numpy as np

from cigan_tf.errors import UserError


def mean_change(images: np.ndarray, others: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the mean absolute difference between two patches inside each mask.

    Args:
        images: in [0, 1], [n, p, p, 1].
        others: in [0, 1], [n, p, p, 1].
        masks: {0, 1}, none of them empty, [n, p, p, 1].

    Returns:
        float64 [n] in [0, 1], where 1 is the whole range of grey levels.

    Raises:
        UserError: shapes differ, or a mask is empty.

    References:
        Monteiro, De Sousa Ribeiro, Pawlowski, Castro, Glocker. Measuring axiomatic soundness of
        counterfactual image models. ICLR 2023.
    """
    shapes = [np.shape(patches) for patches in (images, others, masks)]
    if len(set(shapes)) > 1:
        raise UserError(f"patches and masks must have the same shape; received {shapes}.")
    inside = np.asarray(masks) != 0
    area = inside.sum(axis=(1, 2, 3))
    if not area.all():
        raise UserError(
            "every mask must cover at least one pixel; received an empty mask for patch "
            f"{np.argmin(area)}."
        )
    difference = np.abs(np.asarray(images, np.float64) - np.asarray(others, np.float64))
    return np.sum(difference * inside, axis=(1, 2, 3)) / area


def of_other_patients(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs each patch with a random patch of another patient.

    Args:
        groups: the patient of each patch, [n].
        seed: seed of the draws.

    Returns:
        Indices of the patches that have a partner, and of their partners, int [m] each; empty if
        there is only one patient.
    """
    groups = np.asarray(groups)
    rng = np.random.default_rng(seed)
    pairs = [
        (number, rng.choice(others))
        for number, group in enumerate(groups)
        if (others := np.flatnonzero(groups != group)).size
    ]
    paired = np.reshape(np.array(pairs, int), (-1, 2))
    return paired[:, 0], paired[:, 1]
