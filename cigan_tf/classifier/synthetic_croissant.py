"""Croissant metadata of a synthetic set, derived from the metadata of its dataset.

Outside the masks, the patches are those of the dataset, so the dataset's licence, creators and
citation apply to the set.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from cigan_tf import file_io, terminal

FILE_NAME = "croissant.json"

# Properties of the dataset that do not apply to a set made from it.
_NOT_INHERITED = ("dateCreated", "dateModified", "datePublished", "publisher", "sameAs", "url")
_BLOCK_BYTES = 2**20
_PROV = "http://www.w3.org/ns/prov#"


def write(
    folder: epath.Path,
    dataset_folder: epath.Path,
    features: Mapping[str, Any],
    shards: Sequence[epath.Path],
    facts: Mapping[str, Any],
    version: str,
) -> None:
    """Writes the metadata of a set, unless its dataset has no metadata.

    Args:
        folder: folder of the set's records.
        dataset_folder: folder of the dataset's records and metadata.
        features: features of a record by name, as TFDS connectors with descriptions.
        shards: files that contain the set's records.
        facts: `SyntheticSet.facts`.
        version: version of the set.
    """
    path = dataset_folder / FILE_NAME
    if not path.exists():
        return
    try:
        described = _derived(json.loads(path.read_text()), features, shards, facts)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        terminal.say(
            f"warning: {str(path)!r} does not have the structure that `tfds build` writes "
            f"({error!r}), so the synthetic set has no {FILE_NAME}."
        )
        return
    described["version"] = version
    text = json.dumps(described, indent=2, ensure_ascii=False)
    file_io.write_whole(folder / FILE_NAME, text + "\n")


def _derived(
    dataset: dict[str, Any],
    features: Mapping[str, Any],
    shards: Sequence[epath.Path],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    described = {name: value for name, value in dataset.items() if name not in _NOT_INHERITED}
    described["name"] = f"{dataset['name']}/synthetic"
    described["description"] = (
        f"Synthetic patches: training patches of {dataset['name']}, each infilled as the opposite "
        f"class by the ciGAN generator with weights_sha256 {facts['generator']}. Their classes are "
        "those requested from the generator, not proven by pathology. The dataset: "
        f"{dataset['description']}"
    )
    described["@context"]["prov"] = _PROV
    described["prov:wasGeneratedBy"] = {
        "@type": "prov:Activity",
        "prov:label": f"infilling by the ciGAN generator with weights_sha256 {facts['generator']}",
    }
    file_sets = [node for node in described["distribution"] if node["@type"] == "cr:FileSet"]
    encoding = file_sets[0]["encodingFormat"]
    described["distribution"] = [*(_file(shard, encoding) for shard in shards), *file_sets]

    tables = {table["@id"]: table for table in described["recordSet"]}
    tables["splits"]["data"] = [
        {
            "splits/name": "train",
            "splits/url": "cr:TrainingSplit",
            "splits/num_records": facts["num_patches"],
        }
    ]
    known = {field["name"]: field for field in tables["patches"]["field"]}
    fields = tables["patches"]["field"] = [known["split"]]
    for name, feature in features.items():
        fields.append(known.get(name) or _field(name, feature, like=known["patient_id"]))
        fields[-1]["description"] = feature.doc.desc
        if names := getattr(feature, "names", None):
            table = f"{name}_names"
            tables[table]["data"] = [
                {f"{table}/value": value, f"{table}/name": text} for value, text in enumerate(names)
            ]
    return described


def _file(path: epath.Path, encoding: str) -> dict[str, str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "contentSize": f"{path.stat().length} B",
        "encodingFormat": encoding,
        "sha256": digest.hexdigest(),
    }


def _field(name: str, feature: Any, like: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the field of a feature that the dataset lacks; its type is a text or a number."""
    field = copy.deepcopy(like) | {"@id": f"patches/{name}", "name": name}
    field["dataType"] = "cr:Int32" if np.issubdtype(feature.np_dtype, np.integer) else "sc:Text"
    field["source"]["extract"]["column"] = name
    return field
