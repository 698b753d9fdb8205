"""The augmentation experiment: trains a classifier for each of its cells (paper section 3)."""

import collections
import dataclasses
import functools
import math
import os
import sys
from collections.abc import Sequence

from etils import epath

from cigan_tf import file_io, input_pipeline, interruption, run_folder
from cigan_tf.classifier import batches, infill_quality, parallel
from cigan_tf.classifier.classifier_run import train_classifier
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.config import Config
from cigan_tf.errors import StorageError, UserError, storage_errors
from cigan_tf.evaluation import score_file
from cigan_tf.evaluation.answers import SIGNIFICANT_P
from cigan_tf.evaluation.experiment_report import write_report
from cigan_tf.experiment_config import Cell
from cigan_tf.patch_format import CLASS_NAMES


def run_experiment(
    config: Config, workdir: str | os.PathLike, saved_model: str | None, jobs: int = 1
) -> epath.Path:
    """Trains missing classifiers, evaluates the generators that were used, and writes the report.

    Args:
        config: the arms, their seeds and generators.
        workdir: workdir of the experiment.
        saved_model: folder of the exported generator, if the experiment uses only one synthetic
            set and `generators` is empty. By default, and for several sets, each set is evaluated
            with the newest generator in saved_model/ next to it. An arm's own set (synthetic_dir)
            without such a folder is evaluated with `saved_model`, by default
            `workdir`/saved_model.
        jobs: number of parallel training processes.

    Returns:
        Path of the report.

    Raises:
        UserError: training, evaluation or the report failed.
        Preempted: SIGTERM or Ctrl-C was received.
    """
    with interruption.ending():
        return _run_experiment(config, epath.Path(workdir), saved_model, jobs)


def _run_experiment(
    config: Config, workdir: epath.Path, saved_model: str | None, jobs: int
) -> epath.Path:
    cells = config.experiment.cells(config.classifier)
    # Mistakes that would prevent the report are refused before hours of training.
    _used_sets(config, workdir)
    _require_significance(config)
    _require_patients(config)
    train_cells(config, workdir, cells, jobs)
    file_io.write_whole(workdir / run_folder.EXPERIMENT_FILE, config.to_json())
    _judge_generators(config, workdir, saved_model)
    return write_report(workdir)


def _require_significance(config: Config) -> None:
    """Raises UserError if no difference could be significant among so many pairs of arms."""
    experiment = config.experiment
    pairs = experiment.pairs(list(experiment.named_arms(config.classifier)))
    # The smallest p is 2 / (B + 1), and Holm's correction multiplies it by the number of pairs.
    least = math.ceil(2 * len(pairs) / SIGNIFICANT_P) - 1
    if experiment.bootstrap_resamples < least:
        raise UserError(
            f"With {experiment.bootstrap_resamples} bootstrap_resamples, no difference between "
            f"arms could be significant after correction for {len(pairs)} pairs. Choose --arms or "
            f"--comparisons, or pass at least --bootstrap_resamples={least}."
        )


def _require_patients(config: Config) -> None:
    """Raises UserError if patients of the test split cannot be resampled."""
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    index = input_pipeline.index_of_split(builder, config.experiment.test_split)
    for label, name in enumerate(CLASS_NAMES):
        num_patients = len(set(index.patient_id[index.label == label]))
        if num_patients < 2:
            raise UserError(
                "An experiment resamples the test patients, so each class needs patches from at "
                f"least two of them. Received {num_patients} with a {name.replace('_', '-')} patch "
                f"in the split {config.experiment.test_split!r} of {config.data.dataset}. Build "
                "the dataset with more patients in this split, or pass another --test_split."
            )


def _judge_generators(config: Config, workdir: epath.Path, saved_model: str | None) -> None:
    """Evaluates the generator of each set that classifiers used, and removes other results."""
    used_sets = _used_sets(config, workdir)
    infill_quality.remove_infill_quality(workdir, keep=used_sets.values())
    calibration = functools.cache(infill_quality.calibrate_copy_search)
    given = saved_model or workdir / "saved_model"
    arms = config.experiment.named_arms(config.classifier).values()
    own_sets = {epath.Path(arm.synthetic_dir).expanduser() for arm in arms if arm.synthetic_dir}
    for folder, name in used_sets.items():
        # A given SavedModel is that of the only set, or of sets that were copied elsewhere; if
        # there are several sets, each has its own SavedModel.
        beside = folder.parent / "saved_model"
        is_copied = folder in own_sets and not beside.exists() and epath.Path(given).exists()
        exported = given if is_copied or (saved_model and name is None) else beside
        try:
            with storage_errors():
                synthetic = SyntheticSet(folder, config.model.patch_size)
                trained = infill_quality.as_trained(config, synthetic.record)
                calibrate = functools.partial(calibration, trained)
                infill_quality.write_infill_quality(
                    config, workdir, exported, synthetic, calibrate, name
                )
        except StorageError:
            raise  # the same command can evaluate the generator later
        except UserError as error:
            # An error in this additional evaluation must not discard hours of training.
            of = f" of {name}" if name else ""
            print(f"warning: the infills{of} are not evaluated: {error}", file=sys.stderr)
            # Results of an earlier evaluation must not pass for those of this one.
            others = {*used_sets.values()} - {name}
            infill_quality.remove_infill_quality(workdir, keep=others)


def _used_sets(config: Config, workdir: epath.Path) -> dict[epath.Path, str | None]:
    """Returns the synthetic sets that classifiers were trained on, and names of their generators.

    A generator has its name in the experiment's `generators`, or the name of the arm that has the
    set as its synthetic_dir. The name is None for the set in `workdir`, and for the only set of an
    experiment without `generators`.

    Raises:
        UserError: an arm with its own set and a generator have the same name.
    """
    arms = config.experiment.named_arms(config.classifier)
    names = {}
    for cell in config.experiment.cells(config.classifier):
        settings = arms[cell.arm]
        if not settings.needs_synthetic or settings.infills_on_the_fly:
            continue
        if settings.synthetic_dir:
            folder, name = epath.Path(settings.synthetic_dir).expanduser(), cell.arm
        else:
            generator = generator_workdir(config, workdir, cell)
            folder, name = generator / settings.infills_folder, cell.generator
        names.setdefault(folder, name)
    if len(names) == 1 and not config.experiment.generators:
        return dict.fromkeys(names)
    (name, count), *_ = collections.Counter(names.values()).most_common(1) or [(None, 0)]
    if count > 1:
        raise UserError(
            f"An arm with its own synthetic_dir and a generator are both named {name!r}; rename "
            "one of them."
        )
    return names


def train_cells(
    config: Config, workdir: str | os.PathLike, cells: Sequence[Cell], jobs: int = 1
) -> list[epath.Path]:
    """Trains the unfinished classifiers of these cells, each in its own folder.

    Several processes may call this with the same workdir; each cell is trained by one of them.

    Args:
        config: the arms and generators.
        workdir: workdir of the experiment; only its `classifiers` folder is written to.
        cells: some of `config.experiment.cells`.
        jobs: number of parallel processes, each with its own GPU or an equal share of the cores.

    Returns:
        The cells' folders.

    Raises:
        UserError: no arm is defined; the strategy has several devices; splits share a patient;
            there are more jobs than GPUs, or several jobs and a workdir without locks. Also for
            the reasons given in `train_classifier`.
        Preempted: SIGTERM or Ctrl-C was received.
    """
    workdir = epath.Path(workdir)
    if not cells:
        raise UserError(
            "No arm is defined; pass --flagfile=cigan_tf/flagfiles/arms.flags or --arm='NAME: ...'."
        )
    if config.hardware.strategy != "one_device":
        raise UserError(
            "A classifier is trained on one device: pass --strategy=one_device, and --jobs=N to "
            "train N classifiers in parallel, each on its own GPU. Received: "
            f"strategy={config.hardware.strategy!r}."
        )
    with interruption.ending():
        batches.refuse_shared_patients(config)
        jobs = min(jobs, len(cells))
        if jobs > 1:
            if file_io.on_disk(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
            if not file_io.has_locks(workdir):
                raise UserError(
                    "Several processes in one workdir need locks, which buckets and some network "
                    "file systems do not have: train each classifier with --cell_index. "
                    f"Received: jobs={jobs}, workdir={str(workdir)!r}."
                )
            parallel.run(train_free_cells, (config, workdir, cells), jobs)
        else:
            train_free_cells(config, workdir, cells)
        # Waits for cells that other processes are training, and trains those left unfinished.
        for cell in cells:
            _train_cell(config, workdir, cell, wait=True)
    return [run_folder.cell_dir(workdir, cell) for cell in cells]


def train_free_cells(config: Config, workdir: epath.Path, cells: Sequence[Cell]) -> None:
    """Trains, in order, the cells that no other process is training."""
    for cell in cells:
        _train_cell(config, workdir, cell, wait=False)


def generator_workdir(config: Config, workdir: epath.Path, cell: Cell) -> epath.Path:
    """Returns the folder of the ciGAN run whose synthetic set a cell is trained on."""
    if cell.generator is None:
        return workdir
    return epath.Path(config.experiment.generator_workdirs[cell.generator]).expanduser()


def _train_cell(config: Config, workdir: epath.Path, cell: Cell, wait: bool) -> None:
    settings = config.experiment.named_arms(config.classifier)[cell.arm]
    if cell.generator is not None:
        folder = generator_workdir(config, workdir, cell) / settings.infills_folder
        settings = dataclasses.replace(settings, synthetic_dir=str(folder))
    if settings.confirming_arm is not None:
        needed = Cell(settings.confirming_arm, None, cell.seed)
        # Trains that classifier here if no other process does; otherwise waits for that process.
        for wait_for_it in (False, True):
            _train_cell(config, workdir, needed, wait_for_it)
    run_dir = run_folder.cell_dir(workdir, cell)
    with file_io.lock(run_dir, wait) as held:
        # The process that held the lock before may have written the scores.
        if held and not (wait and (run_dir / score_file.FILE_NAME).exists()):
            of_arm = dataclasses.replace(config, classifier=settings)
            train_classifier(of_arm, cell.seed, workdir, run_dir)
