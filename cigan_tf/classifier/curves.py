"""TensorBoard curves of a classifier: loss, validation AUC, ROC and precision-recall."""

import dataclasses
import io
import json

import matplotlib.figure
import numpy as np
import tensorflow as tf
from sklearn import metrics

from cigan_tf.evaluation import roc
from cigan_tf.evaluation.score_file import Scores
from cigan_tf.experiment_config import ClassifierConfig


class ClassifierWriter:
    """Writes the event file of a classifier.

    The file is opened once per process, and flushed after every write.

    Args:
        logdir: folder of the event file.
        settings: settings of the classifier, written as text.
    """

    def __init__(self, logdir: str, settings: ClassifierConfig):
        self._writer = tf.summary.create_file_writer(logdir)
        with self._writer.as_default(step=0):
            text = json.dumps(dataclasses.asdict(settings), indent=2)
            tf.summary.text("settings", f"```json\n{text}\n```")

    def write(
        self, step: int, loss: float, validation: Scores, learning_rate: float, rate: float
    ) -> None:
        """Writes one point of each curve, and a picture of the ROC and precision-recall curves.

        Args:
            step: training step.
            loss: mean cross-entropy of the training patches since the previous point.
            validation: scores for the validation patches.
            learning_rate: Adam's learning rate.
            rate: training steps per second.
        """
        with self._writer.as_default(step=step):
            tf.summary.scalar("loss/training", loss)
            tf.summary.scalar(
                "loss/validation", metrics.log_loss(validation.label, validation.probability)
            )
            tf.summary.scalar("auc/validation", roc.auc(validation.label, validation.probability))
            tf.summary.scalar("optimizer/learning_rate", learning_rate)
            tf.summary.scalar("speed/steps_per_second", rate)
            tf.summary.image("validation/curves", _draw_curves(validation)[None])
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._writer.close()


def _draw_curves(scores: Scores) -> np.ndarray:
    """Returns the ROC and precision-recall curves side by side, uint8 [h, w, 4]."""
    figure = matplotlib.figure.Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    metrics.RocCurveDisplay.from_predictions(
        scores.label, scores.probability, ax=left, plot_chance_level=True
    )
    metrics.PrecisionRecallDisplay.from_predictions(
        scores.label, scores.probability, ax=right, plot_chance_level=True
    )
    for axes, title in ((left, "ROC"), (right, "precision and recall")):
        axes.set(title=f"{title}, {scores.label.size} validation patches")
        axes.grid(alpha=0.3)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="raw", dpi=100)
    width, height = (int(side) for side in figure.get_size_inches() * 100)
    return np.frombuffer(encoded.getvalue(), np.uint8).reshape(height, width, 4)
