"""Batches of the classifier: real and synthetic patches mixed, classes alternating.

As in ciGAN's training, the content of a batch is a function of the seed and the step number, so the
step number is the position in the input.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from cigan_tf import input_pipeline
from cigan_tf.classifier import mixing
from cigan_tf.classifier.augmentation import augment
from cigan_tf.classifier.context_patches import OnTheFly
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.patch_format import CLASS_NAMES
from cigan_tf.record_index import RecordIndex
from cigan_tf.work_ahead import map_ahead

# Random streams: each uses the classifier's seed and the stream's position in this list.
_STREAMS = ("real", "synthetic", "mixing", "augmentation")
# Number of the rule that draws batches. Increase it if you change the rule: interrupted runs then
# start again, because a resumed run would mix both orders.
ORDER = 1
# Pixels scored at once: many small patches, whose maps need less memory than ResNet-50's weights.
_SCORED_PX_AT_ONCE = 2**20
# Number of batches infilled ahead of the classifier.
_INFILLED_AHEAD = 2


class _Source(NamedTuple):
    """Patches of one origin.

    Attributes:
        at: for each class, a function from positions in the class's endless list to patch numbers.
        example: function from a patch number to a dict with `image`, float32 [p, p, 1].
    """

    at: list[Callable[[np.ndarray], np.ndarray]]
    example: Callable[[tf.Tensor], dict[str, tf.Tensor]]


def training_batches(
    config: Config,
    seed: int,
    synthetic: SyntheticSet | OnTheFly | None,
    used: np.ndarray | None = None,
    first_step: int = 0,
) -> Iterable[tuple[tf.Tensor, tf.Tensor]]:
    """Returns the batches of all training steps starting at `first_step`.

    Args:
        config: the dataset, and in `config.classifier` the batch size and the share of real
            patches.
        seed: seed of the order, the mixing, the augmentation and the infills made on the fly.
        synthetic: the set of infilled patches, or the generator that makes them during training;
            None if the arm uses no synthetic patches.
        used: bool [num_patches], True for each patch of the synthetic set that may be used; None:
            all patches.
        first_step: number of steps already taken.

    Returns:
        (image float32 [N, p, p, 1] in [0, 1], label float32 [N, 1] in {0, 1}) for each remaining
        step. Each patch, whatever its class, is real with the probability set for its step.

    Raises:
        UserError: a class is missing, or the patches of a class come from fewer than two patients.
    """
    settings = config.classifier
    on_the_fly = isinstance(synthetic, OnTheFly)
    sources = [_real(config, seed, on_the_fly)]
    if on_the_fly:
        sources.append(_to_be_infilled(synthetic, seed))
    elif settings.needs_synthetic:
        sources.append(_stored(config, seed, synthetic, used))
    at = [of_class for source in sources for of_class in source.at]
    num_patches = settings.classifier_batch_size
    is_synthetic = mixing.draw_synthetic(settings, (seed, _STREAMS.index("mixing")))
    streams = np.arange(num_patches) % len(CLASS_NAMES) + len(CLASS_NAMES) * is_synthetic
    places = mixing.places_in_streams(streams)

    def choose(step):
        stream, place = streams[step], places[step]
        number = np.empty(num_patches, np.int64)
        for of_stream in np.unique(stream):
            rows = stream == of_stream
            number[rows] = at[of_stream](place[rows])
        return stream, number, step * num_patches + np.arange(num_patches)

    def augmented(image, drawn):
        if not settings.traditional_augmentation:
            return image
        stream = (seed, _STREAMS.index("augmentation"))
        return augment(image, tf.random.fold_in(stream, drawn), settings)

    # AutoGraph would take most of the time before the first batch, with nothing to convert.
    @tf.autograph.experimental.do_not_convert
    def to_example(stream, number, drawn):
        origin = tf.cast(stream // len(CLASS_NAMES), tf.int32)
        examples = [functools.partial(source.example, number) for source in sources]
        example = tf.switch_case(origin, examples)
        label = tf.cast(stream % len(CLASS_NAMES), tf.float32)[None]
        if on_the_fly:
            return {**example, "is_synthetic": origin == 1, "drawn": drawn}, label
        return augmented(example["image"], drawn), label

    @tf.autograph.experimental.do_not_convert
    def chosen(step):
        columns = tf.numpy_function(choose, [step], [tf.int64] * 3)
        return tuple(tf.ensure_shape(column, (num_patches,)) for column in columns)

    patches = tf.data.Dataset.range(first_step, settings.classifier_steps).map(chosen).unbatch()
    batches = patches.map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
    batches = batches.batch(num_patches, drop_remainder=True).prefetch(2)
    return _infilled(batches, synthetic, augmented) if on_the_fly else batches


def _real(config: Config, seed: int, among_contexts: bool) -> _Source:
    data, patch_size = config.data, config.model.patch_size
    builder = input_pipeline.open_dataset(data, patch_size)
    index = input_pipeline.index_of_split(builder, data.train_split)
    chosen = input_pipeline.of_patients(index, config.classifier.patient_share)
    read = _reader(input_pipeline.Records(builder, index), patch_size)

    def beside_contexts(number):
        nothing = tf.constant(0)
        image = read(number)["image"]
        return {"image": image, "mask": tf.zeros_like(image), "label": nothing, "seed": nothing}

    shuffled = _shuffled(index, chosen, "real", config, seed)
    return _Source(shuffled, beside_contexts if among_contexts else read)


def _stored(config: Config, seed: int, synthetic: SyntheticSet, used: np.ndarray | None) -> _Source:
    index = synthetic.index
    chosen = np.ones(len(index.label), bool) if used is None else used
    records = input_pipeline.Records(synthetic.builder, index)
    shuffled = _shuffled(index, chosen, "synthetic", config, seed)
    return _Source(shuffled, _reader(records, config.model.patch_size))


def _reader(records: input_pipeline.Records, patch_size: int) -> Callable:
    def read(number):
        return {"image": input_pipeline.decode_image(records.read(number)["image"], patch_size)}

    return read


def _shuffled(
    index: RecordIndex, chosen: np.ndarray, origin: str, config: Config, seed: int
) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Returns a function for each class, from positions in an endless order to chosen records."""
    data, orders = config.data, []
    for label, class_name in enumerate(CLASS_NAMES):
        of_class = np.flatnonzero(chosen & (index.label == label))
        num_patients = np.unique(index.patient_id[of_class]).size
        if num_patients < 2:
            raise UserError(
                "A classifier needs patches of each class from at least two patients; the "
                f"{data.train_split} split of {data.dataset} has {origin} "
                f"{class_name.replace('_', '-')} patches from only {num_patients} patient(s). Use "
                "a larger --patient_share or a larger dataset."
            )
        stream = (seed, _STREAMS.index(origin), label)
        orders.append(input_pipeline.Shuffled(of_class, stream).at)
    return orders


def _to_be_infilled(infills: OnTheFly, seed: int) -> _Source:
    """Returns the patches to infill; each pass through them is a pass of `Contexts`."""
    contexts = infills.contexts(seed)
    num_contexts = len(contexts.labels)

    def order(label):
        asked_for = np.flatnonzero(contexts.labels == label)
        stream = (seed, _STREAMS.index("synthetic"), label)
        shuffled = input_pipeline.Shuffled(asked_for, stream)
        return lambda places: shuffled.at(places) + places // len(asked_for) * num_contexts

    def example(number):
        of_number = contexts.example(number)
        return {name: of_number[name] for name in ("image", "mask", "label", "seed")}

    return _Source([order(label) for label in range(len(CLASS_NAMES))], example)


def _infilled(batches: tf.data.Dataset, infills: OnTheFly, augmented: Callable) -> Iterable:
    """Yields the batches after infilling the synthetic patches and augmenting all patches."""

    @tf.function(autograph=False)
    def augment_all(images, drawn):
        one = tf.TensorSpec(images.shape[1:], tf.float32)
        return tf.map_fn(lambda pair: augmented(*pair), (images, drawn), fn_output_signature=one)

    def finish(batch):
        patches, label = batch
        image = np.array(patches["image"])
        rows = np.flatnonzero(patches["is_synthetic"])
        names = ("mask", "label", "seed")
        image[rows] = infills.generator(image[rows], *(patches[name][rows] for name in names))
        with tf.device("CPU"):
            return augment_all(image, patches["drawn"]), label

    return map_ahead(finish, batches.as_numpy_iterator(), threads=1, ahead=_INFILLED_AHEAD)


def scored_batches(config: Config, split: str) -> tuple[tf.data.Dataset, dict[str, np.ndarray]]:
    """Returns the patches of a split in stored order, and their facts.

    Returns:
        A dataset of batches of images, float32 [N, p, p, 1] in [0, 1]; and, for all patches of the
        split, the arguments of `evaluation.score_file.Scores` except `probability`, each [n].

    Raises:
        UserError: the split does not exist or lacks a class.
    """
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    encoded = input_pipeline.encoded_patches(builder, split)
    texts = ("patch", "patient_id", "film_id", "scanner", "lesion_type")
    names = (*texts, "label", "density", "subtlety")

    @tf.autograph.experimental.do_not_convert
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
        name = CLASS_NAMES[missing.pop()].replace("_", "-")
        raise UserError(
            f"The {split} split of {config.data.dataset} has no {name} patch; pass a split with "
            "patches of both classes, or a larger dataset."
        )
    return decoded_images(config, encoded), facts


def at_points(
    config: Config, facts: dict[str, np.ndarray]
) -> tuple[tf.data.Dataset, dict[str, np.ndarray]]:
    """Returns the validation patches that are scored during the training of a classifier.

    They are `config.classifier.validation_patches` patches, half from each class if the split has
    that many, drawn with the experiment's seed: one patch of every patient before a second of any.
    They are the same for all classifiers of an experiment.

    Args:
        config: names the dataset and its validation split.
        facts: facts of all patches of the validation split, from `scored_batches`.

    Returns:
        See `scored_batches`.
    """
    rng = np.random.default_rng(config.training.seed)
    is_chosen = np.zeros(facts["label"].size, bool)
    for label in (0, 1):
        of_class = rng.permutation(np.flatnonzero(facts["label"] == label))
        in_turn = input_pipeline.spread(of_class, facts["patient_id"][of_class].tolist())
        is_chosen[in_turn[: config.classifier.validation_patches // 2]] = True
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    index = input_pipeline.index_of_split(builder, config.data.validation_split)
    chosen = tf.data.Dataset.from_tensor_slices(np.flatnonzero(is_chosen))
    read = tf.autograph.experimental.do_not_convert(input_pipeline.Records(builder, index).read)
    images = decoded_images(config, chosen.map(read))
    return images, {name: values[is_chosen] for name, values in facts.items()}


def decoded_images(config: Config, encoded: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the images of encoded patches in batches, float32 [N, p, p, 1] in [0, 1]."""

    @tf.autograph.experimental.do_not_convert
    def decoded(patch):
        return input_pipeline.decode_image(patch["image"], config.model.patch_size)

    images = encoded.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
    at_once = max(1, _SCORED_PX_AT_ONCE // config.model.patch_size**2)
    return images.batch(at_once).prefetch(2)


def refuse_shared_patients(config: Config) -> None:
    """Raises UserError if a patient is in more than one of the three splits of an experiment."""
    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    data = config.data
    seen: dict[str, str] = {}
    for split in (data.train_split, data.validation_split, config.experiment.test_split):
        for patient in sorted(input_pipeline.patches_per_patient(builder, split)):
            if seen.setdefault(patient, split) != split:
                raise UserError(
                    f"Patient {patient!r} is in the splits {seen[patient]!r} and {split!r} of "
                    f"{data.dataset}; a classifier must not be tested on its training patients. "
                    "Pass splits without common patients."
                )
