"""Checkpoints of a run: networks, optimizers, turn, step and the place in the input."""

import pathlib

import tensorflow as tf

from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.models.cigan import CiGAN
from cigan_tf.models.generator import Generator
from cigan_tf.workdir import CHECKPOINT_DIR


def manager(
    model: CiGAN, iterator: tf.data.Iterator, workdir: pathlib.Path, config: Config
) -> tf.train.CheckpointManager:
    """Returns what saves and restores everything that the next step depends on.

    The frozen VGG-19 is left out: it is fetched or drawn from the seed again.
    """
    checkpoint = tf.train.Checkpoint(
        generator=model.generator,
        discriminator=model.discriminator,
        generator_optimizer=model.generator_optimizer,
        discriminator_optimizer=model.discriminator_optimizer,
        step=model.step.value,
        turn=model.turn.value,
        steps_in_turn=model.steps_in_turn.value,
        turns_taken=model.turns_taken.value,
        iterator=iterator,
    )
    return tf.train.CheckpointManager(
        checkpoint,
        str(workdir / CHECKPOINT_DIR),
        max_to_keep=config.training.checkpoints_to_keep,
        step_counter=model.step.value,
    )


def restore_generator(workdir: pathlib.Path, config: Config) -> tuple[Generator, int]:
    """Returns the generator of the newest checkpoint and the step at which it was saved.

    Raises:
        UserError: the run has no checkpoint yet.
    """
    newest = tf.train.latest_checkpoint(str(workdir / CHECKPOINT_DIR))
    if newest is None:
        raise UserError(
            f"The run in {str(workdir)!r} has no checkpoint yet; train it with --mode=train."
        )
    generator = Generator(config.model.patch_size)
    step = tf.Variable(0, dtype=tf.int64)
    restored = tf.train.Checkpoint(generator=generator, step=step).restore(newest)
    restored.assert_existing_objects_matched().expect_partial()
    return generator, int(step)
