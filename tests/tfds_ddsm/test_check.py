import dataclasses
import shutil

import numpy as np
import PIL.Image
import pytest
from absl.testing import flagsaver

from tests import warm_commands
from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm import check

FILM = np.arange(12, dtype=np.uint16).reshape(4, 3)
MALIGNANT = cbis_ddsm_tree.Abnormality(FILM, FILM == 5, "P_00016", pathology="MALIGNANT")
BENIGN = dataclasses.replace(
    MALIGNANT, lesion_type="calcification", patient_id="P_00001", pathology="BENIGN", split="train"
)
OTHER_SPLITS = ((MALIGNANT, "train"), (BENIGN, "test"))


def _words(text):
    return " ".join(text.split())


def test_complete_tree(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MALIGNANT, BENIGN], "descriptive")
    text = _words(check.describe(str(tmp_path), patches_per_class=100)[0])
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
    assert "are skipped" not in text
    assert "rows cannot be used" not in text


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


def test_ddsm_and_cbis_ddsm_in_one_folder(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path / "cbis", [MALIGNANT])
    _write_ddsm_case(tmp_path / "usf")
    text, stops = check.describe(str(tmp_path), patches_per_class=100)
    assert stops
    first, second = map(_words, text.split("\n\n"))
    assert first.startswith(f"ddsm_patches/cbis_ddsm from {tmp_path}")
    assert second.startswith(f"ddsm_patches/ddsm from {tmp_path}")
    assert "films 3 (scanner: 2 howtek_mgh, 1 unknown) patients 1 lesions 1: 1 malignant" in second
    assert "1 of 3 films cannot be used: " in second
    assert "A_1459_1.RIGHT_MLO.OVERLAY" in second
    assert "are skipped" not in second
    assert "A build stops: mass_case_description_train_set.csv is missing" in first
    assert second.count("A_1459_1.RIGHT_MLO.OVERLAY") == 2
    assert "A build stops: More than 5% of the films cannot be used, for example " in second


def test_films_of_ddsm_that_are_listed_but_absent_are_missing(tmp_path):
    _write_ddsm_case(tmp_path)
    for path in tmp_path.rglob("*.RIGHT_*.LJPEG"):
        path.unlink()
    text, stops = check.describe(str(tmp_path), patches_per_class=100, source="ddsm")
    assert stops
    assert "A build stops: More than 5% of the films cannot be used, for example " in text
    assert "2 of 3 films are skipped:" in text
    assert "A-1459-1.ics names the film A_1459_1.RIGHT_CC, which has no .LJPEG file" in text


def test_archives_are_named_if_no_film_is_found(tmp_path):
    for name in ("a.zip", "b.zip", "films"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"here are 2 \.zip, 1 without a suffix: unpack"):
        check.describe(str(tmp_path), patches_per_class=100)


def _save_film(path, seed, bits=16, shape=(60, 40)):
    """Saves a film as a PNG of 8 or 16 bits."""
    pixels = np.random.default_rng(seed).integers(0, 2**bits, shape)
    pixels[0, 0] = 2**bits - 1
    PIL.Image.fromarray(pixels.astype(np.uint8 if bits == 8 else np.uint16)).save(path)


def test_own_films_are_read_and_their_splits_reported(tmp_path):
    rows = ["film,patient_id,label,split,row_min,row_max,col_min,col_max,notes"]
    for number in range(1, 5):
        label, box = ("malignant", "10,19,5,14") if number < 3 else ("normal", ",,,")
        split = ("train", "train", "test", "validation")[number - 1]
        rows.append(f"{number}.png,P{number},{label},{split},{box},")
        _save_film(tmp_path / f"{number}.png", number, 8 if number == 1 else 16)
    (tmp_path / "films.csv").write_text("\n".join(rows))

    text, has_faults = check.describe(str(tmp_path), patches_per_class=100)

    assert not has_faults
    text = _words(text)
    for part in (
        "table films.csv, 4 lines unused columns: notes",
        "films 4 (scanner: 4 unknown) patients 4",
        "lesions 2: 2 malignant, 0 benign 2 films are normal",
        "depth 16 bits (3 films), 8 bits (1 films)",
        "size 60 x 40 (4 films)",
        "train 2 2 2 0 validation 1 1 0 0 validation has no malignant lesion",
        "train 100 50 0 50",
    ):
        assert part in text
    text = check.describe(str(tmp_path))[0]  # the number of patches of the config 'films'
    assert "train 10000 5000 0 5000" in _words(text)


def test_different_guessed_depths_are_reported(tmp_path):
    text = "film,patient_id,label,bits\na.png,P1,normal,\nb.png,P2,normal,"
    (tmp_path / "films.csv").write_text(text)
    for seed, (name, bits) in enumerate((("a.png", 12), ("b.png", 14))):
        _save_film(tmp_path / name, seed, bits)
    found, has_faults = check.describe(str(tmp_path), patches_per_class=100)
    assert not has_faults
    assert "2 films of unknown depth:" in found
    assert "the depths differ" in found
    (tmp_path / "films.csv").write_text(text.replace("P1,normal,", "P1,normal,14") + "14")
    found, _ = check.describe(str(tmp_path), patches_per_class=100)
    assert "depth         14 bits (2 films)" in found
    assert "unknown depth" not in found


def test_faults_of_own_films_are_listed_and_fail_the_check(tmp_path, capsys):
    (tmp_path / "films.csv").write_text(
        "film,patient_id,label,row_min,row_max,col_min,col_max,mask\n"
        "good.png,P1,benign,10,19,5,14,\n"
        "good.png,P1,malignant,10,19,25,34,\n"
        "same.png,P2,normal,,,,,\n"
        "line.png,,normal,,,,,\n"
        "patients.png,P3,normal,,,,,\n"
        "patients.png,P4,normal,,,,,\n"
        "missing.png,P5,normal,,,,,\n"
        "damaged.png,P6,normal,,,,,\n"
        "outside.png,P7,benign,10,19,500,514,\n"
        "size.png,P8,benign,,,,,mask.png\n"
        "anywhere.png,P9,malignant,,,,,\n"
    )
    for seed, name in enumerate(("good", "line", "patients", "outside", "size", "anywhere")):
        _save_film(tmp_path / f"{name}.png", seed)
    _save_film(tmp_path / "same.png", 0)
    _save_film(tmp_path / "mask.png", 9, shape=(30, 20))
    (tmp_path / "damaged.png").write_bytes((tmp_path / "good.png").read_bytes()[:2000])

    text, has_faults = check.describe(str(tmp_path), patches_per_class=100)

    assert has_faults
    for part in (
        "2 lines that cannot be used:\n  films.csv line 5: the film line.png has no patient_id",
        "films.csv line 7: patient_id of the film patients.png is 'P4', but 'P3' in films.csv line",
        f"1 films whose file or mask is missing:\n  {tmp_path}/missing.png is missing",
        "3 films that cannot be read, or whose lesions do not fit:",
        f"{tmp_path}/damaged.png: ",
        "line 10: at least half of the lesion (rows 10 to 19, columns 500 to 514), and",
        "line 11: the mask must have the film's 60 x 40 pixels; received 30 x 20",
        "1 films with the image of another patient's film:\n  same.png (P2) and good.png (P1)",
        "1 malignant films without the lesion's location, which yield no patches:",
        "films.csv line 12: the malignant lesion has no location",
        "A build stops at lines and films that cannot be used",
    ):
        assert part in text
    argv = ["check", f"--manual_dir={tmp_path}", "--patches_per_class=100"]
    with flagsaver.flagsaver():
        assert check.main(check.flags.FLAGS(argv)) == 2
    assert capsys.readouterr().out == text + "\n"


def test_the_number_of_expected_patches_follows_the_sources_config(tmp_path):
    cbis_ddsm_tree.write_tree(tmp_path, [MALIGNANT, BENIGN])
    rows = check.describe(str(tmp_path))[0].splitlines()[-4:-1]
    assert sum(int(row.split()[1]) for row in rows) == 100_000


def test_expected_patches_add_up(tmp_path):
    patients = [f"P_{number:05}" for number in range(1, 40)]
    rows = [
        dataclasses.replace(row, patient_id=patient)
        for row in (MALIGNANT, BENIGN)
        for patient in patients
    ]
    cbis_ddsm_tree.write_tree(tmp_path, rows)
    lines = check.describe(str(tmp_path), patches_per_class=1000)[0].splitlines()[-4:-1]
    assert [line.split()[0] for line in lines] == ["train", "validation", "test"]
    counts = np.array([[int(word) for word in line.split()[1:]] for line in lines])
    np.testing.assert_array_equal(counts.sum(axis=0), [1000, 1000, 500, 500])
    np.testing.assert_array_equal(counts[:, 1], counts[:, 2] + counts[:, 3])
    assert (counts[0] > counts[1]).all()


def test_missing_films_are_counted_and_the_first_are_named(tmp_path):
    rows = [dataclasses.replace(BENIGN, patient_id=f"P_{n:05}") for n in range(1, 6)]
    unproven = dataclasses.replace(MALIGNANT, pathology="UNPROVEN", number=2)
    cbis_ddsm_tree.write_tree(tmp_path, [MALIGNANT, unproven, *rows], "jpeg")
    for row in rows:
        shutil.rmtree(tmp_path / "jpeg" / cbis_ddsm_tree.uid(row.film_folder))
    text, _ = check.describe(str(tmp_path), patches_per_class=100)
    assert "8 bits per pixel" in text
    assert (
        "5 of 6 films are skipped:\n  Calc-Training_P_00001_LEFT_CC: the film's file is missing"
        in text
    )
    assert "  and 2 more\n" in text
    assert "1 CSV rows cannot be used:" in text
    assert "mass_case_description_train_set.csv is missing" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--manual_dir=DIR must name"),
        (("--manual_dir=/no/such/folder",), "must be an existing folder"),
        (("--manual_dir=s3://bucket/films",), "at gs://; s3:// cannot be used here"),
        (("--manual_dir={tmp_path}",), "neither films.csv, nor a CSV file of CBIS-DDSM"),
        (("--manual_dir={tmp_path}", "--source=films"), "films.csv: No such file"),
        (("--manual_dir={tmp_path}", "--source=ddsm"), "no film of DDSM"),
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
    others = (
        dataclasses.replace(row, patient_id="P_00020", split=split) for row, split in OTHER_SPLITS
    )
    cbis_ddsm_tree.write_tree(tmp_path, [MALIGNANT, BENIGN, *others])
    done = warm_commands.run("tfds_ddsm.check", f"--manual_dir={tmp_path}")
    assert done.returncode == 0
    assert "layout        classic (12 files)" in done.stdout
    wrong = warm_commands.run("tfds_ddsm.check", "--patches_per_class=none")
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
