"""The files in a run's workdir, and the check that a resumed run has the same settings."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator

from etils import epath

from cigan_tf import file_io
from cigan_tf.config import Config
from cigan_tf.errors import UserError, prefix_errors
from cigan_tf.experiment_config import Cell

CONFIG_FILE = "config.json"
CHECKPOINT_DIR = "checkpoints"
BEST_DIR = f"{CHECKPOINT_DIR}/best"
LOG_DIR = "logs"
CLASSIFIER_DIR = "classifiers"
EXPERIMENT_FILE = "experiment.json"
RUN_FILE = "run.json"
INFILLS_USED_FILE = "infills_used.json"
# Measures and pictures of the generator's infills.
QUALITY_FILE = "infill_quality.json"
INFILLS_FILE = "infills.png"
# Contains NAME.json and NAME.png for each named generator.
QUALITY_DIR = "infill_quality"

# The settings that a generator depends on; a classifier's run compares its own settings.
_GENERATOR_GROUPS = ("data", "model", "loss", "training", "hardware")

# Settings that may differ when a run is resumed. They change how long a run takes, where it runs
# and what it writes, but not the result of a step, except for rounding.
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
    """Locks the folder of a run; raises UserError if another process is using it."""
    with file_io.lock(workdir) as held:
        if not held:
            raise UserError(
                f"Another process is using the workdir {str(workdir)!r}; wait for it to end, "
                "or pass another --workdir."
            )
        yield


def cell_dir(workdir: epath.Path, cell: Cell) -> epath.Path:
    """Returns the folder of one classifier of an experiment."""
    return workdir / CLASSIFIER_DIR / cell.arm / (cell.generator or "") / f"seed_{cell.seed}"


def checkpoints(directory: epath.Path) -> dict[int, str]:
    """Returns the path prefixes of the checkpoints in a folder by step, the newest last."""
    numbered = {}
    for index in file_io.matching(directory, "ckpt-*.index"):
        if match := re.fullmatch(r"ckpt-(\d+)", index.stem):
            numbered[int(match[1])] = str(index.with_suffix(""))
    return dict(sorted(numbered.items()))


def warn_of_later_checkpoint(workdir: epath.Path, saved_model: epath.Path, step: int) -> None:
    """Prints a warning if a run was trained further after its export.

    Args:
        workdir: folder of the run.
        saved_model: the run's newest SavedModel.
        step: step of the SavedModel's checkpoint.
    """
    newest = max(checkpoints(workdir / CHECKPOINT_DIR), default=step)
    # The best checkpoint is exported only on request, so later checkpoints do not outdate it.
    if newest > step and step not in checkpoints(workdir / BEST_DIR):
        print(
            f"warning: the SavedModel {str(saved_model)!r} is from step {step}; the newest "
            f"checkpoint is from step {newest}. To use that checkpoint, export again with "
            f"cigan-export --workdir={workdir}.",
            file=sys.stderr,
        )


def quality_files(workdir: epath.Path, generator: str | None) -> tuple[epath.Path, ...]:
    """Returns the paths of the measures and pictures of a generator's infills.

    Args:
        workdir: workdir of the experiment.
        generator: the generator's name among the experiment's `generators`, or the name of the arm
            that has the generator's set as its own `synthetic_dir`; None for an unnamed generator.
    """
    if generator is None:
        return workdir / QUALITY_FILE, workdir / INFILLS_FILE
    return tuple(workdir / QUALITY_DIR / f"{generator}{suffix}" for suffix in (".json", ".png"))


def refuse_other_run(workdir: epath.Path, config: Config, resume_changed: bool = False) -> None:
    """Raises UserError if the workdir contains a run with different settings.

    Args:
        workdir: folder of the run.
        config: configuration of the run.
        resume_changed: whether the settings may differ.
    """
    if resume_changed or not (workdir / CONFIG_FILE).exists():
        return
    if differences := _differences(load_config(workdir), config):
        raise UserError(
            f"The workdir {str(workdir)!r} contains a run with different settings "
            f"({'; '.join(differences)}); pass the settings of the run, or --resume_changed "
            "to resume with the given ones, or another --workdir."
        )


def claim(workdir: epath.Path, config: Config) -> None:
    """Saves a run's configuration in its workdir.

    Raises:
        UserError: the workdir cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file_io.write_whole(workdir / CONFIG_FILE, config.to_json())
    except OSError as error:
        raise UserError(
            f"The workdir {str(workdir)!r} cannot be written to: {error}. "
            "Free up disk space, change its permissions, or pass another --workdir."
        ) from None


def load_config(workdir: epath.Path, file_name: str = CONFIG_FILE) -> Config:
    """Returns the configuration of the run in `workdir`.

    Args:
        workdir: folder of the run.
        file_name: `CONFIG_FILE` for ciGAN's training, `EXPERIMENT_FILE` for an experiment.

    Raises:
        UserError: there is no such file, or it is damaged or not valid in this version.
    """
    path = workdir / file_name
    try:
        with prefix_errors(repr(str(path))):
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
                lines.append(f"{field.name}: {was!r} in the run, {now!r} given")
    return lines
