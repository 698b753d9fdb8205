"""The augmentation experiment: every arm with every seed, each run once (paper section 3)."""

import dataclasses
import os
import pathlib
import sys

from cigan_tf import workdir as workdir_lib
from cigan_tf.classifier import batches
from cigan_tf.classifier.infill_quality import write_infill_quality
from cigan_tf.classifier.train import train_classifier
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import scores as scores_lib
from cigan_tf.evaluation.experiment_report import write_report
from cigan_tf.experiment_config import Cell


def run_experiment(
    config: Config, workdir: str | os.PathLike, saved_model: str | None
) -> pathlib.Path:
    """Trains all arms with all seeds, judges the generator if an arm uses it, writes the report.

    Args:
        config: the arms and their seeds.
        workdir: of the experiment.
        saved_model: the exported generator; by default the newest in `workdir`/saved_model.

    Returns:
        The report's page.

    Raises:
        UserError: what its three parts raise.
    """
    workdir = pathlib.Path(workdir)
    train_arms(config, workdir)
    arms = config.experiment.named_arms(config.classifier)
    if any(settings.needs_synthetic for settings in arms.values()):
        try:
            write_infill_quality(config, workdir, saved_model)
        except UserError as error:
            # Hours of training are not lost to what comes beside the table.
            print(f"warning: the infills are not judged: {error}", file=sys.stderr)
    return write_report(workdir)


def train_arms(config: Config, workdir: str | os.PathLike) -> None:
    """Trains the classifiers of all arms and seeds that `workdir` does not hold finished.

    The seed is the outer loop: an experiment that is interrupted has all arms of its first seeds.

    Raises:
        UserError: no arm is defined, splits share a patient, or what `train_classifier` raises.
    """
    workdir = pathlib.Path(workdir)
    arms = config.experiment.named_arms(config.classifier)
    if not arms:
        raise UserError(
            "No arm is defined; pass --flagfile=cigan_tf/flagfiles/arms.flags or --arm='NAME: ...'."
        )
    batches.refuse_shared_patients(config)
    workdir_lib.claim(workdir, config)
    for seed in config.experiment.classifier_seeds:
        for arm, settings in arms.items():
            of_arm = dataclasses.replace(config, classifier=settings)
            run_dir = workdir_lib.cell_dir(workdir, Cell(arm, None, seed))
            train_classifier(of_arm, seed, workdir, run_dir)


def train_one(config: Config, workdir: str | os.PathLike) -> pathlib.Path:
    """Trains one classifier as the classifier's flags say, into `workdir` itself.

    Returns:
        The file of its scores on the test split.
    """
    workdir = pathlib.Path(workdir)
    batches.refuse_shared_patients(config)
    train_classifier(config, config.training.seed, workdir, workdir)
    return workdir / scores_lib.FILE_NAME
