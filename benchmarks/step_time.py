"""Time of one training step, for the benchmarks that compare training steps."""

import time
from collections.abc import Iterator

from cigan_tf.models.cigan import CiGAN, Turn


def step_seconds(model: CiGAN, batches: Iterator, turn: Turn) -> float:
    """Trains the network of the given turn for one step, and returns the time in seconds.

    Args:
        model: from `build_cigan`, after `make_train_function`.
        batches: iterator over a `tf.data.Dataset` of batches.
        turn: the network to train.
    """
    model.turn.assign(turn)
    start = time.perf_counter()
    model.train_function(batches)
    model.step.numpy()  # waits for the step's end
    return time.perf_counter() - start
