"""Tests of the provenance of the numbers."""

import json

import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import origin


def record(fingerprint="f" * 64, generator=None):
    synthetic = generator and {
        "weights_sha256": generator * 64,
        "step": 2700,
        "seed": 3,
        "patients": ["ann"],
        "set": {"num_patches": 12},
    }
    return {
        "dataset": {"name": "ddsm_patches/x", "version": "1.1.0", "fingerprint": fingerprint},
        "patients": ["ann", "bea"],
        "num_patches": 12,
        "package_version": "0.1.0",
        "commit": None,
        "synthetic": synthetic,
    }


@pytest.fixture
def folders(tmp_path):
    """Returns a function that writes the records of two rows with two classifiers each."""

    def write(baseline, cigan):
        rows = {}
        for name, records in (("baseline", baseline), ("cigan", cigan)):
            rows[name] = [tmp_path / name / str(i) for i in range(len(records))]
            for folder, content in zip(rows[name], records, strict=True):
                folder.mkdir(parents=True)
                if content:
                    (folder / "provenance.json").write_text(json.dumps(content))
        return rows

    return write


def test_each_row_has_its_record(folders):
    rows = folders([record()] * 2, [record(generator="a")] * 2)
    found = origin.read(rows)
    assert found == {"baseline": record(), "cigan": record(generator="a")}
    columns = origin.columns(found["cigan"])
    assert columns["dataset_fingerprint"] == "f" * 12
    assert columns["generator"] == "a" * 12
    assert (columns["generator_step"], columns["generator_patients"]) == (2700, 1)
    assert (columns["train_patients"], columns["synthetic_patches"]) == (2, 12)
    without = origin.columns(found["baseline"])
    assert (without["generator"], without["synthetic_patches"]) == (None, None)


def test_the_infills_used_are_the_mean_of_a_rows_classifiers(folders):
    rows = folders([record()] * 2, [record(generator="a")] * 2)
    for folder, malignant in zip(rows["cigan"], (4, 5), strict=True):
        used = {"used": {"non_malignant": 6, "malignant": malignant}, "num_patches": 12}
        (folder / "infills_used.json").write_text(json.dumps(used))
    found = origin.read(rows)
    columns = origin.columns(found["cigan"])
    assert columns["malignant_infills_used"] == 4.5
    assert columns["non_malignant_infills_used"] == 6
    assert origin.columns(found["baseline"])["malignant_infills_used"] is None


def test_all_versions_of_the_code_are_listed(folders):
    of_row = [{**record(), "commit": commit} for commit in ("aa1", "bb2", "aa1")]
    found = origin.read(folders(of_row, [record(generator="a")]))
    assert origin.columns(found["baseline"])["commit"] == "aa1, bb2"
    assert origin.columns(found["baseline"])["package_version"] == "0.1.0"
    assert origin.columns(found["cigan"])["commit"] is None


def test_unrecorded_values_are_none(folders):
    found = origin.read(folders([None], [None]))
    assert found == {"baseline": None, "cigan": None}
    assert set(origin.columns(None).values()) == {None}


def test_a_table_of_two_datasets_is_refused(folders):
    rows = folders([record()], [record("e" * 64), record("e" * 64)])
    with pytest.raises(UserError, match="different records of the dataset; run --mode=experiment"):
        origin.read(rows)


def test_a_row_of_two_generators_is_refused(folders):
    rows = folders([record()], [record(generator="a"), record(generator="b")])
    with pytest.raises(
        UserError, match=r"cigan/0' and .*cigan/1' were trained on patches from diff"
    ):
        origin.read(rows)
