"""Decodes films and masks from DICOM, PNG, PGM, TIFF or JPEG files, or rejects them.

The files may be damaged or hostile, so their size and the height and width that they declare are
checked before memory is allocated for the pixels. The format is detected from the content, not from
the name.
"""

import contextlib
import dataclasses
import functools
import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import pydicom
from etils import epath
from pydicom.errors import BytesLengthException, InvalidDicomError

from tfds_ddsm import grey_levels
from tfds_ddsm.grey_levels import GreyScale
from tfds_ddsm.mammogram import MAX_PIXELS, StorageError, UnreadableFilmError
from tfds_ddsm.sources import dicom_pixels, storage

JPEG_SUFFIXES = (".jpg", ".jpeg")

# 16 bits per pixel, plus a header and the overhead of RLE that does not compress.
MAX_FILE_BYTES = 2 * MAX_PIXELS * 129 // 128 + 2**20
# The first bytes of each image format, and Pillow's name for it.
_PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"P5", "PPM"),  # Pillow's name for PGM too
    (b"P2", "PPM"),
)
_GREY_MODES = {"1": "L", "L": "L", "I;16": "I;16", "I;16B": "I;16", "I": "I"}
# Width, height and maximum value; a comment counts as white space.
_PGM_HEADER = re.compile(rb"P[25]" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)")
# Encoders write about ten scans; each takes as long to decode as a whole baseline image.
_MAX_SCANS = 64
# Metadata that Pillow would parse without a limit. The bytes FF E1 and FF E2 are never pixels.
_PARSED_SEGMENT = re.compile(rb"(\xff[\xe1\xe2]..)(?:Exif|MPF\0)", re.DOTALL)
_TIFF_TAG = [("tag", "u2"), ("kind", "u2"), ("count", "u4"), ("value", "u4")]
_TIFF_KIND_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8])
_LINKED_TAGS = (34665, 34853, 40965)  # EXIF, GPS, interoperability
_MAX_TAG_BYTES = 16 * 2**20
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_SBIT = re.compile(rb"\0\0\0\x01sBIT(.)", re.DOTALL)

# Exceptions of pydicom and Pillow for damaged files; neither documents a complete list.
_DECODING_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    PIL.Image.DecompressionBombError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@dataclasses.dataclass(frozen=True, eq=False)
class FilmPixels:
    """A film as stored in its file.

    Attributes:
        stored: integers [height, width], 8 or 16 bits, signed or unsigned.
        scale: grey levels of the stored values.
        header: the DICOM attributes without the pixels; None for other formats.
    """

    stored: np.ndarray
    scale: GreyScale
    header: pydicom.Dataset | None = None

    @functools.cached_property
    def grey(self) -> np.ndarray:
        """Grey levels, uint16 [height, width]; dense tissue is bright."""
        return self.scale.to_grey(self.stored)

    def with_grey(self, grey: np.ndarray) -> "FilmPixels":
        """Returns the film with other grey levels.

        Stored values whose grey level does not change are kept.
        """
        changed = grey != self.grey
        stored = self.stored.copy()
        stored[changed] = self.scale.to_stored(grey[changed], stored.dtype)
        return dataclasses.replace(self, stored=stored)


def read_file(path: epath.Path) -> bytes:
    """Returns the content of a film or a mask.

    Raises:
        UnreadableFilmError: the file is missing or too large.
        StorageError: it is temporarily unreadable.
    """
    return storage.read_bytes(path, MAX_FILE_BYTES)


def read_film(path: epath.Path, bits: int | None = None, voi: bool = False) -> FilmPixels:
    """Returns the film in a file; see `decode_film`. Refuses a file that cannot be opened."""
    return decode_film(read_file(path), str(path), bits, voi)


def read_pixels(path: epath.Path) -> np.ndarray:
    """Returns the stored values of a file; see `decode`. Refuses a file that cannot be opened."""
    return decode(read_file(path), str(path))


def decode_film(data: bytes, name: str, bits: int | None = None, voi: bool = False) -> FilmPixels:
    """Decodes a film.

    Args:
        data: the file's content.
        name: the file's name, for messages.
        bits: depth of the film; None: as given by the file, or estimated from its stored values.
        voi: whether to apply a DICOM file's VOI LUT or window.

    Raises:
        UnreadableFilmError: the file is damaged, too large, or not a greyscale image.
        StorageError: the machine is temporarily unable to decode it.
    """
    with refusing(name):
        stored, header, stated_white, is_inverted = _decode(data)
        if header is None:
            scale = grey_levels.of_picture(stored, stated_white, bits)
            if is_inverted:
                stored = np.array(2**scale.bits - 1, stored.dtype) - stored
        else:
            scale = grey_levels.of_dicom(stored, header, bits, voi)
            for tag in list(header.group_dataset(0x7FE0).keys()):
                del header[tag]
        return FilmPixels(stored, scale, header)


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes a file, for instance a mask, to its stored values.

    A TIFF file in which low values are bright is inverted, but a DICOM file is not.

    Args:
        data: the file's content.
        name: the file's name, for messages.

    Returns:
        Integers of 8 or 16 bits [height, width], at most `MAX_PIXELS` in all.

    Raises:
        UnreadableFilmError: the file is damaged, too large, or not a greyscale image.
        StorageError: the machine is temporarily unable to decode it.
    """
    with refusing(name):
        stored, _, _, is_inverted = _decode(data)
        return ~stored if is_inverted else stored


@contextlib.contextmanager
def refusing(name: str) -> Iterator[None]:
    """Converts exceptions about damaged files to UnreadableFilmError, one line with the name."""
    log = logging.getLogger("pydicom")
    level = log.level
    # Its messages about damaged files, with tracebacks, repeat the reason for the refusal.
    log.setLevel(logging.CRITICAL)
    try:
        # The attributes in use are checked by this package. pydicom would print invalid values in
        # full.
        with pydicom.config.disable_value_validation(), warnings.catch_warnings():
            # These are about odd values; this package rejects those that matter.
            warnings.filterwarnings("ignore", module="pydicom")
            yield
    except StorageError as error:
        raise StorageError(f"{name}: {error}") from error
    except _DECODING_ERRORS as error:
        reason = ascii(str(error).split("\n", 1)[0][:300])[1:-1] or type(error).__name__
        raise UnreadableFilmError(f"{name}: {reason}") from error
    finally:
        log.setLevel(level)


def _check_num_bytes(num_bytes: int) -> None:
    if not num_bytes:
        raise ValueError("the file is empty")
    if num_bytes > MAX_FILE_BYTES:
        raise ValueError(f"the file must have at most {MAX_FILE_BYTES} bytes; received {num_bytes}")


def _decode(data: bytes) -> tuple[np.ndarray, pydicom.Dataset | None, int | None, bool]:
    """Decodes a file's content.

    Returns:
        The stored values; the attributes of a DICOM file, or None; the stored value of white, if
        another image gives it, or None; and whether low values of another image are bright.
    """
    _check_num_bytes(len(data))
    if dicom_pixels.is_dicom(data):
        dataset = dicom_pixels.read(data, MAX_FILE_BYTES)
        return dicom_pixels.stored_values(dataset), dataset, None, False
    for start, kind in _PICTURES:
        if data.startswith(start):
            stored, is_inverted = _decode_picture(data, kind)
            white = _stated_white(data, kind)
            if kind == "PPM" and white is not None:  # Pillow scales up to the whole range
                half = grey_levels.WHITE // 2
                scaled = stored.astype(np.uint32) * np.uint32(white) + np.uint32(half)
                stored = (scaled // grey_levels.WHITE).astype(np.uint16)
            return stored, None, white, is_inverted
    raise ValueError("the file is not DICOM, PNG, PGM, TIFF or JPEG")


def _decode_picture(data: bytes, kind: str) -> tuple[np.ndarray, bool]:
    """Decodes a greyscale image of 16 or at most 8 bits; the colours of a JPEG become grey.

    Returns:
        The pixels, and whether low values are bright.
    """
    if kind == "JPEG":
        data = _checked_jpeg(data)
    elif kind == "TIFF":
        data = _checked_tiff(data)
    with PIL.Image.open(io.BytesIO(data), formats=(kind,)) as image:
        dicom_pixels.check_size(image.height, image.width)
        if kind == "JPEG":
            return np.asarray(image.convert("L")), False
        if kind == "TIFF":
            _check_tiles(image)
        if getattr(image, "n_frames", 1) != 1:
            raise ValueError(f"a file must contain one image; received {image.n_frames}")
        if image.mode not in _GREY_MODES:
            raise ValueError(
                f"a {kind} must be grey, with 16 or at most 8 bits per pixel (Pillow's mode L or "
                f"I;16); received {image.mode}"
            )
        pixels = np.asarray(image.convert(_GREY_MODES[image.mode]))
        # In these files white is 0; Pillow inverts only 8-bit images.
        is_inverted = kind == "TIFF" and image.mode.startswith("I") and image.tag_v2.get(262) == 0
    if image.mode == "I":  # Pillow's mode for a 16-bit PGM
        if pixels.min() < 0 or pixels.max() > grey_levels.WHITE:
            raise ValueError(
                f"stored values must be in [0, {grey_levels.WHITE}]; received {pixels.min()} to "
                f"{pixels.max()}"
            )
        pixels = pixels.astype(np.uint16)
    return pixels, is_inverted


def _checked_jpeg(data: bytes) -> bytes:
    """Returns a JPEG without parsed metadata; raises ValueError if it has too many scans."""
    num_scans = data.count(b"\xff\xda")
    if num_scans > _MAX_SCANS:
        raise ValueError(f"a JPEG must have at most {_MAX_SCANS} scans; received {num_scans}")
    return _PARSED_SEGMENT.sub(rb"\1None", data)


def _checked_tiff(data: bytes) -> bytearray:
    """Returns a TIFF without links to metadata, which Pillow would follow (TIFF 6.0, section 2).

    Raises:
        ValueError: the file has several images, repeated tags, or tags with too many values.
    """
    order, content = "<" if data.startswith(b"II") else ">", bytearray(data)
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (num_tags,) = struct.unpack_from(f"{order}H", data, start)
    tags = np.frombuffer(content, np.dtype(_TIFF_TAG).newbyteorder(order), num_tags, start + 2)
    (following,) = struct.unpack_from(f"{order}I", data, start + 2 + tags.nbytes)
    if following:
        raise ValueError("a file must contain one image; received 2 or more")
    if len(np.unique(tags["tag"])) < num_tags:  # Pillow and libtiff would use different ones
        raise ValueError("the tags of a TIFF must be unique")
    value_bytes = _TIFF_KIND_BYTES[np.where(tags["kind"] < len(_TIFF_KIND_BYTES), tags["kind"], 0)]
    num_bytes = int((value_bytes * tags["count"]).sum())
    if num_bytes > _MAX_TAG_BYTES:
        raise ValueError(
            f"the tags of a TIFF must have at most {_MAX_TAG_BYTES} bytes; received {num_bytes}: "
            "save the image without layers and metadata"
        )
    tags["kind"][np.isin(tags["tag"], _LINKED_TAGS)] = 0  # an unknown kind is ignored
    return content


def _check_tiles(image: PIL.Image.Image) -> None:
    """Raises ValueError if the tiles of a TIFF have more pixels than a film can have."""
    sizes = image.tag_v2.get(_TILE_LENGTH, 1), image.tag_v2.get(_TILE_WIDTH, 1)
    padded = [-(-side // size) * size for side, size in zip(image.size[::-1], sizes, strict=True)]
    if padded[0] * padded[1] > MAX_PIXELS:
        raise ValueError(
            f"the tiles of a TIFF must have at most {MAX_PIXELS} pixels in all; received tiles of "
            f"{sizes[0]} x {sizes[1]} pixels"
        )


def _stated_white(data: bytes, kind: str) -> int | None:
    """Returns the stored value of white given by an image, or None.

    It is a PGM's maximum value if that is above 255 and below 65,535, or the highest value of the
    depth in a grey PNG's sBIT chunk (PNG, third edition, 11.3.2.4). That chunk comes before IDAT.
    """
    if kind == "PPM":
        match = _PGM_HEADER.match(data)
        return int(match[3]) if match and 255 < int(match[3]) < grey_levels.WHITE else None
    match = _SBIT.search(data, 0, max(0, data.find(b"IDAT"))) if kind == "PNG" else None
    return 2 ** match[1][0] - 1 if match and grey_levels.MIN_BITS <= match[1][0] <= 16 else None
