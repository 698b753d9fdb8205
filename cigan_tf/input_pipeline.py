"""From the patches on disk to batches: class balance, masks for patches without a lesion, flips.

The dataset is read from its files alone (`tfds.builder_from_directory` finds features and splits
beside the records), so that any variant that `tfds build -c '{...}'` made can be named.
"""

import collections
import math
import os

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from cigan_tf.config import Config, DataConfig
from cigan_tf.errors import UserError

CLASS_NAMES = ("non_malignant", "malignant")
WHITE = 65535.0  # the brightest grey level of a 16-bit film

# Streams that draw at random take the run's seed plus a number of their own.
_SHUFFLE_SEED = {"non_malignant": 1, "malignant": 2, "lesion_masks": 3}
_AUGMENTATION_SEED = 4

# Shares of patients are exact to this many parts.
_PATIENT_BUCKETS = 2**20

# Patches among which those that are shown are chosen.
_CANDIDATES = 200


def open_dataset(data: DataConfig, patch_size: int) -> tfds.core.DatasetBuilder:
    """Returns the dataset as it lies on disk.

    Raises:
        UserError: it has not been built, or holds patches of another size.
    """
    data_dir = os.path.expanduser(data.data_dir)
    try:
        builder = read_only_builder.builder_from_files(data.dataset, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError):
        raise UserError(
            f"There is no dataset {data.dataset!r} in data_dir {data_dir!r}; make it with: "
            f"tfds build {data.dataset} --imports tfds_ddsm --data_dir={data_dir}"
        ) from None
    stored = builder.info.features["image"].shape[0]
    if stored != patch_size:
        raise UserError(
            f"The patches of {data.dataset!r} are {stored} px wide; pass --patch_size={stored}. "
            f"Received: patch_size={patch_size}."
        )
    return builder


def training_batches(config: Config) -> tf.data.Dataset:
    """Returns endless batches of the training split, half of each class.

    Returns:
        A dataset of dicts: `image` float32 [N, p, p, 1] in [0, 1], `mask` float32 [N, p, p, 1] in
        {0, 1}, `label` int32 [N] in {0, 1}. A patch without a lesion has the mask of another
        lesion of the split, drawn at random. The order follows from `config.training.seed`.
    """
    data, seed = config.data, config.training.seed
    own_randomness(seed)
    builder = open_dataset(data, config.model.patch_size)
    encoded = encoded_patches(builder, data.train_split, data.train_patient_share)

    def endless(stream: str, chosen: tf.data.Dataset) -> tf.data.Dataset:
        what = "patch with a lesion" if stream == "lesion_masks" else f"{stream} patch"
        require_some(chosen, f"{data.train_split} split of {data.dataset}", what)
        # What is shuffled is still PNG: the buffer, and a checkpoint of it, stay small.
        shuffled = chosen.shuffle(data.shuffle_buffer_patches, seed + _SHUFFLE_SEED[stream])
        return shuffled.repeat()

    lesion_masks = endless("lesion_masks", encoded.filter(lambda patch: patch["has_lesion"]))
    classes = [
        endless(name, encoded.filter(lambda patch, label=label: patch["label"] == label))
        for label, name in enumerate(CLASS_NAMES)
    ]
    alternating = tf.data.Dataset.range(len(classes)).repeat()
    patches = tf.data.Dataset.choose_from_datasets(classes, alternating)
    patches = tf.data.Dataset.zip(patches, lesion_masks, seeds_of_draws(seed + _AUGMENTATION_SEED))

    def to_example(patch, lesion, augmentation_seed):
        example = decode(_lend_mask(patch, lesion), config.model.patch_size)
        if data.random_flips:
            example = _flip(example, augmentation_seed)
        if data.max_random_gamma > 1:
            example = _change_exposure(example, augmentation_seed + 3, data.max_random_gamma)
        return example

    batches = patches.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.batch(data.batch_size, drop_remainder=True).prefetch(2)


def picture_patches(config: Config, split: str, num_per_kind: int) -> dict[str, np.ndarray]:
    """Returns the same few patches of a split every time: malignant, benign lesion, background.

    Args:
        config: which dataset, and the seed that chooses among its patches.
        split: name of the split.
        num_per_kind: patches of each of the three kinds; fewer where the split holds fewer.

    Returns:
        A dict as of `training_batches`, and `kind`, `film_id`, `lesion_type` (str [N]),
        `simulated` (bool [N]).
    """
    seed = config.training.seed
    own_randomness(seed)
    builder = open_dataset(config.data, config.model.patch_size)
    encoded = encoded_patches(builder, split)
    lesions = encoded.filter(lambda patch: patch["has_lesion"])
    require_some(lesions, f"{split} split of {config.data.dataset}", "patch with a lesion")
    kinds = {
        "malignant lesion": lesions.filter(lambda patch: patch["label"] == 1),
        "benign lesion": lesions.filter(lambda patch: patch["label"] == 0),
        "no lesion": encoded.filter(lambda patch: not patch["has_lesion"]),
    }
    examples = []
    for kind, patches in kinds.items():
        shuffled = patches.shuffle(config.data.shuffle_buffer_patches, seed)
        lent = lesions.shuffle(config.data.shuffle_buffer_patches, seed + 1).repeat()
        for patch, lesion in zip(_spread(shuffled, num_per_kind), lent, strict=False):
            example = decode(_lend_mask(patch, lesion), config.model.patch_size)
            facts = {name: patch[name] for name in ("film_id", "lesion_type", "simulated")}
            examples.append({**example, **facts, "kind": kind})
    batch = {name: np.stack([np.asarray(e[name]) for e in examples]) for name in examples[0]}
    for name in ("film_id", "lesion_type"):
        batch[name] = batch[name].astype(str)
    return batch


def _spread(patches: tf.data.Dataset, count: int) -> list:
    """Returns the first patches of each film, real and simulated, then the second ones."""
    seen = collections.Counter()
    ranked = []
    for patch in patches.take(_CANDIDATES):
        group = (patch["film_id"].numpy(), bool(patch["simulated"]))
        ranked.append((seen[group], len(ranked), patch))
        seen[group] += 1
    return [patch for _, _, patch in sorted(ranked, key=lambda entry: entry[:2])[:count]]


def drawn_patches(
    config: Config, split: str, max_patches: int, patient_share: float = 1.0
) -> dict[str, np.ndarray]:
    """Returns patches of a split drawn at random, decoded, a lesion mask in each.

    Args:
        config: which dataset, and the seed.
        split: name of the split.
        max_patches: how many; all where the split holds fewer.
        patient_share: as of `encoded_patches`.

    Returns:
        A dict as of `training_batches`, and `patient_id` (str [N]).

    Raises:
        UserError: there is no such split, or it holds no patch with a lesion.
    """
    seed, patch_size = config.training.seed, config.model.patch_size
    own_randomness(seed)
    encoded = encoded_patches(open_dataset(config.data, patch_size), split, patient_share)
    lesions = encoded.filter(lambda patch: patch["has_lesion"])
    require_some(lesions, f"{split} split of {config.data.dataset}", "patch with a lesion")
    buffer = config.data.shuffle_buffer_patches
    pairs = tf.data.Dataset.zip(
        encoded.shuffle(max(buffer, max_patches), seed).take(max_patches),
        lesions.shuffle(buffer, seed + 1).repeat(),
    )

    def to_example(patch, lesion):
        example = decode(_lend_mask(patch, lesion), patch_size)
        return {**example, "patient_id": patch["patient_id"]}

    examples = list(pairs.map(to_example).as_numpy_iterator())
    patches = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
    return {**patches, "patient_id": np.char.decode(patches["patient_id"].astype(bytes), "utf-8")}


def encoded_patches(
    builder: tfds.core.DatasetBuilder, split: str, patient_share: float = 1.0
) -> tf.data.Dataset:
    """Returns a split in stored order, images and masks still PNG.

    Args:
        builder: of `open_dataset`.
        split: name of the split.
        patient_share: share of its patients in (0, 1], chosen by a hash of their ids; a smaller
            share is part of every larger one.

    Returns:
        A dataset of dicts of scalars: `image`, `mask` (bytes), `label` (int32), `has_lesion`,
        `simulated` (bool), `lesion_type`, `patient_id`, `film_id`, `scanner`, and `patch`, the id
        of the patch in the dataset (str).

    Raises:
        UserError: there is no such split.
    """
    if split not in builder.info.splits:
        raise UserError(
            f"The dataset {builder.info.full_name!r} has the splits "
            f"{sorted(builder.info.splits)}. Received: {split!r}."
        )
    patches = builder.as_dataset(
        split=split,
        decoders={name: tfds.decode.SkipDecoding() for name in ("image", "mask")},
        read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True, add_tfds_id=True),
    )
    lesion_types = tf.constant(builder.info.features["lesion_type"].names)

    def facts(patch):
        return {
            "image": patch["image"],
            "mask": patch["mask"],
            "label": tf.cast(patch["label"], tf.int32),
            "has_lesion": patch["lesion_type"] > 0,
            "lesion_type": lesion_types[patch["lesion_type"]],
            "simulated": patch["simulated"],
            "patient_id": patch["patient_id"],
            "film_id": patch["film_id"],
            "scanner": patch["scanner"],
            "patch": patch["tfds_id"],
        }

    if patient_share < 1:
        patches = patches.filter(lambda patch: in_share(patch["patient_id"], patient_share))
    return patches.map(facts)


def patches_per_patient(
    builder: tfds.core.DatasetBuilder, split: str, patient_share: float = 1.0
) -> dict[str, int]:
    """Returns how many patches of a split belong to each patient; arguments as `encoded_patches`.

    Raises:
        UserError: there is no such split.
    """
    patients = encoded_patches(builder, split, patient_share).map(lambda patch: patch["patient_id"])
    counts = collections.Counter()
    for batch in patients.batch(1024).as_numpy_iterator():
        counts.update(batch.tolist())
    return {patient.decode(): count for patient, count in counts.items()}


def in_share(patient_id: tf.Tensor, patient_share: float) -> tf.Tensor:
    """Says whether a patient is in the share of patients, by a hash of the id (str -> bool)."""
    bucket = tf.strings.to_hash_bucket_fast(patient_id, _PATIENT_BUCKETS)
    return tf.cast(bucket, tf.float64) < patient_share * _PATIENT_BUCKETS


def _lend_mask(patch, lesion):
    """Gives a patch without a lesion the mask of another one (design: synthesis needs it too)."""
    return {**patch, "mask": tf.where(patch["has_lesion"], patch["mask"], lesion["mask"])}


def decode(patch, patch_size: int) -> dict[str, tf.Tensor]:
    """Returns `image` in [0, 1] and `mask` in {0, 1}, float32 [p, p, 1], and `label` of a patch."""
    mask = tf.io.decode_png(patch["mask"], channels=1, dtype=tf.uint8)
    return {
        "image": decode_image(patch["image"], patch_size),
        "mask": tf.ensure_shape(tf.cast(mask > 0, tf.float32), (patch_size, patch_size, 1)),
        "label": patch["label"],
    }


def decode_image(png: tf.Tensor, patch_size: int) -> tf.Tensor:
    """Returns a 16-bit grey PNG as float32 [p, p, 1] in [0, 1]."""
    image = tf.io.decode_png(png, channels=1, dtype=tf.uint16)
    return tf.ensure_shape(tf.cast(image, tf.float32) / WHITE, (patch_size, patch_size, 1))


def _flip(example, seed):
    """Draws one of the eight orientations of a square for image and mask together."""
    both = tf.concat([example["image"], example["mask"]], axis=-1)
    both = tf.image.stateless_random_flip_left_right(both, seed)
    both = tf.image.stateless_random_flip_up_down(both, seed + 1)
    transpose = tf.random.stateless_uniform((), seed + 2) < 0.5
    both = tf.cond(transpose, lambda: tf.transpose(both, (1, 0, 2)), lambda: both)
    return {**example, "image": both[..., :1], "mask": both[..., 1:]}


def _change_exposure(example, seed, max_gamma: float):
    """Raises the grey levels to a power, as likely below 1 as above; 0 and 1 stay."""
    log_gamma = tf.random.stateless_uniform((), seed, -1, 1) * math.log(max_gamma)
    return {**example, "image": example["image"] ** tf.exp(log_gamma)}


def own_randomness(seed: int) -> None:
    """Sets the process's global seed, which tf.data mixes into every seed that it is given.

    Without this the order of patches would depend on what ran before in the process.
    """
    tf.random.set_seed(seed)


def seeds_of_draws(seed: int) -> tf.data.Dataset:
    """Returns endless pairs for stateless draws; unlike a generator they can be checkpointed."""
    return tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)


def require_some(patches: tf.data.Dataset, where: str, what: str) -> None:
    """Raises UserError where there is no patch at all: `where` holds no `what`."""
    # An endless stream of nothing would hang the run without a word.
    if next(iter(patches.take(1)), None) is None:
        raise UserError(f"The {where} holds no {what}; training needs both classes.")
