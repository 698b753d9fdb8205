"""Pixels of one image file from outside, DICOM, PNG or JPEG: decoded exactly, or refused.

The files may be damaged or hostile. All that decides how much memory decoding takes is checked
before anything is allocated.
"""

import contextlib
import io
import logging
import pathlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pydicom
from etils import epath
from pydicom.errors import BytesLengthException, InvalidDicomError

from tfds_ddsm.mammogram import UnreadableFilmError

# What it logs of damaged files, with tracebacks, is the reason of the refusal.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

JPEG_SUFFIXES = (".jpg", ".jpeg")
PNG_SUFFIX = ".png"

# A film of 24 x 30 cm at 42 um, the finest pitch of DDSM's digitizers, has 41 million pixels.
MAX_PIXELS = 50_000_000
# 16 bits a pixel, and room for a header and for run lengths that gain nothing.
_MAX_FILE_BYTES = 2 * MAX_PIXELS * 129 // 128 + 2**20
# Holds the file meta information; so short a piece of a deflated data set cannot inflate to much.
_META_BYTES = 2**16
_TRANSFER_SYNTAXES = (
    pydicom.uid.ImplicitVRLittleEndian,
    pydicom.uid.ExplicitVRLittleEndian,
    pydicom.uid.RLELossless,
)

# What pydicom and Pillow raise on damaged files; neither documents a closed list.
_DECODING_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    PIL.Image.DecompressionBombError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


def read_pixels(path: epath.Path) -> np.ndarray:
    """Returns the pixels of a file; see `decode`. A file that cannot be opened is refused too."""
    with refusing(str(path)):
        _check_num_bytes(path.stat().length)
        data = path.read_bytes()
    return decode(data, str(path))


def decode(data: bytes, name: str) -> np.ndarray:
    """Returns the pixels of a PNG or JPEG, by the name's suffix, or else of a DICOM file.

    Returns:
        uint16 or uint8 [height, width], at most `MAX_PIXELS` in all.

    Raises:
        UnreadableFilmError: the file is damaged, too large, or not a grey picture.
    """
    suffix = pathlib.PurePath(name).suffix.lower()
    with refusing(name):
        _check_num_bytes(len(data))
        if suffix in JPEG_SUFFIXES:
            return _decode_jpeg(data)
        if suffix == PNG_SUFFIX:
            return _decode_png(data)
        return _decode_dicom(data)


def dicom_header(data: bytes, name: str) -> pydicom.Dataset:
    """Returns all of a DICOM file but its pixels; call `decode` first, which checks the file."""
    with refusing(name):
        return pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)


@contextlib.contextmanager
def refusing(name: str) -> Iterator[None]:
    """Turns whatever a damaged file raises into one line that names the file."""
    try:
        # What is used of the header is checked here. pydicom would print broken values whole.
        with pydicom.config.disable_value_validation():
            yield
    except _DECODING_ERRORS as error:
        reason = ascii(str(error).split("\n", 1)[0][:200])[1:-1] or type(error).__name__
        raise UnreadableFilmError(f"{name}: {reason}") from error


def _check_num_bytes(num_bytes: int) -> None:
    if not num_bytes:
        raise ValueError("the file is empty")
    if num_bytes > _MAX_FILE_BYTES:
        raise ValueError(f"{num_bytes} bytes are more than a film can have")


def _decode_dicom(data: bytes) -> np.ndarray:
    """Decodes one frame of grey values of 8 or 16 bits, bright is high (DICOM PS3.3, C.7.6.3)."""
    start = pydicom.dcmread(io.BytesIO(data[:_META_BYTES]), stop_before_pixels=True)
    syntax = start.file_meta.TransferSyntaxUID
    if syntax not in _TRANSFER_SYNTAXES:
        raise ValueError(f"transfer syntax {str(syntax)!r} is neither uncompressed nor RLE")
    dataset = pydicom.dcmread(io.BytesIO(data))
    _check_size(int(dataset.Rows), int(dataset.Columns))
    for keyword, allowed in (
        ("SamplesPerPixel", (1,)),
        ("NumberOfFrames", (1, None)),
        ("PhotometricInterpretation", ("MONOCHROME2",)),
        ("PixelRepresentation", (0,)),
        ("BitsAllocated", (8, 16)),
        ("BitsStored", (dataset.BitsAllocated,)),
    ):
        value = dataset.get(keyword)
        if value not in allowed:
            raise ValueError(f"{keyword} must be {allowed[0]}, received {value!r}")
    if syntax == pydicom.uid.RLELossless:
        from tfds_ddsm.sources import dicom_rle  # numba takes a while to import

        (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
        return dicom_rle.decode(frame, dataset.Rows, dataset.Columns, dataset.BitsAllocated)
    return dataset.pixel_array


def _decode_jpeg(data: bytes) -> np.ndarray:
    """Decodes an 8-bit picture; colours, should there be any, become grey."""
    with PIL.Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        _check_size(image.height, image.width)
        return np.asarray(image.convert("L"))


def _decode_png(data: bytes) -> np.ndarray:
    """Decodes a grey picture of 16 bits, or of 8 and fewer."""
    with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        _check_size(image.height, image.width)
        if image.mode not in ("1", "L", "I;16"):
            raise ValueError(f"a grey PNG has mode L or I;16 (8 or 16 bits), received {image.mode}")
        return np.asarray(image.convert("L") if image.mode == "1" else image)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"{height} x {width} pixels; a film has at least 1, at most {MAX_PIXELS}")
