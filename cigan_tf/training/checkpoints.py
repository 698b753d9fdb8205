"""Checkpoints of a run: networks, optimizers, turn, and step (the position in the input).

TensorFlow writes a checkpoint to a temporary place and names it in the file `checkpoint` when it is
complete. Every block has a checksum, so damage is detected when the checkpoint is read.
"""

import contextlib
import os
import sys
from collections.abc import Callable

import keras
import tensorflow as tf
from etils import epath

from cigan_tf import file_io, run_folder
from cigan_tf.config import Config
from cigan_tf.errors import UserError, first_line, is_damage
from cigan_tf.models.cigan import CiGAN, build_optimizers
from cigan_tf.models.generator import Generator
from cigan_tf.models.infilling_model import averages_weights
from cigan_tf.run_folder import BEST_DIR, CHECKPOINT_DIR

# Errors raised on reading a checkpoint, because its files are damaged (`errors.is_damage`), memory
# or a permission is lacking, or the file system does not respond.
_FAILURE = (tf.errors.OpError, OSError, IndexError, MemoryError, RuntimeError)


class RunCheckpoints:
    """The newest checkpoints of a run, and the best one on validation patches.

    They contain everything that the next step depends on, except the frozen VGG-19, which is
    downloaded or drawn from the seed again.

    Args:
        model: the networks, their optimizers and counters.
        workdir: folder of the run.
        config: gives the number of checkpoints to keep.
        writes: whether this process writes the checkpoints; of several workers, one writes and all
            read.
    """

    def __init__(
        self,
        model: CiGAN,
        workdir: epath.Path,
        config: Config,
        writes: bool = True,
    ):
        self.directory = epath.Path(workdir) / CHECKPOINT_DIR
        self._best_directory = epath.Path(workdir) / BEST_DIR
        self._writes = writes
        self._best_loss = tf.Variable(
            float("inf"),
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            name="best_loss",
        )
        networks = {
            "generator": model.generator,
            "discriminator": model.discriminator,
            "generator_optimizer": model.generator_optimizer,
            "discriminator_optimizer": model.discriminator_optimizer,
            "step": model.step.value,
            "turn": model.turn.value,
            "steps_in_turn": model.steps_in_turn.value,
            "turns_taken": model.turns_taken.value,
            "skipped_steps": model.skipped_steps.value,
        }
        # Partial means are saved too, so that the points of a curve do not depend on interruptions.
        means = {
            f"{metric.name}_{part}": getattr(metric, part).value
            for metric in model.term_means
            for part in ("total", "count")
        }
        self._checkpoint = tf.train.Checkpoint(**networks, **means, best_loss=self._best_loss)
        best = tf.train.Checkpoint(**networks)
        for checkpoint in (self._checkpoint, best):
            # Created here by every worker, because creating a variable requires communication.
            _ = checkpoint.save_counter
        self._newest = tf.train.CheckpointManager(
            self._checkpoint,
            file_io.literal_path(self.directory),
            max_to_keep=config.training.checkpoints_to_keep,
            step_counter=model.step.value,
        )
        self._best = tf.train.CheckpointManager(
            best, file_io.literal_path(self._best_directory), max_to_keep=1
        )

    def restore(self) -> None:
        """Restores the newest complete checkpoint, if there is one.

        Raises:
            UserError: none of the checkpoints can be read, or they belong to other networks.
        """
        if self._writes:
            _remove_unfinished(self.directory)
        _restore_newest(self.directory, lambda path: self._checkpoint.read(path).expect_partial())

    def save(self, step: int) -> None:
        """Saves the run after a step, and removes all but the newest checkpoints.

        Raises:
            UserError: the checkpoint cannot be written; earlier ones are kept.
        """
        if self._writes:
            with self._told_if_unwritable(step):
                self._newest.save(checkpoint_number=step)
            _remove_all_but(self._newest.checkpoints, self.directory)

    def save_if_best(self, step: int, loss: float) -> None:
        """Saves the networks separately if the loss is the lowest so far; call before `save`.

        Raises:
            UserError: the checkpoint cannot be written.
        """
        if loss < float(self._best_loss.numpy()):
            self._best_loss.assign(loss)
            if self._writes:
                with self._told_if_unwritable(step):
                    self._best.save(checkpoint_number=step)

    @property
    def newest(self) -> str:
        """Path of the newest checkpoint or "none yet", for messages."""
        saved = run_folder.checkpoints(self.directory)
        return saved[max(saved)] if saved else "none yet"

    @contextlib.contextmanager
    def _told_if_unwritable(self, step: int):
        try:
            yield
        except (tf.errors.OpError, OSError) as error:
            for folder in (self.directory, self._best_directory):
                _remove_unfinished(folder)
            raise UserError(
                f"The checkpoint of step {step} cannot be written to {str(self.directory)!r} "
                f"({first_line(error)}). Newest complete checkpoint: {self.newest}. If the disk is "
                "full, free some space. Then run the same command again."
            ) from None


def restore_generator(
    workdir: epath.Path, config: Config, best: bool = False
) -> tuple[Generator, int]:
    """Returns the generator of a checkpoint and the step of the checkpoint.

    Its weights are the moving average if the run has one.

    Args:
        workdir: folder of the run.
        config: the run's settings.
        best: whether to use the best checkpoint on validation patches instead of the newest one.

    Raises:
        UserError: the run has no such checkpoint, or none can be read.
    """
    generator = Generator(config.model.patch_size)
    step = tf.Variable(0, dtype=tf.int64)
    optimizer = build_optimizers(config.training)[0]
    if config.hardware.mixed_precision == "float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    optimizer.build(generator.trainable_variables)
    parts = {"generator_optimizer": optimizer} if config.training.generator_ema else {}
    checkpoint = tf.train.Checkpoint(generator=generator, step=step, **parts)
    directory = epath.Path(workdir) / (BEST_DIR if best else CHECKPOINT_DIR)
    if not _restore_newest(directory, lambda path: checkpoint.restore(path).expect_partial()):
        if best:
            raise UserError(
                f"The run in {str(workdir)!r} has no best checkpoint; train it with "
                "--evaluated_patches=200 or with a --best_term."
            )
        raise UserError(
            f"The run in {str(workdir)!r} has no checkpoint yet; train it with --mode=train."
        )
    if averages_weights(optimizer):
        optimizer.finalize_variable_values(generator.trainable_variables)
    return generator, int(step)


def _restore_newest(directory: epath.Path, restore: Callable) -> bool:
    """Restores the newest readable checkpoint; returns whether there was one."""
    saved = run_folder.checkpoints(directory)
    for path in reversed(saved.values()):
        try:
            restore(file_io.literal_path(path)).assert_existing_objects_matched()
        except _FAILURE as error:
            if is_damage(error):
                reason = first_line(error)
                print(
                    f"warning: the checkpoint {path} is damaged and skipped ({reason}).",
                    file=sys.stderr,
                )
                continue
            raise UserError(
                f"The checkpoint {path} cannot be read at present ({first_line(error)}). It may be "
                "intact; no checkpoint was removed. Run the same command again when it is readable."
            ) from None
        except (ValueError, AssertionError) as error:
            raise UserError(
                f"The checkpoint {path} was saved with different networks or optimizers: "
                f"{first_line(error)}. Pass the settings that it was trained with, or another "
                "--workdir."
            ) from None
        else:
            return True
    if saved:
        raise UserError(
            f"No checkpoint in {str(directory)!r} can be read, because all of them are damaged. "
            "Restore one from a backup, or pass another --workdir."
        )
    return False


def _remove_all_but(kept: list[str], directory: epath.Path) -> None:
    """Removes checkpoints that were complete but not yet listed when a process was killed."""
    saved = run_folder.checkpoints(directory).values()
    for name in set(map(os.path.basename, saved)) - set(map(os.path.basename, kept)):
        for file in file_io.matching(directory, f"{name}.*"):
            file.unlink()


def _remove_unfinished(directory: epath.Path) -> None:
    """Removes partial files of a killed process or a full disk."""
    for leftover in file_io.matching(directory, "ckpt-*"):
        if leftover.is_dir():
            leftover.rmtree(missing_ok=True)
        elif not leftover.with_suffix(".index").exists():
            leftover.unlink(missing_ok=True)
