"""What a run leaves in its working directory, and how each file is written whole or not at all."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
from collections.abc import Iterator

from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.experiment_config import Cell

CONFIG_FILE = "config.json"
CHECKPOINT_DIR = "checkpoints"
LOG_DIR = "logs"
CLASSIFIER_DIR = "classifiers"
LOCK_FILE = ".lock"
EXPERIMENT_FILE = "experiment.json"
RUN_FILE = "run.json"
INFILLS_USED_FILE = "infills_used.json"

# What a trained generator depends on; a classifier's run compares its own settings.
_GENERATOR_GROUPS = ("data", "model", "loss", "training", "hardware")

# Settings that may differ when a run is taken up again: they change how long a run lasts, where it
# runs and what it writes, not what a step computes (but for the order in which it adds).
_FREE_TO_CHANGE = {
    "data_dir",
    "adversarial_steps",
    "log_every_steps",
    "picture_every_steps",
    "checkpoint_every_steps",
    "checkpoints_to_keep",
    "on_nonfinite",
    "profile_steps",
    "strategy",
    "tpu",
    "peer_timeout_s",
    "jit_compile",
    "steps_per_execution",
    "deterministic",
}


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file beside its place and renames it there, so that no reader sees half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        # Some file systems rename before they write: after a power cut the file would be empty.
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


@contextlib.contextmanager
def lock(folder: pathlib.Path, wait: bool = False) -> Iterator[bool]:
    """Holds a folder, so that no other process writes into it; the end of the process releases it.

    Args:
        folder: made if it is missing.
        wait: wait for another process that holds it.

    Yields:
        Whether the folder is held: False where another process holds it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("wb")
    except OSError as error:
        raise UserError(f"The folder {str(folder)!r} cannot be written: {error}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


@contextlib.contextmanager
def sole_process(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the folder of a run; raises UserError while another process is at work there."""
    with lock(workdir) as held:
        if not held:
            raise UserError(
                f"Another process is at work in the workdir {str(workdir)!r}; wait for it to end, "
                "or pass another --workdir."
            )
        yield


def cell_dir(workdir: pathlib.Path, cell: Cell) -> pathlib.Path:
    """Returns the folder of one classifier of an experiment."""
    return workdir / CLASSIFIER_DIR / cell.arm / (cell.generator or "") / f"seed_{cell.seed}"


def claim(workdir: pathlib.Path, config: Config, resume_changed: bool = False) -> None:
    """Makes the directory a run's own: saves its configuration, or finds the same one there.

    Args:
        workdir: folder of the run.
        config: what the run is to be.
        resume_changed: let it replace another configuration.

    Raises:
        UserError: the directory holds a run with another configuration, or cannot be written.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        differences = _differences(load_config(workdir), config)
        if differences and not resume_changed:
            raise UserError(
                f"The workdir {str(workdir)!r} holds a run with other settings "
                f"({'; '.join(differences)}); pass those, --resume_changed to go on with the given "
                "ones, or another --workdir."
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        write_whole(path, config.to_json())
    except OSError as error:
        raise UserError(f"The workdir {str(workdir)!r} cannot be written: {error}.") from None


def load_config(workdir: pathlib.Path, file_name: str = CONFIG_FILE) -> Config:
    """Returns the configuration that the run in `workdir` was started with.

    Args:
        workdir: folder of the run.
        file_name: `CONFIG_FILE` of ciGAN's training, `EXPERIMENT_FILE` of an experiment.

    Raises:
        UserError: there is none, or it is not of this version.
    """
    path = workdir / file_name
    try:
        return Config.from_json(path.read_text())
    except OSError:
        raise UserError(
            f"There is no run in the workdir {str(workdir)!r} ({file_name} is missing); "
            "train first, or pass the --workdir of a trained run."
        ) from None


def _differences(saved: Config, given: Config) -> list[str]:
    lines = []
    for name in _GENERATOR_GROUPS:
        old, new = getattr(saved, name), getattr(given, name)
        for field in dataclasses.fields(old):
            was, now = getattr(old, field.name), getattr(new, field.name)
            if was != now and field.name not in _FREE_TO_CHANGE:
                lines.append(f"{field.name}: {was!r} there, {now!r} given")
    return lines
