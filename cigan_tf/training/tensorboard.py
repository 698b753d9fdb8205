"""TensorBoard output of a run: loss terms, turns, health, speed, pictures, settings."""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from cigan_tf import pictures
from cigan_tf.config import Config, LossConfig
from cigan_tf.models.cigan import CiGAN, Turn

_PICTURE_CAPTION = "Columns: " + ", ".join(pictures.COLUMNS) + "."


def scalars(model: CiGAN, steps_per_second: float) -> dict[str, float]:
    """Returns every scalar since the metrics were last reset, by TensorBoard tag.

    A term that no step has computed since then, because it was the other network's turn, is left
    out, so that its curve has a gap instead of a zero.
    """
    means = {m.name: float(m.result()) for m in model.metrics if float(m.count.numpy()) > 0}
    values = {}
    for name, mean in means.items():
        if name.startswith("discriminator_accuracy_"):
            values[f"discriminator/{name.removeprefix('discriminator_')}"] = mean
        else:
            values[f"loss/{name}"] = mean
            values[f"weighted_loss/{name}"] = mean * weight_of(name, model.loss_config)
    values["turn/network"] = float(model.turn.numpy())
    values["turn/steps_in_turn"] = float(model.steps_in_turn.numpy())
    values["turn/turns_taken"] = float(model.turns_taken.numpy())
    for network in ("generator", "discriminator"):
        rate = getattr(model, f"{network}_optimizer").learning_rate
        values[f"optimizer/learning_rate_{network}"] = float(keras.ops.convert_to_numpy(rate))
    values["speed/steps_per_second"] = steps_per_second
    return values


def weight_of(term: str, loss: LossConfig) -> float:
    """Returns the weight of a loss term by its metric's name.

    The terms of the discriminator's loss have a weight of 1; the R1 penalty contains its own.
    """
    return {
        "feature_loss": loss.feature_weight,
        "boundary_loss": loss.boundary_weight,
        "adversarial_generator_loss": loss.adversarial_weight,
        "diversity_loss": loss.diversity_weight,
        "adversarial_discriminator_loss": 1.0,
        "r1_penalty": 1.0,
    }[term]


class RunWriter:
    """Writes the event files of a run. It is opened once per process and flushed with every write.

    Args:
        logdir: folder of the event files.
        config: the run's settings, shown as text and as HParams.
        first_step: step at which the run starts or resumes.
    """

    def __init__(self, logdir: str, config: Config, first_step: int = 0):
        self._writer = tf.summary.create_file_writer(logdir)
        with self._writer.as_default(step=first_step):
            hparams.hparams(_settings(config))
            tf.summary.text("configuration", f"```json\n{config.to_json()}```")
            turns = ", ".join(f"{turn.value} {turn.name.lower()}" for turn in Turn)
            tf.summary.text("turn/network/legend", f"Network being trained: {turns}.")

    def write_scalars(self, step: int, values: dict[str, float]) -> None:
        """Writes one point of each curve."""
        with self._writer.as_default(step=step):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)
        self._writer.flush()

    def write_text(self, tag: str, text: str) -> None:
        """Writes Markdown that does not belong to a step."""
        with self._writer.as_default(step=0):
            tf.summary.text(tag, text)
        self._writer.flush()

    def write_warning(self, step: int, text: str) -> None:
        """Writes a warning to TensorBoard, so that it can be found days later."""
        with self._writer.as_default(step=step):
            tf.summary.text("health/warnings", text)
        self._writer.flush()

    def write_pictures(self, step: int, infill, batch: dict[str, np.ndarray], seed: int) -> None:
        """Writes a grid of `pictures.comparison_rows`, which has the same arguments."""
        rows = pictures.comparison_rows(batch, infill, seed)
        with self._writer.as_default(step=step):
            tf.summary.image(
                "validation/infills",
                pictures.grid(rows)[None, :, :, None],
                description=_PICTURE_CAPTION,
            )
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


def _settings(config: Config) -> dict[str, bool | int | float | str]:
    settings = {}
    for group in (config.data, config.model, config.loss, config.training, config.hardware):
        settings.update(dataclasses.asdict(group))
    return {n: ",".join(v) if isinstance(v, tuple) else v for n, v in settings.items()}
