"""The page that an experiment ends in: the paper's table with its chances, curves, what was run.

Made from files alone: what every classifier said of the test patches, and what it logged.
"""

import collections
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
    scores, validation, generators = (collections.defaultdict(dict) for _ in range(3))
    for cell in experiment.cells(config.classifier):
        folder, row = workdir_lib.cell_dir(workdir, cell), _row_name(cell.arm, cell.generator)
        scores[row][cell.seed] = scores_lib.read(folder / scores_lib.FILE_NAME)
        validation[row][cell.seed] = scores_lib.read(folder / scores_lib.VALIDATION_FILE_NAME)
        generators[cell.arm][cell.generator] = None
    # Arms with generators are compared generator by generator.
    pairs = [
        (_row_name(arm, generator), _row_name(other, other_generator))
        for arm, other in experiment.pairs(list(generators))
        for generator in generators[arm]
        for other_generator in generators[other]
        if None in (generator, other_generator) or generator == other_generator
    ]
    return compare_arms(
        scores, validation, pairs, experiment.bootstrap_resamples, config.training.seed
    )


def _row_name(arm: str, generator: str | None) -> str:
    """Returns the name of a row of the table: an arm, or an arm with one of its generators."""
    return f"{arm} ({generator})" if generator else arm


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
    folders = [
        workdir_lib.cell_dir(workdir, cell) / workdir_lib.LOG_DIR
        for cell in config.experiment.cells(config.classifier)
    ]
    return sum(training_seconds(read_scalars(logs)) for logs in folders if logs.is_dir())
