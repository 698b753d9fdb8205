"""Patches to be infilled as the opposite class (paper section 3.2), and the generator to use."""

import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from cigan_tf import input_pipeline, provenance
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.exported_generator import ExportedGenerator
from cigan_tf.patch_format import WHITE
from cigan_tf.record_index import RecordIndex

# Patches per call of the generator.
BATCH_SIZE = 32


class Contexts:
    """Patches, each to be infilled as the opposite class (paper section 3.2).

    A malignant patch keeps its own mask, in which its lesion is replaced. A non-malignant patch
    gets a lesion in the mask of a malignant patch: the first of a few random masks that is on
    breast tissue, or else the mask with the largest share on tissue.

    Infills are numbered from 0, in passes through the n patches: infill i is made from patch i % n.
    Each pass draws new noise, and new masks for the non-malignant patches.

    Args:
        builder: from `input_pipeline.open_dataset`.
        index: index of the split that contains the patches.
        patches: numbers of the patches' records, int64 [n].
        donors: numbers of the malignant records whose masks non-malignant patches get, int64 [m].
        seed: seed of the draws, which depend only on it and on the number of an infill.
        patch_size: side of a patch in pixels.

    Attributes:
        index: the argument.
        lesion_types: names of the lesion types in the dataset.
        labels: requested class of each patch, int64 [n].
        patch_size: the argument.
    """

    def __init__(
        self,
        builder,
        index: RecordIndex,
        patches: np.ndarray,
        donors: np.ndarray,
        seed: int,
        patch_size: int,
    ):
        self.index, self.labels = index, 1 - index.label[patches]
        self.lesion_types = builder.info.features["lesion_type"].names
        self._records = input_pipeline.Records(builder, index)
        self._patches, self._donors = patches, donors
        self._seed, self.patch_size = seed, patch_size

    def batches(self, first: int, stop: int, batch_size: int) -> tf.data.Dataset:
        """Returns batches of the examples of the infills `first` to `stop` - 1."""
        # AutoGraph would take most of the time before the first batch, with nothing to convert.
        example = tf.autograph.experimental.do_not_convert(self.example)
        examples = tf.data.Dataset.range(first, stop).map(
            example, num_parallel_calls=tf.data.AUTOTUNE
        )
        return examples.batch(batch_size).prefetch(2)

    def example(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the generator's arguments for one infill, and the infill's origin.

        Args:
            number: number of the infill.

        Returns:
            The generator's arguments: `image` float32 [p, p, 1] in [0, 1], `mask` float32
            [p, p, 1] in {0, 1}, `label` int32 (the requested class) and `seed` int32. The origin:
            `number` (of the infill), `record` (number of the patch's record) and `donor` (number
            of the mask's record), all int64, and `scanner` (str).
        """
        record, donors = tf.numpy_function(self._draw, [number], [tf.int64, tf.int64])
        patch, example, donor = self._records.with_mask(
            tf.ensure_shape(record, ()),
            tf.ensure_shape(donors, (input_pipeline.CANDIDATE_DONORS,)),
            self.patch_size,
            keeps_own=lambda patch: patch["label"] == 1,
        )
        return {
            **example,
            "label": 1 - patch["label"],
            "seed": tf.cast((self._seed + number) % 2**31, tf.int32),
            "number": number,
            "record": record,
            "donor": donor,
            "scanner": patch["scanner"],
        }

    def _draw(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self._seed, number))
        drawn = rng.integers(len(self._donors), size=input_pipeline.CANDIDATE_DONORS)
        return self._patches[number % len(self._patches)], self._donors[drawn]


def infill(
    batches: tf.data.Dataset, generator: Callable[..., np.ndarray]
) -> Iterator[dict[str, np.ndarray]]:
    """Yields each batch with the infilled patches added as `infilled`, uint16 [N, p, p, 1].

    Args:
        batches: from `Contexts.batches`.
        generator: function (image, mask, label, seed) like `ExportedGenerator`.
    """
    for batch in batches.as_numpy_iterator():
        infilled = generator(*(batch[name] for name in ("image", "mask", "label", "seed")))
        yield {**batch, "infilled": np.rint(infilled * WHITE).astype(np.uint16)}


def training_contexts(config: Config, patient_share: float, seed: int) -> Contexts:
    """Returns the patches of some of the training patients, to be infilled.

    Args:
        config: names the dataset and its training split.
        patient_share: share of the patients of that split.
        seed: seed of masks and noise.

    Raises:
        UserError: the dataset cannot be read, or a class is missing.
    """
    data, patch_size = config.data, config.model.patch_size
    builder = input_pipeline.open_dataset(data, patch_size)
    index = input_pipeline.index_of_split(builder, data.train_split)
    patches = np.flatnonzero(input_pipeline.of_patients(index, patient_share))
    donors = patches[(index.label[patches] == 1) & index.has_lesion[patches]]
    if len(donors) in (0, len(patches)):
        raise UserError(
            f"Infilling needs patches of both classes; {len(donors)} of the {len(patches)} patches "
            f"used from the {data.train_split} split of {data.dataset} are malignant. Train "
            "ciGAN with a larger --train_patient_share or on another --train_split."
        )
    return Contexts(builder, index, patches, donors, seed, patch_size)


class OnTheFly:
    """Infills that are generated while a classifier is trained, and not stored.

    Args:
        config: names the dataset and its training split.
        saved_model: folder of the exported generator.

    Attributes:
        generator: the exported generator.
        facts: result of `generator_facts`.
        record: provenance of the generator.

    Raises:
        UserError: there is no generator, it has no provenance, it takes patches of a different
            size, or it was trained on a different dataset or split.
    """

    def __init__(self, config: Config, saved_model: str | os.PathLike):
        self.generator = ExportedGenerator(saved_model, BATCH_SIZE)
        self.record = provenance.require(self.generator.provenance, self.generator.path)
        self.facts = generator_facts(config, self.generator, self.record)
        self._config = config

    def contexts(self, seed: int) -> Contexts:
        """Returns the generator's training patches, to be infilled.

        Args:
            seed: seed of masks and noise.
        """
        return training_contexts(self._config, self.facts["train_patient_share"], seed)


def generator_facts(config: Config, generator: ExportedGenerator, record: dict) -> dict:
    """Returns facts that identify the infills of a generator's training patches.

    Args:
        config: names the dataset, its training split and the patch size.
        generator: the exported generator.
        record: provenance of the generator.

    Returns:
        `dataset`, `dataset_fingerprint`, `train_split`, `train_patient_share`, `patch_size` and
        `generator` (a hash of its weights).

    Raises:
        UserError: the generator takes patches of a different size, or was trained on a different
            dataset or split than the configuration names.
    """
    data, patch_size = config.data, config.model.patch_size
    if generator.patch_size != patch_size:
        raise UserError(
            f"The generator {str(generator.path)!r} takes patches of {generator.patch_size} px, "
            f"but --patch_size is {patch_size}. Pass --patch_size={generator.patch_size} and a "
            "--dataset with patches of that size."
        )
    dataset = provenance.dataset_record(config)
    pairs = {
        "dataset": (record["dataset"]["fingerprint"], dataset["fingerprint"]),
        "train_split": (record["train_split"], data.train_split),
    }
    for name, (trained_on, given) in pairs.items():
        refuse_differing(name, trained_on, given)
    return {
        "dataset": data.dataset,
        "dataset_fingerprint": dataset["fingerprint"],
        "train_split": record["train_split"],
        "train_patient_share": record["patient_share"],
        "patch_size": patch_size,
        "generator": generator.sha256,
    }


def refuse_differing(name: str, trained_on: object, given: object) -> None:
    """Raises UserError if a generator was trained with a different value than the given one."""
    if trained_on != given:
        raise UserError(
            "Infills must be made from the generator's training patches, which had "
            f"{name}={_short(trained_on)}. Received: {name}={_short(given)}."
        )


def _short(value: object) -> object:
    return f"(fingerprint {value[:12]})" if len(str(value)) == 64 else value
