"""Trains one run undisturbed, and the same run killed at random moments: see test_train.py.

python killed_runs.py CONFIG_JSON UNDISTURBED_WORKDIR KILLED_WORKDIR NUM_KILLS

TensorFlow is imported once, in a process that never starts it; each life of a run is a fork of
that process. Functions run eagerly: tracing would be most of every life.
"""

import os
import pathlib
import random
import signal
import sys
import time

import tensorflow as tf

from cigan_tf.config import Config
from cigan_tf.training.train import train


def start(config: Config, workdir: pathlib.Path) -> int:
    """Starts a life of a run in a process of its own; returns the process."""
    process = os.fork()
    if process:
        return process
    exit_code = 1
    try:
        tf.config.run_functions_eagerly(True)
        train(config, workdir)
        exit_code = 0
    finally:
        os._exit(exit_code)


def newest_step(workdir: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint, 0 if there is none."""
    indices = (workdir / "checkpoints").glob("ckpt-*.index")
    return max((int(path.stem[5:]) for path in indices), default=0)


def wait_for_progress(workdir: pathlib.Path, beyond: int, at_most_s: float) -> float:
    """Returns once a checkpoint is there that is newer, or the time is over; says how long."""
    began = time.monotonic()
    while newest_step(workdir) <= beyond and time.monotonic() - began < at_most_s:
        time.sleep(0.005)
    return time.monotonic() - began


def main() -> None:
    """Exits with 0 when both runs have come to their end."""
    config = Config.from_json(pathlib.Path(sys.argv[1]).read_text())
    undisturbed, killed = (pathlib.Path(path) for path in sys.argv[2:4])
    process = start(config, undisturbed)
    to_first_checkpoint_s = wait_for_progress(undisturbed, 0, at_most_s=600)
    assert os.waitpid(process, 0)[1] == 0

    moments = random.Random(0)
    for _ in range(int(sys.argv[4])):
        process = start(config, killed)
        # Anywhere: while it starts, restores, steps, saves. Never far beyond a new checkpoint, so
        # that the run does not end before its kills.
        wait_for_progress(killed, newest_step(killed), moments.uniform(0, to_first_checkpoint_s))
        time.sleep(moments.uniform(0, 0.3))
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status), f"ended by itself at step {newest_step(killed)}: {status}"
    print("killed, the last time at step", newest_step(killed))
    assert os.waitpid(start(config, killed), 0)[1] == 0


if __name__ == "__main__":
    main()
