"""The page that an experiment ends in: the paper's table with its chances, curves, what was run.

Made from files alone: what every classifier said of the test patches, and what it logged.
"""

import dataclasses
import os
import pathlib

from cigan_tf import workdir as workdir_lib
from cigan_tf.config import Config
from cigan_tf.evaluation import drawing, page, quality_table, table_text
from cigan_tf.evaluation import scores as scores_lib
from cigan_tf.evaluation.experiment_table import ExperimentTable, compare_arms
from cigan_tf.evaluation.report import read_scalars, training_seconds
from cigan_tf.evaluation.table_text import TextTable
from cigan_tf.experiment_config import Cell

PAGE_FILE = "experiment.html"
QUALITY_FILE = "infill_quality.json"
INFILLS_FILE = "infills.png"


def write_report(workdir: str | os.PathLike) -> pathlib.Path:
    """Writes an experiment's tables and page from what its finished classifiers left.

    Into `workdir`: table.csv and comparisons.csv with every digit, table.md for people, and
    experiment.html, which needs no other file.

    Args:
        workdir: an experiment whose arms have been trained with all seeds. Its infill_quality.json
            and infills.png come onto the page where they are there.

    Returns:
        The page written.

    Raises:
        UserError: there is no experiment, a classifier has not finished, or scores that cannot be
            compared.
    """
    workdir = pathlib.Path(workdir)
    config = workdir_lib.load_config(workdir, workdir_lib.EXPERIMENT_FILE)
    table = experiment_table(workdir, config)
    table_text.write_csv(workdir, table)
    workdir_lib.write_whole(workdir / "table.md", table_text.markdown(table))
    target = workdir / PAGE_FILE
    workdir_lib.write_whole(target, _render(workdir, config, table))
    return target


def experiment_table(workdir: pathlib.Path, config: Config) -> ExperimentTable:
    """Returns the table of the arms and seeds that the configuration names.

    Raises:
        UserError: no arm is defined, a classifier has not finished, or scores that cannot be
            compared.
    """
    experiment = config.experiment
    arms = list(experiment.named_arms(config.classifier))
    scores = {
        arm: {
            seed: scores_lib.read(
                workdir_lib.cell_dir(workdir, Cell(arm, None, seed)) / scores_lib.FILE_NAME
            )
            for seed in experiment.classifier_seeds
        }
        for arm in arms
    }
    return compare_arms(
        scores, experiment.pairs(arms), experiment.bootstrap_resamples, config.training.seed
    )


def _render(workdir: pathlib.Path, config: Config, table: ExperimentTable) -> str:
    experiment = config.experiment
    quality, infills = workdir / QUALITY_FILE, workdir / INFILLS_FILE
    counts = next(iter(table.arms.values())).counts
    seconds = _training_seconds(workdir, config)
    return page.render(
        "experiment.html.jinja",
        title="Does augmentation help the classifier?",
        lead=(
            "Classifiers of one design, trained on patches that were augmented in different ways, "
            "and asked about the same patches of patients whom neither they nor a generator saw."
        ),
        facts=[
            ("dataset", config.data.dataset),
            ("patch", f"{config.model.patch_size} px"),
            ("classifiers", f"{len(table.arms)} arms × {len(experiment.classifier_seeds)} seeds"),
            ("tested on", f"{counts.patches:,} patches of {counts.patients:,} patients"),
            ("training of classifiers", page.duration(seconds) if seconds else "not logged"),
        ],
        arms=_arms(config),
        auc=table_text.auc_table(table),
        comparisons=table_text.comparison_table(table),
        more=[
            table_text.seed_table(table),
            table_text.operating_table(table),
            table_text.scanner_table(table),
        ],
        forest=drawing.forest(table),
        curves=drawing.roc_and_calibration(table),
        quality=quality_table.read(quality) if quality.exists() else None,
        infills=infills.read_bytes() if infills.exists() else None,
        num_resamples=experiment.bootstrap_resamples,
        seeds=experiment.classifier_seeds,
        test_split=experiment.test_split,
        workdir=str(workdir),
        settings=config.to_json(),
    )


def _arms(config: Config) -> TextTable:
    """Returns what the arms do differently, one column per setting that is not the same in all."""
    arms = config.experiment.named_arms(config.classifier)
    names = [field.name for field in dataclasses.fields(config.classifier)]
    differing = [name for name in names if len({getattr(arm, name) for arm in arms.values()}) > 1]
    return TextTable(
        "What the arms do differently",
        ["arm", *(name.replace("_", " ") for name in differing)],
        [
            [arm, *(_setting(getattr(settings, name)) for name in differing)]
            for arm, settings in arms.items()
        ],
    )


def _setting(value) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _training_seconds(workdir: pathlib.Path, config: Config) -> float:
    total = 0.0
    for arm in config.experiment.named_arms(config.classifier):
        for seed in config.experiment.classifier_seeds:
            logs = workdir_lib.cell_dir(workdir, Cell(arm, None, seed)) / workdir_lib.LOG_DIR
            total += training_seconds(read_scalars(logs)) if logs.is_dir() else 0.0
    return total
