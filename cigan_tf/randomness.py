"""Random draws from explicit seeds; the process's random state stays unchanged."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the Keras initializers and tf.data shuffles that are created inside the context.

    Initializers without a seed draw one from Python's generator when they are created; tf.data
    combines TensorFlow's global seed with each shuffle's own seed. On exit, Python's
    random state and TensorFlow's global seed are restored.
    """
    of_python = random.getstate()
    # TensorFlow does not expose its global seed. It creates its generator with the first seed.
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
    """Returns the noise of an infill with this seed, float32 [p, p, 1] in [0, 1)."""
    # The algorithm is named; otherwise it would depend on the device.
    shape = (patch_size, patch_size, 1)
    return tf.random.stateless_uniform(shape, tf.stack([seed, 0]), alg="philox")


def consecutive_seeds(first: int, count: int) -> np.ndarray:
    """Returns `count` seeds starting at `first`, int32 [count]; 2**31 - 1 is followed by 0."""
    return ((first + np.arange(count, dtype=np.int64)) % 2**31).astype(np.int32)
