"""Short provenance of an experiment's numbers, from the records of its classifiers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from cigan_tf import provenance, run_folder
from cigan_tf.errors import UserError

# Digits of a hash that are shown.
_SHORT = 12
# Fields that may differ between the classifiers of a row.
_OF_CODE = ("package_version", "commit")


def read(folders: Mapping[str, Sequence[epath.Path]]) -> dict[str, dict[str, Any] | None]:
    """Returns the provenance record of each table row; None for a row without records.

    If the classifiers of a row were trained on a synthetic set, the record also has `infills_used`,
    the mean number of infills per classifier, by class. If they were trained with different
    versions of the code, `commit` and `package_version` list them all.

    Args:
        folders: folders of the classifiers, by row.

    Raises:
        UserError: the classifiers of the table were trained on different records of the dataset, or
            the classifiers of a row on patches from different generators.
    """
    records, fingerprints = {}, {}
    for row, of_row in folders.items():
        found = {folder: provenance.read(folder / provenance.FILE_NAME) for folder in of_row}
        generators = {}
        for folder, record in found.items():
            if record:
                fingerprints.setdefault(record["dataset"].get("fingerprint"), folder)
                generators.setdefault(short_hash(_generator(record)), folder)
        _refuse_several(generators, "patches from different generators")
        records[row] = next(iter(found.values()))
        if records[row]:
            of_all = [record for record in found.values() if record]
            records[row] = {**records[row], **{key: _all(of_all, key) for key in _OF_CODE}}
        if records[row] and (used := _infills_used(of_row)):
            records[row] = {**records[row], "infills_used": used}
    _refuse_several(fingerprints, "different records of the dataset")
    return records


def columns(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the provenance columns of a row in table.csv; unknown values are None.

    `generator` is the start of the SHA-256 of the generator's weights, and `dataset_fingerprint` is
    the start of the fingerprint of the dataset's records. The full values are in the
    provenance.json of each classifier.
    """
    record = record or {}
    generator = _generator(record)
    used = record.get("infills_used", {})
    return {
        **_data_and_code(record),
        "generator": short_hash(generator),
        "generator_step": generator.get("step"),
        "generator_seed": generator.get("seed"),
        "generator_patients": len(generator["patients"]) if "patients" in generator else None,
        "synthetic_patches": generator.get("set", {}).get("num_patches"),
        "malignant_infills_used": used.get("malignant"),
        "non_malignant_infills_used": used.get("non_malignant"),
    }


def of_generator(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a generator's provenance for a report; unknown values are None."""
    record = record or {}
    return {
        **_data_and_code(record),
        "seed": record.get("seed"),
        "step": record.get("step"),
        "weights": short_hash(record),
    }


def short_hash(generator: Mapping[str, Any]) -> str | None:
    """Returns the start of the hash of a generator's weights, or None if unknown."""
    return (generator.get("weights_sha256") or "")[:_SHORT] or None


def _data_and_code(record: Mapping[str, Any]) -> dict[str, Any]:
    dataset = record.get("dataset", {})
    return {
        "dataset": dataset.get("name"),
        "dataset_version": dataset.get("version"),
        "dataset_fingerprint": (dataset.get("fingerprint") or "")[:_SHORT] or None,
        "package_version": record.get("package_version"),
        "commit": record.get("commit"),
        "train_patients": len(record["patients"]) if "patients" in record else None,
        "train_patches": record.get("num_patches"),
    }


def _infills_used(folders: Sequence[epath.Path]) -> dict[str, float] | None:
    paths = [folder / run_folder.INFILLS_USED_FILE for folder in folders]
    used = [json.loads(path.read_text())["used"] for path in paths if path.exists()]
    names = used[0] if used else {}
    return {name: round(sum(run[name] for run in used) / len(used), 1) for name in names} or None


def _all(records: Sequence[Mapping[str, Any]], key: str) -> str | None:
    return ", ".join(dict.fromkeys(record[key] for record in records if record.get(key))) or None


def _generator(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return record.get("synthetic") or {}


def _refuse_several(found: Mapping[str | None, epath.Path], what: str) -> None:
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise UserError(
            f"The classifiers in {str(first)!r} and {str(second)!r} were trained on {what}; run "
            "--mode=experiment again, which retrains outdated classifiers."
        )
