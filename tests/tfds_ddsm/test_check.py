import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest
from absl.testing import flagsaver

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm import check

FILM = np.arange(12, dtype=np.uint16).reshape(4, 3)
MALIGNANT = cbis_ddsm_tree.Abnormality(FILM, FILM == 5, "P_00016", pathology="MALIGNANT")
BENIGN = dataclasses.replace(
    MALIGNANT, lesion_type="calcification", patient_id="P_00001", pathology="BENIGN", split="train"
)


def _words(text):
    return " ".join(text.split())


def test_complete_tree(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MALIGNANT, BENIGN], "descriptive")
    text = _words(check.describe(str(tmp_path), patches_per_class=100))
    for part in (
        "layout descriptive (6 files)",
        "CSV files 2 of 4",
        "films 2 (scanner: 2 unknown)",
        "patients 2",
        "lesions 2 mass: 1 malignant, 0 benign calcification: 0 malignant, 1 benign",
        "TCIA's split 0 patients in both",
        "malignant non-malignant benign lesion background",
    ):
        assert part in text
    assert "left out" not in text
    assert "refused" not in text


def _write_ddsm_case(root):
    folder = root / "cases" / "cancers" / "cancer_01" / "case1459"
    folder.mkdir(parents=True)
    line = "LINES 40 PIXELS_PER_LINE 30 BITS_PER_PIXEL 12 RESOLUTION 43.5"
    (folder / "A-1459-1.ics").write_text(
        "DIGITIZER HOWTEK 43.5\n"
        f"LEFT_CC {line} OVERLAY\nRIGHT_CC {line} NON_OVERLAY\nRIGHT_MLO {line} OVERLAY\n"
    )
    (folder / "A_1459_1.LEFT_CC.OVERLAY").write_text(
        "TOTAL_ABNORMALITIES 1\nABNORMALITY 1\nLESION_TYPE MASS SHAPE ROUND MARGINS SPICULATED\n"
        "ASSESSMENT 5\nSUBTLETY 3\nPATHOLOGY MALIGNANT\nTOTAL_OUTLINES 1\nBOUNDARY\n"
        "10 10 2 2 2 2 4 4 4 4 6 6 6 6 0 0 0 0 #\n"
    )
    for view in ("LEFT_CC", "RIGHT_CC", "RIGHT_MLO"):
        (folder / f"A_1459_1.{view}.LJPEG").touch()


def test_ddsm_beside_cbis_ddsm(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path / "cbis", [MALIGNANT])
    _write_ddsm_case(tmp_path / "usf")
    text = check.describe(str(tmp_path), patches_per_class=100)
    first, second = map(_words, text.split("\n\n"))
    assert first.startswith(f"ddsm_patches/cbis_ddsm from {tmp_path}")
    assert second.startswith(f"ddsm_patches/ddsm from {tmp_path}")
    assert "films 3 (scanner: 2 howtek_mgh, 1 unknown) patients 1 lesions 1: 1 malignant" in second
    assert "1 of 3 films cannot be used: " in second
    assert "A_1459_1.RIGHT_MLO.OVERLAY" in second


def test_expected_patches_add_up(tmp_path):
    patients = [f"P_{number:05}" for number in range(1, 40)]
    rows = [
        dataclasses.replace(row, patient_id=patient)
        for row in (MALIGNANT, BENIGN)
        for patient in patients
    ]
    cbis_ddsm_tree.write_tree(tmp_path, rows)
    lines = check.describe(str(tmp_path), patches_per_class=1000).splitlines()[-3:]
    assert [line.split()[0] for line in lines] == ["train", "validation", "test"]
    counts = np.array([[int(word) for word in line.split()[1:]] for line in lines])
    np.testing.assert_array_equal(counts.sum(axis=0), [1000, 1000, 500, 500])
    np.testing.assert_array_equal(counts[:, 1], counts[:, 2] + counts[:, 3])
    assert (counts[0] > counts[1]).all()


def test_what_is_missing_is_counted_and_the_first_are_named(tmp_path):
    rows = [dataclasses.replace(BENIGN, patient_id=f"P_{n:05}") for n in range(1, 6)]
    unproven = dataclasses.replace(MALIGNANT, pathology="UNPROVEN", number=2)
    cbis_ddsm_tree.write_tree(tmp_path, [MALIGNANT, unproven, *rows], "jpeg")
    for row in rows:
        shutil.rmtree(tmp_path / "jpeg" / cbis_ddsm_tree.uid(row.film_folder))
    text = check.describe(str(tmp_path), patches_per_class=100)
    assert "8 bits a pixel" in text
    assert "5 of 6 films are left out:\n  Calc-Training_P_00001_LEFT_CC: no file" in text
    assert "  and 2 more\n" in text
    assert "1 CSV rows are refused:" in text
    assert "mass_case_description_train_set.csv is missing" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--manual_dir=DIR must name"),
        (("--manual_dir=/no/such/folder",), "must be an existing folder"),
        (("--manual_dir={tmp_path}",), "neither a CSV file of CBIS-DDSM"),
        (("/some/folder",), "unknown argument '/some/folder'"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    argv = ["check", *(argument.format(tmp_path=tmp_path) for argument in arguments)]
    with flagsaver.flagsaver():
        code = check.main(check.flags.FLAGS(argv))
    captured = capsys.readouterr()
    assert code == 2
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_command_line(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MALIGNANT, BENIGN])
    command = [sys.executable, "-m", "tfds_ddsm.check"]
    done = subprocess.run(
        [*command, f"--manual_dir={tmp_path}"], capture_output=True, text=True, check=True
    )
    assert "layout        classic (6 files)" in done.stdout
    wrong = subprocess.run([*command, "--patches_per_class=none"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
