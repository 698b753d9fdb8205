"""The synthetic set: every training patch once more, as the other class (paper section 3.2).

A non-malignant patch receives a malignant lesion in the mask of a malignant training patch; of a
malignant patch the lesion is replaced by non-malignant tissue. With `infills_per_patch` above 1 all
of that is done as many times, with other draws. It is stored as a TFDS dataset with the features of
`ddsm_patches` and each record's origin.
"""

import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm

from cigan_tf import input_pipeline, interruption, masks, provenance
from cigan_tf import workdir as workdir_lib
from cigan_tf.config import Config
from cigan_tf.errors import UserError
from cigan_tf.exported_generator import ExportedGenerator

SPLIT = "train"
_NAME, _VERSION = "synthetic", "1.0.0"
# A set that is not finished; TFDS leaves folders of such names where it is killed.
_INCOMPLETE = "incomplete."
_FACTS_FILE = "synthetic.json"
_PNG_DIR = "png"
# Masks among which a patch finds one that lies on breast tissue.
_CANDIDATE_DONORS = 8
# Patches per call of the generator.
_BATCH_SIZE = 32
# Whole batches: a patch is computed beside the same others wherever a run was resumed.
_PATCHES_PER_SHARD = 16 * _BATCH_SIZE


class SyntheticSet:
    """A synthetic set on disk.

    Args:
        folder: `WORKDIR/synthetic`.
        patch_size: side in pixels of the patches that are asked for.

    Attributes:
        facts: from what it was made: `dataset`, `dataset_fingerprint`, `train_split`,
            `train_patient_share`, `seed`, `generator` (a hash of its weights),
            `infills_per_patch`, `num_patches`.
        record: provenance of the generator (`provenance.training_record`, `step`,
            `weights_sha256`).

    Raises:
        UserError: there is none, or its patches are of another size.
    """

    def __init__(self, folder: str | os.PathLike, patch_size: int):
        self._path = pathlib.Path(folder).expanduser() / _VERSION
        facts = read_facts(folder)
        if facts is None:
            raise UserError(
                f"There is no synthetic set in {str(folder)!r}; write it with --mode=infill, or "
                "pass its --synthetic_dir."
            )
        if facts["patch_size"] != patch_size:
            raise UserError(
                f"The synthetic patches in {str(folder)!r} are {facts['patch_size']} px wide, the "
                f"real ones {patch_size} px."
            )
        self.facts = facts
        record = provenance.read(self._path / provenance.FILE_NAME)
        if record is None:
            raise UserError(
                f"The synthetic set in {str(folder)!r} does not say what its generator was trained "
                "on; delete it, and write it again with --mode=infill."
            )
        self.record = record

    def encoded_patches(self, used: np.ndarray | None = None) -> tf.data.Dataset:
        """Returns the patches as of `input_pipeline.encoded_patches`; ids are the context's.

        Args:
            used: which of them, bool [num_patches] in the order in which all are returned; None:
                all.
        """
        builder = tfds.builder_from_directory(str(self._path))
        patches = input_pipeline.encoded_patches(builder, SPLIT)
        if used is None:
            return patches
        used = tf.constant(used)
        return patches.enumerate().filter(lambda i, _: used[i]).map(lambda _, patch: patch)

    def records(self) -> tf.data.Dataset:
        """Returns everything that is stored of each patch, images decoded, in the order made."""
        in_order = tfds.ReadConfig(interleave_cycle_length=1)
        builder = tfds.builder_from_directory(str(self._path))
        return builder.as_dataset(split=SPLIT, read_config=in_order)


def read_facts(folder: str | os.PathLike) -> dict | None:
    """Returns from what the set in `folder` was made; None where there is no finished set."""
    return _facts_in(pathlib.Path(folder).expanduser() / _VERSION)


def _facts_in(path: pathlib.Path) -> dict | None:
    try:
        return json.loads((path / _FACTS_FILE).read_text())
    except (OSError, ValueError):
        return None


def write_synthetic_set(
    config: Config, workdir: str | os.PathLike, saved_model: str | None, write_png: bool = False
) -> pathlib.Path:
    """Writes `workdir`/synthetic through the exported generator, or finds it finished there.

    The patches are those that the generator was trained on. A set that an earlier run has begun
    is completed after its last finished shard, and holds the same bytes as one made in one go.

    Args:
        config: the dataset, its training split, the share of its patients, the seed, the infills
            per patch.
        workdir: folder of the run.
        saved_model: the exported generator; by default the newest in `workdir`/saved_model.
        write_png: write each patch and mask as PNG as well, into `workdir`/synthetic/png.

    Returns:
        The folder written.

    Raises:
        UserError: the generator or the dataset is missing, their sizes differ, the generator has no
            provenance or was trained on other patches than the flags say, a class is missing,
            the folder holds another set, or another process is at work in `workdir`.
        Preempted: SIGTERM or Ctrl-C came.
    """
    workdir = pathlib.Path(workdir)
    folder = workdir / _NAME
    generator = ExportedGenerator(saved_model or workdir / "saved_model")
    data, patch_size = config.data, config.model.patch_size
    if generator.patch_size != patch_size:
        raise UserError(
            f"The generator {str(generator.path)!r} takes patches of {generator.patch_size} px; "
            f"those asked for have {patch_size} px. Pass --patch_size={generator.patch_size} and a "
            "dataset of that size."
        )
    record = provenance.require(generator.provenance, generator.path)
    dataset = _refuse_other_data(record, config)
    facts = {
        "dataset": data.dataset,
        "dataset_fingerprint": dataset["fingerprint"],
        "train_split": record["train_split"],
        "train_patient_share": record["patient_share"],
        "patch_size": patch_size,
        "seed": config.training.seed,
        "generator": generator.sha256,
        "infills_per_patch": config.experiment.infills_per_patch,
    }
    with workdir_lib.sole_process(workdir), interruption.watch() as interrupted:
        present = read_facts(folder)
        if present is None:
            _complete_set(config, folder, generator, record, facts, interrupted)
        elif differing := {n: present.get(n) for n in facts if present.get(n) != facts[n]}:
            raise UserError(
                f"The folder {str(folder)!r} holds a set made with {differing}; delete it, or pass "
                "another --workdir."
            )
        if write_png:
            _write_png(SyntheticSet(folder, patch_size), folder / _PNG_DIR, interrupted)
    return folder


def _complete_set(
    config: Config,
    folder: pathlib.Path,
    generator: ExportedGenerator,
    record: dict,
    facts: dict,
    interrupted: interruption.Interruption,
) -> None:
    """Writes the shards that an incomplete set lacks, and gives it its name once it is whole."""
    donors, num_contexts = _donors(config, interrupted)
    num_patches = num_contexts * facts["infills_per_patch"]
    facts = {**facts, "num_patches": num_patches}
    path = folder / f"{_INCOMPLETE}{_VERSION}"
    if _facts_in(path) != facts:
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        workdir_lib.write_whole(path / _FACTS_FILE, json.dumps(facts, indent=2) + "\n")
    lengths = [
        min(_PATCHES_PER_SHARD, num_patches - first)
        for first in range(0, num_patches, _PATCHES_PER_SHARD)
    ]
    shards = [
        path / f"{_NAME}-{SPLIT}.tfrecord-{number:05d}-of-{len(lengths):05d}"
        for number in range(len(lengths))
    ]
    num_finished = sum(shard.exists() for shard in shards)
    first = sum(lengths[:num_finished])
    patch_size = generator.patch_size
    contexts = (
        {**patch, "infill": number}
        for number in range(facts["infills_per_patch"])
        for patch in _training_patches(config, interrupted)
    )
    contexts = itertools.islice(contexts, first, None)
    all_origins = origins(contexts, donors, config.training.seed, patch_size, first)
    infilled = infill_all(all_origins, generator, patch_size)
    features = _features(patch_size)
    with tqdm.tqdm(
        desc="infilling", initial=first, total=num_patches, unit="patch", dynamic_ncols=True
    ) as progress:
        for shard, length in list(zip(shards, lengths, strict=True))[num_finished:]:
            _write_shard(shard, itertools.islice(infilled, length), features, progress)
    tfds.folder_dataset.write_metadata(
        data_dir=str(path),
        features=features,
        split_infos=[
            tfds.core.SplitInfo(
                name=SPLIT,
                shard_lengths=lengths,
                num_bytes=sum(shard.stat().st_size for shard in shards),
            )
        ],
        version=_VERSION,
        description="Training patches infilled as the other class by a ciGAN generator.",
        check_data=False,
    )
    provenance.write(path / provenance.FILE_NAME, record)
    for beside in path.glob(".*"):
        beside.unlink()  # of a run that was killed while it wrote
    for outdated in (folder / _VERSION, folder / _PNG_DIR):
        shutil.rmtree(outdated, ignore_errors=True)
    path.replace(folder / _VERSION)
    for rubbish in folder.glob(f"{_INCOMPLETE}*"):
        shutil.rmtree(rubbish)


def _write_shard(
    path: pathlib.Path, infilled: Iterable[tuple], features: tfds.features.FeaturesDict, progress
) -> None:
    """Writes one file of records beside its place and renames it there."""
    beside = path.with_name(f".{path.name}")
    with tf.io.TFRecordWriter(str(beside)) as writer:
        for origin, image, _ in infilled:
            record = tf.train.Example.FromString(
                features.serialize_example(_example(origin, image))
            )
            # Otherwise the order of a record's features changes with the process.
            writer.write(record.SerializeToString(deterministic=True))
            progress.update()
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)


def _features(patch_size: int) -> tfds.features.FeaturesDict:
    shape = (patch_size, patch_size, 1)
    text = {
        name: tfds.features.Text()
        for name in ("patient_id", "film_id", "scanner", "patch", "mask_patch", "mask_patient_id")
    }
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint16, encoding_format="png"),
            "mask": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(input_pipeline.CLASS_NAMES)),
            "lesion_type": tfds.features.ClassLabel(
                names=["none", "mass", "calcification", "other"]
            ),
            "simulated": tfds.features.Scalar(np.bool_),
            "infill": tfds.features.Scalar(np.int32),
            "seed": tfds.features.Scalar(np.int32),
            **text,
        }
    )


def _refuse_other_data(record: dict, config: Config) -> dict:
    """Returns the dataset's record; raises UserError where the generator was trained on others."""
    data = config.data
    dataset = provenance.dataset_record(config)
    pairs = {
        "dataset": (record["dataset"]["fingerprint"], dataset["fingerprint"]),
        "train_split": (record["train_split"], data.train_split),
        "train_patient_share": (record["patient_share"], data.train_patient_share),
    }
    for name, (trained_on, given) in pairs.items():
        if trained_on != given:
            raise UserError(
                f"A synthetic set is made from the patches that its generator was trained on: its "
                f"{name} was {_short(trained_on)}. Received: {name}={_short(given)}."
            )
    return dataset


def _short(value: object) -> object:
    return f"one with the fingerprint {value[:12]}" if len(str(value)) == 64 else value


def _donors(config: Config, interrupted: interruption.Interruption) -> tuple[list[dict], int]:
    """Returns the masks of the malignant training patches, and how many patches there are."""
    data = config.data
    donors, num_patches = [], 0
    for patch in _training_patches(config, interrupted):
        num_patches += 1
        if patch["label"] == 1:
            del patch["image"]  # masks compress well, images of a whole split do not
            donors.append(patch)
    if len(donors) in (0, num_patches):
        raise UserError(
            f"The {data.train_split} split of {data.dataset} holds {len(donors)} malignant "
            f"patches of {num_patches}; a synthetic set needs both classes."
        )
    return donors, num_patches


def origins(
    patches: Iterable[dict], donors: Sequence[dict], seed: int, patch_size: int, first: int = 0
) -> Iterator[dict]:
    """Yields what each synthetic patch is made from, one for each patch (paper section 3.2).

    A malignant patch loses the lesion in its own mask. A non-malignant one receives a lesion in the
    mask of a malignant patch, the first of a few drawn ones that lies on breast tissue; where none
    does, the one with the largest share on tissue.

    Args:
        patches: of `input_pipeline.encoded_patches`, as NumPy values.
        donors: malignant ones, whose masks are drawn.
        seed: of the draws, which depend on it and on a patch's number only.
        patch_size: side of a patch in pixels.
        first: number of the first patch.

    Yields:
        Dicts of `context` (the patch), `donor` (whose mask is filled), `label` (the class asked
        for), `seed` (of the infill).
    """
    for number, patch in enumerate(patches, first):
        yield {
            "context": patch,
            "donor": patch
            if patch["label"] == 1
            else _donor_on_tissue(patch, donors, (seed, number), patch_size),
            "label": 1 - int(patch["label"]),
            "seed": (seed + number) % 2**31,
        }


def _donor_on_tissue(patch: dict, donors: Sequence[dict], seed: tuple, patch_size: int) -> dict:
    drawn = np.random.default_rng(seed).integers(len(donors), size=_CANDIDATE_DONORS)
    best, best_share = None, -1.0
    image = input_pipeline.decode_image(patch["image"], patch_size)
    for donor in (donors[index] for index in drawn):
        mask = input_pipeline.decode_mask(donor["mask"], patch_size)
        share = float(masks.tissue_share(image, mask, patch["tissue_fraction"]))
        if share >= masks.MIN_TISSUE_SHARE:
            return donor
        if share > best_share:
            best, best_share = donor, share
    return best


def _training_patches(config: Config, interrupted: interruption.Interruption) -> Iterator[dict]:
    """Yields the patches of the training split; raises Preempted where a signal came."""
    data = config.data
    builder = input_pipeline.open_dataset(data, config.model.patch_size)
    patches = input_pipeline.encoded_patches(builder, data.train_split, data.train_patient_share)
    for patch in patches.as_numpy_iterator():
        if interrupted.requested:
            raise interrupted.error(
                "while infilling; the same command resumes after the last finished shard."
            )
        yield patch


def infill_all(origins: Iterable[dict], generator: ExportedGenerator, patch_size: int):
    """Yields each of `origins` with its infilled patch (uint16) and mask (uint8), [p, p, 1]."""
    origins = iter(origins)
    while batch := list(itertools.islice(origins, _BATCH_SIZE)):
        decoded = [
            input_pipeline.decode(
                {**origin["context"], "mask": origin["donor"]["mask"]}, patch_size
            )
            for origin in batch
        ]
        image, mask = (np.stack([d[name].numpy() for d in decoded]) for name in ("image", "mask"))
        label = np.array([origin["label"] for origin in batch], np.int32)
        seeds = np.array([origin["seed"] for origin in batch], np.int32)
        infilled = generator(image, mask, label, seeds)
        levels = np.rint(infilled * input_pipeline.WHITE).astype(np.uint16)
        yield from zip(batch, levels, mask.astype(np.uint8), strict=True)


def _example(origin: dict, image: np.ndarray) -> dict:
    """Returns a synthetic patch as it is stored; the mask keeps its donor's bytes."""
    context, donor = origin["context"], origin["donor"]
    return {
        "image": tf.io.encode_png(image).numpy(),
        "mask": donor["mask"],
        "label": origin["label"],
        "lesion_type": donor["lesion_type"].decode() if origin["label"] else "none",
        "simulated": True,
        "patient_id": context["patient_id"],
        "film_id": context["film_id"],
        "scanner": context["scanner"],
        "patch": context["patch"],
        "mask_patch": donor["patch"],
        "mask_patient_id": donor["patient_id"],
        "infill": context["infill"],
        "seed": origin["seed"],
    }


def _write_png(
    synthetic: SyntheticSet, folder: pathlib.Path, interrupted: interruption.Interruption
) -> None:
    """Writes the patches (16 bit) and masks (0 and 255) that are not in the folder yet."""
    folder.mkdir(exist_ok=True)
    records = tqdm.tqdm(
        synthetic.records().as_numpy_iterator(),
        desc="writing PNG",
        total=synthetic.facts["num_patches"],
        unit="patch",
        dynamic_ncols=True,
    )
    for number, record in enumerate(records):
        if interrupted.requested:
            raise interrupted.error("while writing PNG files; the same command writes the others.")
        stem = f"{number:06d}_{input_pipeline.CLASS_NAMES[record['label']]}"
        pictures = {stem: record["image"], f"{stem}_mask": 255 * record["mask"]}
        for name, picture in pictures.items():
            path = folder / f"{name}.png"
            if not path.exists():
                workdir_lib.write_whole(path, tf.io.encode_png(picture).numpy())
