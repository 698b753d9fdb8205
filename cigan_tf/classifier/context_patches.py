"""Context patches to infill as the opposite class (paper section 3.2), and their generator."""

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

    In a malignant patch, the lesion in its own mask is replaced. A non-malignant patch gets a
    lesion in the mask of a malignant patch: the first of a few random masks that is on breast
    tissue, or else the one with the largest share on tissue. Infills are numbered: n patches have
    the numbers 0 to n - 1, and each further pass through them has other masks and noise.

    Args:
        builder: from `input_pipeline.open_dataset`.
        index: index of the patches' split.
        patches: records of the split, int64 [n].
        donors: records with a lesion whose masks are used, int64 [m].
        seed: seed of the draws, which depend only on it and on the number of an infill.
        patch_size: side of a patch in pixels.

    Attributes:
        index: the argument.
        lesion_types: names of its lesion types.
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
        """Returns the examples of the infills from `first` up to `stop`, in batches."""
        # AutoGraph would take most of the time before the first batch, with nothing to convert.
        example = tf.autograph.experimental.do_not_convert(self.example)
        examples = tf.data.Dataset.range(first, stop).map(
            example, num_parallel_calls=tf.data.AUTOTUNE
        )
        return examples.batch(batch_size).prefetch(2)

    def example(self, number: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the generator's input and the origin of one infill.

        Returns:
            `image` float32 [p, p, 1] in [0, 1], `mask` float32 [p, p, 1] in {0, 1}, `label` (the
            requested class) and `seed` (int32), the generator's arguments; `number`, `record` and
            `donor`, the records of the patch and of the mask (int64); `scanner` (str).
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
    """Yields batches of `Contexts` with an additional `infilled` uint16 [N, p, p, 1].

    Args:
        batches: from `Contexts.batches`.
        generator: function (image, mask, label, seed) like `ExportedGenerator`.
    """
    for batch in batches.as_numpy_iterator():
        infilled = generator(*(batch[name] for name in ("image", "mask", "label", "seed")))
        yield {**batch, "infilled": np.rint(infilled * WHITE).astype(np.uint16)}


def training_contexts(config: Config, patient_share: float, seed: int) -> Contexts:
    """Returns the patches of a share of the training patients.

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
            f"The {data.train_split} split of {data.dataset} has {len(donors)} malignant "
            f"patches among {len(patches)}; infilling needs both classes. Train "
            "ciGAN with a larger --train_patient_share or another --train_split."
        )
    return Contexts(builder, index, patches, donors, seed, patch_size)


class OnTheFly:
    """Infills generated during a classifier's training, and not stored.

    Args:
        config: the dataset.
        saved_model: the exported generator.

    Attributes:
        generator: the exported generator.
        facts: origin of the infills: `dataset`, `dataset_fingerprint`, `train_split`,
            `train_patient_share`, `patch_size`, `generator` (a hash of its weights).
        record: provenance of the generator.

    Raises:
        UserError: there is no generator, it has no provenance, or its training patches are not
            those to infill.
    """

    def __init__(self, config: Config, saved_model: str | os.PathLike):
        self.generator = ExportedGenerator(saved_model, BATCH_SIZE)
        self.record = provenance.require(self.generator.provenance, self.generator.path)
        self.facts = generator_facts(config, self.generator, self.record)
        self._config = config

    def contexts(self, seed: int) -> Contexts:
        """Returns the patches to infill, which are the generator's training patches.

        Args:
            seed: seed of masks and noise.
        """
        return training_contexts(self._config, self.facts["train_patient_share"], seed)


def generator_facts(config: Config, generator: ExportedGenerator, record: dict) -> dict:
    """Returns the origin of infills of a generator's training patches.

    Raises:
        UserError: its patches have another size, or the flags contradict its training data.
    """
    data, patch_size = config.data, config.model.patch_size
    if generator.patch_size != patch_size:
        raise UserError(
            f"The generator {str(generator.path)!r} takes patches of {generator.patch_size} px, "
            f"but {patch_size} px are requested. Pass --patch_size={generator.patch_size} and a "
            "dataset of that size."
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
    """Raises UserError if a generator was trained on different patches."""
    if trained_on != given:
        raise UserError(
            f"Infills must be made from the generator's training patches: its {name} was "
            f"{_short(trained_on)}. Received: {name}={_short(given)}."
        )


def _short(value: object) -> object:
    return f"one with fingerprint {value[:12]}" if len(str(value)) == 64 else value
