import pytest

from tfds_ddsm.mammogram import Description, Film
from tfds_ddsm.sources import films_table
from tfds_ddsm.sources.lesion_shapes import Box, Circle, Polygon

HEADER = (
    "film,patient_id,label,lesion_type,laterality,view,split,density,subtlety,mask,"
    "row_min,row_max,col_min,col_max,center_row,center_col,radius,polygon,origin"
)


def parse(*rows, columns=HEADER):
    """Parses a table of rows given as dicts by column."""
    names = columns.split(",")
    lines = [",".join(f'"{row.get(name, "")}"' for name in names) for row in rows]
    return films_table.parse_table("\n".join([columns, *lines]))


def line(**values):
    return {"film": "a.png", "patient_id": "P1", "label": "normal"} | values


def lesion(**values):
    return line(label="malignant", lesion_type="mass") | values


BOX = {"row_min": 1, "row_max": 5, "col_min": 2, "col_max": 8}


def test_lines_of_one_film_are_joined():
    table = parse(
        lesion(**BOX, subtlety=4, laterality="L", view="cc", density="C"),
        lesion(label="Benign", lesion_type="calc", center_row="3.5", center_col=2, radius=1),
        lesion(polygon="1,2 3.5,4 5,1", origin="bottom", lesion_type="asymmetry"),
        lesion(label="benign", mask="masks/a.png", lesion_type=""),
        line(film="sub/b c.dcm", patient_id="P2"),
    )
    assert not table.faults
    a, b = table.films.values()
    assert a.film == Film("a.png", "P1", "LEFT", "CC", "unknown", 2, 2, 3)
    assert b.film == Film("sub_b_c.dcm", "P2", "unknown", "unknown", "unknown", 0, 0)
    assert b.path == "sub/b c.dcm"
    assert [x.shape for x in a.lesions] == [
        Box(1, 5, 2, 8),
        Circle(3.5, 2, 1),
        Polygon(((1, 2), (3.5, 4), (5, 1))),
        None,
    ]
    assert [x.mask for x in a.lesions] == ["", "", "", "masks/a.png"]
    assert [x.from_bottom for x in a.lesions] == [False, False, True, False]
    assert [x.lesion_type for x in a.lesions] == ["mass", "calcification", "other", "other"]
    assert a.lesions[0].description == Description(subtlety=4)
    assert a.lesions[1].where == "films.csv line 3"


def test_a_table_as_spreadsheets_write_it():
    text = "\ufeffFilm ; Patient_ID;LABEL;note\r\n\r\n a.png ;1;Normal;x\r\n;;;\r\n"
    table = films_table.parse_table(text.encode().decode("utf-8-sig"))
    assert list(table.films) == ["a.png"]
    assert table.unused_columns == ("note",)
    assert table.num_lines == 1


def test_columns_that_a_spreadsheet_left_empty():
    text = "film,,patient_id,label,,,\na.png,,P1,normal,,,\nb.png,3,P2,normal\n"
    table = films_table.parse_table(text)
    assert [film.film.patient_id for film in table.films.values()] == ["P1", "P2"]
    assert not table.faults
    assert not table.unused_columns


def test_a_film_with_cells_beyond_the_header_is_skipped():
    text = "film,patient_id,label,polygon,\na.png,P1,normal,\na.png,P1,benign,1,2 3,4 5,1,\n"
    table = films_table.parse_table(text)
    assert not table.films
    (fault,) = table.faults
    assert fault.film_id == "a.png"
    assert "films.csv line 3: a row must not have more cells than the header" in fault.reason
    assert "received the extra cell '2 3'" in fault.reason


def test_a_repeated_line_is_one_lesion():
    (film,) = parse(lesion(**BOX), lesion(**BOX)).films.values()
    assert film.film.num_malignant == 1


def test_films_with_similar_names_have_different_ids():
    table = parse(*(line(film=name) for name in ("a b.png", "a_b.png", "a/b.png", "x" * 300)))
    ids = list(table.films)
    assert len(set(ids)) == 4
    assert max(map(len, ids)) < 120


def test_backslashes_and_dots_in_paths():
    (film,) = parse(line(film=r"left\1.png"), line(film="./left//1.png")).films.values()
    assert film.path == "left/1.png"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (line(label="cancer"), "label must be one of malignant, benign, normal; received 'cancer'"),
        (line(patient_id=""), "the film a.png has no patient_id"),
        (
            line(patient_id="../P 1"),
            "patient_id must consist of 1 to 64 letters, .* received '../P 1'",
        ),
        (line(film=""), "film must be the path of a file below"),
        (line(film="/etc/passwd"), "received '/etc/passwd'"),
        (line(film="a/../../b.png"), "film must be the path of a file below"),
        (lesion(mask="../b.png"), "mask must be the path of a file below"),
        (line(**BOX), "a normal film must have no lesion; received a box"),
        (lesion(**BOX, polygon="1,2 3,4 5,1"), "one of mask, box, circle and polygon; received"),
        (lesion(row_min=1, row_max=5), "a box needs .*; missing: col_min, col_max"),
        (lesion(center_row=1, center_col=5), "missing: radius"),
        (lesion(center_row=1, center_col=5, radius=0), "radius must be larger than 0"),
        (lesion(**BOX | {"row_min": 6}), "row_min and col_min must be at most"),
        (lesion(**BOX | {"row_min": "1O"}), "row_min must be a number of pixels .*; received '1O'"),
        (
            lesion(**BOX | {"row_min": "nan"}),
            "row_min must be a number of pixels .*; received 'nan'",
        ),
        (lesion(**BOX | {"row_max": "1e9"}), "row_max must be a number of pixels"),
        (lesion(polygon="1,2 3,4"), "at least 3 distinct points; received 2"),
        (lesion(polygon="1 2 3"), "'row,col row,col ...'; received the point '1'"),
        (lesion(**BOX, origin="left"), "origin must be top or bottom; received 'left'"),
        (line(split="dev"), "split must be one of train, validation, test; received 'dev'"),
        (line(laterality="both"), "laterality must be LEFT or RIGHT; received 'both'"),
        (line(view="C\nC"), "view must have at most 64 ASCII characters"),
    ],
)
def test_an_unusable_line_is_reported_with_its_number(row, reason):
    table = parse(line(film="good.png"), row)
    assert list(table.films) == ["good.png"]
    (fault,) = table.faults
    assert fault.reason.startswith("films.csv line ")
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(fault.reason)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (
            [line(), lesion(patient_id="P2", **BOX)],
            "line 3: patient_id of the film a.png is 'P2', but 'P1' in films.csv line 3",
        ),
        ([line(view="CC"), line(view="MLO")], "view of the film a.png is 'MLO'"),
        ([line(), lesion(**BOX)], "a.png is normal in one row but not in another"),
        ([lesion(**BOX), lesion(label="benign", row_min=3)], "line 3: a box needs"),
    ],
)
def test_a_film_with_contradicting_lines_is_skipped(rows, reason):
    table = parse(line(film="good.png"), *rows)
    # The table has one more line above `rows`.
    number = int(reason.split()[1][:-1]) + 1 if reason.startswith("line") else None
    assert list(table.films) == ["good.png"]
    (fault,) = table.faults
    expected = reason.split(": ", 1)[-1]
    assert expected in fault.reason
    assert number is None or f"line {number}" in fault.reason


def test_a_patient_in_two_splits_is_left_out_of_both():
    table = parse(
        line(split="train"),
        line(film="b.png", split="test"),
        line(film="c.png"),
        line(film="d.png", patient_id="P2", split="test"),
    )
    assert list(table.films) == ["d.png"]
    assert [fault.film_id for fault in table.faults] == ["a.png", "b.png", "c.png"]
    assert "the patient P1 of the film a.png is in the splits test and train" in (
        table.faults[0].reason
    )


@pytest.mark.parametrize("invalid", [{"label": "cancer"}, {"film": "/b.png"}, {"view": "C\nC"}])
def test_the_split_of_an_invalid_line_counts(invalid):
    second = line(film="b.png", split="Test") | invalid
    assert parse(line(), second).splits == {"P1": "test"}
    table = parse(line(split="train"), second, line(film="c.png", patient_id="P2", split="dev"))
    assert not table.films
    assert not table.splits
    # A film's patient and split may be in different rows.
    assert parse(line(split="test", patient_id=""), line(), line(split="dev")).splits == {
        "P1": "test"
    }


def test_the_number_of_lesions_of_a_film_is_limited(monkeypatch):
    monkeypatch.setattr(films_table, "_MAX_LESIONS", 3)
    boxes = [lesion(**BOX | {"row_max": 5 + number}) for number in range(4)]
    assert len(parse(*boxes[:3], boxes[0]).films) == 1
    (fault,) = parse(*boxes).faults
    assert "line 5: the film a.png must have at most 3 lesions; received more" in fault.reason


def test_a_lesion_without_a_position_is_not_counted():
    (film,) = parse(lesion(), lesion(label="benign")).films.values()
    assert (film.film.num_malignant, film.film.num_benign) == (0, 0)
    assert [x.has_place for x in film.lesions] == [False, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "are required; missing: film, patient_id, label; received none"),
        ("film,label\na,normal", "missing: patient_id; received film, label"),
        ("film,film,patient_id,label", "column names must be unique; received film, film"),
        ("film,patient_id,label\n" + "x" * 200_000, "line 2: field larger"),
    ],
)
def test_an_invalid_table_is_refused(text, reason):
    with pytest.raises(ValueError, match=f"^films.csv.*{reason}"):
        films_table.parse_table(text)
