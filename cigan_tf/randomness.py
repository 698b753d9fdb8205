"""Draws that follow from a seed that is passed, and leave the process's random state alone."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds what is built within: Keras' initializers and tf.data's shuffles.

    Initializers without a seed take one from Python's generator when they are made; tf.data mixes
    TensorFlow's global seed into each seed that it is given. Both are as before afterwards.
    """
    of_python = random.getstate()
    # TensorFlow does not tell its global seed; its generator comes with the first one.
    eager = context.context()
    of_tensorflow = eager._seed, getattr(eager, "_rng", None)
    random.seed(seed)
    tf.random.set_seed(seed)
    try:
        yield
    finally:
        random.setstate(of_python)
        eager._seed, eager._rng = of_tensorflow


def noise_of_seed(seed: tf.Tensor, patch_size: int) -> tf.Tensor:
    """Returns the noise that an infill of this seed starts from, float32 [p, p, 1] in [0, 1)."""
    return tf.random.stateless_uniform((patch_size, patch_size, 1), tf.stack([seed, 0]))


def consecutive_seeds(first: int, count: int) -> np.ndarray:
    """Returns seeds from `first` on, int32 [count]; after 2**31 - 1 comes 0."""
    return ((first + np.arange(count, dtype=np.int64)) % 2**31).astype(np.int32)
