"""The files of a run in its working directory, and the check of its settings."""

import contextlib
import dataclasses
import re
import sys
from collections.abc import Iterator

from etils import epath

from cigan_tf import file_io
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.experiment_config import Cell

CONFIG_FILE = "config.json"
CHECKPOINT_DIR = "checkpoints"
BEST_DIR = f"{CHECKPOINT_DIR}/best"
LOG_DIR = "logs"
CLASSIFIER_DIR = "classifiers"
EXPERIMENT_FILE = "experiment.json"
RUN_FILE = "run.json"
INFILLS_USED_FILE = "infills_used.json"
# Measures of the generator's infills, and pictures of them.
QUALITY_FILE = "infill_quality.json"
INFILLS_FILE = "infills.png"
# For named generators: NAME.json and NAME.png.
QUALITY_DIR = "infill_quality"

# The settings a generator depends on; a classifier compares its own settings.
_GENERATOR_GROUPS = ("data", "model", "loss", "training", "hardware")

# Settings that may differ when a run is resumed. They change how long a run takes, where it runs
# and what it writes, but not the result of a step (except the order of summation).
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
    """Returns the checkpoints in a folder by their step, the newest last."""
    numbered = {}
    for index in file_io.matching(directory, "ckpt-*.index"):
        if match := re.fullmatch(r"ckpt-(\d+)", index.stem):
            numbered[int(match[1])] = str(index.with_suffix(""))
    return dict(sorted(numbered.items()))


def warn_of_later_checkpoint(workdir: epath.Path, saved_model: epath.Path, step: int) -> None:
    """Prints a warning if a run was trained after its export.

    Args:
        workdir: folder of the run.
        saved_model: its newest SavedModel.
        step: step of the SavedModel's checkpoint.
    """
    newest = max(checkpoints(workdir / CHECKPOINT_DIR), default=step)
    # The best checkpoint is exported on request, and later ones do not replace it.
    if newest > step and step not in checkpoints(workdir / BEST_DIR):
        print(
            f"warning: the SavedModel {str(saved_model)!r} is from step {step}; the newest "
            f"checkpoint is from step {newest}; to use it, export again with "
            f"cigan-export --workdir={workdir}.",
            file=sys.stderr,
        )


def quality_files(workdir: epath.Path, generator: str | None) -> tuple[epath.Path, ...]:
    """Returns the paths of a generator's measures and infill pictures.

    Args:
        workdir: workdir of the experiment.
        generator: name of one of the experiment's `generators`, or of the arm with its synthetic
            set; None if it has no name.
    """
    if generator is None:
        return workdir / QUALITY_FILE, workdir / INFILLS_FILE
    return tuple(workdir / QUALITY_DIR / f"{generator}{suffix}" for suffix in (".json", ".png"))


def claim(workdir: epath.Path, config: Config, resume_changed: bool = False) -> None:
    """Saves the configuration in the directory, or compares it with the one saved there.

    Args:
        workdir: folder of the run.
        config: configuration of the run.
        resume_changed: allow it to replace a different configuration.

    Raises:
        UserError: the directory has a run with different settings, or cannot be written to.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        differences = _differences(load_config(workdir), config)
        if differences and not resume_changed:
            raise UserError(
                f"The workdir {str(workdir)!r} contains a run with different settings "
                f"({'; '.join(differences)}); pass those settings, or --resume_changed "
                "to resume with the given ones, or another --workdir."
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file_io.write_whole(path, config.to_json())
    except OSError as error:
        raise UserError(f"The workdir {str(workdir)!r} cannot be written to: {error}.") from None


def load_config(workdir: epath.Path, file_name: str = CONFIG_FILE) -> Config:
    """Returns the configuration of the run in `workdir`.

    Args:
        workdir: folder of the run.
        file_name: `CONFIG_FILE` of ciGAN's training, `EXPERIMENT_FILE` of an experiment.

    Raises:
        UserError: there is none, or it is from another version.
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
                lines.append(f"{field.name}: {was!r} in the run, {now!r} given")
    return lines
