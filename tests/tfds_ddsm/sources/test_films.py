import csv
import io
import os
import pickle

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from etils import epath

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm import patches
from tfds_ddsm.mammogram import Film, UnreadableFilmError
from tfds_ddsm.sources import films
from tfds_ddsm.sources.films import FilmsSource

SHAPE = (60, 40)
BOX = {"row_min": 10, "row_max": 19, "col_min": 5, "col_max": 14}
PATIENTS = [f"P{number}" for number in range(60)]


def picture(bits=16, seed=0):
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(seed).integers(0, 2**bits, SHAPE).astype(dtype)
    pixels[0, 0] = 2**bits - 1
    return pixels


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def write_table(root, *rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    root.mkdir(exist_ok=True)
    (root / "films.csv").write_text(text.getvalue())
    return FilmsSource(root)


def line(film="a.png", patient="P1", label="normal", **values):
    return {"film": film, "patient_id": patient, "label": label} | values


def test_films_in_a_bucket_are_found_without_a_request_for_each(bucket, monkeypatch):
    rows = [line(f"{number}/a.png", f"P{number}") for number in range(20)]
    source = write_table(epath.Path(bucket), *rows, line("absent.png"))
    for row in rows:
        (epath.Path(bucket) / row["film"]).parent.mkdir()
        (epath.Path(bucket) / row["film"]).touch()
    monkeypatch.setattr(films, "_LISTED_FROM", 20)
    asked, exists = [], tf.io.gfile.exists
    monkeypatch.setattr(tf.io.gfile, "exists", lambda path: asked.append(path) or exists(path))
    assert len(source.index()) == 20
    assert source.skipped()[0].reason == f"{bucket}/absent.png is missing"
    assert [os.path.basename(path) for path in asked] == ["absent.png"]


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("a.png", 8),
        ("a.png", 12),
        ("a.png", 16),
        ("a.tif", 8),
        ("a.tif", 12),
        ("a.tif", 16),
        ("a.pgm", 8),
        ("a.pgm", 16),
        ("a.dcm", 8),
        ("a.dcm", 16),
    ],
)
def test_films_of_every_format_and_depth_fill_the_same_scale(tmp_path, name, bits):
    pixels = picture(bits)
    source = write_table(tmp_path, line(name))
    if name.endswith(".dcm"):
        cbis_ddsm_tree.write_image(tmp_path / name, pixels)
    else:
        save(tmp_path / name, pixels)
    (film,) = source.index()

    image = source.read(film).image

    assert image.dtype == np.uint16
    expected = np.round(pixels * (65535 / (2**bits - 1)))
    np.testing.assert_array_equal(image, expected)


def test_a_jpeg_has_eight_bits(tmp_path):
    rows, columns = np.indices(SHAPE)
    smooth = (3 * rows + columns).astype(np.uint8)
    save(tmp_path / "a.jpg", smooth)
    source = write_table(tmp_path, line("a.jpg"))
    image = source.read(source.index()[0]).image
    np.testing.assert_allclose(image, smooth * 257.0, atol=4 * 257)


def test_the_depth_can_be_given(tmp_path):
    save(tmp_path / "a.png", picture(12))
    source = write_table(tmp_path, line(bits=14))
    image = source.read(source.index()[0]).image
    assert image.max() == round(4095 * 65535 / 16383)


def test_lesions_of_every_kind_of_outline(tmp_path):
    save(tmp_path / "a.png", picture())
    mask = np.zeros(SHAPE, np.uint8)
    mask[20:25, 30:35] = 255
    save(tmp_path / "masks" / "a.png", mask)
    source = write_table(
        tmp_path,
        line(label="malignant", lesion_type="mass", subtlety=2, **BOX),
        line(label="benign", mask="masks/a.png"),
        line(label="benign", polygon="50,1 50,4 53,4 53,1"),
        line(label="benign", center_row=9, center_col=30, radius=2, origin="bottom"),
    )
    (film,) = source.index()
    assert film == Film("a.png", "P1", "unknown", "unknown", "unknown", 1, 3)

    mammogram = source.read(film)

    boxes = []
    for lesion in mammogram.lesions:
        rows, columns = np.nonzero(lesion.mask)
        assert lesion.mask.shape == SHAPE
        boxes.append((rows.min(), rows.max(), columns.min(), columns.max()))
    assert boxes == [(10, 19, 5, 14), (20, 24, 30, 34), (50, 53, 1, 4), (48, 52, 28, 32)]
    assert [lesion.malignant for lesion in mammogram.lesions] == [True, False, False, False]
    assert mammogram.lesions[0].description.subtlety == 2
    assert mammogram.left_out == ()


def test_a_mask_with_grey_edges_is_thresholded_at_half(tmp_path):
    save(tmp_path / "a.png", picture())
    rows, columns = np.indices(SHAPE)
    disc = (rows - 30) ** 2 + (columns - 20) ** 2 <= 100
    PIL.Image.fromarray(disc.astype(np.uint8) * 255).save(tmp_path / "mask.jpg", quality=75)
    source = write_table(tmp_path, line(label="benign", mask="mask.jpg"))
    (lesion,) = source.read(source.index()[0]).lesions
    assert np.count_nonzero(lesion.mask != disc) < 6


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"row_min": 500, "row_max": 520, "col_min": 0, "col_max": 9}, "must be on the film"),
        ({"mask": "other.png"}, r"have the film's 60 x 40 pixels; received 59 x 40 .*other.png"),
        (
            {"mask": "empty.png"},
            "is empty: a lesion must be brighter than 127, .*; the brightest .* 0",
        ),
        (
            {"mask": "inverted.png"},
            "the mask appears to be inverted, because it is bright along all edges",
        ),
        ({"mask": "text.png"}, r"text.png: "),
    ],
)
def test_a_film_with_a_lesion_that_does_not_fit_is_refused(tmp_path, values, reason):
    save(tmp_path / "a.png", picture())
    mask = np.zeros(SHAPE, np.uint8)
    save(tmp_path / "empty.png", mask)
    mask[20:30, 10:20] = 255
    save(tmp_path / "other.png", mask[1:])
    save(tmp_path / "inverted.png", 255 - mask)
    (tmp_path / "text.png").write_text("no picture")
    source = write_table(tmp_path, line(label="benign", **values))
    with pytest.raises(UnreadableFilmError, match=reason):
        source.read(source.index()[0])


def test_missing_files_are_skipped_and_named(tmp_path):
    save(tmp_path / "a.png", picture())
    source = write_table(
        tmp_path,
        line("a.png"),
        line("b.png"),
        line("c.png", label="benign", mask="m.png"),
        line("a.png", "P2"),
    )
    with pytest.raises(
        ValueError, match=r"films.csv: no film can be used; for example, .* patient_id"
    ):
        source.index()
    source = write_table(
        tmp_path, line("a.png"), line("b.png"), line("c.png", label="benign", mask="m.png")
    )
    save(tmp_path / "c.png", picture())
    assert [film.film_id for film in source.index()] == ["a.png"]
    assert [item.reason for item in source.skipped()] == [
        f"{tmp_path}/b.png is missing",
        f"{tmp_path}/m.png is missing",
    ]


def test_lesions_of_unknown_position(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / name, picture())
    source = write_table(
        tmp_path,
        line("a.png", label="benign"),
        line("b.png", label="malignant"),
        line("c.png", label="malignant"),
        line("c.png", label="malignant", **BOX),
    )
    # A benign breast has only non-malignant tissue, wherever its lesion is.
    assert [film.film_id for film in source.index()] == ["a.png", "c.png"]
    assert source.read(source.index()[0]).left_out == ()
    # Any patch without the known lesion may show the other malignant one, whose position is
    # unknown.
    (left_out,) = source.read(source.index()[1]).left_out
    assert left_out.startswith("films.csv line 4: the malignant lesion has no location")
    (item,) = source.skipped()
    assert (item.kind, item.name) == ("lesion", "b.png")


def test_splits_come_from_the_table_or_a_hash(tmp_path):
    def splits(*named):
        rows = [
            line(f"{patient}.png", patient, split=split)
            for patient, split in zip(PATIENTS, named, strict=True)
        ]
        for row in rows:
            (tmp_path / row["film"]).touch()
        source = write_table(tmp_path, *rows)
        return [source.split_of(Film(f"{p}.png", p, "", "", "", 0, 0)) for p in PATIENTS]

    by_hash = [patches.split_of(patient) for patient in PATIENTS]
    assert splits(*[""] * 60) == by_hash
    assert splits(*["test"] * 30, *["validation"] * 30) == ["test"] * 30 + ["validation"] * 30
    assert splits(*["test"] * 30, *[""] * 30)[30:] == by_hash[30:]
    # If the table has no validation patients, a tenth of the training patients are used.
    found = splits(*["train"] * 60)
    assert found == ["validation" if split == "validation" else "train" for split in by_hash]
    assert set(found) == {"train", "validation"}


def test_a_changed_line_or_file_changes_the_fingerprint(tmp_path):
    save(tmp_path / "a.png", picture())
    first = write_table(tmp_path, line(label="benign", **BOX))
    film = first.index()[0]
    same = write_table(tmp_path, line(label="benign", **BOX))
    assert same.fingerprint(film) == first.fingerprint(film)
    lower = write_table(tmp_path, line("0.png"), line(label="benign", **BOX))
    assert lower.fingerprint(film) == first.fingerprint(film)
    other = write_table(tmp_path, line(label="benign", **BOX | {"row_max": 25}))
    assert other.fingerprint(film) != first.fingerprint(film)
    before = same.fingerprint(film)
    save(tmp_path / "a.png", picture(8))
    assert same.fingerprint(film) != before


def test_pickled_source_does_not_read_the_table_again(tmp_path, monkeypatch):
    save(tmp_path / "a.png", picture())
    source = write_table(tmp_path, line(label="benign", **BOX))
    (film,) = source.index()
    copy = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr(films.films_table, "parse_table", None)
    assert len(copy.read(film).lesions) == 1
    with pytest.raises(ValueError, match=r"in the index; received 'x'"):
        copy.read(Film("x", "P1", "", "", "", 0, 0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, r"films.csv: No such file.*; write the table"), (b"\xff\xfe", "the text is not UTF-8")],
)
def test_a_missing_or_non_text_table_is_refused(tmp_path, content, reason):
    if content:
        (tmp_path / "films.csv").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        FilmsSource(tmp_path).index()
