import csv
import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from etils import epath

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm.sources import cbis_ddsm_index, cbis_ddsm_rows

REAL_CSVS = pathlib.Path(__file__).parents[4] / "shared" / "data" / "cbis_ddsm"
FILM = np.arange(12, dtype=np.uint16).reshape(4, 3)
MASK = FILM == 5
MASS = cbis_ddsm_tree.Abnormality(FILM, MASK, "P_00016", pathology="MALIGNANT")
CALCIFICATION = dataclasses.replace(
    MASS, lesion_type="calcification", pathology="BENIGN_WITHOUT_CALLBACK", split="train"
)
OTHER = dataclasses.replace(MASS, patient_id="P_00017", view="MLO", pathology="BENIGN")


def _build(root):
    return cbis_ddsm_index.build_index(epath.Path(root))


@pytest.mark.parametrize("layout", cbis_ddsm_tree.LAYOUTS)
def test_layout_is_recognized_from_the_files(tmp_path, layout):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, OTHER], layout)
    index = _build(tmp_path)
    names = {"renamed": "classic", "rest": "classic", "jpeg": "JPEG copy"}
    name = names.get(layout, layout.removesuffix(" NA"))
    assert index.num_files_by_layout == {name: 6}
    assert list(index.films) == ["P_00016_LEFT_CC", "P_00017_LEFT_MLO"]
    assert index.num_unknown_files == 0
    assert len(index.films["P_00016_LEFT_CC"].lesions[0].paths) == 2


def test_film_in_a_mass_and_a_calcification_file_is_one(tmp_path):
    second = dataclasses.replace(MASS, number=2, pathology="BENIGN")
    cbis_ddsm_tree.write_tree(tmp_path, [CALCIFICATION, second, MASS])
    index = _build(tmp_path)
    (files,) = index.films.values()
    assert (files.film.num_malignant, files.film.num_benign) == (1, 2)
    assert "Mass-Test" in files.path
    assert [lesion.name for lesion in files.lesions] == [
        "P_00016_LEFT_CC mass 1",
        "P_00016_LEFT_CC mass 2",
        "P_00016_LEFT_CC calcification 1",
    ]
    assert index.official_splits == {"P_00016": {"train", "test"}}
    assert len(index.csv_paths) == 2
    assert len(index.missing_csv_names) == 2


def test_the_other_copy_is_used_if_one_has_no_pixels(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, CALCIFICATION])
    shutil.rmtree(tmp_path / "CBIS-DDSM" / MASS.film_folder)
    (files,) = _build(tmp_path).films.values()
    assert "Calc-Training" in files.path


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (lambda a: a.film_folder, "the film's file is missing"),
        (lambda a: a.lesion_folder, "0 of 2 files"),
    ],
)
def test_film_with_missing_files_is_skipped_with_path_and_line(tmp_path, missing, reason):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, OTHER])
    shutil.rmtree(tmp_path / "CBIS-DDSM" / missing(OTHER))
    index = _build(tmp_path)
    assert list(index.films) == ["P_00016_LEFT_CC"]
    (left_out,) = index.left_out
    assert left_out.film_id == "P_00017_LEFT_MLO"
    assert left_out.path == missing(OTHER)
    assert reason in left_out.reason
    assert "mass_case_description_test_set.csv line 4" in left_out.reason


def test_film_with_an_incomplete_lesion_is_skipped(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, OTHER])
    next((tmp_path / "CBIS-DDSM" / OTHER.lesion_folder).glob("*/*/*.dcm")).unlink()
    (left_out,) = _build(tmp_path).left_out
    assert "1 of 2 files" in left_out.reason


def test_rejected_row_is_kept_with_its_film(tmp_path):
    unproven = dataclasses.replace(MASS, number=2, pathology="UNPROVEN")
    alone = dataclasses.replace(OTHER, pathology="UNPROVEN")
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, unproven, alone])
    index = _build(tmp_path)
    (files,) = index.films.values()
    assert len(files.lesions) == 1
    assert "line 4: 'pathology'" in files.left_out[0]
    assert [film.film_id for film in index.left_out] == ["P_00017_LEFT_MLO"]
    assert len(index.rejected_rows) == 2


@pytest.mark.parametrize("fields", [{"pathology": "UNPROVEN", "number": 2}, {}])
def test_the_official_split_of_a_rejected_row_counts(tmp_path, fields):
    rejected = dataclasses.replace(MASS, split="train", **fields)  # {}: repeats the lesion
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, rejected])
    index = _build(tmp_path)
    assert len(index.rejected_rows) == 1
    assert index.official_splits == {"P_00016": {"train", "test"}}


def test_repeated_row_counts_once(tmp_path):
    changed = dataclasses.replace(OTHER, pathology="MALIGNANT")
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, MASS, OTHER, changed])
    index = _build(tmp_path)
    mass, other = index.films.values()
    assert len(mass.lesions) == len(other.lesions) == 1
    assert not mass.left_out
    assert "contradicts" in other.left_out[0]
    assert [row.reason.split(" ")[0] for row in index.rejected_rows] == ["repeats", "contradicts"]


def test_dicom_is_preferred_to_the_jpeg_copy(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS], "jpeg")
    cbis_ddsm_tree.write_tree(tmp_path, [MASS], "series")
    (files,) = _build(tmp_path).films.values()
    assert all(path.endswith(".dcm") for path in (files.path, *files.lesions[0].paths))


def test_foreign_files_are_counted(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS])
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / "LICENSE").touch()
    assert _build(tmp_path).num_unknown_files == 1


def test_copies_of_a_csv_file_must_be_alike(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS])
    name = cbis_ddsm_tree.csv_name("mass", "test")
    shutil.copy(tmp_path / "csv" / name, tmp_path)
    assert len(_build(tmp_path).films) == 1
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
    with pytest.raises(ValueError, match=f"csv/{name} and {name} differ"):
        _build(tmp_path)


def test_folder_without_csv_files_or_films_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of mass_case_description"):
        _build(tmp_path)
    cbis_ddsm_tree.write_csvs(tmp_path, [MASS, OTHER], "mask first")
    with pytest.raises(ValueError, match="list 2 films, and none of them is complete"):
        _build(tmp_path)


@pytest.mark.parametrize(
    ("rename", "found"),
    [
        (lambda path: path.with_suffix(""), "6 without a suffix, 1 .csv: if those .* name them"),
        (lambda path: path.with_suffix(".png"), "the files here are 6 .png, 1 .csv"),
        (lambda path: path.with_suffix(".zip"), "6 .zip, 1 .csv: unpack the archives"),
        (
            lambda path: path.parents[3] / f"{path.parent.name}_{path.name}",
            "among the 6 .dcm and .jpg files here; one is CBIS-DDSM/1.3.6.*, but no folder",
        ),
    ],
)
def test_a_tree_without_films_is_described(tmp_path, rename, found):
    cbis_ddsm_tree.write_tree(tmp_path, [MASS, OTHER])
    for path in sorted(tmp_path.rglob("*.dcm")):
        path.rename(rename(path))
    with pytest.raises(ValueError, match=found):
        _build(tmp_path)


@pytest.mark.skipif(not REAL_CSVS.exists(), reason="TCIA's CSV files are not here")
def test_whole_collection(tmp_path):
    paths = set()
    for name in cbis_ddsm_rows.CSV_NAMES:
        shutil.copy(REAL_CSVS / name, tmp_path)
        with (REAL_CSVS / name).open(newline="") as file:
            for row in csv.DictReader(file):
                paths.update(row[key].strip() for key in row if key.endswith("file path"))
    assert len(paths) == 10_239
    for path in map(tmp_path.joinpath, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    index = _build(tmp_path)
    films = [files.film for files in index.films.values()]
    assert len(films) == 3032
    assert len({film.patient_id for film in films}) == 1566
    assert sum(film.num_malignant for film in films) == 1457
    assert sum(film.num_benign for film in films) == 2111
    assert sum(film.num_malignant > 0 for film in films) == 1347
    assert sum(len(splits) == 2 for splits in index.official_splits.values()) == 31
    assert not index.left_out
    assert not index.rejected_rows
    assert index.num_files_by_layout == {"classic": 10_239}
