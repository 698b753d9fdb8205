import io
import pathlib

import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from cigan_tf.errors import UserError
from export.films import film_files
from tests.tfds_ddsm.sources import dicom_films, pvrg_encoder
from tfds_ddsm.mammogram import StorageError, UnreadableFilmError
from tfds_ddsm.sources import dicom_pixels, image_file

CODECS = (uid.JPEGLSLossless, uid.JPEG2000Lossless)


@pytest.mark.parametrize("syntax", dicom_films.LOSSLESS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (14, True), (16, False)])
def test_stored_values_are_read_exactly(syntax, bits, signed):
    stored = dicom_films.tissue(bits, signed)
    data = dicom_films.encoded(dicom_films.film(stored, bits), syntax)
    decoded = image_file.decode(data, "F.dcm")
    assert decoded.dtype == stored.dtype
    np.testing.assert_array_equal(decoded, stored)


@pytest.mark.parametrize("bits", [10, 11, 13, 15])
@pytest.mark.parametrize("signed", [False, True])
def test_every_depth_is_read(bits, signed):
    stored = dicom_films.tissue(bits, signed)
    data = dicom_films.content(dicom_films.film(stored, bits))
    np.testing.assert_array_equal(image_file.decode(data, "F.dcm"), stored)


def test_signed_values_may_have_zeros_above_their_depth():
    stored = dicom_films.tissue(12, signed=True)
    film = dicom_films.film(stored, 12, PixelData=(stored & 0xFFF).tobytes())
    np.testing.assert_array_equal(image_file.decode(dicom_films.content(film), "F.dcm"), stored)


@pytest.mark.parametrize(
    "name",
    [
        *("MR_small_implicit", "MR_small_bigendian", "image_dfl", "MR_small_RLE"),
        *("JPEGLSNearLossless_08", "JPEGLSNearLossless_16", "MR_small_jpeg_ls_lossless"),
        *("JPEG2000", "J2K_pixelrep_mismatch", "examples_overlay", "MR_small_padded"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # pydicom warns about odd values in its own files
def test_pydicoms_files_are_read_as_pydicom_reads_them(name):
    path = get_testdata_file(f"{name}.dcm")
    decoded = image_file.decode(pathlib.Path(path).read_bytes(), name)
    np.testing.assert_array_equal(decoded, pydicom.dcmread(path).pixel_array)


def test_an_8_bit_jpeg_is_read():
    smooth = np.add.outer(np.arange(60), np.arange(50)).astype(np.uint8)
    PIL.Image.fromarray(smooth).save(jpeg := io.BytesIO(), "JPEG", quality=95)
    film = dicom_films.film(smooth, 8, PixelData=pydicom.encaps.encapsulate([jpeg.getvalue()]))
    film["PixelData"].is_undefined_length = True
    film.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    decoded = image_file.decode(dicom_films.content(film), "F.dcm")
    assert np.abs(decoded.astype(int) - smooth).max() <= 3


def add_icon(film):
    icon = Dataset()
    icon.Rows = icon.Columns = 300
    icon.PixelData = bytes(90_000)
    icon["PixelData"].VR = "OB"
    film.IconImageSequence = [icon]
    film["IconImageSequence"].is_undefined_length = True


def add_codes(film):
    code = Dataset()
    code.CodeValue, code.CodeMeaning = "1", "meaning"
    film.ViewCodeSequence = [code] * 3000
    film["ViewCodeSequence"].is_undefined_length = True


@pytest.mark.parametrize("edit", [add_icon, add_codes])
def test_long_headers_of_undefined_length_are_read(edit):
    film = dicom_films.film(edit=edit)
    data = dicom_films.content(film)
    assert len(data) > len(film.PixelData) + 2**16
    np.testing.assert_array_equal(image_file.decode(data, "F.dcm"), dicom_films.tissue(16))


def test_a_file_without_preamble_or_meta_information_is_read():
    data = dicom_films.content(dicom_films.film())
    start = data.index(b"\x08\0\x08\0CS")  # Image Type is the first attribute
    for without in (data[132:], data[start:]):
        np.testing.assert_array_equal(image_file.decode(without, "F.dcm"), dicom_films.tissue(16))


def test_an_overlay_in_the_unused_bits_is_not_part_of_the_film():
    stored = dicom_films.tissue(12)
    film = dicom_films.film(stored | 0x8000, 12)
    with pytest.raises(UnreadableFilmError, match="BitsStored is 12, but a stored value is 3"):
        image_file.decode(dicom_films.content(film), "F.dcm")
    film.add_new(0x60000102, "US", 15)  # overlay bit position
    np.testing.assert_array_equal(image_file.decode(dicom_films.content(film), "F.dcm"), stored)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SC_rgb_jpeg_dcmtk", "with 1 sample per pixel; received 'YBR_FULL' with 3"),
        ("examples_palette", "received 'PALETTE COLOR' with 1: export the film in grey"),
        ("rtdose", "multi-frame images are not films; received NumberOfFrames 15: pass"),
        ("liver_1frame", "BitsAllocated must be 8 or 16; received 1"),
        ("rtplan", "contain no pixel data"),
        ("DICOMDIR", "a DICOMDIR lists files; pass one of them"),
        ("MR_truncated", "less than expected"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_files_that_are_not_films_are_refused_by_name(name, message):
    path = get_testdata_file(name if name == "DICOMDIR" else f"{name}.dcm")
    with pytest.raises(UnreadableFilmError, match=message):
        image_file.decode(pathlib.Path(path).read_bytes(), "F.dcm")


def test_a_video_is_refused_by_name():
    film = dicom_films.film()
    film.PixelData = pydicom.encaps.encapsulate([b"0000"])
    film["PixelData"].is_undefined_length = True
    film.file_meta.TransferSyntaxUID = uid.MPEG4HP41
    with pytest.raises(
        UnreadableFilmError, match=r"'MPEG-4 AVC/H.264 High .* export the film again"
    ):
        image_file.decode(dicom_films.content(film), "F.dcm")


def with_stream(syntax, change):
    """Returns a 12-bit film with a changed encapsulated stream."""
    film = dicom_films.film(bits=12)
    dicom_films.encoded(film, syntax)
    stream = next(pydicom.encaps.generate_frames(film.PixelData, number_of_frames=1))
    film.PixelData = pydicom.encaps.encapsulate([change(stream.rstrip(b"\0"))])
    return dicom_films.content(film)


@pytest.mark.parametrize("syntax", [*CODECS, uid.JPEGLosslessSV1], ids=lambda syntax: syntax.name)
def test_a_truncated_stream_is_refused(syntax):
    assert image_file.decode(with_stream(syntax, bytes), "F.dcm").shape == (80, 64)
    with pytest.raises(UnreadableFilmError, match="the stream is truncated: it has no end marker"):
        image_file.decode(with_stream(syntax, lambda stream: stream[:-20]), "F.dcm")


@pytest.mark.parametrize("syntax", CODECS, ids=lambda syntax: syntax.name)
def test_a_stream_of_another_size_is_refused_before_it_is_decoded(syntax):
    def grow(stream):
        start = {uid.JPEGLSLossless: 7, uid.JPEG2000Lossless: 10}[syntax]
        return stream[:start] + b"\x40" + stream[start + 1 :]

    with pytest.raises(UnreadableFilmError, match=r"the stream has .* declares 80 x 64"):
        image_file.decode(with_stream(syntax, grow), "F.dcm")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_decoders_work_with_and_without_python_buffering(syntax, unbuffered, monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)  # empty has the same effect as unset
    stored = dicom_films.tissue(12)
    data = dicom_films.encoded(dicom_films.film(stored, 12), syntax)
    np.testing.assert_array_equal(image_file.decode(data, "F.dcm"), stored)


def test_a_decoder_that_hangs_is_killed(monkeypatch):
    # CharLS loops forever on some truncated streams, with or without an end marker.
    monkeypatch.setattr(dicom_pixels, "_MAX_DECODING_SECONDS", 0.01)
    with pytest.raises(
        UnreadableFilmError, match="the stream may be damaged: its decoder did not finish"
    ):
        image_file.decode(with_stream(uid.JPEGLSLossless, bytes), "F.dcm")


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (None, r"cannot be started \(No such file or directory\)"),
        ("#!/bin/sh\nkill -9 $$\n", "was killed by signal 9"),
    ],
)
def test_a_failing_machine_is_not_a_damaged_film(tmp_path, monkeypatch, decoder, message):
    data = with_stream(uid.JPEGLSLossless, bytes)
    if decoder is not None:
        (tmp_path / "python").write_text(decoder)
        (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(dicom_pixels.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(StorageError, match=f"F.dcm: the decoder {message}"):
        image_file.decode_film(data, "F.dcm")
    with pytest.raises(UserError, match=f"F.dcm: the decoder {message}"):
        film_files.read_film(data, "F.dcm")


def test_a_stream_deeper_than_its_file_is_refused():
    def film(stored):
        stream = pvrg_encoder.encode(stored, predictor=1, precision=12, first_line_of_t81=True)
        film = dicom_films.film(bits=8, PixelData=pydicom.encaps.encapsulate([stream]))
        film["PixelData"].is_undefined_length = True
        film.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
        return dicom_films.content(film)

    np.testing.assert_array_equal(
        image_file.decode(film(dicom_films.tissue(8)), "F.dcm"), dicom_films.tissue(8)
    )
    message = "BitsAllocated is 8, but a stored value is 4095"
    with pytest.raises(UnreadableFilmError, match=message):
        image_file.decode(film(dicom_films.tissue(12)), "F.dcm")


def test_a_decoder_says_why_it_fails():
    with pytest.raises(
        UnreadableFilmError, match=r"F.dcm: the stream cannot be decoded: pyjpegls: "
    ):
        image_file.decode(
            with_stream(uid.JPEGLSLossless, lambda stream: stream[:500] + b"\xff\xd9"), "F.dcm"
        )


@pytest.mark.parametrize(
    ("syntax", "count"),
    [
        *[(syntax, 120) for syntax in (*dicom_films.UNCOMPRESSED, uid.RLELossless)],
        *[(uid.JPEGLosslessSV1, 120), (uid.JPEGLSLossless, 6), (uid.JPEG2000Lossless, 6)],
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_damaged_films_are_refused_or_read_and_raise_nothing_else(syntax, count, monkeypatch):
    monkeypatch.setattr(dicom_pixels, "_MAX_DECODING_SECONDS", 5)
    data = dicom_films.encoded(dicom_films.film(bits=12), syntax)
    reasons = []
    for copy in dicom_films.damaged(data, count):
        try:
            film = image_file.decode_film(copy, "F.dcm")
        except UnreadableFilmError as error:
            reasons.append(str(error))
        else:
            assert film.grey.dtype == np.uint16
            assert film.grey.shape == film.stored.shape
    assert not [reason for reason in reasons if "\n" in reason]
    assert len(reasons) > 0.3 * count
