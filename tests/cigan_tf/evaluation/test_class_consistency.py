"""Tests of the class consistency of infills."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import class_consistency as consistency


def test_a_known_case():
    asked_for = [1, 1, 1, 1, 0, 0]
    probabilities = [0.9, 0.7, 0.6, 0.2, 0.3, 0.6]

    result = consistency.class_consistency(asked_for, probabilities, 0.6, list("aabbab"), seed=0)

    assert result.auc == 5.5 / 8
    assert result.agreement == pytest.approx(4 / 6)
    assert result.agreement_malignant == 0.75
    assert result.agreement_non_malignant == 0.5
    assert (result.num_malignant, result.num_non_malignant) == (4, 2)
    # Correct: 2 of 2 malignant and 1 of 1 other patches of patient a, 1 of 2 and 0 of 1 of patient
    # b.
    assert result.interval_malignant == (0.5, 1.0)
    assert result.interval_non_malignant == (0.0, 1.0)


def test_a_generator_that_ignores_the_class():
    asked_for = np.tile([0, 1], 500)
    probabilities = np.random.default_rng(0).random(1000)
    patients = np.arange(1000) // 10
    result = consistency.class_consistency(asked_for, probabilities, 0.5, patients, seed=0)
    assert result.interval.low < 0.5 < result.interval.high
    assert result.interval_malignant.low < 0.5 < result.interval_malignant.high
    # Four standard errors of an AUC of 0.5 with 500 patches on each side.
    assert result.auc == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 500 * 2))
    always = consistency.class_consistency(asked_for, np.full(1000, 0.8), 0.5, patients, seed=0)
    assert (always.auc, always.agreement_malignant, always.agreement_non_malignant) == (0.5, 1, 0)


@pytest.mark.parametrize(
    ("asked_for", "probabilities", "message"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], "received 3 malignant and 0"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3], r"received \(3,\)"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 7.0], r"in \[0, 1\]"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, np.nan], "1 of 4 are NaN"),
    ],
)
def test_wrong_input_gets_one_line(asked_for, probabilities, message):
    with pytest.raises(UserError, match=message):
        consistency.class_consistency(
            asked_for, probabilities, 0.5, np.arange(len(asked_for)), seed=0
        )
