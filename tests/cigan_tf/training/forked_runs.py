"""Runs in separate processes, for the tests in this folder.

python forked_runs.py killed CONFIG_JSON FOLDER NUM_KILLS: trains one run undisturbed, and the same
run killed at random moments.
python forked_runs.py replicated CONFIG_JSON FOLDER: trains the same run on one device, on two
logical CPUs, and in two processes that are later replaced by one.
python forked_runs.py failing CONFIG_JSON FOLDER: trains with two workers whose chief finds
another run in the workdir, and with two workers whose chief is killed.
python forked_runs.py compiled CONFIG_JSON FOLDER: trains, and counts the modules compiled by XLA
after each step.

TensorFlow is imported once, in a process that does not initialise it and is forked for each run.
"""

import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

import tensorflow as tf

from cigan_tf import run_folder
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.training import observers
from cigan_tf.training.train import train


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


def killed(config: Config, folder: pathlib.Path, num_kills: str) -> None:
    """Trains into `undisturbed`, and into `killed` with kills at random moments."""
    process = fork(train_eagerly, config, folder / "undisturbed")
    to_first_checkpoint_s = wait_for_progress(folder / "undisturbed", 0, at_most_s=600)
    finish(process)
    moments = random.Random(0)
    workdir = folder / "killed"
    for _ in range(int(num_kills)):
        process = fork(train_eagerly, config, workdir)
        # At any moment: starting, restoring, training, saving. Half of the runs reach a checkpoint,
        # but not much more, so that the run does not finish before its last kill.
        at_most_s = moments.uniform(0, 2 * to_first_checkpoint_s)
        wait_for_progress(workdir, newest_step(workdir), at_most_s)
        time.sleep(moments.uniform(0, 0.2))
        os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        assert os.WIFSIGNALED(status), f"ended by itself at step {newest_step(workdir)}"
    print("killed the last time after step", newest_step(workdir))
    finish(fork(train_eagerly, config, workdir))


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


if __name__ == "__main__":
    saved_config = Config.from_json(pathlib.Path(sys.argv[2]).read_text())
    modes = {
        "killed": killed,
        "replicated": replicated,
        "failing": failing,
        "compiled": compiled,
    }
    modes[sys.argv[1]](saved_config, pathlib.Path(sys.argv[3]), *sys.argv[4:])
