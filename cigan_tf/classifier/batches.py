"""Batches of the classifier: real and synthetic patches mixed, the classes in turn."""

import collections

import numpy as np
import tensorflow as tf

from cigan_tf import input_pipeline
from cigan_tf.classifier import synthetic_set
from cigan_tf.classifier.augmentation import augment
from cigan_tf.classifier.mixing import real_share_by_step
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.randomness import seeded

# Streams that draw at random take the classifier's seed plus a number of their own.
_SHUFFLE_SEED = {("real", 0): 11, ("real", 1): 12, ("synthetic", 0): 13, ("synthetic", 1): 14}
# What is shuffled of each patch.
_NEEDED = ("image", "label", "patient_id")
_MIXING_SEED = 15
_AUGMENTATION_SEED = 16
# Small patches are scored many at a time: ResNet-50's weights weigh more than their maps.
_SCORED_PX_AT_ONCE = 2**20


def training_batches(
    config: Config,
    seed: int,
    synthetic: synthetic_set.SyntheticSet | None,
    used: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Returns the batches of all training steps.

    Args:
        config: which patches, and `config.classifier`: how many, which share of them real.
        seed: of the order, the mixing and the augmentation.
        synthetic: the infilled patches, where the arm uses them.
        used: which of them, as of `SyntheticSet.encoded_patches`; None: all.

    Returns:
        A dataset of (image float32 [N, p, p, 1] in [0, 1], label float32 [N, 1] in {0, 1}), as many
        batches as there are steps. Each patch is real with the step's chance, whatever its class.

    Raises:
        UserError: a class is missing, or has fewer than two patients.
    """
    with seeded(seed):
        return _training_batches(config, seed, synthetic, used)


def _training_batches(config: Config, seed: int, synthetic, used) -> tf.data.Dataset:
    settings, data = config.classifier, config.data
    builder = input_pipeline.open_dataset(data, config.model.patch_size)
    real = input_pipeline.encoded_patches(builder, data.train_split, settings.patient_share)
    sources = {"real": real}
    if settings.needs_synthetic:
        sources["synthetic"] = synthetic.encoded_patches(used)
    streams = []
    for origin, patches in sources.items():
        for label, class_name in enumerate(input_pipeline.CLASS_NAMES):
            of_class = patches.filter(lambda patch, label=label: patch["label"] == label)
            of_class = of_class.map(lambda patch: {name: patch[name] for name in _NEEDED})
            _require_two_patients(of_class, f"{origin} {class_name}", data)
            shuffled = of_class.shuffle(
                data.shuffle_buffer_patches, seed + _SHUFFLE_SEED[origin, label]
            )
            streams.append(shuffled.repeat())

    num_patches = settings.classifier_steps * settings.classifier_batch_size
    chosen = tf.data.Dataset.range(num_patches)
    if settings.needs_synthetic:
        share = tf.constant(real_share_by_step(settings))
        chosen = tf.data.Dataset.zip(chosen, input_pipeline.seeds_of_draws(seed + _MIXING_SEED))

        def choose(index, draw_seed):
            chance = share[index // settings.classifier_batch_size]
            is_synthetic = tf.random.stateless_uniform((), draw_seed) >= chance
            return index % 2 + 2 * tf.cast(is_synthetic, tf.int64)

        chosen = chosen.map(choose)
    else:
        chosen = chosen.map(lambda index: index % 2)
    patches = tf.data.Dataset.choose_from_datasets(streams, chosen)
    patches = tf.data.Dataset.zip(patches, input_pipeline.seeds_of_draws(seed + _AUGMENTATION_SEED))

    def to_example(patch, augmentation_seed):
        image = input_pipeline.decode_image(patch["image"], config.model.patch_size)
        if settings.traditional_augmentation:
            image = augment(image, augmentation_seed, settings)
        return image, tf.cast(patch["label"], tf.float32)[None]

    batches = patches.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.batch(settings.classifier_batch_size, drop_remainder=True).prefetch(2)


def scored_batches(config: Config, split: str) -> tuple[tf.data.Dataset, dict[str, np.ndarray]]:
    """Returns the patches of a split in stored order, and who they are.

    Returns:
        A dataset of images float32 [N, p, p, 1] in [0, 1], and the facts of all of them that
        `evaluation.scores.Scores` takes: all but `probability`, [n].

    Raises:
        UserError: there is no such split, or it lacks a class.
    """
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    encoded = input_pipeline.encoded_patches(builder, split)
    texts = ("patch", "patient_id", "film_id", "scanner", "lesion_type")
    names = (*texts, "label", "density", "subtlety")

    def to_facts(patch):
        mask = input_pipeline.decode_mask(patch["mask"], config.model.patch_size)
        area_px = tf.cast(tf.reduce_sum(mask), tf.int64)
        return {**{name: patch[name] for name in names}, "lesion_area_px": area_px}

    rows = list(encoded.map(to_facts).as_numpy_iterator())
    facts = {name: np.array([row[name] for row in rows]) for name in (*names, "lesion_area_px")}
    for name in texts:
        facts[name] = np.char.decode(facts[name], "utf-8") if rows else facts[name]
    missing = {0, 1} - set(facts["label"].tolist())
    if missing:
        name = input_pipeline.CLASS_NAMES[missing.pop()]
        raise UserError(f"The {split} split of {config.data.dataset} holds no {name} patch.")
    return decoded_images(config, encoded), facts


def at_points(
    config: Config, facts: dict[str, np.ndarray]
) -> tuple[tf.data.Dataset, dict[str, np.ndarray]]:
    """Returns the validation patches that are scored while a classifier is trained.

    They are `config.classifier.validation_patches`, half of each class, drawn by the run's seed:
    of every patient one before of any a second. All classifiers of an experiment see the same.

    Args:
        config: as of `scored_batches`.
        facts: of all patches of the validation split, from `scored_batches`.

    Returns:
        As `scored_batches`.
    """
    rng = np.random.default_rng(config.training.seed)
    is_chosen = np.zeros(facts["label"].size, bool)
    for label in (0, 1):
        of_class = rng.permutation(np.flatnonzero(facts["label"] == label))
        seen = collections.Counter()
        rank = []
        for patient in facts["patient_id"][of_class].tolist():
            rank.append(seen[patient])
            seen[patient] += 1
        in_turn = of_class[np.argsort(rank, kind="stable")]
        is_chosen[in_turn[: config.classifier.validation_patches // 2]] = True
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    encoded = input_pipeline.encoded_patches(builder, config.data.validation_split).enumerate()
    # Before they are decoded, which takes longer than to read them.
    chosen = encoded.filter(lambda index, _: tf.gather(is_chosen, index))
    images = decoded_images(config, chosen.map(lambda _, patch: patch))
    return images, {name: values[is_chosen] for name, values in facts.items()}


def decoded_images(config: Config, encoded: tf.data.Dataset) -> tf.data.Dataset:
    """Returns batches of encoded patches in their order: images float32 [N, p, p, 1] in [0, 1]."""
    images = encoded.map(
        lambda patch: input_pipeline.decode_image(patch["image"], config.model.patch_size),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    at_once = max(1, _SCORED_PX_AT_ONCE // config.model.patch_size**2)
    return images.batch(at_once).prefetch(2)


def refuse_shared_patients(config: Config) -> None:
    """Raises UserError where a patient stands in two of the splits that the run uses."""
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    data = config.data
    seen: dict[str, str] = {}
    for split in (data.train_split, data.validation_split, config.experiment.test_split):
        for patient in sorted(input_pipeline.patches_per_patient(builder, split)):
            if seen.setdefault(patient, split) != split:
                raise UserError(
                    f"Patient {patient!r} stands in the splits {seen[patient]!r} and {split!r} of "
                    f"{data.dataset}; a classifier must not be tested on patients that it knows."
                )


def _require_two_patients(patches: tf.data.Dataset, kind: str, data) -> None:
    patients = set()
    for patch in patches.as_numpy_iterator():
        patients.add(patch["patient_id"])
        if len(patients) == 2:
            return
    raise UserError(
        f"A classifier needs patches of two patients at least; of {kind} patches the "
        f"{data.train_split} split of {data.dataset} holds those of {len(patients)}. Take a larger "
        "--patient_share or dataset."
    )
