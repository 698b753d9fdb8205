"""Datasets whose splits repeat their records until they are as large as asked for.

What grows with the number of records is measured on them: the index, the shuffling, the reading,
the evaluation. Building as many patches from films would take hours and change none of it.
"""

import contextlib
import json
import os
import pathlib
import shutil


def build(folder: str, num_records: dict[str, int], **settings) -> None:
    """Builds a dataset of patches and repeats the records of its splits.

    Args:
        folder: the TFDS data folder; a dataset of that name in it is taken as it is.
        num_records: records that a split has afterwards, at least; other splits stay as built.
        **settings: of `DdsmPatchesConfig`, `name` among them.
    """
    from tfds_ddsm.dataset_config import DdsmPatchesConfig
    from tfds_ddsm.ddsm_patches.ddsm_patches_dataset_builder import Builder

    dataset = pathlib.Path(folder, "ddsm_patches", settings["name"])
    if dataset.exists():
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        Builder(config=DdsmPatchesConfig(**settings), data_dir=folder).download_and_prepare()
    (info,) = dataset.glob("*/dataset_info.json")
    content = json.loads(info.read_text())
    for split in content["splits"]:
        if split["name"] in num_records:
            _repeat(info.parent, split, num_records[split["name"]])
    info.write_text(json.dumps(content))
    forget_index(folder)


def forget_index(folder: str) -> None:
    """Removes the record indexes of all datasets: the next run makes them."""
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
