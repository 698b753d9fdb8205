"""Tests of the decomposition of an AUC's variance."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation.seed_variance import split_variance


def simulate(rng, num_generators, num_seeds, generator_sd, seed_sd, residual_sd):
    return (
        0.7
        + generator_sd * rng.normal(size=(num_generators, 1))
        + seed_sd * rng.normal(size=num_seeds)
        + residual_sd * rng.normal(size=(num_generators, num_seeds))
    )


@pytest.mark.parametrize(
    ("generator_sd", "seed_sd", "residual_sd"),
    [(0.03, 0.01, 0.02), (0.01, 0.03, 0.005), (0.02, 0.02, 0.02)],
)
def test_known_variances_are_found(generator_sd, seed_sd, residual_sd):
    rng = np.random.default_rng(0)
    found = [
        split_variance(simulate(rng, 8, 6, generator_sd, seed_sd, residual_sd)) for _ in range(2000)
    ]
    for name, sd in (("generator", generator_sd), ("seed", seed_sd), ("residual", residual_sd)):
        assert np.mean([getattr(f, name) for f in found]) == pytest.approx(sd**2, rel=0.06)


def test_sources_without_variance_have_none():
    rng = np.random.default_rng(1)
    without = split_variance(simulate(rng, 200, 200, 0, 0.02, 0.01))
    assert without.generator < 0.01 * without.seed
    constant = split_variance(np.full((3, 4), 0.7))
    assert constant[:3] == pytest.approx((0, 0, 0), abs=1e-20)


def test_an_arm_without_generators_has_only_seeds():
    found = split_variance([[0.6, 0.7, 0.8]])
    assert found.seed == pytest.approx(0.01)
    assert np.isnan(found.generator)
    assert np.isnan(found.residual)
    assert (found.num_generators, found.num_seeds) == (1, 3)
    one_seed = split_variance([[0.6], [0.8]])
    assert one_seed.generator == pytest.approx(0.02)
    assert np.isnan(one_seed.seed)
    assert np.isnan(split_variance([[0.6]]).seed)


@pytest.mark.parametrize("aucs", [[0.6, 0.7], [[]], [[0.6, np.nan]]])
def test_an_invalid_table_is_refused(aucs):
    with pytest.raises(UserError, match=r"of shape \(generators, seeds\)"):
        split_variance(aucs)
