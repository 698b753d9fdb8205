"""Tests of precision, recall, density and coverage."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation.prdc import prdc


def features(seed, num=120, shift=0.0, scale=1.0):
    return shift + scale * np.random.default_rng(seed).normal(size=(num, 6))


def by_hand(real, generated, k):
    """Computes the measures as the authors' package `prdc` defines them, one pair at a time."""

    def distance(a, b):
        return float(np.sqrt(np.sum((a - b) ** 2)))

    def reach_of(points):
        return [sorted(distance(a, b) for b in points)[k] for a in points]

    reach_real, reach_generated = reach_of(real), reach_of(generated)
    inside = [
        [distance(r, g) < reach_of_r for g in generated]
        for r, reach_of_r in zip(real, reach_real, strict=True)
    ]
    inside_generated = [
        [
            distance(r, g) < reach_of_g
            for g, reach_of_g in zip(generated, reach_generated, strict=True)
        ]
        for r in real
    ]
    return (
        np.mean([any(column) for column in zip(*inside, strict=True)]),
        np.mean([any(row) for row in inside_generated]),
        np.mean([sum(column) for column in zip(*inside, strict=True)]) / k,
        np.mean([any(row) for row in inside]),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_values_are_those_of_the_definition(k):
    real, generated = features(0, 30), features(1, 25, shift=0.5)
    assert prdc(real, generated, k) == pytest.approx(by_hand(real, generated, k))


def test_one_distribution_reaches_the_floor():
    floor, found = prdc(features(0), features(1)), prdc(features(0), features(2))
    assert found == pytest.approx(floor, abs=0.15)


def test_each_fault_lowers_its_measure():
    floor = prdc(features(0), features(1))
    elsewhere = prdc(features(0), features(1, shift=5))
    assert elsewhere.precision < 0.1 < floor.precision
    assert elsewhere.density < 0.1 < floor.density
    narrow = prdc(features(0), features(1, scale=0.2))
    assert narrow.recall < floor.recall / 2
    assert narrow.coverage < floor.coverage / 2


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (np.zeros((9, 2)), np.zeros((9, 3)), "shapes"),
        (np.zeros((1, 2)), np.zeros((9, 2)), "received 1 real"),
        (np.full((9, 2), np.nan), np.zeros((9, 2)), "finite"),
    ],
)
def test_wrong_input_gets_one_line(real, generated, message):
    with pytest.raises(UserError, match=message):
        prdc(real, generated)
