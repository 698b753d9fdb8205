"""Datasets with repeated records, for large splits.

They are used to measure the parts whose cost grows with the number of records: index, shuffling,
reading, evaluation. Building as many different patches from films would take hours without changing
the result.
"""

import contextlib
import json
import os
import pathlib
import shutil


def build(folder: str, num_records: dict[str, int], **settings) -> None:
    """Builds a dataset of patches and repeats the records of its splits.

    Args:
        folder: the TFDS data folder; a dataset that it already contains under this name is reused.
        num_records: number of records that each named split has at least; other splits are not
            repeated.
        **settings: fields of `DdsmPatchesConfig`, including `name`.
    """
    from tfds_ddsm.dataset_config import DdsmPatchesConfig
    from tfds_ddsm.ddsm_patches.ddsm_patches_dataset_builder import Builder

    dataset = pathlib.Path(folder, "ddsm_patches", settings["name"])
    made, asked = dataset / "repeated.json", json.dumps([num_records, settings])
    if made.exists() and made.read_text() == asked:
        return
    # An earlier command had other settings, or was stopped.
    shutil.rmtree(dataset, ignore_errors=True)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        Builder(config=DdsmPatchesConfig(**settings), data_dir=folder).download_and_prepare()
    (info,) = dataset.glob("*/dataset_info.json")
    content = json.loads(info.read_text())
    for split in content["splits"]:
        if split["name"] in num_records:
            _repeat(info.parent, split, num_records[split["name"]])
    info.write_text(json.dumps(content))
    forget_index(folder)
    made.write_text(asked)


def forget_index(folder: str) -> None:
    """Removes the record indexes of all datasets; the next run builds them again."""
    for index in pathlib.Path(folder).rglob("record_index"):
        shutil.rmtree(index)


def _repeat(folder: pathlib.Path, split: dict, num_records: int) -> None:
    (num_built,) = map(int, split["shardLengths"])
    times = -(-num_records // num_built)
    (shard,) = folder.glob(f"*-{split['name']}.tfrecord-*")
    records = shard.read_bytes()
    with shard.open("wb") as file:
        for _ in range(times):
            file.write(records)
    split["shardLengths"] = [str(times * num_built)]
    split["numBytes"] = str(times * int(split["numBytes"]))
