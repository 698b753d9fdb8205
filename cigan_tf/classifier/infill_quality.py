"""Evaluation of a generator on unseen patients, with a classifier trained on real patches."""

import dataclasses
import functools
import hashlib
import json
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from etils import epath

from cigan_tf import file_io, input_pipeline, pictures, provenance, run_folder, terminal
from cigan_tf.classifier.classifier_run import CLASSIFIER_FILE
from cigan_tf.classifier.context_patches import Contexts, infill
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.evaluation import drawing, infill_measures, memorisation, roc, score_file
from cigan_tf.experiment_config import Cell
from cigan_tf.exported_generator import ExportedGenerator
from cigan_tf.models import quality_features
from cigan_tf.patch_format import WHITE

_BATCH_SIZE = 64
# Patches on each side of a comparison; more would take memory and time, and hardly change the
# result.
_MAX_PATCHES = 2000
# Limit for patches larger than 128 px, because about ten arrays of them are in memory.
_MAX_PX = _MAX_PATCHES * 128**2
_SHOWN_PER_KIND = 5
_TRAINING_AT_A_TIME = 256
# The threshold at which infills are classified has this specificity on validation patches.
_SPECIFICITY = 0.9


def write_infill_quality(
    config: Config,
    workdir: epath.Path,
    saved_model: str | epath.Path,
    synthetic: SyntheticSet,
    calibrate: Callable[[], memorisation.Calibration],
    generator_name: str | None = None,
) -> None:
    """Evaluates the exported generator on the test split, and draws some of its infills.

    Test patches are infilled as for the synthetic set (`context_patches.Contexts`): as the opposite
    class, and malignant lesions in masks of malignant test patches. They are classified by the
    first arm without synthetic patches, with the first seed. If `quality_features` is 'classifier',
    the features are also those of this classifier. Files of an earlier evaluation are kept if the
    generator, synthetic set, classifier, patches, settings and code are the same.

    Args:
        config: configuration of an experiment with trained classifiers.
        workdir: workdir of the experiment; receives infill_quality.json and infills.png, or
            infill_quality/NAME.json and infill_quality/NAME.png.
        saved_model: folder of the exported generator.
        synthetic: the set that the arms were trained on, made by this generator.
        calibrate: function that returns the result of `calibrate_copy_search` for the generator's
            training patches (`as_trained`); the same for all generators trained on these patches.
        generator_name: NAME in the names of the files, or None if the generator has no name.

    Raises:
        UserError: the generator, its record, or a classifier trained only on real patches is
            missing or damaged; the generator did not make the synthetic set, or was trained on a
            test patient. Also for the reasons given in `infill_measures.judge_infills`.
    """
    workdir = epath.Path(workdir)
    arms = config.experiment.named_arms(config.classifier)
    real_alone = [name for name, settings in arms.items() if not settings.needs_synthetic]
    if not real_alone:
        raise UserError(
            "Infills are evaluated by a classifier trained only on real patches; received only "
            f"arms with synthetic patches: {', '.join(arms)}. Add an arm with synthetic_use=none."
        )
    generator = ExportedGenerator(saved_model)
    if generator.sha256 != synthetic.record["weights_sha256"]:
        raise UserError(
            "The generator to evaluate must be the one that made the synthetic set of the arms "
            f"(hash of its weights: {synthetic.record['weights_sha256'][:12]}); pass it as "
            "--saved_model, or write the synthetic set again. Received: "
            f"{str(generator.path)!r} (hash of its weights: {generator.sha256[:12]})."
        )
    run_dir = run_folder.cell_dir(
        workdir, Cell(real_alone[0], None, config.experiment.classifier_seeds[0])
    )
    classifier, classifier_sha256 = _read_classifier(run_dir / CLASSIFIER_FILE)
    tested_on = provenance.dataset_record(config)
    made_from = {
        "generator_sha256": generator.sha256,
        "classifier_sha256": classifier_sha256,
        "dataset_fingerprint": tested_on["fingerprint"],
        "test_split": config.experiment.test_split,
        "features": config.experiment.quality_features,
        "seed": config.training.seed,
        "synthetic": synthetic.facts,
        **provenance.code_version(),
    }
    quality_file, infills_file = run_folder.quality_files(workdir, generator_name)
    if infills_file.exists() and _made_from(quality_file) == made_from:
        terminal.say(f"Kept the evaluation in {str(quality_file)!r}: nothing has changed.")
        return
    for path in (quality_file, infills_file):
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
    validation = score_file.read(run_dir / score_file.VALIDATION_FILE_NAME)
    threshold = roc.sensitivity_at_specificity(
        validation.label, validation.probability, _SPECIFICITY
    ).threshold
    seed = config.training.seed
    max_patches = max_patches_of(config.model.patch_size)
    real = input_pipeline.drawn_patches(config, config.experiment.test_split, max_patches)
    record = provenance.require(generator.provenance, generator.path)
    provenance.refuse_leaks(record, real["patient_id"].tolist(), tested_on)
    terminal.say(f"Infilling test patches with {generator.path} ...")
    infills = infilled_patches(config, generator)
    terminal.say("Comparing the infills with real patches ...")
    quality = infill_measures.judge_infills(
        real,
        infills,
        TrainingPatches(as_trained(config, record)),
        feature_function(config.experiment.quality_features, classifier),
        lambda patches: classifier.predict(patches["image"], batch_size=_BATCH_SIZE, verbose=0)[
            :, 0
        ],
        threshold,
        seed,
        calibrate(),
        _infilled_training_patches(config, synthetic),
    )
    quality = {
        "made_from": made_from,
        "features": config.experiment.quality_features,
        "generator": record,
        "not_searched": _not_searched(config, record),
        "num_patients": len(np.unique(real["patient_id"])),
        **quality,
    }
    file_io.write_whole(quality_file, json.dumps(quality, indent=2) + "\n")
    shown = input_pipeline.picture_patches(config, config.experiment.test_split, _SHOWN_PER_KIND)
    rows = pictures.comparison_rows(shown, generator, seed)
    sheet = drawing.comparison_sheet(shown["kind"], rows)
    file_io.write_whole(infills_file, sheet)


def max_patches_of(patch_size: int) -> int:
    """Returns the maximum number of real patches, and of infills, that are compared."""
    return min(_MAX_PATCHES, _MAX_PX // patch_size**2)


def as_trained(config: Config, record: Mapping[str, Any]) -> Config:
    """Returns a configuration with the training split and patient share from a record.

    Args:
        config: names the dataset.
        record: provenance of a generator that was trained on this dataset.
    """
    data = dataclasses.replace(
        config.data,
        train_split=record["train_split"],
        train_patient_share=record["patient_share"],
    )
    return dataclasses.replace(config, data=data)


def _not_searched(config: Config, record: Mapping[str, Any]) -> list[str]:
    """Names the training data of a generator that are not in `TrainingPatches`."""
    last, *earlier = provenance.datasets(record)
    others = [of for of in earlier if of.get("fingerprint") != last["fingerprint"]]
    if others:
        return list(dict.fromkeys(of.get("name", "unnamed data") for of in others))
    data = as_trained(config, record).data
    builder = input_pipeline.open_dataset(data, config.model.patch_size)
    searched = input_pipeline.patches_per_patient(
        builder, data.train_split, data.train_patient_share
    )
    unsearched = set(record["patients"]) - set(searched)
    return [f"{len(unsearched)} more patients of {last['name']}"] if unsearched else []


def calibrate_copy_search(config: Config) -> memorisation.Calibration:
    """Returns the calibration of the search for copies, for `write_infill_quality`.

    Args:
        config: result of `as_trained` for the generators to be evaluated.
    """
    seed = config.training.seed
    max_patches = max_patches_of(config.model.patch_size)
    real = input_pipeline.drawn_patches(config, config.experiment.test_split, max_patches)
    return memorisation.calibrate(
        infill_measures.searched_patches(real, seed), TrainingPatches(config), seed
    )


def remove_infill_quality(workdir: epath.Path, keep: Collection[str | None] = ()) -> None:
    """Removes the files of earlier evaluations, except those of the named generators."""
    workdir = epath.Path(workdir)
    kept = {path for name in keep for path in run_folder.quality_files(workdir, name)}
    found = file_io.matching(workdir / run_folder.QUALITY_DIR, "*.*")
    for path in {*run_folder.quality_files(workdir, None), *found} - kept:
        path.unlink(missing_ok=True)


def _read_classifier(path: epath.Path) -> tuple[keras.Model, str]:
    """Returns a classifier and the SHA-256 of its file."""
    if not path.exists():
        raise UserError(
            f"The classifier {str(path)!r} is missing; delete its folder and run the experiment "
            "again, which trains it again."
        )
    with file_io.local_file(path) as local:
        try:
            with open(local, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return keras.models.load_model(local), sha256
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and error.errno:  # the disk, not the file
                raise UserError(
                    f"The classifier {str(path)!r} cannot be read ({error}); run the same command "
                    "again when it can be read."
                ) from None
            raise UserError(
                f"The classifier {str(path)!r} cannot be read ({error}); delete its folder and run "
                "the experiment again, which trains it again."
            ) from None


def _made_from(path: epath.Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text()).get("made_from")
    except (OSError, ValueError):
        return None


def infilled_patches(
    config: Config, generator: Callable[..., np.ndarray], max_patches: int | None = None
) -> dict[str, np.ndarray]:
    """Returns infills of test patches, made like those of the synthetic set, for `judge_infills`.

    Args:
        config: names the dataset, its test split and the seed that draws patches and masks.
        generator: function (image, mask, label, seed) like `ExportedGenerator` or `CiGAN.generate`.
        max_patches: number of infills, by default `max_patches_of` the patch size; if the split has
            fewer patches, all are infilled.
    """
    seed, patch_size = config.training.seed, config.model.patch_size
    max_patches = max_patches_of(patch_size) if max_patches is None else max_patches
    builder = input_pipeline.open_dataset(config.data, patch_size)
    index = input_pipeline.index_of_split(builder, config.experiment.test_split)
    chosen = np.random.default_rng(seed).permutation(len(index.label))[:max_patches]
    donors = np.flatnonzero((index.label == 1) & index.has_lesion)
    contexts = Contexts(builder, index, np.sort(chosen), donors, seed, patch_size)
    batches = list(infill(contexts.batches(0, len(chosen), _BATCH_SIZE), generator))
    # Frees the parts of each column, so that only one column is in memory twice.
    columns = {name: np.concatenate([b.pop(name) for b in batches]) for name in list(batches[0])}
    patches = {
        "image": columns.pop("infilled").astype(np.float32) / WHITE,
        "mask": columns["mask"],
        "context": columns["image"],
        "label": columns["label"],
        "patient_id": np.char.decode(index.patient_id[columns["record"]], "utf-8"),
    }
    own = 1 - patches["label"].astype(np.int32)
    arguments = patches["context"], patches["mask"], own, columns["seed"]
    patches["composed"] = generator(*arguments)
    return patches


def _infilled_training_patches(config: Config, synthetic: SyntheticSet) -> dict[str, np.ndarray]:
    """Returns random patches of the synthetic set for `memorisation.audit`; groups are films."""
    rng = np.random.default_rng(config.training.seed)
    drawn = np.sort(rng.permutation(synthetic.facts["num_patches"])[: infill_measures.MAX_SEARCHED])
    records = input_pipeline.Records(synthetic.builder, synthetic.index)

    @tf.autograph.experimental.do_not_convert
    def to_example(number):
        return input_pipeline.decode(records.read(number), config.model.patch_size)

    numbers = tf.data.Dataset.from_tensor_slices(drawn)
    examples = numbers.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
    examples = list(examples.as_numpy_iterator())
    return {
        **{name: np.stack([e.pop(name) for e in examples]) for name in ("image", "mask")},
        "group": synthetic.index.film_id[drawn],
    }


class TrainingPatches:
    """Iterates over chunks of all training patches, decoding them; groups are films.

    Args:
        config: names the dataset, its training split and the share of its patients.
    """

    def __init__(self, config: Config):
        self._data, self._patch_size = config.data, config.model.patch_size

    def __iter__(self):
        return self._chunks.as_numpy_iterator()

    @functools.cached_property
    def _chunks(self) -> tf.data.Dataset:
        # The search for copies iterates many times; building the pipeline takes longer than reading
        # a small split.
        builder = input_pipeline.open_dataset(self._data, self._patch_size)
        patches = input_pipeline.encoded_patches(
            builder, self._data.train_split, self._data.train_patient_share
        )

        @tf.autograph.experimental.do_not_convert
        def chosen(patch):
            image = input_pipeline.decode_image(patch["image"], self._patch_size)
            return {"image": image, "group": patch["film_id"]}

        return patches.map(chosen).batch(_TRAINING_AT_A_TIME)


def feature_function(
    source: str, classifier: keras.Model | None = None
) -> infill_measures.Features:
    """Returns the feature function for distances, [n, p, p, 1] in [0, 1] -> [n, d].

    Args:
        source: 'classifier' for the pooled maps of the given classifier, or a source of
            `quality_features.build`.
        classifier: a trained classifier of `build_classifier`.

    Raises:
        UserError: the source is 'classifier' and no classifier is given, or weights cannot be
            loaded or do not fit.
    """
    if source == "classifier":
        if classifier is None:
            raise UserError(
                "The features 'classifier' need a trained classifier; received none. Pass a "
                "classifier, or set quality_features to 'imagenet' or to the path of a weights "
                "file."
            )
        pooled = keras.Model(classifier.input, classifier.get_layer("avg_pool").output)
    else:
        pooled = quality_features.build(source)

    def features(images: np.ndarray) -> np.ndarray:
        starts = range(0, len(images), _BATCH_SIZE)
        return np.concatenate(
            [pooled.predict_on_batch(images[start : start + _BATCH_SIZE]) for start in starts]
        )

    return features
