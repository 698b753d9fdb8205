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

from cigan_tf import masks
from cigan_tf.config import Config, DataConfig
from cigan_tf.errors import UserError
from cigan_tf.randomness import seeded

CLASS_NAMES = ("non_malignant", "malignant")
WHITE = 65535.0  # the brightest grey level of a 16-bit film

# Streams that draw at random take the run's seed plus a number of their own.
_SHUFFLE_SEED = {"non_malignant": 1, "malignant": 2, "lesion_masks": 3}
_AUGMENTATION_SEED = 4

# Shares of patients are exact to this many parts.
_PATIENT_BUCKETS = 2**20

# Masks among which a patch without a lesion finds one that lies on tissue.
_CANDIDATE_MASKS = 8

# Patches among which those that are shown are chosen.
_CANDIDATES = 200


def open_dataset(data: DataConfig, patch_size: int) -> tfds.core.DatasetBuilder:
    """Returns the dataset as it lies on disk.

    Raises:
        UserError: it has not been built, cannot be read, or holds patches of another size.
    """
    data_dir = os.path.expanduser(data.data_dir)
    try:
        builder = read_only_builder.builder_from_files(data.dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise UserError(
            f"There is no dataset {data.dataset!r} in data_dir {data_dir!r}; make it with: "
            f"tfds build {data.dataset} --imports tfds_ddsm --data_dir={data_dir}"
        ) from None
    except ValueError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"The dataset {data.dataset!r} in data_dir {data_dir!r} cannot be read: {reason}."
        ) from None
    stored = builder.info.features["image"].shape[0]
    if stored != patch_size:
        raise UserError(
            f"The patches of {data.dataset!r} are {stored} px wide; pass --patch_size={stored}. "
            f"Received: patch_size={patch_size}."
        )
    if (file_format := builder.info.file_format) != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"The dataset {data.dataset!r} is of the format {file_format.value}; training reads "
            "tfrecord only. Build it again with --file_format=tfrecord --overwrite."
        )
    return builder


def training_batches(config: Config) -> tf.data.Dataset:
    """Returns endless batches of the training split, half of each class.

    Returns:
        A dataset of dicts: `image` float32 [N, p, p, 1] in [0, 1], `mask` float32 [N, p, p, 1] in
        {0, 1}, `label` int32 [N] in {0, 1}. A patch without a lesion has the mask of another
        lesion of the split, drawn at random among those that lie on its tissue. The order follows
        from `config.training.seed`.
    """
    with seeded(config.training.seed):
        return _training_batches(config)


def _training_batches(config: Config) -> tf.data.Dataset:
    data, seed = config.data, config.training.seed
    builder = open_dataset(data, config.model.patch_size)
    encoded = encoded_patches(builder, data.train_split, data.train_patient_share)

    def endless(stream: str, chosen: tf.data.Dataset) -> tf.data.Dataset:
        what = "patch with a lesion" if stream == "lesion_masks" else f"{stream} patch"
        require_some(chosen, f"{data.train_split} split of {data.dataset}", what)
        # What is shuffled is still PNG: the buffer, and a checkpoint of it, stay small.
        shuffled = chosen.shuffle(data.shuffle_buffer_patches, seed + _SHUFFLE_SEED[stream])
        return shuffled.repeat()

    lesions = encoded.filter(lambda patch: patch["has_lesion"])
    masks_alone = lesions.map(lambda patch: patch["mask"])
    lesion_masks = _candidates(endless("lesion_masks", masks_alone), masks_alone)
    classes = [
        endless(name, encoded.filter(lambda patch, label=label: patch["label"] == label))
        for label, name in enumerate(CLASS_NAMES)
    ]
    alternating = tf.data.Dataset.range(len(classes)).repeat()
    patches = tf.data.Dataset.choose_from_datasets(classes, alternating)
    patches = tf.data.Dataset.zip(patches, lesion_masks, seeds_of_draws(seed + _AUGMENTATION_SEED))

    def to_example(patch, candidates, augmentation_seed):
        example = _decode_with_mask(patch, candidates, config.model.patch_size)
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
    with seeded(config.training.seed):
        return _picture_patches(config, split, num_per_kind)


def _picture_patches(config: Config, split: str, num_per_kind: int) -> dict[str, np.ndarray]:
    seed = config.training.seed
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
        candidates = _shuffled_candidates(lesions, config.data.shuffle_buffer_patches, seed + 1)
        for patch, chosen in zip(_spread(shuffled, num_per_kind), candidates, strict=False):
            example = _decode_with_mask(patch, chosen, config.model.patch_size)
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
    with seeded(config.training.seed):
        return _drawn_patches(config, split, max_patches, patient_share)


def _drawn_patches(
    config: Config, split: str, max_patches: int, patient_share: float
) -> dict[str, np.ndarray]:
    seed, patch_size = config.training.seed, config.model.patch_size
    encoded = encoded_patches(open_dataset(config.data, patch_size), split, patient_share)
    lesions = encoded.filter(lambda patch: patch["has_lesion"])
    require_some(lesions, f"{split} split of {config.data.dataset}", "patch with a lesion")
    buffer = config.data.shuffle_buffer_patches
    pairs = tf.data.Dataset.zip(
        encoded.shuffle(max(buffer, max_patches), seed).take(max_patches),
        _shuffled_candidates(lesions, buffer, seed + 1),
    )

    def to_example(patch, candidates):
        example = _decode_with_mask(patch, candidates, patch_size)
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
        `simulated` (bool), `lesion_type`, `patient_id`, `film_id`, `scanner`, `patch`, the id of
        the patch in the dataset (str), `tissue_fraction` (float32), `density`, `subtlety` (int32,
        -1 where the dataset does not know them), and `infill`, the number of an infill among those
        of one patch (int32, 0 where the dataset is not synthetic).

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
    unknown = tf.constant(-1)

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
            # Synthetic sets, and datasets that were built earlier, lack some of them.
            "tissue_fraction": patch.get("tissue_fraction", tf.constant(1.0)),
            "density": patch.get("density", unknown),
            "subtlety": patch.get("subtlety", unknown),
            "infill": patch.get("infill", tf.constant(0)),
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


def _shuffled_candidates(lesions: tf.data.Dataset, buffer: int, seed: int) -> tf.data.Dataset:
    masks_alone = lesions.map(lambda patch: patch["mask"])
    return _candidates(masks_alone.shuffle(buffer, seed).repeat(), masks_alone)


def _candidates(drawn: tf.data.Dataset, stored: tf.data.Dataset) -> tf.data.Dataset:
    """Returns with each mask that is drawn those before it, the newest first: PNG [candidates].

    A mask is read for one patch only, and still each patch has several to choose from.
    """
    first = list(stored.take(_CANDIDATE_MASKS).as_numpy_iterator())
    first = tf.constant([first[i % len(first)] for i in range(_CANDIDATE_MASKS)])

    def push(newest_first, mask):
        newest_first = tf.concat([mask[None], newest_first[:-1]], axis=0)
        return newest_first, newest_first

    return drawn.scan(first, push)


def _decode_with_mask(patch, candidates: tf.Tensor, patch_size: int) -> dict[str, tf.Tensor]:
    """Decodes a patch; one without a lesion gets the first candidate that lies on its tissue.

    Synthesis needs a mask in every patch (the paper, 3.2). Where no candidate lies on tissue it is
    the one with the largest share of it.
    """
    example = decode(patch, patch_size)

    def borrowed():
        decoded = tf.map_fn(
            lambda png: decode_mask(png, patch_size),
            candidates,
            fn_output_signature=tf.TensorSpec((patch_size, patch_size, 1), tf.float32),
        )
        share = masks.tissue_share(example["image"], decoded, patch["tissue_fraction"])
        # argmax takes the first of equal ones.
        return decoded[tf.argmax(tf.minimum(share, masks.MIN_TISSUE_SHARE))]

    mask = tf.cond(patch["has_lesion"], lambda: example["mask"], borrowed)
    return {**example, "mask": mask}


def decode(patch, patch_size: int) -> dict[str, tf.Tensor]:
    """Returns `image` in [0, 1] and `mask` in {0, 1}, float32 [p, p, 1], and `label` of a patch."""
    return {
        "image": decode_image(patch["image"], patch_size),
        "mask": decode_mask(patch["mask"], patch_size),
        "label": patch["label"],
    }


def decode_mask(png: tf.Tensor, patch_size: int) -> tf.Tensor:
    mask = tf.io.decode_png(png, channels=1, dtype=tf.uint8)
    return tf.ensure_shape(tf.cast(mask > 0, tf.float32), (patch_size, patch_size, 1))


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


def seeds_of_draws(seed: int) -> tf.data.Dataset:
    """Returns endless pairs for stateless draws; unlike a generator they can be checkpointed."""
    return tf.data.Dataset.random(seed, rerandomize_each_iteration=True).batch(2)


def require_some(patches: tf.data.Dataset, where: str, what: str) -> None:
    """Raises UserError where there is no patch at all: `where` holds no `what`."""
    # An endless stream of nothing would hang the run without a word.
    if next(iter(patches.take(1)), None) is None:
        raise UserError(f"The {where} holds no {what}; training needs both classes.")
