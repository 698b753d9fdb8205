"""The training run: batches in, steps, and what is written on the way."""

import os
import pathlib
import time

import tensorflow as tf
import tqdm

from cigan_tf import input_pipeline
from cigan_tf import workdir as workdir_lib
from cigan_tf.config import Config
from cigan_tf.models.cigan import CiGAN, Turn, build_cigan
from cigan_tf.training import checkpoints, tensorboard

_PICTURES_PER_KIND = 4


def train(config: Config, workdir: str | os.PathLike) -> CiGAN:
    """Trains ciGAN as configured, or takes up the run that `workdir` holds, to its last step.

    Args:
        config: validated settings.
        workdir: receives config.json, checkpoints/ and logs/ (TensorBoard).

    Returns:
        The trained model.

    Raises:
        UserError: the dataset, the weights or the workdir cannot be used.
    """
    workdir = pathlib.Path(workdir)
    batches = input_pipeline.training_batches(config)
    shown = input_pipeline.picture_patches(config, config.data.validation_split, _PICTURES_PER_KIND)
    model = build_cigan(config)
    workdir_lib.claim(workdir, config)

    iterator = iter(batches)
    manager = checkpoints.manager(model, iterator, workdir, config)
    manager.restore_or_initialize()
    writer = tensorboard.RunWriter(str(workdir / workdir_lib.LOG_DIR), config)
    _run_steps(model, iterator, manager, writer, shown, config)
    writer.close()
    return model


def _run_steps(
    model: CiGAN,
    iterator: tf.data.Iterator,
    manager: tf.train.CheckpointManager,
    writer: tensorboard.RunWriter,
    shown: dict,
    config: Config,
) -> None:
    settings = config.training
    first_step = int(model.step.numpy())
    model.make_train_function()
    infill = tensorboard.model_infill(model)
    progress = tqdm.tqdm(
        initial=first_step,
        total=settings.total_steps,
        unit="step",
        dynamic_ncols=True,
        smoothing=0.05,
    )
    if first_step == 0:
        writer.write_pictures(0, infill, shown, settings.seed)
    since_log, steps_since_log = time.monotonic(), 0
    model.reset_metrics()
    for step in range(first_step + 1, settings.total_steps + 1):
        model.train_function(iterator)
        progress.update()
        steps_since_log += 1
        last = step == settings.total_steps
        if step % settings.log_every_steps == 0 or last:
            rate = steps_since_log / (time.monotonic() - since_log)
            values = tensorboard.scalars(model, rate)
            writer.write_scalars(step, values)
            progress.set_description(Turn(int(values["turn/network"])).name.lower())
            progress.set_postfix(_shown_on_terminal(values))
            model.reset_metrics()
            since_log, steps_since_log = time.monotonic(), 0
        if step % settings.picture_every_steps == 0 or last:
            writer.write_pictures(step, infill, shown, settings.seed)
        if step % settings.checkpoint_every_steps == 0 or last:
            manager.save(checkpoint_number=step)
    progress.close()


def _shown_on_terminal(values: dict[str, float]) -> dict[str, str]:
    short = {
        "loss/feature_loss": "feature",
        "loss/boundary_loss": "boundary",
        "loss/adversarial_generator_loss": "G",
        "loss/adversarial_discriminator_loss": "D",
    }
    return {name: f"{values[tag]:.3g}" for tag, name in short.items() if tag in values}
