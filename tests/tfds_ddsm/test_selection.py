import dataclasses
import shutil

import numpy as np
import pytest

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm import patches, selection
from tfds_ddsm.dataset_config import DatasetError, DdsmPatchesConfig
from tfds_ddsm.sources.cbis_ddsm import CbisDdsmSource
from tfds_ddsm.sources.films import FilmsSource

FILM = np.arange(12, dtype=np.uint16).reshape(4, 3)
ROW = cbis_ddsm_tree.Abnormality(FILM, FILM == 5, pathology="MALIGNANT")
PATIENTS = [f"P_{number:05}" for number in range(1, 41)]


def rows_of(patients, **fields):
    return [dataclasses.replace(ROW, patient_id=patient, **fields) for patient in patients]


def write(root, rows):
    cbis_ddsm_tree.write_tree(root, rows)
    for lesion_type in ("mass", "calcification"):
        for split in ("train", "test"):
            path = root / "csv" / cbis_ddsm_tree.csv_name(lesion_type, split)
            if not path.exists():
                text = cbis_ddsm_tree.csv_text([], lesion_type, "mask first")
                path.write_bytes(text.encode())


def remove_films(root, patients):
    for patient in patients:
        for folder in (root / "CBIS-DDSM").glob(f"*_{patient}_LEFT_CC"):
            shutil.rmtree(folder)


def select(root, **fields):
    config = DdsmPatchesConfig(name="test", patches_per_class=100, **fields)
    return selection.select(CbisDdsmSource(root), config)


def patients_of(selected):
    return {split: {film.patient_id for film in films} for split, films in selected.films.items()}


def test_films_go_to_the_split_of_their_patient_with_their_share(tmp_path):
    write(tmp_path, rows_of(PATIENTS))

    selected = select(tmp_path)

    assert list(selected.films) == ["train", "validation", "test"]
    for split, patients in patients_of(selected).items():
        assert patients == {patient for patient in PATIENTS if patches.split_of(patient) == split}
    assert sum(counts[0] for counts in selected.plan.values()) == 100
    assert selected.skipped == ()
    assert selected.allowed_failures == 2  # 5 % of 40


def test_missing_films_count_towards_the_allowed_failures(tmp_path):
    write(tmp_path, rows_of(PATIENTS))
    remove_films(tmp_path, PATIENTS[:2])

    selected = select(tmp_path)

    assert [(item.kind, item.name) for item in selected.skipped] == [
        ("film", "P_00001_LEFT_CC"),
        ("film", "P_00002_LEFT_CC"),
    ]
    assert "Mass-Test_P_00001_LEFT_CC: the film's file is missing" in selected.skipped[0].reason
    assert selected.allowed_failures == 0


def test_too_many_missing_films_stop_the_build_unless_allowed(tmp_path):
    write(tmp_path, rows_of(PATIENTS))
    remove_films(tmp_path, PATIENTS[:3])

    with pytest.raises(
        DatasetError, match=r"More than 5% .*_P_00001_LEFT_CC: .* set allow_skipped"
    ):
        select(tmp_path)
    selected = select(tmp_path, allow_skipped=True)
    assert sum(map(len, selected.films.values())) == 37
    assert len(selected.skipped) == 3
    assert selected.allowed_failures is None


def test_a_missing_csv_file_stops_the_build_unless_allowed(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [ROW])

    with pytest.raises(DatasetError, match=r"mass_case_description_train_set\.csv is missing.*"):
        select(tmp_path)
    skipped = select(tmp_path, allow_skipped=True).skipped
    assert [item.kind for item in skipped] == ["CSV file"] * 3


def test_rows_without_a_film_and_files_without_a_row_are_listed(tmp_path):
    bad = dataclasses.replace(ROW, patient_id="P_1;rm")
    write(tmp_path, [*rows_of(PATIENTS), bad])

    selected = select(tmp_path)

    assert [item.kind for item in selected.skipped] == ["CSV row", "other files"]
    assert "'patient id' must match" in selected.skipped[0].reason
    assert selected.skipped[1].reason.startswith("3 .dcm or .jpg files")
    assert selected.allowed_failures == 1


def test_the_official_split_is_kept_and_patients_in_both_are_left_out(tmp_path):
    both, test, train = PATIENTS[:2], PATIENTS[2:8], PATIENTS[8:]
    calcification = {"lesion_type": "calcification", "split": "train"}
    rows = [
        *rows_of(both + test, split="test"),
        *rows_of(train, split="train"),
        *rows_of(both, view="MLO", **calcification),
    ]
    write(tmp_path, rows)

    selected = select(tmp_path, official_split=True)

    assert [(item.kind, item.name) for item in selected.skipped] == [
        ("patient", patient) for patient in both
    ]
    validation = {patient for patient in train if patches.split_of(patient) == "validation"}
    assert validation
    assert patients_of(selected) == {
        "train": set(train) - validation,
        "validation": validation,
        "test": set(test),
    }
    assert not any(film_id[:7] in both for film_id in selected.plan)
    assert sum(counts[0] for counts in selected.plan.values()) == 100


@pytest.mark.parametrize("what", ["no such folder", "damaged csv"])
def test_a_folder_that_cannot_be_indexed_is_an_error_of_one_line(tmp_path, what):
    if what == "damaged csv":
        write(tmp_path, [ROW])
        (tmp_path / "csv" / "mass_case_description_test_set.csv").write_bytes(b"\xff\xfe\0")

    with pytest.raises(DatasetError) as raised:
        select(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


def own_films(root, *lines):
    for line in lines:
        (root / line.split(",")[0]).touch()
    (root / "films.csv").write_text("\n".join(["film,patient_id,label,split", *lines]))
    return FilmsSource(root)


def test_one_fault_in_the_table_of_own_films_stops_the_build_unless_allowed(tmp_path):
    lines = [f"{patient}.png,{patient},normal," for patient in PATIENTS]
    source = own_films(tmp_path, *lines, "bad.png,,normal,", "lost.png,P_1,normal,")
    (tmp_path / "lost.png").unlink()
    config = DdsmPatchesConfig(name="test", source="films", patches_per_class=100)

    with pytest.raises(DatasetError, match=r"line 42: .* no patient_id. Use cigan-check"):
        selection.select(source, config)

    config = dataclasses.replace(config, allow_skipped=True)
    selected = selection.select(source, config)
    assert sum(map(len, selected.films.values())) == len(PATIENTS)
    assert [item.kind for item in selected.skipped] == ["film", "film"]
    assert selected.allowed_failures is None


def test_own_films_go_to_the_splits_of_their_table(tmp_path):
    lines = [f"{patient}.png,{patient},normal,test" for patient in PATIENTS[:20]]
    lines += [f"{patient}.png,{patient},normal,train" for patient in PATIENTS[20:]]
    config = DdsmPatchesConfig(name="test", source="films", patches_per_class=100)

    selected = selection.select(own_films(tmp_path, *lines), config)

    assert selected.allowed_failures == 0
    patients = patients_of(selected)
    assert patients["test"] == set(PATIENTS[:20])
    by_hash = {patient for patient in PATIENTS[20:] if patches.split_of(patient) == "validation"}
    assert patients["validation"] == by_hash != set()
