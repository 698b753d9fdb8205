"""Runs in separate processes, for the tests in this folder.

The arguments are the mode, a configuration in JSON, a folder, and the mode's options.

killed NUM_KILLS NUM_ENDS: trains one run undisturbed, and the same run killed, and ended by an
exception, at random moments.
replicated: trains the same run on one device, on two logical CPUs, and in two processes that are
later replaced by one.
failing: trains with two workers whose chief finds another run in the workdir, and with two workers
whose chief is killed.
compiled: trains, and counts the modules compiled by XLA after each step.

TensorFlow is imported before any process is forked, and started in none that is.
"""

import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable

import tensorflow as tf

from cigan_tf import run_folder
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.models import feature_window
from cigan_tf.training import observers
from cigan_tf.training.train import train

# Each window size is traced; two are enough to choose between.
feature_window._MAX_SIZES = 1


def fork(function: Callable, *arguments) -> int:
    """Calls a function in a separate process; returns the process."""
    process = os.fork()
    if process:
        return process
    exit_code = 1
    try:
        function(*arguments)
        exit_code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(exit_code)


def finish(*processes: int) -> None:
    """Waits for processes; raises if one of them has failed."""
    for process in processes:
        status = os.waitpid(process, 0)[1]
        assert status == 0, f"ended with {status}"


def train_eagerly(config: Config, workdir: pathlib.Path) -> None:
    """Trains without tracing, which would take most of the time of a short run."""
    tf.config.run_functions_eagerly(True)
    train(config, workdir)


class Ended(BaseException):
    """Ends a run whose process continues."""


def killed(config: Config, folder: pathlib.Path, num_kills: int, num_ends: int) -> None:
    """Trains into `undisturbed`, and into `killed` with ends at random moments.

    Args:
        config: settings of the run.
        folder: receives both runs.
        num_kills: number of processes that are killed.
        num_ends: number of exceptions that end the run after the kills, in one process.
    """
    process = fork(train_eagerly, config, folder / "undisturbed")
    to_first_checkpoint_s = wait_for_progress(folder / "undisturbed", 0, at_most_s=600)
    finish(process)
    moments = random.Random(0)
    workdir = folder / "killed"
    for _ in range(num_kills):
        process = fork(train_eagerly, config, workdir)
        wait_for_a_moment(workdir, to_first_checkpoint_s, moments)
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status), f"ended by itself at step {newest_step(workdir)}"
    finish(fork(train_and_end, config, workdir, num_ends, to_first_checkpoint_s, moments))


def train_and_end(
    config: Config,
    workdir: pathlib.Path,
    num_ends: int,
    to_checkpoint_s: float,
    moments: random.Random,
) -> None:
    """Trains several times in one process until an exception in any line, then to the last step."""

    def end(*_):
        raise Ended

    def end_at_a_moment(ended: threading.Event, waited_s: list[float]):
        waited_s.append(wait_for_a_moment(workdir, min(waited_s), moments))
        step = newest_step(workdir)
        os.kill(os.getpid(), signal.SIGALRM)
        # Python ignores exceptions in some places, such as destructors; then the run continues, and
        # saves more than the step that it may be saving now.
        while not ended.wait(0.05):
            if newest_step(workdir) > step + 1:
                step = newest_step(workdir)
                os.kill(os.getpid(), signal.SIGALRM)

    signal.signal(signal.SIGALRM, end)
    # The first checkpoint takes less time in a process that has trained before.
    waited_s = [to_checkpoint_s]
    for _ in range(num_ends):
        ended = threading.Event()
        timer = threading.Thread(target=end_at_a_moment, args=(ended, waited_s))
        try:
            timer.start()
            train_eagerly(config, workdir)
        except Ended:
            ended.set()
            timer.join()
        else:
            raise AssertionError("ended by itself")
    print("ended the last time after step", newest_step(workdir))
    train_eagerly(config, workdir)


def wait_for_a_moment(
    workdir: pathlib.Path, to_checkpoint_s: float, moments: random.Random
) -> float:
    """Waits for a random moment; returns the time to the run's next checkpoint, or infinity.

    At any moment: starting, restoring, training, saving. Half of the runs reach a checkpoint, and
    none writes many more, so that the run does not finish before its last end.
    """
    at_most_s = moments.uniform(0, 2 * to_checkpoint_s)
    waited_s = wait_for_progress(workdir, newest_step(workdir), at_most_s)
    wait_for_progress(workdir, newest_step(workdir), at_most_s=moments.uniform(0, 0.1))
    return waited_s if waited_s < at_most_s else float("inf")


def newest_step(workdir: pathlib.Path) -> int:
    """Returns the step of the newest checkpoint; 0 if there is none."""
    indices = (workdir / "checkpoints").glob("ckpt-*.index")
    return max((int(path.stem[5:]) for path in indices), default=0)


def wait_for_progress(workdir: pathlib.Path, beyond: int, at_most_s: float) -> float:
    """Waits for a newer checkpoint or the timeout; returns the waiting time."""
    began = time.monotonic()
    while newest_step(workdir) <= beyond and time.monotonic() - began < at_most_s:
        time.sleep(0.005)
    return time.monotonic() - began


def replicated(config: Config, folder: pathlib.Path) -> None:
    """Trains into `one_device`, `mirrored` and, with two workers and then one, `multi_worker`."""
    finish(fork(train_eagerly, config, folder / "one_device"))
    finish(fork(train_on_two_logical_cpus, on("mirrored", config), folder / "mirrored"))
    workers = [f"localhost:{port}" for port in free_ports(2)]
    training = dataclasses.replace(config.training, adversarial_steps=2)
    first_steps = on("multi_worker", dataclasses.replace(config, training=training))
    workdir = folder / "multi_worker"
    finish(*(fork(train_as_worker, workers, i, first_steps, workdir) for i in range(2)))
    finish(fork(train_eagerly, config, workdir))


def failing(config: Config, folder: pathlib.Path) -> None:
    """Writes why each of two workers failed, and how long the second waited for the first."""
    config = on("multi_worker", config)
    faster = dataclasses.replace(config.training, learning_rate=1.0)
    run_folder.claim(folder / "claimed", dataclasses.replace(config, training=faster))
    workers = [f"localhost:{port}" for port in free_ports(2)]
    finish(*(fork(fail_as_worker, workers, i, config, folder / "claimed") for i in range(2)))

    workers = [f"localhost:{port}" for port in free_ports(2)]
    chief, other = (fork(fail_as_worker, workers, i, config, folder / "killed") for i in range(2))
    wait_for_progress(folder / "killed", 0, at_most_s=600)
    os.kill(chief, signal.SIGKILL)
    killed_at = time.monotonic()
    finish(other)
    (folder / "waited_s").write_text(str(time.monotonic() - killed_at))


def fail_as_worker(workers: list[str], index: int, config: Config, workdir: pathlib.Path) -> None:
    """Trains as one of several workers, and writes the last line of the run."""
    try:
        train_as_worker(workers, index, config, workdir)
    except UserError as error:
        workdir.with_name(f"{workdir.name}_{index}.txt").write_text(str(error))
        # TensorFlow's normal exit would wait for the other workers.
        os._exit(0)
    raise AssertionError("the run has not failed")


def compiled(config: Config, folder: pathlib.Path) -> None:
    """Writes the number of modules that XLA has compiled after each step."""
    dumped = pathlib.Path(os.environ["XLA_FLAGS"].partition("=")[2])
    counts = []

    def count(*_):
        counts.append(len(list(dumped.glob("*.before_optimizations.txt"))))

    observers.Chief.count = count
    train(config, folder / "run")
    (folder / "counts.json").write_text(json.dumps(counts))


def on(strategy: str, config: Config) -> Config:
    """Returns the configuration for another strategy."""
    return dataclasses.replace(
        config, hardware=dataclasses.replace(config.hardware, strategy=strategy)
    )


def train_on_two_logical_cpus(config: Config, workdir: pathlib.Path) -> None:
    """Trains on this machine's CPU, split into two logical devices."""
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    train(config, workdir)


def train_as_worker(workers: list[str], index: int, config: Config, workdir: pathlib.Path) -> None:
    """Trains as one of several workers."""
    task = {"type": "worker", "index": index}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    train(config, workdir)


def free_ports(count: int) -> list[int]:
    """Returns ports on which no process listens."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


MODES = {"killed": killed, "replicated": replicated, "failing": failing, "compiled": compiled}

if __name__ == "__main__":
    MODES[sys.argv[1]](
        Config.from_json(sys.argv[2]), pathlib.Path(sys.argv[3]), *map(int, sys.argv[4:])
    )
