"""Tests of the file of scores."""

import dataclasses

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import score_file
from cigan_tf.evaluation.score_file import Scores

HOSTILE = ["../../etc", 'quote", comma', "two\nlines", "\r", "=cmd()", "Käthe ☃", "", "nan"]


def make(num=8, **changes):
    rng = np.random.default_rng(0)
    columns = {
        "patch": [f"patch_{i}" for i in range(num)],
        "patient_id": [f"patient_{i // 2}" for i in range(num)],
        "film_id": [f"film_{i}" for i in range(num)],
        "scanner": ["unknown"] * num,
        "label": np.arange(num) % 2,
        "probability": rng.random(num),
    }
    return Scores(**{**columns, **changes})


def test_scores_are_read_as_written(tmp_path):
    awkward = [0.1 + 0.2, 1 / 3, 5e-324, 1 - 2**-53, 0.0, 1.0, 1e-17, np.nextafter(0.5, 1)]
    written = make(
        patch=HOSTILE,
        patient_id=HOSTILE,
        probability=awkward,
        lesion_type=["mass", "none"] * 4,
        lesion_area_px=np.arange(8) * 10**6,
        density=[-1, 1, 2, 3, 4, 1, 2, 3],
        subtlety=[-1, 1, 2, 3, 4, 5, 1, 2],
    )
    score_file.write(tmp_path / "scores.csv", written)
    found = score_file.read(tmp_path / "scores.csv")
    for field in dataclasses.fields(Scores):
        expected, values = getattr(written, field.name), getattr(found, field.name)
        np.testing.assert_array_equal(values, expected)
        assert values.dtype.kind == expected.dtype.kind
    assert list(tmp_path.iterdir()) == [tmp_path / "scores.csv"]


def test_columns_may_be_in_any_order_among_others(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(
        "probability,note,label,scanner,film_id,patient_id,patch\n0.25,seen,1,lumisys,f,p,a\n"
    )
    found = score_file.read(path)
    assert (found.patch[0], found.label[0], found.probability[0]) == ("a", 1, 0.25)
    # Lesion descriptions are unknown if the file has no column for them.
    assert (found.lesion_type[0], found.lesion_area_px[0]) == ("unknown", -1)
    assert (found.density[0], found.subtlety[0]) == (-1, -1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probability": [0.5] * 7 + [np.nan]}, "1 of 8 are NaN or infinite"),
        ({"probability": [0.5] * 7}, r"\(8,\), like the labels; received \(7,\)"),
        ({"density": [1]}, r"density must be of shape \(8,\)"),
        ({"film_id": ["f"]}, r"film_id must be of shape \(8,\)"),
        ({"label": [2] * 8}, r"received \[2\]"),
        ({"probability": [3.0] * 8}, r"must be in \[0, 1\]"),
        ({"patch": ["same"] * 8}, "several for patch 'same'"),
        ({"label": []}, r"received shape \(0,\)"),
    ],
)
def test_invalid_scores_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)


HEADER = "patch,patient_id,film_id,scanner,label,probability\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "columns patch, .*probability are missing"),
        ("patch,label\na,1\n", "columns patient_id, film_id, scanner, probability are missing"),
        (HEADER, "there must be rows after the header"),
        (HEADER + "a,p,f,s,1\n", "row 1 has 5 values, but the header has 6"),
        (HEADER + "a,p,f,s,1,nan\n", "NaN"),
        (HEADER + "a,p,f,s,1,high\n", "'high'"),
        (HEADER + "a,p,f,s,malignant,0.5\n", "'malignant'"),
        (HEADER + 'a,p,f,s,1,"' + "0" * 200_000, "field larger than"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_an_invalid_file_is_named_in_one_line(content, message, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=message) as error:
        score_file.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"There are no scores in .*absent\.csv"):
        score_file.read(tmp_path / "absent.csv")
