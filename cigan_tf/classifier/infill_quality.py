"""Quality of a generator: its infills compared with real patches of unseen patients.

Each of four questions is also answered for real patches. Are infills as close to real lesions as
other real lesions are? Does a classifier of real patches find the requested class? Are infills
copies of training patches? Are their edges visible?
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from etils import epath

from cigan_tf import file_io, input_pipeline, pictures, provenance, run_folder, terminal
from cigan_tf.classifier.classifier_run import CLASSIFIER_FILE
from cigan_tf.classifier.context_patches import Contexts, infill
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.config import Config
from cigan_tf.errors import UserError, prefix_errors
from cigan_tf.evaluation import (
    checks,
    counterfactual,
    drawing,
    fidelity,
    memorisation,
    roc,
    score_file,
    seam,
    two_sample,
)
from cigan_tf.evaluation.class_consistency import class_consistency
from cigan_tf.evaluation.experiment_report import QUALITY_DIR, quality_files
from cigan_tf.evaluation.prdc import prdc
from cigan_tf.experiment_config import Cell
from cigan_tf.exported_generator import ExportedGenerator
from cigan_tf.models import quality_features
from cigan_tf.patch_format import CLASS_NAMES, WHITE

# Patches [n, p, p, 1] -> [n, d].
Features = Callable[[np.ndarray], np.ndarray]
# Patches with their masks -> [n].
PatchProbability = Callable[[Mapping[str, np.ndarray]], np.ndarray]

_BATCH_SIZE = 64
# Patches of each side; more would take memory and time without changing the result.
_MAX_PATCHES = 2000
# Patches of each kind in the search for the nearest training patch, the slowest part.
_MAX_SEARCHED = 400
_SHOWN_PER_KIND = 5
_TRAINING_AT_A_TIME = 256
# Infills are classified at the classifier's operating point on validation patches.
_SPECIFICITY = 0.9


def write_infill_quality(
    config: Config,
    workdir: epath.Path,
    saved_model: str | epath.Path,
    synthetic: SyntheticSet,
    calibration: memorisation.Calibration,
    generator_name: str | None = None,
) -> None:
    """Evaluates the exported generator on the test split, and draws some of its infills.

    Test patches are infilled by the rule of the synthetic set (`context_patches.Contexts`): as the
    other class, malignant lesions in masks of malignant test patches. The classifier is that of
    the first arm without synthetic patches, with the first seed; `quality_features` =
    'classifier' uses its features.

    Args:
        config: configuration of an experiment with trained classifiers.
        workdir: workdir of the experiment; receives infill_quality.json and infills.png, or
            infill_quality/NAME.json and NAME.png.
        saved_model: the exported generator.
        synthetic: the set that the arms were trained on; must be made by the same generator.
        calibration: result of `calibrate_copy_search`, shared by several generators.
        generator_name: NAME, one of the experiment's generators; None if it has no named ones.

    Raises:
        UserError: the generator, its record, or a classifier trained only on real patches is
            missing; the generator did not make the synthetic set, or was trained on a test patient;
            an error of `judge_infills`.
    """
    workdir = epath.Path(workdir)
    quality_file, infills_file = quality_files(workdir, generator_name)
    for path in (quality_file, infills_file):
        # If the evaluation fails, results of an earlier run must not be mistaken for new ones.
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
    arms = config.experiment.named_arms(config.classifier)
    real_alone = [name for name, settings in arms.items() if not settings.needs_synthetic]
    if not real_alone:
        raise UserError(
            "Infills are evaluated by a classifier trained only on real patches; received the arms "
            f"{', '.join(arms)}. Add one with synthetic_use=none."
        )
    generator = ExportedGenerator(saved_model)
    if generator.sha256 != synthetic.record["weights_sha256"]:
        raise UserError(
            f"The generator {str(generator.path)!r} did not make the patches that the arms were "
            f"trained on (weights {generator.sha256[:12]} and "
            f"{synthetic.record['weights_sha256'][:12]}); pass the right one as --saved_model, or "
            "write the synthetic set again."
        )
    run_dir = run_folder.cell_dir(
        workdir, Cell(real_alone[0], None, config.experiment.classifier_seeds[0])
    )
    with file_io.local_file(run_dir / CLASSIFIER_FILE) as path:
        classifier = keras.models.load_model(path)
    validation = score_file.read(run_dir / score_file.VALIDATION_FILE_NAME)
    threshold = roc.sensitivity_at_specificity(
        validation.label, validation.probability, _SPECIFICITY
    ).threshold
    seed = config.training.seed
    real = input_pipeline.drawn_patches(config, config.experiment.test_split, _MAX_PATCHES)
    record = provenance.require(generator.provenance, generator.path)
    provenance.refuse_leaks(record, real["patient_id"].tolist())
    training = TrainingPatches(config)
    terminal.say(f"Infilling test patches with {generator.path} ...")
    infills = infilled_patches(config, generator)
    terminal.say("Comparing the infills with real patches ...")
    quality = judge_infills(
        real,
        infills,
        training,
        feature_function(config.experiment.quality_features, classifier),
        lambda patches: classifier.predict(patches["image"], batch_size=_BATCH_SIZE, verbose=0)[
            :, 0
        ],
        threshold,
        seed,
        calibration,
        _infilled_training_patches(config, synthetic),
    )
    quality = {
        "features": config.experiment.quality_features,
        "generator": record,
        "num_patients": len(np.unique(real["patient_id"])),
        **quality,
    }
    file_io.write_whole(quality_file, json.dumps(quality, indent=2) + "\n")
    shown = input_pipeline.picture_patches(config, config.experiment.test_split, _SHOWN_PER_KIND)
    rows = pictures.comparison_rows(shown, generator, seed)
    sheet = drawing.comparison_sheet(shown["kind"], rows)
    file_io.write_whole(infills_file, sheet)


def calibrate_copy_search(config: Config) -> memorisation.Calibration:
    """Returns the calibration of the search for copies, for `write_infill_quality`."""
    seed = config.training.seed
    real = input_pipeline.drawn_patches(config, config.experiment.test_split, _MAX_PATCHES)
    return memorisation.calibrate(_some(real, seed), TrainingPatches(config), seed)


def remove_infill_quality(workdir: epath.Path) -> None:
    """Removes the files that earlier runs wrote for this or other generators."""
    workdir = epath.Path(workdir)
    for path in quality_files(workdir, None):
        path.unlink(missing_ok=True)
    (workdir / QUALITY_DIR).rmtree(missing_ok=True)


def infilled_patches(
    config: Config, generator: Callable[..., np.ndarray], max_patches: int = _MAX_PATCHES
) -> dict[str, np.ndarray]:
    """Returns infills of test patches, made like those of the synthetic set, for `judge_infills`.

    Args:
        config: names the dataset, its test split and the seed that draws patches and masks.
        generator: function (image, mask, label, seed) like `ExportedGenerator` or `CiGAN.generate`.
        max_patches: number of infills; all patches if the split has fewer.
    """
    seed, patch_size = config.training.seed, config.model.patch_size
    builder = input_pipeline.open_dataset(config.data, patch_size)
    index = input_pipeline.index_of_split(builder, config.experiment.test_split)
    chosen = np.random.default_rng(seed).permutation(len(index.label))[:max_patches]
    donors = np.flatnonzero((index.label == 1) & index.has_lesion)
    contexts = Contexts(builder, index, np.sort(chosen), donors, seed, patch_size)
    batches = list(infill(contexts.batches(0, len(chosen), _BATCH_SIZE), generator))
    columns = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    patches = {
        "image": columns["infilled"].astype(np.float32) / WHITE,
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
    """Returns some of the synthetic set, as arguments of `memorisation.audit`, grouped by film."""
    rng = np.random.default_rng(config.training.seed)
    drawn = np.sort(rng.permutation(synthetic.facts["num_patches"])[:_MAX_SEARCHED])
    records = input_pipeline.Records(synthetic.builder, synthetic.index)
    examples = tf.data.Dataset.from_tensor_slices(drawn).map(
        lambda number: input_pipeline.decode(records.read(number), config.model.patch_size),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    examples = list(examples.as_numpy_iterator())
    return {
        **{name: np.stack([e[name] for e in examples]) for name in ("image", "mask")},
        "group": synthetic.index.film_id[drawn],
    }


class TrainingPatches:
    """Chunks of all training patches, decoded during iteration; groups are their films."""

    def __init__(self, config: Config):
        self._data, self._patch_size = config.data, config.model.patch_size

    def __iter__(self):
        builder = input_pipeline.open_dataset(self._data, self._patch_size)
        patches = input_pipeline.encoded_patches(
            builder, self._data.train_split, self._data.train_patient_share
        )
        images = patches.map(
            lambda patch: {
                "image": input_pipeline.decode_image(patch["image"], self._patch_size),
                "group": patch["film_id"],
            }
        )
        return images.batch(_TRAINING_AT_A_TIME).as_numpy_iterator()


def judge_infills(
    real: Mapping[str, np.ndarray],
    infills: Mapping[str, np.ndarray],
    training: Iterable[Mapping[str, np.ndarray]],
    features: Features,
    probability: PatchProbability,
    threshold: float,
    seed: int,
    calibration: memorisation.Calibration,
    in_training: Mapping[str, np.ndarray] | None = None,
) -> dict:
    """Returns every measure of the infills and of real patches, ready for JSON.

    Args:
        real: held-out patches: `image`, `mask` float32 [n, p, p, 1], `label` and `patient_id` [n];
            the mask is that of the lesion, or of another patch if there is no lesion; two patients
            of each class.
        infills: the same; `label` is the requested class, `patient_id` that of the surrounding
            tissue, `context` the patch before infilling, and `composed` that patch infilled as its
            own class.
        training: training patches of the generator, in chunks as for
            `memorisation.nearest_training_patch`; with `group` for `in_training`.
        features: function from patches [n, p, p, 1], given as lesion windows, to [n, d].
        probability: malignant probability by a classifier trained only on real patches: function
            from `real` or `infills` to [n].
        threshold: threshold of that classifier, chosen on validation patches.
        seed: seed of the halves of the real patches and of the subsets.
        calibration: calibration of the search for copies, from `memorisation.calibrate`.
        in_training: infills of training patches, `image`, `mask` and `group` [n], such as the film;
            they are only used in the search for copies, among training patches of other groups.

    Returns:
        `window_px`, `threshold`, `seed` and `measures`, a list for `evaluation.quality_table`:
        `measure`, `of_class`, and for `infills` and `real` the `value`, optionally `sd` or `low`
        and `high`, and `n`. For medians, low and high are the 5 % and 95 % quantiles; for AUCs and
        shares, the 95 % interval from resampled patients.

    Raises:
        UserError: fewer than two patients or four patches in a half of a class, sizes or lengths
            that differ, an empty mask, features or probabilities that are not finite.
    """
    for name, patches in (("real patches", real), ("infills", infills)):
        lengths = {key: len(values) for key, values in patches.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{name}: arrays must have one entry per patch; received {lengths}.")
    for name, patches in (("real patches", real), ("infills", infills)):
        with prefix_errors(name):
            checks.check_labels(patches["label"], at_least=2)
    return {
        "window_px": int(np.shape(real["image"])[1]),
        "threshold": float(threshold),
        "seed": seed,
        "measures": [
            *_comparisons(real, infills, features, seed),
            *_consistency(real, infills, probability, threshold, seed),
            *_memorisation(infills, in_training, training, calibration, seed),
            *_seams(infills),
            *_changes(infills, seed),
        ],
    }


def compare(
    real: Mapping[str, np.ndarray],
    infills: Mapping[str, np.ndarray],
    features: Features,
    probability: PatchProbability,
    seed: int,
) -> list[dict]:
    """Returns the measures of `judge_infills` that need no training patches and no threshold.

    These are the distances and two-sample tests, `class_auc`, and the seams.
    """
    consistency = _consistency(real, infills, probability, 0.5, seed)
    return [
        *_comparisons(real, infills, features, seed),
        *(entry for entry in consistency if entry["measure"] == "class_auc"),
        *_seams(infills),
    ]


def feature_function(source: str, classifier: keras.Model | None = None) -> Features:
    """Returns the feature function for distances, [n, p, p, 1] in [0, 1] -> [n, d].

    Args:
        source: 'classifier' for the pooled maps of the given classifier, or a source of
            `quality_features.build`.
        classifier: a trained classifier of `build_classifier`.

    Raises:
        UserError: 'classifier' without a classifier, or weights that cannot be loaded or do not
        fit.
    """
    if source == "classifier":
        if classifier is None:
            raise UserError(
                "The features 'classifier' need a trained classifier; received none. Train one, or "
                "use 'imagenet' or a weights file."
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


class _Side(NamedTuple):
    """Patches of one class for a comparison, with their features."""

    features: np.ndarray
    texture: np.ndarray
    patients: np.ndarray

    def chosen(self, which: np.ndarray) -> "_Side":
        return _Side(*(values[which] for values in self))


def _comparisons(real, infills, features: Features, seed: int) -> list[dict]:
    """Compares infills and one half of the real patches with the other half, by class."""
    window_px = np.shape(real["image"])[1]
    all_real, all_infills = (
        _Side(
            features(fidelity.lesion_window(patches["image"], patches["mask"], window_px)),
            two_sample.texture_numbers(patches["image"], patches["mask"]),
            np.asarray(patches["patient_id"]),
        )
        for patches in (real, infills)
    )
    entries = []
    for label, name in enumerate(CLASS_NAMES):
        of_class = all_real.chosen(np.asarray(real["label"]) == label)
        with prefix_errors(f"{name.replace('_', '-')} patches"):
            first = fidelity.first_half(of_class.patients, seed)
            against, other = of_class.chosen(~first), of_class.chosen(first)
            # As for the real halves, no patient is on both sides.
            apart = ~np.isin(all_infills.patients, against.patients)
            candidates = np.flatnonzero((np.asarray(infills["label"]) == label) & apart)
            # Distances depend on n: use as many infills as the real half has patches, if available.
            drawn = np.random.default_rng(seed).permutation(len(candidates))
            generated = all_infills.chosen(candidates[drawn[: len(other.features)]])
            of_infills = _compared(generated, against, ("infills", "real"), seed)
            of_real = _compared(other, against, ("real", "other_real"), seed)
        entries += [
            _entry(measure, name, of_infills[measure], of_real[measure]) for measure in of_infills
        ]
    return entries


def _compared(side: _Side, against: _Side, names: Sequence[str], seed: int) -> dict[str, dict]:
    """Returns each measure of one side against the other; `names` are the keys of `n`."""
    n = dict(zip(names, (len(side.features), len(against.features)), strict=True))
    kernel = fidelity.kernel_distance(side.features, against.features, seed)
    frechet = fidelity.frechet_distance(side.features, against.features)
    tests = {
        "texture_auc": ("texture", two_sample.texture_classifier(seed)),
        "feature_auc": ("features", two_sample.feature_classifier()),
    }
    generated = np.arange(len(side.features) + len(against.features)) < len(side.features)
    both = _Side(*(np.concatenate(values) for values in zip(side, against, strict=True)))
    measures = {
        "kernel_distance": {"value": kernel.distance, "sd": kernel.sd},
        "frechet_distance": {"value": frechet.distance},
        **{
            measure: {"value": value}
            for measure, value in prdc(against.features, side.features)._asdict().items()
        },
        **{
            measure: _auc(
                two_sample.two_sample_test(
                    getattr(both, what), generated, both.patients, classifier, seed
                )
            )
            for measure, (what, classifier) in tests.items()
        },
    }
    return {measure: {**value, "n": n} for measure, value in measures.items()}


def _auc(found: two_sample.TwoSampleTest | None) -> dict:
    # Too few patients for a test.
    if found is None:
        return {"value": None}
    return {"value": found.auc, **found.interval._asdict()}


def _consistency(
    real, infills, probability: PatchProbability, threshold: float, seed
) -> list[dict]:
    """Returns how well the class is recognised; infills should not be easier than real lesions."""
    of_infills, of_real = (
        _recognised(patches, probability(patches), threshold, seed) for patches in (infills, real)
    )
    return [
        _entry(measure, of_class, side, of_real[measure, of_class])
        for (measure, of_class), side in of_infills.items()
    ]


def _recognised(patches, probabilities, threshold: float, seed: int) -> dict[tuple, dict]:
    found = class_consistency(
        patches["label"], probabilities, threshold, patches["patient_id"], seed
    )
    counts = {name: getattr(found, f"num_{name}") for name in ("malignant", "non_malignant")}
    return {
        ("class_auc", "both"): {"value": found.auc, **found.interval._asdict(), "n": counts},
        **{
            ("agreement", name): {
                "value": getattr(found, f"agreement_{name}"),
                **getattr(found, f"interval_{name}")._asdict(),
                "n": {name: counts[name]},
            }
            for name in CLASS_NAMES
        },
    }


def _memorisation(
    infills, in_training, training, known: memorisation.Calibration, seed: int
) -> list[dict]:
    sets = {"": _some(infills, seed)}
    if in_training is not None:
        sets["_in_training_tissue"] = _some(in_training, seed)
    found = memorisation.audit(sets, training, known)

    def correlation(nearest: memorisation.Nearest, what: str) -> dict:
        n = {what: len(nearest.index), "training": known.num_training}
        return {**_median(nearest.correlation), "n": n}

    false_alarms = {"value": known.false_alarms, "n": {"real": known.num_tested}}
    entries = []
    for name, share in found.share_copied.items():
        nearest = found.nearest[name]
        entries += [
            _entry(
                f"nearest_training_patch{name}",
                "both",
                correlation(nearest, "infills"),
                correlation(known.held_out, "real"),
            ),
            _entry(
                f"share_copied{name}",
                "both",
                {"value": share, "n": {"infills": len(nearest.index)}},
                false_alarms,
            ),
        ]
    return [
        *entries,
        *(
            _entry(
                f"recall_{kind}",
                "both",
                {"value": recall, "n": {"planted_copies": known.num_planted}},
                None,
            )
            for kind, recall in known.recall.items()
        ),
    ]


def _some(patches: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Returns at most the number of patches used in the search for copies."""
    drawn = np.random.default_rng(seed).permutation(len(patches["image"]))[:_MAX_SEARCHED]
    return {name: np.asarray(values)[np.sort(drawn)] for name, values in patches.items()}


def _seams(infills) -> list[dict]:
    """Compares each infill with its patch before infilling, with the same mask."""
    of_infills, of_real = (
        seam.seam_score(infills[name], infills["mask"]) for name in ("image", "context")
    )
    # A mask without an edge, or with flat tissue around it, has no score.
    scored = np.isfinite(of_infills) & np.isfinite(of_real) & (of_real > 0)
    entries = []
    for label, name in enumerate(CLASS_NAMES):
        chosen = scored & (np.asarray(infills["label"]) == label)
        n = {"infills": int(chosen.sum())}
        entries += [
            _entry(
                "seam_score",
                name,
                {**_median(of_infills[chosen]), "n": n},
                {**_median(of_real[chosen]), "n": {"real": n["infills"]}},
            ),
            _entry(
                "seam_ratio", name, {**_median(of_infills[chosen] / of_real[chosen]), "n": n}, None
            ),
        ]
    return entries


def _changes(infills, seed: int) -> list[dict]:
    """Change by an infill of the same class, compared with another patient's patch in its place."""
    own = 1 - np.asarray(infills["label"])
    entries = []
    for label, name in enumerate(CLASS_NAMES):
        of_class = np.flatnonzero(own == label)
        context, mask = (infills[what][of_class] for what in ("context", "mask"))
        paired, partners = counterfactual.of_other_patients(infills["patient_id"][of_class], seed)
        of_real = counterfactual.mean_change(context[paired], context[partners], mask[paired])
        of_infills = counterfactual.mean_change(infills["composed"][of_class], context, mask)
        entries.append(
            _entry(
                "composition",
                name,
                {**_median(of_infills), "n": {"infills": len(of_infills)}},
                {**_median(of_real), "n": {"real": len(of_real)}},
            )
        )
    return entries


def _median(values: np.ndarray) -> dict:
    if not values.size:
        return {"value": None}
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {"value": float(middle), "low": float(low), "high": float(high)}


def _entry(measure: str, of_class: str, infills: dict, real: dict | None) -> dict:
    return {"measure": measure, "of_class": of_class, "infills": infills, "real": real}
