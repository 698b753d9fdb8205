"""What a run leaves in its working directory, and how each file is written whole or not at all."""

import contextlib
import dataclasses
import fcntl
import os
import tempfile
from collections.abc import Iterator

from etils import epath

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
    "agree_every_steps",
    "deterministic",
}


def on_disk(path: str | os.PathLike) -> bool:
    """Returns whether a path is one of this machine's file systems, not an address like gs://."""
    return "://" not in os.fspath(path)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[epath.Path]:
    """Yields where to write a file that nobody must see half of: it is renamed once it is whole."""
    path = epath.Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    yield beside
    if on_disk(beside):
        # Some file systems rename before they write: after a power cut the file would be empty.
        with beside.open("rb") as file:
            os.fsync(file.fileno())
    beside.replace(path)


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file as a whole or not at all."""
    with whole_file(path) as beside:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def local_file(path: str | os.PathLike) -> Iterator[str]:
    """Yields a file on this machine's disk with the content of a file that may lie in a bucket."""
    path = epath.Path(path)
    if on_disk(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = epath.Path(folder) / path.name
        local.write_bytes(path.read_bytes())
        yield os.fspath(local)


@contextlib.contextmanager
def written_locally(path: str | os.PathLike) -> Iterator[str]:
    """Yields where on this machine's disk to write a file; it is moved to `path` once it is whole.

    For writers that know no buckets.
    """
    path = epath.Path(path)
    if on_disk(path):
        # The name's end may tell the writer what to write.
        beside = path.with_name(f".{os.getpid()}.{path.name}")
        yield os.fspath(beside)
        beside.replace(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = epath.Path(folder) / path.name
        yield os.fspath(local)
        write_whole(path, local.read_bytes())


@contextlib.contextmanager
def lock(folder: str | os.PathLike, wait: bool = False) -> Iterator[bool]:
    """Holds a folder, so that no other process writes into it; the end of the process releases it.

    A bucket has no locks: there every process holds every folder.

    Args:
        folder: made if it is missing.
        wait: wait for another process that holds it.

    Yields:
        Whether the folder is held: False where another process holds it.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = epath.Path(folder)
    if not on_disk(folder):
        yield True
        return
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
def sole_process(workdir: epath.Path) -> Iterator[None]:
    """Holds the folder of a run; raises UserError while another process is at work there."""
    with lock(workdir) as held:
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
        write_whole(path, config.to_json())
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
