import csv
import errno
import io
import pathlib
import re

import numpy as np
import pytest
from etils import epath

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm.mammogram import Description, StorageError
from tfds_ddsm.sources import cbis_ddsm_rows

REAL_CSVS = pathlib.Path(__file__).parents[4] / "shared" / "data" / "cbis_ddsm"
NO_PIXELS = np.zeros((0, 0))
MASS = cbis_ddsm_tree.Abnormality(NO_PIXELS, NO_PIXELS, "P_00016", pathology="MALIGNANT")
ROWS = [
    MASS,
    cbis_ddsm_tree.Abnormality(NO_PIXELS, NO_PIXELS, "P_00016", number=3),
    cbis_ddsm_tree.Abnormality(
        NO_PIXELS, NO_PIXELS, "P_01741", "RIGHT", "MLO", pathology="BENIGN_WITHOUT_CALLBACK"
    ),
]


def _read(tmp_path, data, name="mass_case_description_test_set.csv"):
    path = tmp_path / name
    path.write_bytes(data)
    return cbis_ddsm_rows.read_rows(epath.Path(path))


def _text(rows=ROWS, lesion_type="mass", arrangement="mask first"):
    return cbis_ddsm_tree.csv_text(rows, lesion_type, arrangement)


def _resaved(text, delimiter=",", end="\r\n"):
    """Returns the table as saved by a spreadsheet: cells trimmed, missing values as NA."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    for row in csv.reader(io.StringIO(text, newline="")):
        writer.writerow("NA" if cell == "N/A" else cell.strip() for cell in row)
    writer.writerow([""] * 14)
    return out.getvalue()


def test_rows_match_the_file(tmp_path):
    rows, rejected = _read(tmp_path, _text().encode())
    assert not rejected
    assert [row.malignant for row in rows] == [True, False, False]
    assert [row.abnormality_id for row in rows] == [1, 3, 1]
    assert [row.film_id for row in rows] == [
        "P_00016_LEFT_CC",
        "P_00016_LEFT_CC",
        "P_01741_RIGHT_MLO",
    ]
    assert rows[0].official_split == "test"
    assert rows[0].lesion_type == "mass"
    assert rows[0].film_folder == "Mass-Test_P_00016_LEFT_CC"
    assert rows[0].lesion_folder == "Mass-Test_P_00016_LEFT_CC_1"
    assert rows[0].film_series == cbis_ddsm_tree.uid("Mass-Test_P_00016_LEFT_CC")
    assert len(rows[0].lesion_series) == 1
    # Every record has two lines, because its last cell ends with a line end inside the quotes.
    assert [row.where.rsplit(" ", 1)[1] for row in rows] == ["2", "4", "6"]


def test_row_holds_how_the_lesion_was_described(tmp_path):
    rows, _ = _read(tmp_path, _text().encode())
    assert {row.density for row in rows} == {2}
    assert {row.description for row in rows} == {Description(3, 5, "OVAL")}
    text = _text().replace(",2,LEFT", ",0,LEFT").replace(",5,Mass-Test", ",0,Mass-Test")
    rows, rejected = _read(tmp_path, text.replace("OVAL,N/A,3", "N/A,SPICULATED,").encode())
    assert not rejected
    assert rows[0].density == -1
    assert rows[0].description == Description(-1, -1, "", "SPICULATED")


def test_files_without_descriptions_are_read(tmp_path):
    text = _text()
    for column in ("breast_density", "mass shape", "mass margins", "assessment", "subtlety"):
        text = text.replace(f"{column},", f"other {column},", 1)
    rows, rejected = _read(tmp_path, text.encode())
    assert len(rows) == 3
    assert not rejected
    assert {(row.density, row.description) for row in rows} == {(-1, Description())}


def test_split_series_gives_two(tmp_path):
    rows, _ = _read(tmp_path, _text(arrangement="split series").encode())
    swapped, _ = _read(tmp_path, _text(arrangement="swapped columns").encode())
    assert len(rows[0].lesion_series) == 2
    assert rows[0].lesion_series == swapped[0].lesion_series


@pytest.mark.parametrize(
    "dirty",
    [
        lambda text: text.replace("\r\n", "\n").encode(),
        lambda text: text.replace("\n", "\r\n").replace("\r\r\n", "\r\n").encode(),
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: _resaved(text).encode("utf-8-sig"),
        lambda text: _resaved(text, delimiter=";").encode(),
        lambda text: _resaved(text, delimiter="\t", end="\r").encode(),
        lambda text: text.replace("breast_density", "breast density").encode(),
        lambda text: text.replace("LEFT,", " left ,").replace(",BENIGN,", ", Benign,").encode(),
    ],
    ids=["LF", "CRLF", "BOM", "UTF-16", "re-saved", "semicolons", "tabs", "header", "blanks"],
)
def test_files_saved_again_give_the_same_rows(tmp_path, dirty):
    clean, _ = _read(tmp_path, _text().encode())
    rows, rejected = _read(tmp_path, dirty(_text()))
    assert not rejected

    def without_lines(rows):
        return [(r.film_id, r.malignant, r.lesion_folder, r.lesion_series) for r in rows]

    assert without_lines(rows) == without_lines(clean)


@pytest.mark.parametrize(
    ("old", "new", "message", "film_id"),
    [
        (",MALIGNANT,", ",UNPROVEN,", "'pathology' must be .* received 'UNPROVEN'", True),
        (",MALIGNANT,", ",N/A,", "'pathology' must be .* received 'N/A'", True),
        ("P_00016,2", "../../etc,2", "'patient id' must match", False),
        ("P_00016,2", "P_00016\x1b[2J,2", r"received 'P_00016\\x1b", False),
        ("LEFT,CC", "LEFT,XCC", "'image view' must be CC or MLO", False),
        (",1,mass,", ",NA,mass,", "'abnormality id' must match", True),
        (",1,mass,", ",1,cyst,", "'abnormality type' must be MASS or CALCIFICATION", True),
        ("Mass-Test_P_00016_LEFT_CC/", "Mass-Test_P_00017_LEFT_CC/", "folder of P_00016", True),
        ("Mass-Test_P_00016_LEFT_CC_1/", "../Mass-Test/", "folder of P_00016_LEFT_CC_1", True),
        ("/1.3.6.1", "/..;1.3.6.1", "must have a series UID as its third folder", True),
    ],
)
def test_bad_row_is_rejected_with_file_and_line(tmp_path, old, new, message, film_id):
    text = _text()
    first_row = text.index("P_00016")
    second_row = text.index("P_00016,2", first_row + 1)
    text = text[:first_row] + text[first_row:second_row].replace(old, new) + text[second_row:]
    rows, rejected = _read(tmp_path, text.encode())
    assert len(rows) == 2
    assert rejected[0].where.endswith("mass_case_description_test_set.csv line 2")
    assert rejected[0].film_id == ("P_00016_LEFT_CC" if film_id else "")
    assert re.search(message, rejected[0].reason)
    assert rejected[0].reason.isprintable()


def test_row_with_too_few_cells_is_rejected(tmp_path):
    rows, rejected = _read(tmp_path, (_text() + "P_00017,2,LEFT\r\n").encode())
    assert len(rows) == 3
    assert "'image view'" in rejected[0].reason


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"patient_id,pathology\nP_00016,BENIGN\n", "must name the column 'left or right breast'"),
        (b"\xff\xfe\x00", "the file is not text in utf-16"),
        (b"patient_id\xe9\n", "the file is not text in utf-8-sig"),
        (_text().replace('.dcm\n"', ".dcm\n").encode(), "line 2: the file is not well-formed CSV"),
    ],
)
def test_broken_file_raises_one_line(tmp_path, data, message):
    with pytest.raises(ValueError, match=message) as error:
        _read(tmp_path, data)
    assert "\n" not in str(error.value)


def test_a_file_is_refused_or_stops_the_build_like_a_film(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "mass_case_description_test_set.csv")
    path.write_text(_text())
    with monkeypatch.context() as patch:
        patch.setattr(cbis_ddsm_rows, "_MAX_CSV_BYTES", 100)
        with pytest.raises(ValueError, match=r"at most 100 bytes; received .*; download it again"):
            cbis_ddsm_rows.read_rows(path)

    def unreadable(path, mode):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(type(path), "open", unreadable)
    with pytest.raises(StorageError, match=r"set.csv cannot be read \(Permission denied\)"):
        cbis_ddsm_rows.read_rows(path)


@pytest.mark.skipif(not REAL_CSVS.exists(), reason="TCIA's CSV files are not here")
def test_real_files_have_no_rejected_row():
    rows = []
    for name in cbis_ddsm_rows.CSV_NAMES:
        good, rejected = cbis_ddsm_rows.read_rows(epath.Path(REAL_CSVS / name))
        assert not rejected
        rows += good
    assert len(rows) == 3568
    assert len({row.patient_id for row in rows}) == 1566
    assert len({row.film_id for row in rows}) == 3032
    assert len({row.film_series for row in rows}) == 3103
    assert sum(len(row.lesion_series) == 2 for row in rows) == 104
    assert sum(row.malignant for row in rows) == 637 + 147 + 544 + 129
