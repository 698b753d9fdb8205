"""Is an infill of a patch's own class the same patch? Composition (Monteiro et al. 2023).

Such an infill should change nothing. The generator does not see what was inside the mask, so the
change is not 0: a generator that ignores the tissue around changes as much as another patient's
lesion in the same place. For the same reason an infill of the other class and back again
(reversibility) gives what an infill of the own class gives, and is no measure of its own.
"""

import numpy as np

from cigan_tf.errors import UserError


def mean_change(images: np.ndarray, others: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Returns the mean absolute difference of two patches inside each mask.

    Args:
        images: in [0, 1], [n, p, p, 1].
        others: likewise.
        masks: {0, 1}, none of them empty, [n, p, p, 1].

    Returns:
        float64 [n], a share of the range of grey levels, in [0, 1].

    Raises:
        UserError: shapes differ, or a mask is empty.

    References:
        Monteiro, De Sousa Ribeiro, Pawlowski, Castro, Glocker. Measuring axiomatic soundness of
        counterfactual image models. ICLR 2023.
    """
    shapes = [np.shape(patches) for patches in (images, others, masks)]
    if len(set(shapes)) > 1:
        raise UserError(f"patches and masks must be of one shape; received {shapes}.")
    inside = np.asarray(masks) != 0
    area = inside.sum(axis=(1, 2, 3))
    if not area.all():
        raise UserError(
            f"every patch must have a mask; received an empty one at {np.argmin(area)}."
        )
    difference = np.abs(np.asarray(images, np.float64) - np.asarray(others, np.float64))
    return np.sum(difference * inside, axis=(1, 2, 3)) / area


def of_other_patients(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs each patch with one of another patient, drawn at random.

    Args:
        groups: the patient of each patch, [n].
        seed: of the draws.

    Returns:
        The numbers of the patches that have a partner, and of their partners, int [m] each; none
        where there is one patient alone.
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
