"""Precision, recall, density and coverage: are infills plausible and varied?"""

from typing import NamedTuple

import numpy as np
from sklearn.metrics import pairwise_distances

from cigan_tf.errors import UserError

NUM_NEIGHBOURS = 5


class Prdc(NamedTuple):
    """Result of `prdc`; compare each value with its floor.

    The ball of a real patch extends to its k-th real neighbour, and the ball of a generated patch
    to its k-th generated neighbour.

    Attributes:
        precision: share of the generated patches inside the ball of a real patch.
        recall: share of the real patches inside the ball of a generated patch.
        density: mean number of real patches' balls that contain a generated patch, divided by k;
            may exceed 1.
        coverage: share of the real patches whose ball contains a generated patch.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: np.ndarray, generated: np.ndarray, num_neighbours: int = NUM_NEIGHBOURS) -> Prdc:
    """Compares two sets of features by their nearest neighbours.

    Args:
        real: finite, [n, d], n >= 2.
        generated: finite, [m, d], m >= 2.
        num_neighbours: k; a patch is not its own neighbour. For small sets, k is reduced to n - 1
            or m - 1.

    Raises:
        UserError: wrong shapes, too few patches, features not finite.

    References:
        Kynkaanniemi et al. Improved Precision and Recall Metric. NeurIPS 2019.
        Naeem et al. Reliable Fidelity and Diversity Metrics for Generative Models. ICML 2020.
    """
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise UserError(
            "features must be of shapes [n, d] and [m, d]; received "
            f"{real.shape} and {generated.shape}."
        )
    if min(len(real), len(generated)) < 2:
        raise UserError(
            "each set must have at least 2 patches; "
            f"received {len(real)} real and {len(generated)} generated patches."
        )
    num_neighbours = min(num_neighbours, len(real) - 1, len(generated) - 1)
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise UserError("features must be finite; received NaN or infinite values.")
    reach_real, reach_generated = _reach(real, num_neighbours), _reach(generated, num_neighbours)
    distance = pairwise_distances(real, generated)
    in_real = distance < reach_real[:, None]
    return Prdc(
        precision=float(in_real.any(axis=0).mean()),
        recall=float((distance < reach_generated[None]).any(axis=1).mean()),
        density=float(in_real.sum(axis=0).mean() / num_neighbours),
        coverage=float((distance.min(axis=1) < reach_real).mean()),
    )


def _reach(features: np.ndarray, num_neighbours: int) -> np.ndarray:
    """Returns each patch's distance to its k-th neighbour."""
    distance = pairwise_distances(features)
    np.fill_diagonal(distance, 0)
    return np.partition(distance, num_neighbours, axis=1)[:, num_neighbours]
