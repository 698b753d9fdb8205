"""One classifier: trained with its arm's settings, then scored on validation and test patches."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable

import keras
import numpy as np
import tensorflow as tf
from etils import epath

from cigan_tf import (
    accelerators,
    file_io,
    input_pipeline,
    interruption,
    provenance,
    run_folder,
    terminal,
)
from cigan_tf.classifier import batches, curves, infill_choice
from cigan_tf.classifier.context_patches import OnTheFly
from cigan_tf.classifier.network import build_classifier
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.config import Config
from cigan_tf.errors import UserError, first_line, is_damage
from cigan_tf.evaluation import roc, score_file
from cigan_tf.evaluation.score_file import Scores
from cigan_tf.experiment_config import Cell, ClassifierConfig
from cigan_tf.models.precision import POLICIES, default_policy

SETTINGS_FILE = "settings.json"
CLASSIFIER_FILE = "classifier.keras"
_CHECKPOINT_DIR = "checkpoints"
_ORDER = "order of the patches"
_WEIGHTS = "initial weights"


def train_classifier(config: Config, seed: int, workdir: epath.Path, run_dir: epath.Path):
    """Trains a classifier, or resumes its training, and writes its scores.

    Args:
        config: the dataset and the hardware; `config.classifier` has the arm's settings.
        seed: seed of weights, order, mixing and augmentation.
        workdir: contains the synthetic set, unless the arm has a synthetic_dir, and the classifier
            that confirms the set's patches.
        run_dir: receives settings.json, logs/ (TensorBoard), classifier.keras, provenance.json,
            infills_used.json (if the arm uses a synthetic set), validation_scores.csv and, last,
            scores.csv. If scores.csv exists, the run is finished and nothing is done. A run is
            trained again if its data, generator or confirming classifier have changed. An
            unfinished run is also trained again if its initial weights have changed, or if its
            patches were in the order of an earlier rule.

    Raises:
        UserError: the data cannot be used, the generator or the confirming classifier was trained
            on a test patient, or `run_dir` contains a run with different settings or, if it is
            finished, different initial weights.
        Preempted: SIGTERM or Ctrl-C was received during the steps; the run is saved.
    """
    workdir, run_dir = epath.Path(workdir), epath.Path(run_dir)
    accelerators.refuse_xla_where_it_aborts(config.hardware)
    if config.hardware.deterministic:
        tf.config.experimental.enable_op_determinism()
    dataset = provenance.dataset_record(config)
    fingerprint = dataset["fingerprint"]
    synthetic = _open_synthetic(config, workdir, fingerprint)
    confirming = _confirming_classifier(config.classifier, seed, workdir)
    made_from = {
        "dataset": fingerprint,
        "synthetic set": synthetic and synthetic.facts,
        "confirming classifier": confirming and _sha256(confirming),
        _WEIGHTS: _identity_of_weights(config.classifier.classifier_weights),
        _ORDER: batches.ORDER,
    }
    if _claim(config, seed, run_dir, made_from, synthetic):
        return
    validation = batches.scored_batches(config, config.data.validation_split)
    test = batches.scored_batches(config, config.experiment.test_split)
    used = None
    if synthetic:
        test_patients = test[1]["patient_id"]
        provenance.refuse_leaks(synthetic.record, test_patients, dataset)
        if confirming:
            record = provenance.read(confirming.parent / provenance.FILE_NAME)
            provenance.refuse_leaks(record, test_patients, dataset, "confirming classifier")
        if not config.classifier.infills_on_the_fly:
            used = infill_choice.choose_infills(config, seed, synthetic, confirming)
            infill_choice.write_counts(run_dir, synthetic, used)
    batches_from = functools.partial(batches.training_batches, config, seed, synthetic, used)
    classifier = _untrained(config, seed)
    at_points = batches.at_points(config, validation[1])
    _run_steps(classifier, batches_from, at_points, run_dir, config, seed)
    with file_io.written_locally(run_dir / CLASSIFIER_FILE) as path:
        classifier.save(path)
    score_file.write(run_dir / score_file.VALIDATION_FILE_NAME, score(classifier, *validation))
    score_file.write(run_dir / score_file.FILE_NAME, score(classifier, *test))
    (run_dir / _CHECKPOINT_DIR).rmtree(missing_ok=True)


def score(classifier: keras.Model, images: tf.data.Dataset, facts: dict[str, np.ndarray]) -> Scores:
    """Returns a classifier's scores for patches.

    Args:
        classifier: a trained classifier.
        images: first result of `batches.scored_batches`.
        facts: second result of `batches.scored_batches`.
    """
    probability = np.concatenate([classifier.predict_on_batch(batch)[:, 0] for batch in images])
    return Scores(**facts, probability=probability.astype(np.float64))


def _untrained(config: Config, seed: int) -> keras.Model:
    """Returns a compiled classifier with the seed's initial weights and a new optimizer."""
    settings, hardware = config.classifier, config.hardware
    with default_policy(POLICIES[hardware.mixed_precision]):
        classifier = build_classifier(
            config.model.patch_size,
            settings.classifier_weights,
            seed,
            settings.classifier_network,
            settings.classifier_trainable,
        )
    # With float16, Keras wraps Adam in a LossScaleOptimizer, without which small gradients vanish.
    classifier.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(
                settings.classifier_learning_rate,
                settings.classifier_decay_steps,
                settings.classifier_decay_rate,
                staircase=True,
            ),
            epsilon=1e-8,
        ),
        keras.losses.BinaryCrossentropy(),
        jit_compile=hardware.jit_compile,
    )
    classifier.optimizer.build(classifier.trainable_variables)
    return classifier


def _run_steps(
    classifier,
    batches_from: Callable[[int], Iterable],
    validation,
    run_dir: epath.Path,
    config: Config,
    seed: int,
) -> None:
    """Trains up to the last step; `batches_from` returns the batches from a step onwards."""
    settings = config.classifier
    step = tf.Variable(0, dtype=tf.int64)
    # Sum and number of the losses since the previous point, restored after an interruption.
    earlier_losses = tf.Variable([0.0, 0.0], dtype=tf.float64)
    checkpoint = tf.train.Checkpoint(
        classifier=classifier,
        optimizer=classifier.optimizer,
        step=step,
        earlier_losses=earlier_losses,
    )
    _remove_damaged_checkpoint(run_dir)
    directory = file_io.literal_path(run_dir / _CHECKPOINT_DIR)
    manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=1)
    manager.restore_or_initialize()
    iterator = iter(batches_from(int(step)))
    writer = curves.ClassifierWriter(str(run_dir / run_folder.LOG_DIR), settings)
    name = f"{run_dir.parent.name}, seed {seed}"
    progress = terminal.progress_bar(
        initial=int(step),
        total=settings.classifier_steps,
        desc=name,
        unit="step",
    )
    losses = []
    since, steps_since = time.monotonic(), 0
    with interruption.watch() as interrupted, contextlib.closing(writer), progress:
        for number in range(int(step) + 1, settings.classifier_steps + 1):
            # Do not pass the iterator: a function that takes it would be retraced for the next run.
            losses.append(classifier.train_on_batch(*next(iterator)))
            progress.update()
            steps_since += 1
            is_point = (
                number % settings.validation_every_steps == 0 or number == settings.classifier_steps
            )
            if not is_point and not interrupted.requested:
                continue
            step.assign(number)
            # Keras' own mean covers only the last batch, because train_on_batch resets it.
            sum_and_number = earlier_losses.numpy() + np.array([np.sum(losses), len(losses)])
            loss = sum_and_number[0] / sum_and_number[1]
            if not np.isfinite(loss):
                raise UserError(
                    f"The loss of the classifier in {str(run_dir)!r} is {loss} at step {number}; "
                    "use a smaller --classifier_learning_rate than "
                    f"{settings.classifier_learning_rate}."
                )
            losses = []
            earlier_losses.assign([0.0, 0.0] if is_point else sum_and_number)
            if is_point:
                rate = steps_since / (time.monotonic() - since)
                scores = score(classifier, *validation)
                writer.write(number, loss, scores, float(classifier.optimizer.learning_rate), rate)
                auc = roc.auc(scores.label, scores.probability)
                progress.set_postfix(loss=f"{loss:.3f}", validation_auc=f"{auc:.3f}")
            manager.save(checkpoint_number=number)
            if interrupted.requested:
                raise interrupted.error(
                    f"after step {number} of {name}, and saved; run the same command to resume."
                )
            since, steps_since = time.monotonic(), 0


def _remove_damaged_checkpoint(run_dir: epath.Path) -> None:
    """Removes the checkpoint and curves of a run that cannot be resumed, with a warning."""
    folder = run_dir / _CHECKPOINT_DIR
    state = tf.train.get_checkpoint_state(file_io.literal_path(folder))
    if state is None:
        return
    try:
        # Read the whole checkpoint, because a failed restore would leave a half-restored network.
        reader = tf.train.load_checkpoint(state.model_checkpoint_path)
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (tf.errors.OpError, OSError, IndexError, RuntimeError) as error:
        if not is_damage(error):
            raise
        print(
            f"warning: the checkpoint in {str(folder)!r} is damaged ({first_line(error)}): the "
            "classifier is trained again from its first step.",
            file=sys.stderr,
        )
        for file in folder.iterdir():  # not the folder: `literal_path` may have linked to it
            file.rmtree() if file.is_dir() else file.unlink()
        (run_dir / run_folder.LOG_DIR).rmtree(missing_ok=True)


def _open_synthetic(
    config: Config, workdir: epath.Path, fingerprint: str
) -> SyntheticSet | OnTheFly | None:
    settings = config.classifier
    if not settings.needs_synthetic:
        return None
    folder = settings.synthetic_dir or workdir / settings.infills_folder
    if settings.infills_on_the_fly:
        synthetic = OnTheFly(config, folder)
    else:
        synthetic = SyntheticSet(folder, config.model.patch_size)
        _refuse_other_set(synthetic, folder, config, fingerprint)
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    all_patients, of_arm = (
        set(input_pipeline.patches_per_patient(builder, config.data.train_split, share))
        for share in (1.0, settings.patient_share)
    )
    # They also include the patients of a preset, and of an earlier share of a resumed run.
    others = (all_patients - of_arm) & set(synthetic.record["patients"])
    if others:
        raise UserError(
            f"The generator or synthetic set in {str(folder)!r} was made with {len(others)} "
            f"training patients that do not belong to the arm's patient_share of "
            f"{settings.patient_share:g}, including {min(others)!r}. Pass a --synthetic_dir whose "
            "generator was trained from random weights with a --train_patient_share of at most "
            f"{settings.patient_share:g}."
        )
    return synthetic


def _refuse_other_set(
    synthetic: SyntheticSet, folder: str | epath.Path, config: Config, fingerprint: str
) -> None:
    settings = config.classifier
    made_from = synthetic.facts["dataset"], synthetic.facts["train_split"]
    if made_from != (config.data.dataset, config.data.train_split):
        raise UserError(
            f"The synthetic set in {str(folder)!r} was made from the {made_from[1]} split of "
            f"{made_from[0]}, but training uses the {config.data.train_split} split of "
            f"{config.data.dataset}; pass another --synthetic_dir, or write a set of this split "
            "with --mode=infill."
        )
    if synthetic.facts["dataset_fingerprint"] != fingerprint:
        raise UserError(
            f"The synthetic set in {str(folder)!r} was made from records of {config.data.dataset} "
            f"with the fingerprint {synthetic.facts['dataset_fingerprint'][:12]}, but the present "
            f"records have the fingerprint {fingerprint[:12]}; delete the set, train ciGAN on the "
            "present records, and write the set again with --mode=infill."
        )
    if synthetic.facts["infills_per_patch"] < settings.synthetic_per_real:
        raise UserError(
            f"The synthetic set in {str(folder)!r} has {synthetic.facts['infills_per_patch']} "
            f"infills per patch, but the arm's synthetic_per_real is "
            f"{settings.synthetic_per_real:g}; delete the set and write it again with "
            f"--mode=infill --infills_per_patch={math.ceil(settings.synthetic_per_real)}."
        )


def _confirming_classifier(
    settings: ClassifierConfig, seed: int, workdir: epath.Path
) -> epath.Path | None:
    if settings.confirming_arm is None:
        return None
    cell = Cell(settings.confirming_arm, None, seed)
    path = run_folder.cell_dir(workdir, cell) / CLASSIFIER_FILE
    if not (path.exists() and (path.parent / provenance.FILE_NAME).exists()):
        raise UserError(
            f"A classifier in {str(path.parent)!r} must confirm the infills, but the folder has "
            "none with a record of its training data; train the arm "
            f"{settings.confirming_arm!r} first."
        )
    return path


def _sha256(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _identity_of_weights(source: str) -> str | None:
    """Returns 'imagenet', 'random', a weights file's hash, or None if the file does not exist."""
    if source in ("imagenet", "random"):
        return source
    path = epath.Path(source).expanduser()
    return _sha256(path) if path.is_file() else None


def _claim(
    config: Config,
    seed: int,
    run_dir: epath.Path,
    made_from: dict,
    synthetic: SyntheticSet | OnTheFly | None,
) -> bool:
    """Claims the folder for this run, and returns whether the run is finished.

    A run with a different origin, or without a record of its origin, is removed first.
    """
    given = {
        "data": {
            "dataset": config.data.dataset,
            "train_split": config.data.train_split,
            "validation_split": config.data.validation_split,
            "test_split": config.experiment.test_split,
            "patch_size": config.model.patch_size,
        },
        "classifier": dataclasses.asdict(config.classifier),
        "mixed_precision": config.hardware.mixed_precision,
        "seed": seed,
    }
    path = run_dir / SETTINGS_FILE
    if path.exists() and (differing := _differing(path, given)):
        raise UserError(
            f"The folder {str(run_dir)!r} contains a classifier with different settings "
            f"({', '.join(differing)}; see its {SETTINGS_FILE}); delete the folder, or pass "
            "another --workdir."
        )
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _remove_outdated(run_dir, config, made_from, synthetic)
        file_io.write_whole(path, json.dumps(given, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"The folder {str(run_dir)!r} cannot be written to: {error}. "
            "Free up disk space, change its permissions, or pass another --workdir."
        ) from None
    return (run_dir / score_file.FILE_NAME).exists()


def _differing(path: epath.Path, given: dict) -> list[str]:
    """Names the settings in a file that differ from the given ones."""
    try:
        saved = _compared(json.loads(path.read_text()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{str(path)!r} has no valid settings ({type(error).__name__}: {error}); delete the "
            f"folder {str(path.parent)!r}, or pass another --workdir."
        ) from None
    given = _compared(given)
    return [name for name in given | saved if saved.get(name) != given.get(name)]


def _compared(settings: dict) -> dict[str, object]:
    """Returns the settings on which a classifier depends, by name."""
    # A file of an earlier version may lack a setting; that version trained as with its default.
    classifier = dataclasses.asdict(ClassifierConfig()) | settings["classifier"]
    # Paths may change; `_identity` compares what they contain.
    del classifier["synthetic_dir"]
    classifier["classifier_weights"] = os.path.basename(classifier["classifier_weights"])
    others = {name: settings[name] for name in ("mixed_precision", "seed")}
    return settings["data"] | classifier | others


def _remove_outdated(
    run_dir: epath.Path, config: Config, now: dict, synthetic: SyntheticSet | OnTheFly | None
) -> None:
    """Records the origin of the run, after removing a run with a different origin."""
    path = run_dir / provenance.FILE_NAME
    before = provenance.read(path)
    was = _identity(before) if before else {}
    is_finished = (run_dir / score_file.FILE_NAME).exists()
    if was and is_finished:
        was[_ORDER] = now[_ORDER]  # a finished run needs no more batches
    if was and None in (was[_WEIGHTS], now[_WEIGHTS]):
        was[_WEIGHTS] = now[_WEIGHTS]  # not recorded, or no file: only the names are compared
    if was and is_finished and was[_WEIGHTS] != now[_WEIGHTS]:
        # Not removed: the file has the same name, and perhaps the same weights, written again.
        raise UserError(
            f"The finished classifier in {str(run_dir)!r} was trained from initial weights that "
            f"differ from those now in {config.classifier.classifier_weights!r}; delete the "
            "classifier, or pass the original file or another --workdir."
        )
    if was == now:
        return
    begun = [
        name
        for name in (score_file.FILE_NAME, CLASSIFIER_FILE, _CHECKPOINT_DIR)
        if (run_dir / name).exists()
    ]
    if begun:
        what = ", ".join(name for name in now if was.get(name) != now[name])
        print(
            f"The classifier in {str(run_dir)!r} is trained again: its origin has "
            f"changed or is not recorded ({what}).",
            file=sys.stderr,
        )
        for name in (*begun, score_file.VALIDATION_FILE_NAME, run_folder.LOG_DIR):
            target = run_dir / name
            target.rmtree() if target.is_dir() else target.unlink(missing_ok=True)
    # Reading the patients from the records takes a long time, so it is done only when a run starts.
    seen = dataclasses.replace(config.data, train_patient_share=config.classifier.patient_share)
    record = provenance.training_record(dataclasses.replace(config, data=seen))
    of_set = {**synthetic.record, "set": synthetic.facts} if synthetic else None
    confirmed_by = now["confirming classifier"]
    of_run = {"synthetic": of_set, "confirmed_by": confirmed_by, "order": now[_ORDER]}
    of_run["initial_weights"] = now[_WEIGHTS]
    provenance.write(path, record | of_run)


def _identity(record: dict) -> dict[str, object]:
    """Returns the part of a classifier's provenance on which its scores depend."""
    synthetic = record.get("synthetic")
    return {
        "dataset": record["dataset"]["fingerprint"],
        "synthetic set": synthetic and synthetic["set"],
        "confirming classifier": record.get("confirmed_by"),
        _ORDER: record.get("order"),
        _WEIGHTS: record.get("initial_weights"),
    }
