"""Explicit seeds that do not change the process's random state."""

import random

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.randomness import consecutive_seeds, seeded


def draws():
    return random.random(), float(tf.random.uniform(())), list(tf.data.Dataset.random(5).take(1))


@pytest.mark.parametrize("seed_of_process", [None, 7])
def test_draws_follow_from_the_seed_and_do_not_change_the_process_state(seed_of_process):
    tf.random.set_seed(seed_of_process)
    random.seed(7)
    expected = [random.random(), random.random()]
    random.seed(7)
    found = [random.random()]
    with seeded(3):
        first = draws()
    with seeded(3):
        again = draws()
    with seeded(4):
        other = draws()
    found.append(random.random())
    assert found == expected
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    tf.random.set_seed(None)


def test_seeds_wrap_around():
    seeds = consecutive_seeds(2**31 - 2, 4)
    assert seeds.dtype == np.int32
    assert seeds.tolist() == [2**31 - 2, 2**31 - 1, 0, 1]
