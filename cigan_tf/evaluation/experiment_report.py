"""Report of an experiment: the paper's table with intervals, curves, and the settings of the runs.

It is made only from files: the scores, provenance records and logs of the classifiers, and the
measures and pictures of infills.
"""

import collections
import dataclasses
import json
import os
from collections.abc import Mapping

from etils import epath

from cigan_tf import file_io, run_folder
from cigan_tf.config import Config
from cigan_tf.evaluation import (
    answers,
    drawing,
    origin,
    page,
    quality_table,
    score_file,
    table_text,
)
from cigan_tf.evaluation.experiment_table import ExperimentTable, compare_arms
from cigan_tf.evaluation.report import read_scalars, training_seconds
from cigan_tf.evaluation.table_text import TextTable

PAGE_FILE = "experiment.html"
ORIGIN_FILE = "experiment_provenance.json"


def write_report(workdir: str | os.PathLike) -> epath.Path:
    """Writes the tables and report of an experiment from the files of its finished classifiers.

    The files in `workdir` are table.csv, comparisons.csv, subgroups.csv and variances.csv, with all
    digits; table.md, for reading; experiment_provenance.json, with the training data of each row;
    and experiment.html, a self-contained page.

    Args:
        workdir: an experiment whose arms have been trained with all seeds. The page includes the
            contents of its infill_quality.json and infills.png, if they exist (for named
            generators, infill_quality/GENERATOR.json and infill_quality/GENERATOR.png).

    Returns:
        Path of the page.

    Raises:
        UserError: there is no experiment; a classifier has not finished; scores cannot be compared;
            classifiers were trained on different data, or those of a row with different generators.
    """
    workdir = epath.Path(workdir)
    config = run_folder.load_config(workdir, run_folder.EXPERIMENT_FILE)
    records = origin.read(_folders(workdir, config))
    table = experiment_table(workdir, config)
    origins = {row: origin.columns(record) for row, record in records.items()}
    table_text.write_csv(workdir, table, origins)
    file_io.write_whole(workdir / "table.md", table_text.markdown(table))
    file_io.write_whole(workdir / ORIGIN_FILE, json.dumps(records, indent=2) + "\n")
    target = workdir / PAGE_FILE
    file_io.write_whole(target, _render(workdir, config, table, records))
    return target


def _folders(workdir: epath.Path, config: Config) -> dict[str, list[epath.Path]]:
    """Returns the folders of the classifiers of each row of the table."""
    folders = collections.defaultdict(list)
    for cell in config.experiment.cells(config.classifier):
        row = _row_name(cell.arm, cell.generator)
        folders[row].append(run_folder.cell_dir(workdir, cell))
    return folders


def _judged(workdir: epath.Path) -> tuple[dict[str, epath.Path], dict[str, epath.Path]]:
    """Returns the files of measures, and those of pictures, by generator ('' if unnamed)."""
    found = file_io.matching(workdir / run_folder.QUALITY_DIR, "*.*")
    names = sorted({path.stem for path in found})
    files = {"": run_folder.quality_files(workdir, None)}
    files |= {name: run_folder.quality_files(workdir, name) for name in names}
    measures, shown = ({name: pair[i] for name, pair in files.items()} for i in range(2))
    return _present(measures), _present(shown)


def _present(files: Mapping[str, epath.Path]) -> dict[str, epath.Path]:
    return {name: path for name, path in files.items() if path.exists()}


def experiment_table(workdir: epath.Path, config: Config) -> ExperimentTable:
    """Returns the table of the arms and seeds in the configuration.

    Raises:
        UserError: no arm is defined, a classifier has not finished, or scores cannot be compared.
    """
    experiment = config.experiment
    scores, validation, rows = (collections.defaultdict(dict) for _ in range(3))
    for cell in experiment.cells(config.classifier):
        folder, row = run_folder.cell_dir(workdir, cell), _row_name(cell.arm, cell.generator)
        scores[row][cell.seed] = score_file.read(folder / score_file.FILE_NAME)
        validation[row][cell.seed] = score_file.read(folder / score_file.VALIDATION_FILE_NAME)
        rows[cell.arm][cell.generator] = row
    return compare_arms(
        scores,
        validation,
        experiment.pairs(list(rows)),
        experiment.bootstrap_resamples,
        config.training.seed,
        rows,
    )


def _row_name(arm: str, generator: str | None) -> str:
    """Returns the name of a table row: an arm, with one of its generators if it has several."""
    return f"{arm} ({generator})" if generator else arm


def _render(
    workdir: epath.Path,
    config: Config,
    table: ExperimentTable,
    records: Mapping[str, dict | None],
) -> str:
    experiment = config.experiment
    qualities, infills = _judged(workdir)
    seconds = _training_seconds(workdir, config)
    # Reads them as tables first, so that an error names the invalid file.
    measures = {name: quality_table.read(path) for name, path in qualities.items()}
    judged = {name: json.loads(path.read_text()) for name, path in qualities.items()}
    return page.render(
        "experiment.html.jinja",
        title="Does augmentation help the classifier?",
        lead=(
            "Each arm trains the classifier in its own way, for instance with or without infilled "
            "patches. All classifiers were tested on the same patches, from patients who were not "
            "used to train classifiers or generators."
        ),
        cards=answers.cards(config, table, records, judged),
        seconds=page.duration(seconds) if seconds else None,
        origins=_origins(records),
        pooled=table_text.pooled_table(table),
        arms=_arms(config),
        auc=table_text.auc_table(table),
        comparisons=table_text.comparison_table(table),
        more=[make(table) for make in table_text.DETAIL_TABLES],
        forest=drawing.forest(table),
        curves=drawing.roc_and_calibration(table),
        qualities=measures,
        infills={name: path.read_bytes() for name, path in infills.items()},
        num_resamples=experiment.bootstrap_resamples,
        seeds=experiment.classifier_seeds,
        test_split=experiment.test_split,
        workdir=str(workdir),
        settings=config.to_json(),
    )


def _arms(config: Config) -> TextTable:
    """Returns the settings that differ between arms, with one column per setting."""
    arms = config.experiment.named_arms(config.classifier)
    names = [field.name for field in dataclasses.fields(config.classifier)]
    differing = [name for name in names if len({getattr(arm, name) for arm in arms.values()}) > 1]
    return TextTable(
        "Settings that differ between arms",
        ["arm", *(name.replace("_", " ") for name in differing)],
        [
            [arm, *(_setting(getattr(settings, name)) for name in differing)]
            for arm, settings in arms.items()
        ],
    )


def _origins(records: Mapping[str, dict | None]) -> TextTable:
    """Returns the provenance of each row of the experiment's table that has a record."""
    columns = {row: origin.columns(record) for row, record in records.items() if record}
    names = list(next(iter(columns.values()), {}))
    known = [name for name in names if any(of[name] is not None for of in columns.values())]
    return TextTable(
        "Provenance",
        ["arm", *(name.replace("_", " ") for name in known)],
        [
            [row, *("" if of[name] is None else str(of[name])[:12] for name in known)]
            for row, of in columns.items()
        ],
    )


def _setting(value) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _training_seconds(workdir: epath.Path, config: Config) -> float:
    folders = [
        run_folder.cell_dir(workdir, cell) / run_folder.LOG_DIR
        for cell in config.experiment.cells(config.classifier)
    ]
    return sum(training_seconds(read_scalars(logs)) for logs in folders if logs.is_dir())
