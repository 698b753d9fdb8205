"""Tests of the changes made by infills of the same class, and of both classes in sequence."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import counterfactual


def test_the_change_is_that_inside_the_mask():
    images = np.zeros((2, 4, 4, 1))
    masks = np.zeros((2, 4, 4, 1))
    masks[0, :2, :2], masks[1, 1:, 1:] = 1, 1
    others = images.copy()
    others[0, 0, 0], others[0, 3, 3], others[1, 2, 2] = 0.5, 1, -0.9
    change = counterfactual.mean_change(images, others, masks)
    assert change == pytest.approx([0.125, 0.1])
    assert counterfactual.mean_change(images, images, masks).tolist() == [0, 0]


def test_partners_are_of_other_patients():
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    numbers, partners = counterfactual.of_other_patients(groups, seed=1)
    assert numbers.tolist() == list(range(6))
    assert (groups[numbers] != groups[partners]).all()
    alone, partners = counterfactual.of_other_patients(["a", "a"], seed=1)
    assert alone.size == partners.size == 0


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 4, 4, 1), (1, 4, 5, 1)), "the same shape"),
        (((1, 4, 4, 1),) * 2, "empty mask for patch 0"),
    ],
)
def test_wrong_patches_get_one_line(shapes, message):
    with pytest.raises(UserError, match=message):
        counterfactual.mean_change(*map(np.ones, shapes), np.zeros(shapes[0]))
