"""Variance of an AUC caused by the generator's seed, the classifier's seed and both together."""

from typing import NamedTuple

import numpy as np

from cigan_tf.errors import UserError


class SeedVariance(NamedTuple):
    """Variances of one arm's AUC over its runs; NaN if they cannot be estimated.

    Attributes:
        generator: variance between generators; NaN with one generator, or none.
        seed: variance between the classifier's seeds; NaN with one seed.
        residual: remaining variance: the interaction of generator and seed, and randomness that no
            seed controls. With one generator, or none, it is NaN and part of `seed`; with one seed,
            it is NaN and part of `generator`.
        num_generators: number of generators; 1 if the arm has none.
        num_seeds: number of classifier seeds.
    """

    generator: float
    seed: float
    residual: float
    num_generators: int
    num_seeds: int


def split_variance(aucs) -> SeedVariance:
    """Splits the variance of AUCs between generators and classifier seeds.

    The model is two-way random effects without replication, auc_gs = mean + g + s + residual. The
    estimates are those of the analysis of variance, which are unbiased, except that negative
    estimates are set to 0. With two or three seeds, all estimates are rough.

    Args:
        aucs: AUC of each run, [generators, seeds]; all generators have the same seeds.

    Raises:
        UserError: wrong shape, or AUCs that are not finite.

    References:
        Searle, Casella, McCulloch. Variance Components, 1992, section 4.3.
    """
    aucs = np.asarray(aucs, np.float64)
    if aucs.ndim != 2 or aucs.size == 0 or not np.isfinite(aucs).all():
        raise UserError(
            "aucs must be finite and of shape (generators, seeds); received shape "
            f"{aucs.shape} with {np.count_nonzero(~np.isfinite(aucs))} values that are not finite."
        )
    num_generators, num_seeds = aucs.shape
    unknown = float("nan")
    if num_generators == 1 or num_seeds == 1:
        spread = float(aucs.var(ddof=1)) if aucs.size > 1 else unknown
        generator, seed = (unknown, spread) if num_generators == 1 else (spread, unknown)
        return SeedVariance(generator, seed, unknown, num_generators, num_seeds)
    of_generator, of_seed = aucs.mean(axis=1), aucs.mean(axis=0)
    left = aucs - of_generator[:, None] - of_seed + aucs.mean()
    residual = float((left**2).sum() / ((num_generators - 1) * (num_seeds - 1)))
    # The variance of a mean over seeds contains that of the generator and part of the residual.
    generator = float(of_generator.var(ddof=1)) - residual / num_seeds
    seed = float(of_seed.var(ddof=1)) - residual / num_generators
    return SeedVariance(max(0.0, generator), max(0.0, seed), residual, num_generators, num_seeds)
