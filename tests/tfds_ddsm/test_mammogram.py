"""Grades and words parsed from the texts of sources."""

import pytest

from tfds_ddsm.mammogram import Description, grade


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("4", 4), (" 3 ", 3), ("3.0", 3), ("2.", 2)]
    + [(text, -1) for text in ("0", "5", "", "N/A", "-1", "2.5", "10", "\u0663", "two")],
)
def test_a_grade_is_on_its_scale_or_unrecorded(text, value):
    assert grade(text, 1, 4) == value


def test_descriptions_match_the_text():
    known = Description.from_text("0", "3", "irregular-Architectural_Distortion", " SPICULATED ")
    assert known == Description(0, 3, "IRREGULAR-ARCHITECTURAL_DISTORTION", "SPICULATED")
    for nothing in ("N/A", "NA", "", "n/a"):
        assert Description.from_text(nothing, nothing, nothing, nothing) == Description()
    assert Description.from_text("6", "0", "\x1b[2J", "X" * 99) == Description()
