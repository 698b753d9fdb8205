import csv
import dataclasses
import io
import json

from tfds_ddsm import dataset_statistics
from tfds_ddsm.film_examples import FilmReport
from tfds_ddsm.mammogram import Film, Skipped

FILM = Film("P_1_LEFT_CC", "P_1", "LEFT", "CC", "lumisys", 1, 1)


def report(film_id, **fields):
    film = dataclasses.replace(FILM, film_id=film_id, patient_id=film_id[:3])
    return FilmReport(film, planned=(4, 3, 2), **fields)


REPORTS = {
    "train": [
        report("P_1_LEFT_CC", made=(4, 3, 2), lesions={"malignant mass": 1, "benign mass": 2}),
        report(
            "P_1_LEFT_MLO",
            made=(4, 0, 0),
            lesions={"malignant mass": 1},
            lesions_without_patch=1,
            left_out=("m.dcm: empty",),
        ),
        report("P_2_LEFT_CC", error="a.dcm: cut short"),
    ],
    "test": [report("P_3_LEFT_CC", made=(0, 3, 2), lesions={"benign calcification": 1})],
}
SKIPPED = (Skipped("film", "P_9_LEFT_CC", "no file"), Skipped("CSV row", "", "line 3: odd"))


def test_numbers_of_every_split():
    numbers = dataset_statistics.statistics(REPORTS, SKIPPED)

    assert numbers["splits"]["train"] == {
        "patients": 1,
        "films": 2,
        "films that cannot be read": 1,
        "films by scanner": {"lumisys": 2},
        "lesions": {"benign mass": 2, "malignant mass": 2},
        "lesions without a patch": 1,
        "lesions left out": 1,
        "patches": 13,
        "patches by class": {"malignant": 8, "non_malignant": 5},
        "patches by kind": {"malignant": 8, "benign": 3, "background": 2},
        "patches short of the plan": 14,
        "patches by scanner": {"lumisys": 13},
    }
    assert numbers["skipped"] == {"film": 2, "CSV row": 1, "lesion": 1}
    assert json.loads(json.dumps(numbers)) == numbers


def test_the_table_shows_splits_side_by_side_and_their_sum():
    lines = dataset_statistics.table(dataset_statistics.statistics(REPORTS, SKIPPED)).splitlines()

    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:-2]]
    assert rows[0] == ["", "train", "test", "all"]
    assert ["films", "2", "1", "3"] in rows
    assert ["lesions: benign calcification", "0", "1", "1"] in rows
    assert ["patches by class: malignant", "8", "0", "8"] in rows
    names = [row[0].partition(":")[0] for row in rows[2:]]
    assert list(dict.fromkeys(names)) == list(numbers_of_train())
    assert len({len(line) for line in lines[:-2]}) == 1
    assert lines[-1] == "Left out (skipped.csv): 2 film, 1 CSV row, 1 lesion."


def numbers_of_train():
    return dataset_statistics.statistics(REPORTS, SKIPPED)["splits"]["train"]


def test_all_skipped_items_are_in_one_table_whatever_their_text():
    hostile = Skipped("film", "P_8_LEFT_CC", '=1+1,"\n;rm -rf / é')
    items = dataset_statistics.skipped_items(REPORTS, [hostile])

    text = dataset_statistics.skipped_csv(items)

    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [
        ["kind", "split", "name", "reason"],
        ["film", "", "P_8_LEFT_CC", '=1+1,"\\n;rm -rf / \\xe9'],
        ["lesion", "train", "P_1_LEFT_MLO", "m.dcm: empty"],
        ["film", "train", "P_2_LEFT_CC", "a.dcm: cut short"],
    ]
    assert text.isascii()
    assert text.count("\n") == 4
