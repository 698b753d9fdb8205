"""The synthetic set: a copy of every training patch as the opposite class (paper section 3.2).

A non-malignant patch gets a malignant lesion in the mask of a malignant training patch. In a
malignant patch, the lesion is replaced by non-malignant tissue. If `infills_per_patch` is above 1,
every patch is infilled several times, with different random draws. The set is a TFDS dataset; each
record has features of `ddsm_patches` and the origin of the infill.
"""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from cigan_tf import file_io, input_pipeline, interruption, provenance, run_folder, terminal
from cigan_tf.classifier import synthetic_croissant
from cigan_tf.classifier.context_patches import (
    BATCH_SIZE,
    Contexts,
    generator_facts,
    infill,
    refuse_differing,
    training_contexts,
)
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.exported_generator import ExportedGenerator
from cigan_tf.patch_format import CLASS_NAMES
from cigan_tf.record_index import RecordIndex
from cigan_tf.work_ahead import map_ahead

SPLIT = "train"
_NAME, _VERSION = "synthetic", "1.1.0"
# _FACTS_FILE is written last and marks a finished set; _BEGUN_FILE has the facts of an unfinished
# set.
_FACTS_FILE, _BEGUN_FILE = "synthetic.json", "begun.json"
_PNG_DIR = "png"
# A multiple of the batch size, so that every batch has the same patches after a resume.
_PATCHES_PER_SHARD = 16 * BATCH_SIZE
# Threads that encode finished batches as records while the generator computes the next ones.
_ENCODERS = max(1, len(os.sched_getaffinity(0)))
_BATCHES_AHEAD = 2 * _ENCODERS


class SyntheticSet:
    """A synthetic set on disk.

    Args:
        folder: folder of the set, by default `WORKDIR/synthetic`.
        patch_size: required side of the patches in pixels.

    Attributes:
        facts: origin of the set: the result of `context_patches.generator_facts`, and `seed`,
            `infills_per_patch` and `num_patches`.
        record: provenance of the generator (`provenance.training_record`, `step`,
            `weights_sha256`).

    Raises:
        UserError: there is no set, its patches have a different size, or the provenance of its
            generator is missing.
    """

    def __init__(self, folder: str | os.PathLike, patch_size: int):
        self._path = epath.Path(folder).expanduser() / _VERSION
        facts = read_facts(folder)
        if facts is None:
            raise UserError(
                f"There is no synthetic set in {str(folder)!r}; write one with --mode=infill, or "
                "pass the folder of an existing set as --synthetic_dir."
            )
        if facts["patch_size"] != patch_size:
            raise UserError(
                f"The synthetic patches in {str(folder)!r} are {facts['patch_size']} px wide, but "
                f"the real ones are {patch_size} px wide; pass the --synthetic_dir of a set with "
                f"patches of {patch_size} px."
            )
        self.facts = facts
        record = provenance.read(self._path / provenance.FILE_NAME)
        if record is None:
            raise UserError(
                f"The synthetic set in {str(folder)!r} has no record of its generator's training "
                "data; delete the set and write it again with --mode=infill."
            )
        self.record = record

    @functools.cached_property
    def builder(self) -> tfds.core.DatasetBuilder:
        """The set as a TFDS dataset."""
        return tfds.builder_from_directory(os.fspath(self._path))

    @functools.cached_property
    def index(self) -> RecordIndex:
        """Index of the set's records, in the order of the set."""
        return input_pipeline.index_of_split(self.builder, SPLIT)

    def encoded_patches(self, used: np.ndarray | None = None) -> tf.data.Dataset:
        """Returns patches in the order of the set, like `input_pipeline.encoded_patches`.

        Their patients, films and scanners are those of the infilled patches.

        Args:
            used: True for the patches to return, bool [num_patches]; None: all patches.
        """
        patches = input_pipeline.encoded_patches(self.builder, SPLIT)
        if used is None:
            return patches
        used = tf.data.Dataset.from_tensor_slices(used)
        chosen = tf.data.Dataset.zip(used, patches).filter(_is_used)
        return chosen.map(_patch_of)

    def records(self) -> tf.data.Dataset:
        """Returns all features of each patch, with decoded images, in the order of the set."""
        in_order = tfds.ReadConfig(interleave_cycle_length=1)
        return self.builder.as_dataset(split=SPLIT, read_config=in_order)


def _is_used(used: tf.Tensor, _: dict[str, tf.Tensor]) -> tf.Tensor:
    return used


def _patch_of(_: tf.Tensor, patch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return patch


def read_facts(folder: str | os.PathLike) -> dict | None:
    """Returns the origin of the set in `folder`, or None if there is no finished set.

    Raises:
        UserError: the file with the origin is damaged.
    """
    return _read_json(epath.Path(folder).expanduser() / _VERSION / _FACTS_FILE)


def _read_json(path: epath.Path) -> dict | None:
    try:
        facts = json.loads(path.read_text())
        if not isinstance(facts, dict):
            raise ValueError("it is not a JSON object")
    except (FileNotFoundError, tf.errors.NotFoundError):
        # No other errors: a set whose file is damaged or temporarily unreadable is not missing.
        return None
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}); restore it from a backup, or delete the set and "
            "write it again with --mode=infill."
        ) from None
    return facts


def write_synthetic_set(
    config: Config, workdir: str | os.PathLike, saved_model: str | None, write_png: bool = False
) -> epath.Path:
    """Writes the set `workdir`/synthetic with an exported generator, unless it is complete.

    The infilled patches are the generator's training patches. A set that an earlier run left
    unfinished is continued after its last finished shard, and becomes byte-identical to a set
    written without interruption.

    Args:
        config: the dataset, its training split, the share of its patients, the seed, and the number
            of infills per patch.
        workdir: folder of the run.
        saved_model: folder of the exported generator; default: the newest in `workdir`/saved_model.
        write_png: also write each patch and mask as PNG, to `workdir`/synthetic/png.

    Returns:
        Path of the set.

    Raises:
        UserError: the generator or the dataset is missing, their patch sizes differ, the generator
            has no provenance, its training data differ from those in the flags, a class is missing,
            the folder contains a different set, or another process is using `workdir`.
        Preempted: SIGTERM or Ctrl-C was received.
    """
    workdir = epath.Path(workdir)
    folder = workdir / _NAME
    generator = ExportedGenerator(saved_model or workdir / "saved_model", BATCH_SIZE)
    record = provenance.require(generator.provenance, generator.path)
    if saved_model is None:
        run_folder.warn_of_later_checkpoint(workdir, generator.path, record["step"])
    facts = generator_facts(config, generator, record)
    given = config.data.train_patient_share
    refuse_differing("train_patient_share", facts["train_patient_share"], given)
    facts |= {
        "seed": config.training.seed,
        "infills_per_patch": config.experiment.infills_per_patch,
    }
    with run_folder.sole_process(workdir), interruption.watch() as interrupted:
        present = read_facts(folder)
        if present is None:
            _complete_set(config, folder, generator, record, facts, interrupted)
        elif differing := {n: present.get(n) for n in facts if present.get(n) != facts[n]}:
            raise UserError(
                f"The folder {str(folder)!r} contains a set that was made with other settings: "
                f"{differing}; delete the set, or pass another --workdir."
            )
        if write_png:
            _write_png(SyntheticSet(folder, generator.patch_size), folder / _PNG_DIR, interrupted)
    return folder


def _complete_set(
    config: Config,
    folder: epath.Path,
    generator: ExportedGenerator,
    record: dict,
    facts: dict,
    interrupted: interruption.Interruption,
) -> None:
    """Writes the missing shards of a set, then marks it as complete."""
    contexts = training_contexts(config, facts["train_patient_share"], config.training.seed)
    num_patches = len(contexts.labels) * facts["infills_per_patch"]
    facts = {**facts, "num_patches": num_patches}
    path = folder / _VERSION
    try:
        begun = _read_json(path / _BEGUN_FILE)
    except UserError:
        begun = None  # begin again: there is no finished set to lose
    if begun != facts:
        for outdated in (path, folder / _PNG_DIR):
            outdated.rmtree(missing_ok=True)
        path.mkdir(parents=True, exist_ok=True)
        file_io.write_whole(path / _BEGUN_FILE, json.dumps(facts, indent=2) + "\n")
    lengths = [
        min(_PATCHES_PER_SHARD, num_patches - first)
        for first in range(0, num_patches, _PATCHES_PER_SHARD)
    ]
    shards = [
        path / f"{_NAME}-{SPLIT}.tfrecord-{number:05d}-of-{len(lengths):05d}"
        for number in range(len(lengths))
    ]
    present = {shard.name for shard in path.iterdir()}
    num_finished = sum(1 for _ in itertools.takewhile(lambda shard: shard.name in present, shards))
    first = sum(lengths[:num_finished])
    features = _features(facts["patch_size"])
    records = infilled_records(
        contexts, generator, first, num_patches, lambda: interrupted.requested
    )
    with terminal.progress_bar(
        desc="infilling", initial=first, total=num_patches, unit="patch"
    ) as progress:
        for shard, length in list(zip(shards, lengths, strict=True))[num_finished:]:
            of_shard = list(itertools.islice(records, length))
            if len(of_shard) < length:
                raise interrupted.error(
                    "while infilling; run the same command to resume after the last finished shard."
                )
            with (
                file_io.whole_file(shard) as beside,
                tf.io.TFRecordWriter(os.fspath(beside)) as writer,
            ):
                for serialized_example in of_shard:
                    writer.write(serialized_example)
            progress.update(length)
    tfds.folder_dataset.write_metadata(
        data_dir=os.fspath(path),
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name=SPLIT,
                shard_lengths=lengths,
                num_bytes=sum(tf.io.gfile.stat(os.fspath(shard)).length for shard in shards),
            )
        ],
        version=_VERSION,
        description="Training patches infilled as the opposite class by a ciGAN generator.",
        check_data=False,
    )
    provenance.write(path / provenance.FILE_NAME, record)
    dataset = input_pipeline.open_dataset(config.data, facts["patch_size"])
    synthetic_croissant.write(
        path, epath.Path(dataset.data_path), features, shards, facts, version=_VERSION
    )
    for beside in file_io.matching(path, ".*"):
        beside.unlink()  # left by a run that was killed while writing
    file_io.write_whole(path / _FACTS_FILE, json.dumps(facts, indent=2) + "\n")
    (path / _BEGUN_FILE).unlink()


def infilled_records(
    contexts: Contexts,
    generator: Callable[..., np.ndarray],
    first: int,
    stop: int,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Iterator[bytes]:
    """Yields the records of the infills `first` to `stop` - 1, in order.

    Other threads read patches and encode records while the generator computes.

    Args:
        contexts: the patches to infill.
        generator: function (image, mask, label, seed) like `ExportedGenerator`.
        first: number of the first infill.
        stop: number of the last infill, plus 1.
        stop_requested: called after every batch; if it returns True, no more records follow.
    """
    batches = infill(contexts.batches(first, stop, BATCH_SIZE), generator)
    batches = itertools.takewhile(lambda _: not stop_requested(), batches)
    serialized = map_ahead(_serializer(contexts), batches, _ENCODERS, _BATCHES_AHEAD)
    return itertools.chain.from_iterable(serialized)


def _serializer(contexts: Contexts) -> Callable[[dict[str, np.ndarray]], list[bytes]]:
    """Returns a function that encodes an infilled batch as records."""
    features = _features(contexts.patch_size)
    index, num_contexts = contexts.index, len(contexts.labels)
    patch_ids, mask_png = index.patch_ids(), index.mask_png()

    def example(row: dict[str, np.ndarray]) -> dict:
        record, donor = row["record"], row["donor"]
        return {
            "image": tf.io.encode_png(row["infilled"]).numpy(),
            "mask": mask_png[donor],
            "label": int(row["label"]),
            "lesion_type": contexts.lesion_types[index.lesion_type[donor]]
            if row["label"]
            else "none",
            "simulated": True,
            "patient_id": bytes(index.patient_id[record]),
            "film_id": bytes(index.film_id[record]),
            "scanner": row["scanner"],
            "patch": patch_ids[record],
            "mask_patch": patch_ids[donor],
            "mask_patient_id": bytes(index.patient_id[donor]),
            "infill": int(row["number"]) // num_contexts,
            "seed": int(row["seed"]),
        }

    def serialize(batch: dict[str, np.ndarray]) -> list[bytes]:
        rows = [
            dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)
        ]
        # Without `deterministic`, the order of a record's features differs between processes.
        return [
            tf.train.Example.FromString(features.serialize_example(example(row))).SerializeToString(
                deterministic=True
            )
            for row in rows
        ]

    return serialize


def _features(patch_size: int) -> tfds.features.FeaturesDict:
    shape = (patch_size, patch_size, 1)
    texts = {
        "patient_id": "patient of the infilled patch",
        "film_id": "film of the infilled patch",
        "scanner": "device that made the film",
        "patch": "TFDS id of the infilled patch",
        "mask_patch": "TFDS id of the patch that the mask is from",
        "mask_patient_id": "patient of the patch that the mask is from",
    }
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=shape,
                dtype=np.uint16,
                encoding_format="png",
                doc="the infilled patch; dense tissue is bright",
            ),
            "mask": tfds.features.Image(
                shape=shape,
                dtype=np.uint8,
                encoding_format="png",
                doc="1 on the pixels that the generator infilled",
            ),
            "label": tfds.features.ClassLabel(
                names=list(CLASS_NAMES), doc="class requested from the generator"
            ),
            "lesion_type": tfds.features.ClassLabel(
                names=["none", "mass", "calcification", "other"],
                doc="type of the lesion that the mask is from; none in a non-malignant infill",
            ),
            "simulated": tfds.features.Scalar(np.bool_, doc="always true"),
            "infill": tfds.features.Scalar(
                np.int32, doc="number among the infills of the patch, from 0"
            ),
            "seed": tfds.features.Scalar(np.int32, doc="seed of the infill's noise"),
            **{name: tfds.features.Text(doc=doc) for name, doc in texts.items()},
        }
    )


def _write_png(
    synthetic: SyntheticSet, folder: epath.Path, interrupted: interruption.Interruption
) -> None:
    """Writes those patches (16 bits) and masks (0 and 255) that the folder lacks."""
    folder.mkdir(exist_ok=True)
    records = terminal.progress_bar(
        iterable=synthetic.records().as_numpy_iterator(),
        desc="writing PNG",
        total=synthetic.facts["num_patches"],
        unit="patch",
    )
    for number, record in enumerate(records):
        if interrupted.requested:
            raise interrupted.error("while writing PNG files; run the same command to continue.")
        stem = f"{number:06d}_{CLASS_NAMES[record['label']]}"
        pictures = {stem: record["image"], f"{stem}_mask": 255 * record["mask"]}
        for name, picture in pictures.items():
            path = folder / f"{name}.png"
            if not path.exists():
                file_io.write_whole(path, tf.io.encode_png(picture).numpy())
