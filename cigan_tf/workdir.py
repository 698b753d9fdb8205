"""What a run leaves in its working directory, and how each file is written whole or not at all."""

import dataclasses
import os
import pathlib

from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.experiment_config import Cell

CONFIG_FILE = "config.json"
CHECKPOINT_DIR = "checkpoints"
LOG_DIR = "logs"
CLASSIFIER_DIR = "classifiers"

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
    beside.write_bytes(content.encode() if isinstance(content, str) else content)
    beside.replace(path)


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


def load_config(workdir: pathlib.Path) -> Config:
    """Returns the configuration that the run in `workdir` was started with.

    Raises:
        UserError: there is none, or it is not of this version.
    """
    path = workdir / CONFIG_FILE
    try:
        return Config.from_json(path.read_text())
    except OSError:
        raise UserError(
            f"There is no run in the workdir {str(workdir)!r} ({CONFIG_FILE} is missing); "
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
