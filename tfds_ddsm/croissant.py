"""Croissant metadata of a dataset: MLCommons' JSON-LD for catalogues and search engines.

The specification does not define how to extract fields from TFRecord files. A field therefore names
its feature as if it were a column of a table. Tools can find, check and search this metadata, but
they cannot read the records.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_ddsm.dataset_config import DdsmPatchesConfig

FILE_NAME = "croissant.json"

_VERSION = "http://mlcommons.org/croissant/1.1"
_TFRECORD = "https://www.tensorflow.org/tutorials/load_data/tfrecord"  # no MIME type is registered
_BLOCK_BYTES = 2**20
_METHOD = "wu2018conditional"
_PURPOSES = {"train": "Training", "validation": "Validation", "test": "Test"}
# All standard terms, although some are unused: mlcroissant warns if a context lacks one.
_TERMS = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty"),
    *("extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references"),
    *("regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
    "transform",
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}
_DATA_TYPES = {
    "bool": "sc:Boolean",
    "int32": "cr:Int32",
    "int64": "cr:Int64",
    "float32": "cr:Float32",
}


@dataclasses.dataclass(frozen=True)
class Origin:
    """The films that a dataset is made from.

    Attributes:
        films: what the films are, such as 'films of DDSM'.
        license: name of the films' licence.
        license_url: address of the licence, if it has one.
        homepage: page of the films.
        creators: the people who made the films, or the organisation that did.
        citations: keys in CITATIONS.bib.
    """

    films: str
    license: str
    license_url: str | None = None
    homepage: str | None = None
    creators: tuple[str, ...] | str = ()
    citations: tuple[str, ...] = ()


_CBIS_DDSM = Origin(
    films="films of CBIS-DDSM",
    license="CC BY 3.0 (CBIS-DDSM)",
    license_url="https://creativecommons.org/licenses/by/3.0/",
    homepage="https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY",
    creators=("Rebecca Sawyer Lee", "Francisco Gimenez", "Assaf Hoogi", "Daniel Rubin"),
    citations=("lee2017curated", "lee2016cbisddsm"),
)
_ORIGINS = {
    "cbis_ddsm": _CBIS_DDSM,
    "sample": _CBIS_DDSM,
    "ddsm": Origin(
        films="films of DDSM",
        license="University of South Florida (DDSM)",
        homepage="http://www.eng.usf.edu/cvprg/Mammography/Database.html",
        creators=(
            *("Michael Heath", "Kevin Bowyer", "Daniel Kopans", "Richard Moore"),
            "W. Philip Kegelmeyer",
        ),
        citations=("heath2001digital",),
    ),
    "phantom": Origin(
        films="simulated films with simulated lesions",
        license="Apache-2.0",
        license_url="https://www.apache.org/licenses/LICENSE-2.0",
        creators="The cigan contributors",
    ),
    "films": Origin(films="films listed in films.csv", license="that of the films"),
}


def origin_of(config: DdsmPatchesConfig) -> Origin:
    """Returns the origin of a config's films."""
    origin = _ORIGINS[config.source]
    if not config.simulated_lesions:
        return origin
    return dataclasses.replace(origin, films=f"{origin.films} with added simulated lesions")


def describe(info: tfds.core.DatasetInfo, folder: epath.Path, origin: Origin) -> dict[str, Any]:
    """Returns the metadata, as JSON values, of a dataset whose records have been written.

    The same records give the same metadata, regardless of the folder and the time of the call.

    Args:
        info: the dataset's features, with their descriptions, and its splits.
        folder: folder of the records.
        origin: origin of the dataset's films.
    """
    size = info.features["image"].shape[0]
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _VERSION,
        "name": info.full_name.rpartition("/")[0],
        "description": f"{_summary(info.description)} Patches of {size} x {size} pixels from "
        f"{origin.films}.",
        "version": str(info.version),
        "license": origin.license_url or {"@type": "sc:CreativeWork", "name": origin.license},
        "url": origin.homepage,
        "creator": _creators(origin.creators),
        "citeAs": _citations(info.citation, (*origin.citations, _METHOD)),
        "distribution": [*_files(info, folder), _file_set()],
        "recordSet": [_splits(info), *_class_names(info.features), _patches(info.features)],
    }
    return {name: value for name, value in described.items() if value}


def write(info: tfds.core.DatasetInfo, folder: epath.Path, origin: Origin) -> None:
    """Writes the result of `describe` to the folder of a dataset that is being built."""
    text = json.dumps(describe(info, folder, origin), indent=2, ensure_ascii=False)
    (folder / FILE_NAME).write_text(text + "\n")


def _summary(readme: str | None) -> str:
    """Returns the first paragraph on one line."""
    return " ".join((readme or "").partition("\n\n")[0].split())


def _creators(creators: tuple[str, ...] | str) -> list[dict[str, str]]:
    if isinstance(creators, str):
        return [{"@type": "sc:Organization", "name": creators}]
    return [{"@type": "sc:Person", "name": name} for name in creators]


def _citations(bibliography: str | None, keys: tuple[str, ...]) -> str:
    """Returns the entries with these keys in a BibTeX file."""
    entries = re.split(r"\n(?=@)", (bibliography or "").strip())
    return "\n".join(entry for entry in entries if entry.partition("{")[2].startswith(keys))


def _files(info: tfds.core.DatasetInfo, folder: epath.Path) -> Iterator[dict[str, str]]:
    for split in info.splits.values():
        for name in sorted(split.filenames):
            yield {
                "@type": "cr:FileObject",
                "@id": name,
                "name": name,
                "contentUrl": name,
                "contentSize": f"{(folder / name).stat().length} B",
                "encodingFormat": _TFRECORD,
                "sha256": _sha256(folder / name),
            }


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _file_set() -> dict[str, str]:
    return {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "TFRecord files of tf.train.Example records, which "
        "tensorflow_datasets.builder_from_directory reads.",
        "encodingFormat": _TFRECORD,
        "includes": "*.tfrecord-*",
    }


def _splits(info: tfds.core.DatasetInfo) -> dict[str, Any]:
    rows = [
        {
            "name": name,
            "url": f"cr:{_PURPOSES[name]}Split",
            "num_records": split.num_examples,
        }
        for name, split in info.splits.items()
    ]
    types = {"name": "sc:Text", "url": "sc:URL", "num_records": "sc:Integer"}
    return _table("splits", "cr:Split", types, rows)


def _class_names(features: tfds.features.FeaturesDict) -> Iterator[dict[str, Any]]:
    for name, feature in features.items():
        if isinstance(feature, tfds.features.ClassLabel):
            rows = [{"value": value, "name": label} for value, label in enumerate(feature.names)]
            types = {"value": "sc:Integer", "name": "sc:Text"}
            yield _table(f"{name}_names", "sc:Enumeration", types, rows)


def _table(
    table: str, data_type: str, types: dict[str, str], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Returns a record set with its records; the first column is its key."""
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "dataType": data_type,
        "key": {"@id": f"{table}/{next(iter(types))}"},
        "field": [_field(table, name, data_type) for name, data_type in types.items()],
        "data": [{f"{table}/{name}": value for name, value in row.items()} for row in rows],
    }


def _patches(features: tfds.features.FeaturesDict) -> dict[str, Any]:
    split = {
        **_field("patches", "split", "sc:Text"),
        "description": "split of the patch, from the name of its file",
        "source": {
            "fileSet": {"@id": "shards"},
            "extract": {"fileProperty": "filename"},
            "transform": {"regex": r"-([a-z]+)\.tfrecord-"},
        },
        "references": {"field": {"@id": "splits/name"}},
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "patches",
        "name": "patches",
        "description": "one record per patch",
        "field": [split, *(_feature(name, feature) for name, feature in features.items())],
    }


def _feature(name: str, feature: tfds.features.FeatureConnector) -> dict[str, Any]:
    field = {
        **_field("patches", name, _data_type(name, feature)),
        "description": feature.doc.desc,
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": name}},
    }
    if isinstance(feature, tfds.features.ClassLabel):
        field["references"] = {"field": {"@id": f"{name}_names/value"}}
    elif feature.shape and not isinstance(feature, tfds.features.Image):
        field |= {"isArray": True, "arrayShape": ",".join(map(str, feature.shape))}
    return {name: value for name, value in field.items() if value}


def _field(table: str, name: str, data_type: str | list[str]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{table}/{name}", "name": name, "dataType": data_type}


def _data_type(name: str, feature: tfds.features.FeatureConnector) -> str | list[str]:
    match feature:
        case tfds.features.Image():
            return ["cr:SegmentationMask", "sc:ImageObject"] if name == "mask" else "sc:ImageObject"
        case tfds.features.Text():
            return "sc:Text"
    data_type = _DATA_TYPES[np.dtype(feature.np_dtype).name]
    return [data_type, "cr:Label"] if name == "label" else data_type
