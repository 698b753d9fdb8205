"""What a run leaves in its working directory, and whose the directory is."""

import contextlib
import dataclasses
from collections.abc import Iterator

from etils import epath

from cigan_tf import file_io
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.experiment_config import Cell

CONFIG_FILE = "config.json"
CHECKPOINT_DIR = "checkpoints"
LOG_DIR = "logs"
CLASSIFIER_DIR = "classifiers"
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
    "agree_every_steps",
    "deterministic",
}


@contextlib.contextmanager
def sole_process(workdir: epath.Path) -> Iterator[None]:
    """Holds the folder of a run; raises UserError while another process is at work there."""
    with file_io.lock(workdir) as held:
        if not held:
            raise UserError(
                f"Another process is at work in the workdir {str(workdir)!r}; wait for it to end, "
                "or pass another --workdir."
            )
        yield


def cell_dir(workdir: epath.Path, cell: Cell) -> epath.Path:
    """Returns the folder of one classifier of an experiment."""
    return workdir / CLASSIFIER_DIR / cell.arm / (cell.generator or "") / f"seed_{cell.seed}"


def claim(workdir: epath.Path, config: Config, resume_changed: bool = False) -> None:
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
        file_io.write_whole(path, config.to_json())
    except OSError as error:
        raise UserError(f"The workdir {str(workdir)!r} cannot be written: {error}.") from None


def load_config(workdir: epath.Path, file_name: str = CONFIG_FILE) -> Config:
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
