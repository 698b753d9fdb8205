"""Tests of the table of infill quality."""

import json

import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import quality_table


def entry(**changes):
    side = {"value": 0.123456, "n": {"infills": 1200, "real": 40}}
    return {
        "measure": "seam_score",
        "of_class": "malignant",
        "infills": side,
        "real": side,
        **changes,
    }


def read(tmp_path, content):
    path = tmp_path / "infill_quality.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return quality_table.read(path)


def test_each_number_has_its_label(tmp_path):
    spread = {"value": 1.5, "low": 1.0, "high": 2.25, "n": {"held_out": 7}}
    measures = [entry(), entry(measure="class_auc", of_class="non_malignant", real=spread)]
    table = read(tmp_path, {"features": "imagenet", "measures": measures})
    assert "features of imagenet" in table.caption
    assert table.rows[0][1:4] == ["malignant", "0.123", "1,200 infills, 40 real"]
    assert table.rows[1][1] == "non-malignant"
    assert table.rows[1][4:6] == ["1.5 (1 to 2.25)", "7 held out"]
    assert all(len(row) == len(table.header) for row in table.rows)


def test_a_measure_without_a_floor_has_an_empty_cell(tmp_path):
    nothing = {"value": None, "n": {"infills": 3}}
    table = read(tmp_path, {"measures": [entry(real=None, infills=nothing)]})
    assert table.rows[0][2:6] == [""] * 4


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", {"measures": [{}]}, {"measures": [entry(measure="unheard_of")]}, "\x00"],
)
def test_an_invalid_file_is_named(content, tmp_path):
    with pytest.raises(UserError, match=r"infill_quality\.json' has no valid measures"):
        read(tmp_path, content)
