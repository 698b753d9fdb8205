"""Makes batches of patches on disk: balanced classes, masks for patches without a lesion, flips.

The dataset is read only from its files (TFDS finds the features and splits next to the records), so
every variant built by `tfds build -c '{...}'` can be used. The input of a training step is a
function of the seed and the step number, so a run resumes its input at any step.
"""

import collections
import functools
import math
import os
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from cigan_tf import masks, record_index
from cigan_tf.config import Config, DataConfig
from cigan_tf.errors import UserError, first_line
from cigan_tf.patch_format import CLASS_NAMES, WHITE
from cigan_tf.record_index import RecordIndex

# Each random stream uses the run's seed and its own number.
_STREAMS = (*CLASS_NAMES, "lesion_masks", "augmentation", "pictures", "drawn")

# Number of hash values of a patient's id: the resolution of a share of the patients.
_PATIENT_BUCKETS = 2**20

# Images of a record stay PNG-encoded until they are needed.
_UNDECODED = {name: tfds.decode.SkipDecoding() for name in ("image", "mask")}

# Number of masks tried for a patch without a lesion, to find one that lies on its tissue.
CANDIDATE_DONORS = 8


def open_dataset(data: DataConfig, patch_size: int) -> tfds.core.DatasetBuilder:
    """Returns the dataset as stored on disk.

    Raises:
        UserError: the dataset has not been built, cannot be read, has patches of a size other than
            `patch_size`, or is not stored as TFRecord files.
    """
    data_dir = os.path.expanduser(data.data_dir)
    try:
        builder = read_only_builder.builder_from_files(data.dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise UserError(
            f"There is no dataset {data.dataset!r} in data_dir {data_dir!r}; build it with: "
            f"tfds build {data.dataset} --imports tfds_ddsm --data_dir={data_dir}"
        ) from None
    except ValueError as error:
        raise UserError(
            f"The dataset {data.dataset!r} in data_dir {data_dir!r} cannot be read: "
            f"{first_line(error)}. Build it again with --overwrite."
        ) from None
    stored = builder.info.features["image"].shape[0]
    if stored != patch_size:
        raise UserError(
            f"The patches of {data.dataset!r} are {stored} px wide; pass --patch_size={stored}. "
            f"Received: patch_size={patch_size}."
        )
    if (file_format := builder.info.file_format) != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"The dataset {data.dataset!r} has the format {file_format.value}; training reads "
            "only tfrecord. Build it again with --file_format=tfrecord --overwrite."
        )
    return builder


class Shuffled:
    """Endless passes through a list of numbers, each pass in its own random order.

    Args:
        numbers: int [n], n > 0.
        seed: seed of all orders.
    """

    def __init__(self, numbers: np.ndarray, seed: Sequence[int]):
        self._numbers = numbers
        self._seed = tuple(seed)
        self._order = functools.lru_cache(maxsize=2)(self._order_of_pass)

    def at(self, places: np.ndarray) -> np.ndarray:
        """Returns the numbers at the given positions of the endless list (int64, any shape)."""
        passes, within = np.divmod(places, len(self._numbers))
        found = np.empty(places.shape, np.int64)
        for number in np.unique(passes):
            chosen = passes == number
            found[chosen] = self._order(int(number))[within[chosen]]
        return found

    def _order_of_pass(self, number: int) -> np.ndarray:
        return np.random.default_rng((*self._seed, number)).permutation(self._numbers)


class TrainingInput:
    """The patches of the training split, in the order given by the seed.

    Each class fills half of every batch. A patch without a lesion gets the mask of a lesion from
    another patch of the split: of a few masks drawn at random, the first that lies on its tissue.

    Args:
        config: names the dataset; `config.training.seed` determines the order.

    Attributes:
        index: index of the split.

    Raises:
        UserError: the dataset cannot be read, or the split lacks a class or lesions.
    """

    def __init__(self, config: Config):
        data, self._seed = config.data, config.training.seed
        self._config = config
        builder = open_dataset(data, config.model.patch_size)
        index = index_of_split(builder, data.train_split)
        chosen = of_patients(index, data.train_patient_share)
        where = f"{data.train_split} split of {data.dataset}"
        self._classes = [
            self._shuffled(chosen & (index.label == label), name, where, f"{name} patch")
            for label, name in enumerate(CLASS_NAMES)
        ]
        self._lenders = self._shuffled(
            chosen & index.has_lesion, "lesion_masks", where, "patch with a lesion"
        )
        self.index, self._records = index, Records(builder, index)

    def batches(
        self, first_step: int = 0, worker: int = 0, num_workers: int = 1
    ) -> tf.data.Dataset:
        """Returns the endless batches starting at a step, or a worker's equal part of each.

        Args:
            first_step: number of batches already used for training.
            worker: number of the worker; the workers' parts follow one another in the batch.
            num_workers: number of workers that share a batch; must divide the batch size.

        Returns:
            A dataset of dicts: `image` float32 [N, p, p, 1] in [0, 1], `mask` float32 [N, p, p, 1]
            in {0, 1}, `label` int32 [N] in {0, 1}, where N is the batch size / `num_workers`.
        """
        data, patch_size = self._config.data, self._config.model.patch_size
        rows = data.batch_size // num_workers
        first_row = worker * rows

        def choose(step):
            number = step * data.batch_size + first_row + np.arange(rows)
            of_class = [order.at(number // len(CLASS_NAMES)) for order in self._classes]
            return (
                number,
                np.choose(number % len(CLASS_NAMES), of_class),
                self._lenders.at(_places_of_candidates(number)),
            )

        # AutoGraph would take most of the time before the first batch, with nothing to convert.
        @tf.autograph.experimental.do_not_convert
        def to_example(number, record, donors):
            _, example, _ = self._records.with_mask(record, donors, patch_size)
            seed = (self._seed, _STREAMS.index("augmentation"))
            seeds = tf.random.split(tf.random.fold_in(seed, number), 4)
            if data.random_flips:
                example = _flip(example, seeds[:3])
            if data.max_random_gamma > 1:
                example = _change_exposure(example, seeds[3], data.max_random_gamma)
            return example

        steps = tf.data.Dataset.range(first_step, tf.int64.max)
        patches = _chosen(steps, choose).unbatch()
        batches = patches.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
        return batches.batch(rows, drop_remainder=True).prefetch(2)

    def _shuffled(self, chosen: np.ndarray, stream: str, where: str, what: str) -> Shuffled:
        require_some(chosen, where, what)
        return Shuffled(np.flatnonzero(chosen), (self._seed, _STREAMS.index(stream)))


def training_batches(config: Config, first_step: int = 0) -> tf.data.Dataset:
    """Returns the undivided batches of `TrainingInput`."""
    return TrainingInput(config).batches(first_step)


def picture_patches(config: Config, split: str, num_per_kind: int) -> dict[str, np.ndarray]:
    """Returns a few fixed patches of a split: malignant lesions, benign lesions, and no lesion.

    Args:
        config: names the dataset, and the seed that selects the patches.
        split: name of the split.
        num_per_kind: patches of each of the three kinds; fewer if the split has fewer.

    Returns:
        A dict like that of `TrainingInput.batches`, plus `kind`, `film_id`, `lesion_type` (str
        [N]), `simulated` (bool [N]).

    Raises:
        UserError: the split does not exist or has no patch with a lesion.
    """
    builder = open_dataset(config.data, config.model.patch_size)
    index = index_of_split(builder, split)
    kinds = {
        "malignant lesion": index.has_lesion & (index.label == 1),
        "benign lesion": index.has_lesion & (index.label == 0),
        "no lesion": ~index.has_lesion,
    }
    seed = (config.training.seed, _STREAMS.index("pictures"))
    shuffled = np.random.default_rng(seed).permutation(len(index.label))
    chosen = {
        kind: _over_films(shuffled[of_kind[shuffled]], index)[:num_per_kind]
        for kind, of_kind in kinds.items()
    }
    batch = _read(config, builder, split, index, np.concatenate(list(chosen.values())), seed)
    batch["kind"] = np.repeat(list(chosen), [len(records) for records in chosen.values()])
    return {name: value for name, value in batch.items() if name != "patient_id"}


def _over_films(records: np.ndarray, index: RecordIndex) -> np.ndarray:
    """Returns the records with one of each film first, then a second of each, and so on.

    Simulated and real lesions on the same film count as two films.
    """
    return spread(records, zip(index.film_id[records], index.simulated[records], strict=True))


def spread(records: np.ndarray, groups: Iterable[Hashable]) -> np.ndarray:
    """Returns the first record of each group, then the second of each, and so on.

    Args:
        records: [n]; the order within a group does not change.
        groups: group of each record.
    """
    seen = collections.Counter()
    ranks = []
    for group in groups:
        ranks.append(seen[group])
        seen[group] += 1
    return records[np.argsort(ranks, kind="stable")]


def drawn_patches(
    config: Config, split: str, max_patches: int, patient_share: float = 1.0
) -> dict[str, np.ndarray]:
    """Returns random patches of a split, decoded, each with a lesion mask.

    Args:
        config: names the dataset and the seed.
        split: name of the split.
        max_patches: number of patches; all if the split has fewer.
        patient_share: see `encoded_patches`.

    Returns:
        A dict like that of `TrainingInput.batches`, plus `patient_id` (str [N]).

    Raises:
        UserError: the split does not exist or has no patch with a lesion.
    """
    builder = open_dataset(config.data, config.model.patch_size)
    index = index_of_split(builder, split)
    seed = (config.training.seed, _STREAMS.index("drawn"))
    candidates = np.flatnonzero(of_patients(index, patient_share))
    chosen = np.random.default_rng(seed).permutation(candidates)[:max_patches]
    batch = _read(config, builder, split, index, chosen, seed, patient_share)
    return {name: batch[name] for name in ("image", "mask", "label", "patient_id")}


def _read(
    config: Config,
    builder: tfds.core.DatasetBuilder,
    split: str,
    index: RecordIndex,
    chosen: np.ndarray,
    seed: Sequence[int],
    patient_share: float = 1.0,
) -> dict[str, np.ndarray]:
    """Returns decoded records; those without a lesion get the mask of another record."""
    lesions = of_patients(index, patient_share) & index.has_lesion
    require_some(lesions, f"{split} split of {config.data.dataset}", "patch with a lesion")
    donors = Shuffled(np.flatnonzero(lesions), (*seed, _STREAMS.index("lesion_masks")))
    donors = donors.at(_places_of_candidates(np.arange(len(chosen))))
    records = Records(builder, index)

    @tf.autograph.experimental.do_not_convert
    def to_example(record, donors):
        patch, example, _ = records.with_mask(record, donors, config.model.patch_size)
        names = ("patient_id", "film_id", "lesion_type", "simulated")
        return {**example, **{name: patch[name] for name in names}}

    pairs = tf.data.Dataset.from_tensor_slices((chosen, donors))
    patches = pairs.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
    examples = list(patches.as_numpy_iterator())
    # Frees the parts of each column, so that only one column is in memory twice.
    batch = {name: np.stack([e.pop(name) for e in examples]) for name in list(examples[0])}
    for name in ("patient_id", "film_id", "lesion_type"):
        batch[name] = np.char.decode(batch[name].astype(bytes), "utf-8")
    return batch


def _places_of_candidates(number: np.ndarray) -> np.ndarray:
    """Returns the places of each patch's candidates in the endless masks, int64 [N, candidates]."""
    return number[:, None] * CANDIDATE_DONORS + np.arange(CANDIDATE_DONORS)


def _chosen(steps: tf.data.Dataset, choose: Callable) -> tf.data.Dataset:
    """Returns the result of `choose` for each step: numbers [N], records [N], donors [N, c]."""

    @tf.autograph.experimental.do_not_convert
    def of_step(step):
        number, record, donors = tf.numpy_function(choose, [step], [tf.int64] * 3)
        donors = tf.ensure_shape(donors, (None, CANDIDATE_DONORS))
        return tf.ensure_shape(number, (None,)), tf.ensure_shape(record, (None,)), donors

    return steps.map(of_step)


class Records:
    """The records of a split, each read by its number without reading others.

    Args:
        builder: from `open_dataset`.
        index: from `index_of_split`.
    """

    def __init__(self, builder: tfds.core.DatasetBuilder, index: RecordIndex):
        self._features = builder.info.features
        self._lesion_types = self._features["lesion_type"].names
        self._files = tf.constant(index.files)
        self._file_number, self._start = tf.constant(index.file_number), tf.constant(index.start)
        # One string per record: a single string would be copied into every graph.
        self._masks = tf.constant(index.mask_png())

    def read(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns a record like those of `encoded_patches`, without the patch's id."""
        # tf.data's Python API has no dataset yet that starts at a byte of a file.
        file = tf.raw_ops.TFRecordDatasetV2(
            filenames=self._files[self._file_number[record]][None],
            compression_type="",
            buffer_size=0,  # do not read the following records
            byte_offsets=self._start[record][None],
        )
        string = {"output_types": [tf.string], "output_shapes": [()]}
        one = tf.raw_ops.TakeDataset(input_dataset=file, count=tf.constant(1, tf.int64), **string)
        (serialized,) = tf.raw_ops.DatasetToSingleElement(dataset=one, **string)
        patch = self._features.deserialize_example(serialized, decoders=_UNDECODED)
        return _facts(patch, self._lesion_types)

    def mask(self, record: tf.Tensor) -> tf.Tensor:
        """Returns the PNG mask of a record with a lesion, without reading the record."""
        return self._masks[record]

    def with_mask(
        self,
        record: tf.Tensor,
        donors: tf.Tensor,
        patch_size: int,
        keeps_own: Callable = lambda patch: patch["has_lesion"],
    ):
        """Returns a record as `read` does, the record decoded with a mask, and the mask's record.

        Synthesis needs a mask in every patch (paper section 3.2). A patch that does not keep its
        own mask gets the first candidate mask that is on its tissue, or else the candidate with the
        largest share on tissue.

        Args:
            record: number of the record.
            donors: numbers of candidate records with a lesion, [candidates].
            patch_size: side of a patch in pixels.
            keeps_own: function that returns whether a patch keeps its own mask; by default, it does
                if it has a lesion.
        """
        record, donors = tf.convert_to_tensor(record), tf.convert_to_tensor(donors)
        patch = self.read(record)
        example = decode(patch, patch_size)

        def mask_of(donor):
            return decode_mask(self.mask(donor), patch_size)

        def tissue_share(donor_masks):
            return masks.tissue_share(example["image"], donor_masks, patch["tissue_fraction"])

        def from_donors():
            first = mask_of(donors[0])
            lies_on_tissue = tissue_share(first) >= masks.MIN_TISSUE_SHARE
            return tf.cond(lies_on_tissue, lambda: (first, donors[0]), best_of_all)

        def best_of_all():
            signature = tf.TensorSpec((patch_size, patch_size, 1), tf.float32)
            decoded = tf.map_fn(mask_of, donors, fn_output_signature=signature)
            # argmax returns the first of equal values.
            best = tf.argmax(tf.minimum(tissue_share(decoded), masks.MIN_TISSUE_SHARE))
            return decoded[best], donors[best]

        mask, donor = tf.cond(keeps_own(patch), lambda: (example["mask"], record), from_donors)
        return patch, {**example, "mask": mask}, donor


def encoded_patches(
    builder: tfds.core.DatasetBuilder, split: str, patient_share: float = 1.0
) -> tf.data.Dataset:
    """Returns a split in stored order, with images and masks as PNG.

    Args:
        builder: from `open_dataset`.
        split: name of the split.
        patient_share: share of the split's patients, in (0, 1], chosen by a hash of their ids;
            smaller shares are subsets of larger ones.

    Returns:
        A dataset of dicts of scalars: `image` and `mask` (bytes), `label` (int32), `has_lesion` and
        `simulated` (bool), `lesion_type`, `patient_id`, `film_id`, `scanner` and `patch`, the
        patch's id in the dataset (str), `tissue_fraction` (float32), `density` and `subtlety`
        (int32, -1 if unknown), and `infill`, the number of an infill among those of one patch
        (int32, 0 if the dataset is not synthetic).

    Raises:
        UserError: the split does not exist.
    """
    _require_split(builder, split)
    patches = builder.as_dataset(
        split=split,
        decoders=_UNDECODED,
        read_config=tfds.ReadConfig(
            interleave_cycle_length=1, try_autocache=False, skip_prefetch=True, add_tfds_id=True
        ),
    )
    lesion_types = builder.info.features["lesion_type"].names

    # AutoGraph would take longer than reading a small split, with nothing to convert.
    @tf.autograph.experimental.do_not_convert
    def is_chosen(patch):
        return in_share(patch["patient_id"], patient_share)

    @tf.autograph.experimental.do_not_convert
    def to_facts(patch):
        return {**_facts(patch, lesion_types), "patch": patch["tfds_id"]}

    if patient_share < 1:
        patches = patches.filter(is_chosen)
    return patches.map(to_facts)


def _facts(patch, lesion_types: Sequence[str]) -> dict[str, tf.Tensor]:
    unknown = tf.constant(-1)
    return {
        "image": patch["image"],
        "mask": patch["mask"],
        "label": tf.cast(patch["label"], tf.int32),
        "has_lesion": patch["lesion_type"] > 0,
        "lesion_type": tf.constant(lesion_types)[patch["lesion_type"]],
        "simulated": patch["simulated"],
        "patient_id": patch["patient_id"],
        "film_id": patch["film_id"],
        "scanner": patch["scanner"],
        # Synthetic sets and older datasets lack some of the following facts.
        "tissue_fraction": patch.get("tissue_fraction", tf.constant(1.0)),
        "density": patch.get("density", unknown),
        "subtlety": patch.get("subtlety", unknown),
        "infill": patch.get("infill", tf.constant(0)),
    }


def index_of_split(builder: tfds.core.DatasetBuilder, split: str) -> RecordIndex:
    """Returns the index of a split; raises UserError if the split does not exist."""
    _require_split(builder, split)
    return record_index.of_split(builder, split)


def of_patients(index: RecordIndex, patient_share: float) -> np.ndarray:
    """Returns which records belong to a share of the patients (`encoded_patches`), bool [n]."""
    patients, patient = np.unique(index.patient_id, return_inverse=True)
    return in_share(tf.constant(patients, tf.string), patient_share).numpy()[patient]


def patches_per_patient(
    builder: tfds.core.DatasetBuilder, split: str, patient_share: float = 1.0
) -> dict[str, int]:
    """Returns the number of patches of each patient in a split.

    The arguments are those of `encoded_patches`.

    Raises:
        UserError: the split does not exist.
    """
    index = index_of_split(builder, split)
    counts = collections.Counter(index.patient_id[of_patients(index, patient_share)].tolist())
    return {patient.decode(): count for patient, count in counts.items()}


def _require_split(builder: tfds.core.DatasetBuilder, split: str) -> None:
    if split not in builder.info.splits:
        raise UserError(
            f"The dataset {builder.info.full_name!r} has the splits "
            f"{sorted(builder.info.splits)}. Received: {split!r}."
        )


def in_share(patient_id: tf.Tensor, patient_share: float) -> tf.Tensor:
    """Returns whether a patient is in the share, by a hash of the id (str -> bool)."""
    bucket = tf.strings.to_hash_bucket_fast(patient_id, _PATIENT_BUCKETS)
    return tf.cast(bucket, tf.float64) < patient_share * _PATIENT_BUCKETS


def decode(patch, patch_size: int) -> dict[str, tf.Tensor]:
    """Returns `image` in [0, 1] and `mask` in {0, 1}, float32 [p, p, 1], and `label` of a patch."""
    return {
        "image": decode_image(patch["image"], patch_size),
        "mask": decode_mask(patch["mask"], patch_size),
        "label": patch["label"],
    }


def decode_mask(png: tf.Tensor, patch_size: int) -> tf.Tensor:
    """Returns a lesion mask from its PNG, float32 [p, p, 1] in {0, 1}."""
    mask = tf.io.decode_png(png, channels=1, dtype=tf.uint8)
    return tf.ensure_shape(tf.cast(mask > 0, tf.float32), (patch_size, patch_size, 1))


def decode_image(png: tf.Tensor, patch_size: int) -> tf.Tensor:
    """Returns a 16-bit grey PNG as float32 [p, p, 1] in [0, 1]."""
    image = tf.io.decode_png(png, channels=1, dtype=tf.uint16)
    return tf.ensure_shape(tf.cast(image, tf.float32) / WHITE, (patch_size, patch_size, 1))


def _flip(example, seeds):
    """Applies one of the eight orientations of a square to image and mask."""
    both = tf.concat([example["image"], example["mask"]], axis=-1)
    both = tf.image.stateless_random_flip_left_right(both, seeds[0])
    both = tf.image.stateless_random_flip_up_down(both, seeds[1])
    transpose = tf.random.stateless_uniform((), seeds[2]) < 0.5
    both = tf.cond(transpose, lambda: tf.transpose(both, (1, 0, 2)), lambda: both)
    return {**example, "image": both[..., :1], "mask": both[..., 1:]}


def _change_exposure(example, seed, max_gamma: float):
    """Raises grey levels to a random power, as often below as above 1; keeps the levels 0 and 1."""
    log_gamma = tf.random.stateless_uniform((), seed, -1, 1) * math.log(max_gamma)
    return {**example, "image": example["image"] ** tf.exp(log_gamma)}


def require_some(chosen: np.ndarray, where: str, what: str) -> None:
    """Raises UserError, saying that `where` has no `what`, if no record is `chosen` (bool [n])."""
    if not chosen.any():
        raise UserError(
            f"The {where} has no {what}; training needs lesions and patches of both classes."
        )
