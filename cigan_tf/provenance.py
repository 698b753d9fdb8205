"""Provenance of a generator: a record that is stored with everything made from the generator.

A record is a JSON object. A training run writes one into its workdir (`training_record`), the
export adds `step` and `weights_sha256`, and all products of the exported generator keep a copy.
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from etils import epath

from cigan_tf import __version__, file_io, run_folder
from cigan_tf.config import Config
from cigan_tf.errors import UserError

FILE_NAME = "provenance.json"
# Collections of the same patients under different ids, by the source in a dataset's recipe.
_COLLECTIONS = {"cbis_ddsm": "CBIS-DDSM", "sample": "CBIS-DDSM", "ddsm": "DDSM"}


def dataset_record(config: Config) -> dict[str, Any]:
    """Returns the facts that identify the dataset of a configuration.

    Returns:
        `name`, `version`, `recipe` (the settings it was built with, or None if unknown),
        `film_size` ([height, width] that its films were rescaled to, or None), `patch_size`,
        `splits` (number of patches by split), `fingerprint` (see `fingerprint`).

    Raises:
        UserError: the dataset has not been built, cannot be read, or has patches of a size other
            than the configured one.
    """
    # Imported here, because commands read records before TensorFlow loads.
    from cigan_tf import input_pipeline

    builder = input_pipeline.open_dataset(config.data, config.model.patch_size)
    recipe = _recipe(epath.Path(builder.data_path))
    return {
        "name": builder.info.full_name.rpartition("/")[0],
        "version": str(builder.version),
        "recipe": recipe,
        "film_size": (recipe or {}).get("film_size"),
        "patch_size": config.model.patch_size,
        "splits": {name: split.num_examples for name, split in builder.info.splits.items()},
        "fingerprint": fingerprint(builder),
    }


def fingerprint(builder) -> str:
    """Returns the SHA-256 of the records of an open dataset, as a hexadecimal string.

    It covers the length and checksum of each record, from the index of records. It does not depend
    on the dataset's folder.
    """
    from cigan_tf import input_pipeline

    digest = hashlib.sha256()
    for name in sorted(builder.info.splits):
        index = input_pipeline.index_of_split(builder, name)
        headers = {os.path.basename(file): header for file, header in index.headers()}
        for file in sorted(headers):
            digest.update(f"{name}/{file}\n".encode())
            digest.update(headers[file])
    return digest.hexdigest()


def code_version() -> dict[str, str | None]:
    """Returns `package_version`, and `commit` as in `training_record`."""
    return {"package_version": __version__, "commit": _commit()}


def training_record(config: Config) -> dict[str, Any]:
    """Returns the facts that a training run depends on, except its settings.

    Returns:
        `package_version`, `commit` (of the checkout, with `-dirty` if files differ from it; None
        without a checkout), `dataset` (see `dataset_record`), `train_split`, `patient_share`,
        `patients` (sorted ids of the training patients), their number `num_patients`,
        `num_patches`, `seed`. If a run starts from a preset, the preset's patients are later added
        to `patients`, not to `num_patients`.

    Raises:
        UserError: the dataset cannot be used, or does not have the split.
    """
    from cigan_tf import input_pipeline

    data = config.data
    builder = input_pipeline.open_dataset(data, config.model.patch_size)
    counts = input_pipeline.patches_per_patient(builder, data.train_split, data.train_patient_share)
    return {
        **code_version(),
        "dataset": dataset_record(config),
        "train_split": data.train_split,
        "patient_share": data.train_patient_share,
        "patients": sorted(counts),
        "num_patients": len(counts),
        "num_patches": sum(counts.values()),
        "seed": config.training.seed,
    }


def write_training(
    workdir: str | os.PathLike,
    config: Config,
    resume_changed: bool = False,
    of_preset: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Writes the record of a training run that starts or resumes in `workdir`.

    A run that resumes with another dataset was trained on the patients of both datasets; the record
    lists the earlier datasets in `earlier_datasets`. A run that was started without a record gets a
    warning instead of one, because its earlier training data are unknown.

    Args:
        workdir: folder of the run.
        config: the run's settings.
        resume_changed: whether the run may resume with another dataset.
        of_preset: record of the preset that the run starts from.

    Returns:
        The record, or None if none is written.

    Raises:
        UserError: the run was trained on records other than the dataset's present ones, and
            `resume_changed` is false.
    """
    path = epath.Path(workdir) / FILE_NAME
    before = read(path)
    if before is None and file_io.matching(path.parent / run_folder.CHECKPOINT_DIR, "*"):
        print(
            f"warning: the run in {str(workdir)!r} was started without {FILE_NAME}: its data are "
            "not recorded, and experiments refuse its generator.",
            file=sys.stderr,
        )
        return None
    record = training_record(config)
    if of_preset is not None:
        record = begun_from(record, of_preset)
    if before is not None:
        record = _continued(before, record, workdir, resume_changed)
    other = _other_collection(record, record["dataset"])
    if other and (before is None or before["dataset"] != record["dataset"]):
        print(
            f"warning: the earlier training was on {other}, whose patients are also in this "
            "dataset under other ids: experiments on this dataset refuse the generator.",
            file=sys.stderr,
        )
    write(path, record)
    return record


def _continued(before: dict, record: dict, workdir: str | os.PathLike, resume_changed: bool):
    """Returns the record of a resumed run; raises UserError if its data have changed."""
    earlier = before.get("earlier_datasets", [])
    was, now = before["dataset"]["fingerprint"], record["dataset"]["fingerprint"]
    if was != now:
        if not resume_changed:
            raise UserError(
                f"The run in {str(workdir)!r} was trained on different records of "
                f"{before['dataset']['name']} (fingerprint {was[:12]}, now {now[:12]}); pass "
                "--resume_changed to resume it with these records, or another --workdir."
            )
        earlier = [*earlier, before["dataset"]]
    patients = sorted({*before["patients"], *record["patients"]})
    kept = {name: before[name] for name in ("init_from",) if name in before}
    return (
        kept | record | {"patients": patients} | ({"earlier_datasets": earlier} if earlier else {})
    )


def of_weights(record: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the record of the initial weights.

    Raises:
        UserError: there is no record, so no patient could be used for evaluation.
    """
    if record is None:
        raise UserError(
            f"The preset of --init_from has no {FILE_NAME}, so its training patients are "
            "unknown. Write it again with save_to_preset(record=...)."
        )
    return record


def begun_from(record: dict[str, Any], of_preset: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a run that started from a preset, including the preset's patients.

    Args:
        record: record of the run alone.
        of_preset: record of the preset; stored as `init_from`.
    """
    patients = sorted({*record["patients"], *of_preset["patients"]})
    return record | {"patients": patients, "init_from": of_preset}


def datasets(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the record of each dataset that a network was trained on, the last one first."""
    of_preset = record.get("init_from")
    return [
        record["dataset"],
        *reversed(record.get("earlier_datasets", [])),
        *(datasets(of_preset) if of_preset else ()),
    ]


def read(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the record in a file, or None if the file does not exist.

    Raises:
        UserError: the file is not a record.
    """
    try:
        record = json.loads(epath.Path(path).read_text())
        if not isinstance(record, dict) or not {"dataset", "patients"} <= set(record):
            raise ValueError("it must name a dataset and patients")
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is not a provenance record ({error}); restore it from a copy, or "
            "delete it and repeat the command that wrote it."
        ) from None
    return record


def write(path: str | os.PathLike, record: dict[str, Any]) -> None:
    """Writes a record to a file, atomically; its folder must exist."""
    file_io.write_whole(path, json.dumps(record, indent=2) + "\n")


def require(record: dict[str, Any] | None, path: str | os.PathLike) -> dict[str, Any]:
    """Returns the record of a generator; raises UserError if there is none.

    Args:
        record: record of the generator, or None.
        path: path of the SavedModel, for the message.
    """
    if record is None:
        raise UserError(
            f"An experiment needs the training record of its generator; {str(path)!r} has no "
            "provenance record. Train with this version, then export again with "
            "cigan-export --workdir=DIR."
        )
    return record


def refuse_leaks(
    record: dict[str, Any],
    test_patients: Iterable[str],
    tested_on: dict[str, Any],
    network: str = "generator",
) -> None:
    """Raises UserError if the network was, or may have been, trained on a test patient.

    Args:
        record: record of the network.
        test_patients: ids of the test patients.
        tested_on: record of the test patients' dataset (`dataset_record`).
        network: name of the network, for the message.
    """
    if other := _other_collection(record, tested_on):
        raise UserError(
            f"The {network} was trained on {other}, and the test patients are from "
            f"{_collection(tested_on)}: both have the same patients under different ids. "
            "Train and test on one of them, and do not start from a preset trained on "
            "the other."
        )
    leaked = sorted(set(record["patients"]) & set(map(str, test_patients)))
    if leaked:
        raise UserError(
            f"The {network} was trained on {len(leaked)} of the test patients, including "
            f"{leaked[0]!r}; train it on another split, or test on other patients."
        )


def _collection(dataset: dict[str, Any]) -> str | None:
    return _COLLECTIONS.get((dataset.get("recipe") or {}).get("source"))


def _other_collection(record: dict[str, Any], dataset: dict[str, Any]) -> str | None:
    """Returns a collection named in a record that has a dataset's patients under other ids."""
    of_dataset = _collection(dataset)
    others = {_collection(trained_on) for trained_on in datasets(record)} - {None, of_dataset}
    return others.pop() if of_dataset and others else None


def _recipe(folder: epath.Path) -> dict[str, Any] | None:
    try:
        metadata = json.loads((folder / "metadata.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return metadata.get("recipe") if isinstance(metadata, dict) else None


def _commit() -> str | None:
    """Returns the commit of the checkout that this package is imported from, or None."""
    root = pathlib.Path(__file__).resolve().parents[1]
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # An installed package may be inside another repository; its root must be ours.
        if _git(root, "rev-parse", "--show-prefix") or not _git(root, "ls-files", "setup.py"):
            return None
        return _git(root, *describe)
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: pathlib.Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return finished.stdout.strip()
