"""The content of the index, where it is stored, and when it is rebuilt."""

import os
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import input_pipeline, record_index
from cigan_tf.errors import UserError


@pytest.fixture
def copied(tiny_config, replace, tmp_path, monkeypatch):
    """A copy of the tiny dataset without an index, and its training shard."""
    folder = tmp_path / "elsewhere"
    without = shutil.ignore_patterns("record_index")
    shutil.copytree(pathlib.Path(tiny_config.data.data_dir), folder, ignore=without)
    (shard,) = folder.glob("ddsm_patches/tiny/*/*-train.*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = replace(tiny_config, data_dir=str(folder))
    return input_pipeline.open_dataset(config.data, 32), shard


def raw_records(shard):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(shard))]


def test_a_record_is_read_by_its_number(copied):
    builder, _ = copied
    index = record_index.of_split(builder, "train")
    records = input_pipeline.Records(builder, index)
    stored = list(input_pipeline.encoded_patches(builder, "train").as_numpy_iterator())
    assert len(index.label) == len(stored) > 50
    numbers = np.random.default_rng(0).permutation(len(stored))
    read = tf.data.Dataset.from_tensor_slices(numbers).map(records.read).as_numpy_iterator()
    for number, found in zip(numbers, read, strict=True):
        expected = stored[number]
        assert found == {name: expected[name] for name in found}
        for name in ("label", "has_lesion", "simulated", "patient_id", "film_id"):
            assert getattr(index, name)[number] == expected[name]
        mask = expected["mask"] if expected["has_lesion"] else b""
        assert records.mask(number).numpy() == mask


def test_an_index_is_built_once(copied, monkeypatch):
    builder, shard = copied
    first = record_index.of_split(builder, "train")
    assert [path.name for path in (shard.parent / "record_index").iterdir()] == ["train.npz"]
    monkeypatch.setattr(record_index, "_scan", None)
    again = record_index.of_split(builder, "train")
    for name, values in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), values)


def test_an_index_follows_the_records(copied):
    builder, shard = copied
    before = record_index.of_split(builder, "train")
    records = raw_records(shard)
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records[::-1]:
            writer.write(record)
    after = record_index.of_split(builder, "train")
    np.testing.assert_array_equal(after.checksum, before.checksum[::-1])


@pytest.mark.parametrize("content", [b"", b"PK", b"no index at all"])
def test_a_damaged_index_is_rebuilt(copied, content):
    builder, shard = copied
    first = record_index.of_split(builder, "train")
    stored = shard.parent / "record_index" / "train.npz"
    whole = stored.read_bytes()
    stored.write_bytes(content + whole[len(content) : len(whole) // 2])
    again = record_index.of_split(builder, "train")
    np.testing.assert_array_equal(again.start, first.start)
    assert len(stored.read_bytes()) == len(whole)


def test_the_index_of_a_read_only_dataset_is_in_the_users_cache(copied, tmp_path, monkeypatch):
    builder, shard = copied
    # A file in place of the folder blocks writing even for root.
    (shard.parent / "record_index").write_bytes(b"")
    first = record_index.of_split(builder, "train")
    (stored,) = (tmp_path / "cache").rglob("*.npz")
    assert stored.name == "train.npz"
    monkeypatch.setattr(record_index, "_scan", None)
    np.testing.assert_array_equal(record_index.of_split(builder, "train").start, first.start)


def test_records_that_cannot_be_read_are_named(copied):
    builder, shard = copied
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(UserError, match="truncated; build the dataset again"):
        record_index.of_split(builder, "train")
    shard.write_bytes(b"\xff" * 8 + whole[8:])
    with pytest.raises(UserError, match="truncated"):
        record_index.of_split(builder, "train")
    shard.write_bytes(whole[:1000] + b"?" + whole[1001:])
    with pytest.raises(UserError, match=rf"{shard.name}.* cannot be read .*build") as error:
        record_index.of_split(builder, "train")
    assert "\n" not in str(error.value)
    with tf.io.TFRecordWriter(os.fspath(shard)) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(UserError, match="cannot be read"):
        record_index.of_split(builder, "train")
    assert not (shard.parent / "record_index").exists()
