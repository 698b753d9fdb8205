"""The record of a run's data, and the errors based on it."""

import json
import pathlib
import shutil

import pytest
import tensorflow as tf

from cigan_tf import input_pipeline, provenance, run_folder
from cigan_tf.config import Config
from cigan_tf.errors import UserError


@pytest.fixture
def copied(tiny_config, replace, tmp_path):
    """A copy of the tiny dataset: its configuration and its first training shard."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(pathlib.Path(tiny_config.data.data_dir), folder)
    (shard,) = folder.glob("ddsm_patches/tiny/*/*-train.*")
    return replace(tiny_config, data_dir=str(folder)), shard


def rewrite(shard, change):
    """Rewrites a shard with its list of records changed."""
    records = change([record.numpy() for record in tf.data.TFRecordDataset(str(shard))])
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record)


def fingerprint(config):
    return provenance.dataset_record(config)["fingerprint"]


def test_the_dataset_is_identified(tiny_config):
    record = provenance.dataset_record(tiny_config)
    builder = input_pipeline.open_dataset(tiny_config.data, 32)
    assert record["name"] == "ddsm_patches/tiny"
    assert record["version"] == str(builder.version)
    assert record["recipe"]["source"] == "sample"
    assert record["film_size"] == [344, 188]
    assert record["patch_size"] == 32
    assert record["splits"] == {
        name: split.num_examples for name, split in builder.info.splits.items()
    }
    assert len(record["fingerprint"]) == 64
    assert json.loads(json.dumps(record)) == record


def test_a_dataset_without_metadata_has_no_recipe(copied):
    config, shard = copied
    (shard.parent / "metadata.json").unlink()
    record = provenance.dataset_record(config)
    assert record["recipe"] is None
    assert record["film_size"] is None


def test_the_fingerprint_depends_on_the_records_and_not_on_the_folder(tiny_config, copied):
    config, shard = copied
    assert fingerprint(config) == fingerprint(tiny_config)
    rewrite(shard, lambda records: records)
    assert fingerprint(config) == fingerprint(tiny_config)


@pytest.mark.parametrize(
    "change",
    [
        lambda records: [*records[:-1], records[-1][:-1] + bytes([records[-1][-1] ^ 1])],
        lambda records: [records[1], records[0], *records[2:]],
        lambda records: records[:-1],
    ],
    ids=["one byte of one record", "the order of records", "one record less"],
)
def test_the_fingerprint_changes_with_the_records(tiny_config, copied, change):
    config, shard = copied
    rewrite(shard, change)
    assert fingerprint(config) != fingerprint(tiny_config)


def test_a_truncated_shard_is_named(copied):
    config, shard = copied
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(UserError, match="truncated"):
        fingerprint(config)


def test_a_training_record_names_the_patients(tiny_config, replace):
    record = provenance.training_record(replace(tiny_config, seed=5))
    assert record["patients"] == ["P_00820"]
    assert record["num_patches"] == record["dataset"]["splits"]["train"]
    assert record["train_split"] == "train"
    assert record["patient_share"] == 1.0
    assert record["seed"] == 5
    assert record["package_version"]
    assert record["commit"] is None or len(record["commit"].removesuffix("-dirty")) == 40
    assert record["num_patients"] == len(record["patients"])
    begun = provenance.begun_from(record, {"patients": ["of_the_preset"]})
    assert len(begun["patients"]) == begun["num_patients"] + 1
    fewer = provenance.training_record(replace(tiny_config, train_patient_share=1e-6))
    assert fewer["patients"] == []
    assert fewer["num_patches"] == 0
    with pytest.raises(UserError, match="'tuning'"):
        provenance.training_record(replace(tiny_config, train_split="tuning"))


def test_a_run_is_trained_on_one_dataset(tiny_config, copied, tmp_path):
    config, shard = copied
    first = provenance.write_training(tmp_path, tiny_config)
    assert provenance.write_training(tmp_path, config) == first
    assert provenance.read(tmp_path / provenance.FILE_NAME) == first
    rewrite(shard, lambda records: records[::-1])
    with pytest.raises(UserError, match="pass --resume_changed") as error:
        provenance.write_training(tmp_path, config)
    assert "\n" not in str(error.value)
    assert provenance.read(tmp_path / provenance.FILE_NAME) == first


def test_a_changed_run_has_seen_the_patients_of_both_datasets(tiny_config, replace, tmp_path):
    first = provenance.write_training(tmp_path, tiny_config)
    other = replace(tiny_config, dataset="ddsm_patches/real", train_split="validation")
    both = provenance.write_training(tmp_path, other, resume_changed=True)
    assert both["patients"] == ["P_00173", "P_00820"]
    assert both["dataset"]["name"] == "ddsm_patches/real"
    assert both["earlier_datasets"] == [first["dataset"]]
    assert provenance.write_training(tmp_path, other)["patients"] == both["patients"]


def test_a_run_from_before_there_were_records_gets_none(tiny_config, tmp_path, capsys):
    (tmp_path / run_folder.CHECKPOINT_DIR).mkdir()
    assert provenance.write_training(tmp_path, tiny_config) is not None
    (tmp_path / provenance.FILE_NAME).unlink()
    (tmp_path / run_folder.CHECKPOINT_DIR / "ckpt-1.index").touch()
    assert provenance.write_training(tmp_path, tiny_config) is None
    assert not (tmp_path / provenance.FILE_NAME).exists()
    (warning,) = capsys.readouterr().err.splitlines()
    assert "started without provenance.json" in warning


def test_training_writes_the_record(trained_run, tiny_config):
    record = provenance.read(trained_run / provenance.FILE_NAME)
    assert record == json.loads(json.dumps(provenance.training_record(tiny_config)))


def test_an_invalid_record_is_named(tmp_path):
    assert provenance.read(tmp_path / "absent.json") is None
    for content in ("[]", "{}", "{"):
        (tmp_path / "other.json").write_text(content)
        with pytest.raises(UserError, match="is not a provenance record"):
            provenance.read(tmp_path / "other.json")


def test_a_generator_without_a_record_is_refused():
    record = {"patients": [], "dataset": {}}
    assert provenance.require(record, "saved_model/1") is record
    with pytest.raises(UserError, match=r"'saved_model/1' has no .* export again") as error:
        provenance.require(None, "saved_model/1")
    assert "\n" not in str(error.value)


def test_a_generator_that_saw_a_test_patient_is_refused():
    record = {"patients": ["P_1", "P_2", "P_3"], "dataset": {}}
    provenance.refuse_leaks(record, ["P_4", "P_5"], {})
    provenance.refuse_leaks(record, [], {})
    with pytest.raises(UserError, match="on 2 of the test patients, including 'P_2'"):
        provenance.refuse_leaks(record, iter(["P_3", "P_4", "P_2"]), {})


def from_source(source):
    return {"name": f"ddsm_patches/{source}", "recipe": {"source": source}}


def test_a_generator_of_the_same_patients_under_other_ids_is_refused():
    ddsm, cbis, sample, own = map(from_source, ("ddsm", "cbis_ddsm", "sample", "films"))
    of_preset = {"dataset": cbis, "patients": ["P_00016"]}
    tuned = provenance.begun_from({"dataset": ddsm, "patients": ["A_1459"]}, of_preset)
    resumed = {"dataset": own, "earlier_datasets": [cbis, ddsm], "patients": []}
    for record, tested_on in ((tuned, ddsm), (of_preset, ddsm), (resumed, ddsm), (tuned, cbis)):
        with pytest.raises(UserError, match="same patients under different ids") as error:
            provenance.refuse_leaks(record, ["A_1460"], tested_on)
        assert "\n" not in str(error.value)
    assert provenance.datasets(resumed) == [own, ddsm, cbis]
    for record, tested_on in ((of_preset, sample), (of_preset, own), (tuned, {"recipe": None})):
        provenance.refuse_leaks(record, ["A_1460"], tested_on)


def test_training_warns_of_a_preset_whose_patients_have_other_ids(tmp_path, monkeypatch, capsys):
    record = {"dataset": from_source("ddsm"), "patients": []}
    monkeypatch.setattr(provenance, "training_record", lambda config: record)
    of_preset = {"dataset": from_source("cbis_ddsm"), "patients": []}
    provenance.write_training(tmp_path, Config(), of_preset=of_preset)
    assert "was on CBIS-DDSM, whose patients are also in" in capsys.readouterr().err
