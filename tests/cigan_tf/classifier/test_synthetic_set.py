"""The synthetic set: its origin, only training patches, unchanged pixels outside the mask."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import signal

import cv2
import mlcroissant
import numpy as np
import pytest
import tensorflow as tf
from etils import epath

from cigan_tf import file_io, input_pipeline
from cigan_tf.classifier import synthetic_croissant, synthetic_set
from cigan_tf.classifier.synthetic_set import SyntheticSet, read_facts, write_synthetic_set
from cigan_tf.errors import Preempted, UserError
from cigan_tf.exported_generator import ExportedGenerator
from tests.cigan_tf.classifier.conftest import record_as_trained_on


@pytest.fixture(scope="module")
def training_patches(discs_config):
    """Every patch of the training split, decoded, by patch id."""
    builder = input_pipeline.open_dataset(discs_config.data, discs_config.model.patch_size)
    return {
        patch["patch"].numpy(): {
            **patch,
            "image": input_pipeline.decode_image(patch["image"], 32).numpy() * 65535,
            "mask": input_pipeline.decode(patch, 32)["mask"].numpy(),
        }
        for patch in input_pipeline.encoded_patches(builder, "train")
    }


@pytest.fixture(scope="module")
def records(synthetic_folder):
    return list(SyntheticSet(synthetic_folder, 32).records().as_numpy_iterator())


def test_every_training_patch_is_infilled_once_as_the_other_class(records, training_patches):
    assert {record["patch"] for record in records} == set(training_patches)
    assert len(records) == len(training_patches)
    for record in records:
        assert record["label"] == 1 - int(training_patches[record["patch"]]["label"])


def test_it_is_made_only_from_the_training_split(records):
    patients = {record[name] for record in records for name in ("patient_id", "mask_patient_id")}
    assert patients == {b"ann", b"bea", b"cia", b"dot"}
    origins = {record[name] for record in records for name in ("patch", "mask_patch")}
    assert all(b"-train." in origin for origin in origins)


def test_masks_are_those_of_malignant_patches(records, training_patches):
    for record in records:
        donor = training_patches[record["mask_patch"]]
        assert donor["label"] == 1
        np.testing.assert_array_equal(record["mask"], donor["mask"])
        if record["label"] == 0:
            assert record["mask_patch"] == record["patch"], "the patch's own lesion is taken out"
    lent = {record["mask_patch"] for record in records if record["label"] == 1}
    assert len(lent) > 4, "masks are drawn, not taken in turn from one patch"


def test_patches_are_unchanged_outside_the_mask(records, training_patches):
    for record in records:
        outside = record["mask"] == 0
        context = training_patches[record["patch"]]["image"]
        np.testing.assert_array_equal(record["image"][outside], np.rint(context[outside]))
        assert np.abs(record["image"][~outside] - context[~outside]).mean() > 1


def files(folder):
    """Returns the content of every file below a folder, by name."""
    folder = pathlib.Path(folder)
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture
def small_shards(monkeypatch):
    """Makes 32 patches fill four shards of two batches."""
    monkeypatch.setattr(synthetic_set, "BATCH_SIZE", 4)
    monkeypatch.setattr(synthetic_set, "_PATCHES_PER_SHARD", 8)
    # No batch is made ahead, so that the calls before a kill are known.
    monkeypatch.setattr(synthetic_set, "_BATCHES_AHEAD", 0)


def at_call(number, action, monkeypatch):
    """Runs `action` before the generator's call with this number."""
    infill = ExportedGenerator.__call__
    calls = []

    def counted(self, *arguments):
        calls.append(self)
        if len(calls) == number:
            action()
        return infill(self, *arguments)

    monkeypatch.setattr(ExportedGenerator, "__call__", counted)
    return calls


def die():
    raise KeyboardInterrupt


def stored_in_order(synthetic):
    """Returns the images in order; checks that reading them by number gives the same."""
    index = synthetic.index
    records = input_pipeline.Records(synthetic.builder, index)
    numbered = [records.read(number)["image"].numpy() for number in range(32)]
    patches = list(synthetic.encoded_patches().as_numpy_iterator())
    assert [patch["image"] for patch in patches] == numbered
    assert [patch["patch"] for patch in patches] == index.patch_ids()
    used = np.arange(32) % 3 == 0
    chosen = [patch["patch"] for patch in synthetic.encoded_patches(used).as_numpy_iterator()]
    assert chosen == index.patch_ids()[::3]
    assert [record["seed"] for record in synthetic.records().as_numpy_iterator()] == list(
        range(3, 3 + 32)
    )


def test_a_killed_run_resumes_at_its_shard_and_writes_the_same_bytes(
    discs_config, discs_generator, small_shards, tmp_path, monkeypatch
):
    whole = write_synthetic_set(discs_config, tmp_path / "undisturbed", str(discs_generator))
    assert len(list(whole.glob("1.1.0/*.tfrecord-*-of-00004"))) == 4
    with monkeypatch.context() as patched:
        at_call(6, die, patched)  # the second batch of the third shard
        with pytest.raises(KeyboardInterrupt):
            write_synthetic_set(discs_config, tmp_path, str(discs_generator))
    killed = tmp_path / "synthetic"
    assert read_facts(killed) is None
    (killed / "1.1.0" / ".synthetic-train.tfrecord-00002-of-00004.1").touch()
    with monkeypatch.context() as patched:
        calls = at_call(0, die, patched)
        assert write_synthetic_set(discs_config, tmp_path, str(discs_generator)) == killed
    assert len(calls) == 4, "two shards of two batches were missing"
    assert files(killed) == files(whole)
    stored_in_order(SyntheticSet(whole, 32))


def test_a_record_has_the_same_bytes_in_every_process(synthetic_folder):
    (shard,) = synthetic_folder.glob("1.1.0/*.tfrecord-*")
    for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
        example = tf.train.Example.FromString(record)
        assert example.SerializeToString(deterministic=True) == record


# mlcroissant reads JSON-LD with a class that rdflib deprecates.
@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
def test_the_croissant_metadata_name_the_generator_and_describe_the_records(synthetic_folder):
    path = synthetic_folder / "1.1.0" / "croissant.json"
    dataset = mlcroissant.Dataset(str(path))  # raises if invalid
    metadata, features = dataset.metadata, SyntheticSet(synthetic_folder, 32).builder.info.features

    assert (metadata.name, metadata.version) == ("ddsm_patches/discs/synthetic", "1.1.0")
    assert metadata.license == ["https://www.apache.org/licenses/LICENSE-2.0"], "of the dataset"
    assert metadata.description.startswith("Synthetic patches")
    generator = SyntheticSet(synthetic_folder, 32).record["weights_sha256"]
    assert f"weights_sha256 {generator}" in metadata.description
    assert generator in json.loads(path.read_text())["prov:wasGeneratedBy"]["prov:label"]
    (shard,) = synthetic_folder.glob("1.1.0/*.tfrecord-*")
    assert [(file.name, file.sha256) for file in metadata.file_objects] == [
        (shard.name, hashlib.sha256(shard.read_bytes()).hexdigest())
    ]
    (split,) = dataset.records("splits")
    assert (split["splits/name"], split["splits/num_records"]) == ("train", 32)
    names = [row["lesion_type_names/name"] for row in dataset.records("lesion_type_names")]
    assert names == features["lesion_type"].names
    (patches,) = (each for each in metadata.record_sets if each.name == "patches")
    fields = {field.name: field for field in patches.fields}
    assert set(fields) == {"split", *features}
    assert all(field.description for field in fields.values())
    assert fields["label"].description == "class requested from the generator"
    assert (fields["patch"].data_type, fields["seed"].data_type) == (bytes, np.int32)


@pytest.mark.parametrize("damage", [None, "[]", "{", '{"distribution": [], "recordSet": []}'])
def test_a_dataset_without_usable_croissant_metadata_gives_a_set_without_them(
    damage, synthetic_folder, tmp_path, capsys
):
    dataset = epath.Path(tmp_path) / "croissant.json"
    if damage:
        dataset.write_text(damage)
    synthetic = SyntheticSet(synthetic_folder, 32)
    synthetic_croissant.write(
        epath.Path(tmp_path) / "set",
        dataset.parent,
        synthetic.builder.info.features,
        [],
        synthetic.facts,
        "1.1.0",
    )
    assert not (tmp_path / "set").exists()
    assert ("no croissant.json" in capsys.readouterr().err) == bool(damage)


def test_an_unfinished_set_of_another_generator_is_restarted(
    discs_config, discs_generator, small_shards, tmp_path, monkeypatch
):
    other = dataclasses.replace(
        discs_config, training=dataclasses.replace(discs_config.training, seed=9)
    )
    with monkeypatch.context() as patched:
        at_call(4, die, patched)
        with pytest.raises(KeyboardInterrupt):
            write_synthetic_set(other, tmp_path, str(discs_generator))
    folder = write_synthetic_set(discs_config, tmp_path, str(discs_generator))
    seeds = {record["seed"] for record in SyntheticSet(folder, 32).records().as_numpy_iterator()}
    assert seeds == set(range(3, 3 + 32))


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_the_command_and_keeps_finished_shards(
    number, exit_code, discs_config, discs_generator, small_shards, tmp_path, monkeypatch
):
    at_call(3, lambda: os.kill(os.getpid(), number), monkeypatch)
    with pytest.raises(Preempted, match="same command to resume") as stopped:
        write_synthetic_set(discs_config, tmp_path, str(discs_generator))
    assert stopped.value.exit_code == exit_code
    assert len(list(tmp_path.glob("synthetic/1.1.0/synthetic-train.tfrecord-*"))) == 1


def test_a_second_infill_of_a_patch_differs_from_the_first(
    records, discs_config, discs_generator, small_shards, tmp_path, monkeypatch
):
    twice = dataclasses.replace(discs_config.experiment, infills_per_patch=2)
    config = dataclasses.replace(discs_config, experiment=twice)
    with monkeypatch.context() as patched:
        at_call(12, die, patched)  # in the second round
        with pytest.raises(KeyboardInterrupt):
            write_synthetic_set(config, tmp_path, str(discs_generator))
    synthetic = SyntheticSet(write_synthetic_set(config, tmp_path, str(discs_generator)), 32)
    first, second = ({}, {})
    for record in synthetic.records().as_numpy_iterator():
        (first, second)[record["infill"]][record["patch"]] = record
    assert len(first) == len(second) == len(records) == synthetic.facts["num_patches"] / 2
    for record in records:
        of_patch, again = first[record["patch"]], second[record["patch"]]
        assert record["seed"] == of_patch["seed"] != again["seed"]
        assert np.array_equal(record["mask"], of_patch["mask"])
        assert np.abs(of_patch["image"].astype(int) - again["image"]).max() > 0
    lent = [p for p, record in first.items() if record["mask_patch"] != second[p]["mask_patch"]]
    assert len(lent) > 4, "masks are drawn again"


def test_two_at_once_are_refused(discs_config, discs_generator, tmp_path):
    with (
        file_io.lock(tmp_path),
        pytest.raises(UserError, match="Another process is using"),
    ):
        write_synthetic_set(discs_config, tmp_path, str(discs_generator))
    assert not (tmp_path / "synthetic").exists()


def test_png_files_match_the_records(records, synthetic_folder):
    stored = sorted(path for path in (synthetic_folder / "png").glob("*malignant.png"))
    assert len(stored) == len(records)
    picture = cv2.imread(str(stored[0]), cv2.IMREAD_UNCHANGED)
    assert picture.dtype == np.uint16
    assert any(np.array_equal(picture, record["image"][..., 0]) for record in records)
    mask = cv2.imread(str(stored[0]).replace(".png", "_mask.png"), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(mask)) == {0, 255}


def test_png_files_are_written_for_a_finished_set(
    discs_config, discs_generator, synthetic_folder, tmp_path
):
    finished = shutil.copytree(synthetic_folder, tmp_path / "synthetic")
    for path in list(finished.glob("png/*.png"))[::2]:
        path.unlink()
    write_synthetic_set(discs_config, tmp_path, str(discs_generator), write_png=True)
    assert files(finished) == files(synthetic_folder)


def test_a_finished_set_is_kept_and_another_one_refused(
    discs_config, discs_generator, synthetic_folder
):
    before = files(synthetic_folder)
    workdir = synthetic_folder.parent
    assert write_synthetic_set(discs_config, workdir, str(discs_generator)) == synthetic_folder
    assert files(synthetic_folder) == before
    other = dataclasses.replace(discs_config.training, seed=9)
    with pytest.raises(UserError, match="seed"):
        write_synthetic_set(
            dataclasses.replace(discs_config, training=other), workdir, str(discs_generator)
        )


def test_an_unfinished_set_is_refused(tmp_path):
    (tmp_path / "synthetic" / "1.1.0").mkdir(parents=True)
    with pytest.raises(UserError, match="--mode=infill"):
        SyntheticSet(tmp_path / "synthetic", 32)


@pytest.mark.parametrize("content", ["", "{", "null"])
def test_a_set_with_damaged_facts_does_not_count_as_missing(tmp_path, content):
    assert read_facts(tmp_path) is None
    (tmp_path / "1.1.0").mkdir()
    assert read_facts(tmp_path) is None
    (tmp_path / "1.1.0" / "synthetic.json").write_text(content)
    with pytest.raises(UserError, match=r"synthetic\.json' is damaged .* delete the set") as error:
        read_facts(tmp_path)
    assert "\n" not in str(error.value)


def test_patches_of_another_size_are_refused(
    synthetic_folder, discs_config, discs_generator, tmp_path
):
    with pytest.raises(UserError, match="32 px wide"):
        SyntheticSet(synthetic_folder, 64)
    model = dataclasses.replace(discs_config.model, patch_size=64)
    with pytest.raises(UserError, match="takes patches of 32 px"):
        write_synthetic_set(
            dataclasses.replace(discs_config, model=model), tmp_path, str(discs_generator)
        )


def test_a_single_class_is_refused(discs_config, discs_generator, tmp_path):
    data = dataclasses.replace(discs_config.data, dataset="ddsm_patches/one_class")
    config = dataclasses.replace(discs_config, data=data)
    generator = record_as_trained_on(config, discs_generator, tmp_path / "generator")
    with pytest.raises(UserError, match="0 of the 16 patches used from the train split"):
        write_synthetic_set(config, tmp_path, str(generator))
    assert not (tmp_path / "synthetic").exists()


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("train_patient_share", 0.25, r"had train_patient_share=1\.0.*=0\.25"),
        ("train_split", "validation", "had train_split=train.*=validation"),
        ("dataset", "ddsm_patches/shared", r"had dataset=\(fingerprint"),
    ],
)
def test_a_generator_of_patches_that_differ_from_the_flags_is_refused(
    setting, value, named, discs_config, discs_generator, tmp_path
):
    data = dataclasses.replace(discs_config.data, **{setting: value})
    with pytest.raises(UserError, match=named):
        write_synthetic_set(
            dataclasses.replace(discs_config, data=data), tmp_path, str(discs_generator)
        )
    assert not (tmp_path / "synthetic").exists()


def test_the_set_keeps_the_record_of_its_generator(synthetic_folder, discs_generator):
    record = SyntheticSet(synthetic_folder, 32).record
    assert record == ExportedGenerator(discs_generator).provenance
    assert record["patients"] == ["ann", "bea", "cia", "dot"]


def test_a_generator_without_a_record_is_refused(discs_config, discs_generator, tmp_path):
    bare = shutil.copytree(discs_generator, tmp_path / "1")
    (bare / "assets.extra" / "provenance.json").unlink()
    with pytest.raises(UserError, match="no provenance record"):
        write_synthetic_set(discs_config, tmp_path, str(bare))
