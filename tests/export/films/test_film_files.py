import io
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pydicom
import pytest

from cigan_tf.errors import UserError
from export.films import film_files
from export.films.film_infill import FilmLesion
from tests.tfds_ddsm.sources import dicom_films

PIXELS = np.random.default_rng(0).integers(0, 65_536, (90, 70), np.uint16)


def png(picture, **options):
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "PNG", **options)
    return buffer.getvalue()


def huge_png_header(side):
    def chunk(kind, data):
        length, check = struct.pack(">I", len(data)), struct.pack(">I", zlib.crc32(kind + data))
        return length + kind + data + check

    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def test_a_16_bit_png_is_a_film_without_a_header():
    film = film_files.read_film(png(PIXELS), "folder/film.PNG")
    assert film.warning is None
    np.testing.assert_array_equal(film.pixels, PIXELS)
    assert film.header is None


def test_a_dicom_film_has_its_header(sample_film):
    path, pixels, _ = sample_film
    film = film_files.read_film(path.read_bytes(), path.name)
    np.testing.assert_array_equal(film.pixels, pixels)
    assert film.header.PatientID == "Mass-Test_P_00173_LEFT_CC"
    assert "PixelData" not in film.header


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(np.zeros((5, 5, 3), np.uint8)), r"mode L or I;16\); received RGB"),
        (png(PIXELS)[:500], "film.png: "),
        (huge_png_header(20_000), "film.png: .*(pixels|exceeds limit)"),
        (b"", "the file is empty"),
        (b"plain text", "film.png: the file is not DICOM, PNG"),
    ],
    ids=["colour", "truncated", "huge", "empty", "text"],
)
def test_files_that_are_not_films_are_refused(content, message):
    with pytest.raises(UserError, match=message):
        film_files.read_film(content, "film.png")


def test_a_guessed_depth_causes_a_warning():
    film = film_files.read_film(png(PIXELS >> 4), "film.png")
    np.testing.assert_array_equal(film.pixels, np.round((PIXELS >> 4) / 4095 * 65535))
    assert film.warning == (
        f"film.png: stored values are {PIXELS.min() >> 4} to {PIXELS.max() >> 4}, but the file "
        "allows 0 to 65535: treated as a film of 12 bits; pass bits=16 or another depth if that is "
        "wrong."
    )
    assert film_files.read_film(png(PIXELS >> 4), "film.png", bits=16).warning is None


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (14, True), (16, False)])
def test_stored_values_outside_the_lesion_round_trip(bits, signed, interpretation):
    stored = dicom_films.tissue(bits, signed)
    source = dicom_films.film(stored, bits, PhotometricInterpretation=interpretation)
    source.RescaleIntercept, source.RescaleSlope = -7, 2
    film = film_files.read_film(dicom_films.content(source), "film.dcm")
    infilled = film.pixels.copy()
    infilled[10:30, 20:50] = 30_000
    lesions = [FilmLesion(np.ones((20, 30), bool), 10, 20, malignant=True)]
    files = film_files.files_of(film, infilled, lesions, 7, "SavedModel 0123")
    written = pydicom.dcmread(io.BytesIO(files[".dcm"]))
    for keyword in (
        *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
        *("PixelRepresentation", "RescaleIntercept", "RescaleSlope"),
    ):
        assert written[keyword].value == source[keyword].value
    inside = lesions[0].on_film(stored.shape)
    np.testing.assert_array_equal(written.pixel_array[~inside], stored[~inside])
    again = film_files.read_film(files[".dcm"], "again.dcm")
    assert np.abs(again.pixels[inside].astype(int) - 30_000).max() <= 65535 / 2**bits


@pytest.mark.parametrize("mode", ["1", "L"])
def test_a_mask_is_a_grey_picture(mode):
    mask = np.zeros((12, 9), bool)
    mask[3:7, 2:5] = True
    picture = PIL.Image.fromarray(mask.astype(np.uint8) * 255).convert(mode)
    np.testing.assert_array_equal(film_files.read_mask(png(np.array(picture)), "m.png"), mask)


def disc(side=160, radius=60):
    rows, columns = np.indices((side, side)) - side // 2
    return rows**2 + columns**2 <= radius**2


@pytest.mark.parametrize("quality", [75, 95])
def test_grey_edges_of_a_mask_are_thresholded_at_half(quality):
    PIL.Image.fromarray(disc().astype(np.uint8) * 255).save(
        jpeg := io.BytesIO(), "JPEG", quality=quality
    )
    mask = film_files.read_mask(jpeg.getvalue(), "m.jpg")
    assert np.count_nonzero(mask != disc()) < 0.002 * np.count_nonzero(disc())


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (disc().astype(np.uint8), disc()),
        (disc() * np.uint8(128), disc()),
        (disc() * np.uint16(65535), disc()),
        (cv2.GaussianBlur(disc() * np.uint8(255), (0, 0), 2), disc()),
        (np.full((9, 9), 255, np.uint8), np.ones((9, 9), bool)),
        (np.zeros((9, 9), np.uint8), np.zeros((9, 9), bool)),
    ],
    ids=["0 and 1", "0 and 128", "16 bits", "blurred", "all", "none"],
)
def test_a_mask_is_the_area_brighter_than_the_middle(picture, expected):
    mask = film_files.read_mask(png(picture), "m.png")
    assert np.count_nonzero(mask != expected) < 0.01 * max(1, np.count_nonzero(expected))


def test_a_mask_with_a_hole_is_refused():
    outline = disc() & ~disc(radius=55)
    for picture in (~disc(), outline):
        with pytest.raises(UserError, match=r"m.png: .* surround a hole of \d+ pixels.*inverted"):
            film_files.read_mask(png(picture.astype(np.uint8) * 255), "m.png")
    speck = disc()
    speck[80:84, 80:84] = False
    np.testing.assert_array_equal(
        film_files.read_mask(png(speck.astype(np.uint8) * 255), "m.png"), speck
    )


@pytest.mark.parametrize("ending", ["_seg.dcm", "_mask.png", "_before_after.png", ".dcm"])
def test_no_output_may_be_an_input(tmp_path, ending):
    mine = tmp_path / f"x{ending}"
    mine.write_bytes(b"mine")
    (tmp_path / "link").symlink_to(mine)
    for path in (mine, tmp_path / "link"):
        for overwrite in (False, True):
            with pytest.raises(UserError, match=r"x.dcm' would overwrite the input"):
                film_files.check_outputs(tmp_path / "x.dcm", ["absent", str(path)], overwrite)
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("ending", ["_seg.dcm", "_mask.png", "_before_after.png", ".dcm"])
def test_nothing_is_overwritten_unless_asked_for(tmp_path, ending):
    film_files.check_outputs(tmp_path / "x.dcm", [], overwrite=False)
    (tmp_path / f"x{ending}").touch()
    with pytest.raises(UserError, match=f"x{ending}' already exists; .* or --overwrite"):
        film_files.check_outputs(tmp_path / "x.dcm", [], overwrite=False)
    film_files.check_outputs(tmp_path / "x.dcm", [], overwrite=True)


def test_an_invalid_output_path_is_named(tmp_path):
    with pytest.raises(UserError, match=r"output .*x_seg.dcm' cannot be written: File name too lo"):
        film_files.check_outputs(tmp_path / f"{'x' * 250}.dcm", [], overwrite=False)
    film_files.check_outputs(tmp_path / "free.dcm", [str(tmp_path / "absent")], overwrite=False)


def test_the_files_state_the_synthetic_region_and_the_seed(tmp_path):
    lesions = [
        FilmLesion(np.ones((20, 30), bool), 10, 20, malignant=True),
        FilmLesion(np.ones((5, 5), bool), 60, 30, malignant=False),
    ]
    film = film_files.read_film(png(PIXELS), "film.png")
    files = film_files.files_of(film, PIXELS, lesions, 7, "SavedModel 0123")
    paths = film_files.write_files(tmp_path / "deep" / "new.dcm", files)
    assert [path.name for path in paths] == [
        *("new_seg.dcm", "new_mask.png", "new_before_after.png", "new.dcm"),
    ]
    np.testing.assert_array_equal(pydicom.dcmread(paths[-1]).pixel_array, PIXELS)
    expected = np.zeros(PIXELS.shape, np.uint8)
    expected[10:30, 20:50] = 255
    expected[60:65, 30:35] = 128
    np.testing.assert_array_equal(cv2.imread(str(paths[1]), cv2.IMREAD_UNCHANGED), expected)
    assert len(list(paths[0].parent.iterdir())) == 4
    film, masks = (pydicom.dcmread(paths[index]) for index in (-1, 0))
    seeds = "1 malignant seed 7, 2 non_malignant seed 8"
    assert seeds in film.DerivationDescription
    assert seeds in PIL.Image.open(paths[1]).text["Comment"]
    assert [item.SegmentDescription for item in masks.SegmentSequence] == [
        "Infilled as malignant with seed 7",
        "Infilled as non_malignant with seed 8",
    ]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"output .* cannot be written"):
        film_files.write_files(tmp_path / "file" / "new.dcm", {".dcm": b"0"})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent.dcm: No such file"):
        film_files.read_file(tmp_path / "absent.dcm")


def test_a_file_without_an_end_is_refused(tmp_path):
    (tmp_path / "film.dcm").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"film.dcm: a film must be a regular file"):
        film_files.read_file(tmp_path / "film.dcm")
