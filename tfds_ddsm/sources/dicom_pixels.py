"""Reads the stored values of a DICOM film: uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000.

Lossy JPEG, JPEG-LS and JPEG 2000 are decoded by pydicom's plug-ins in a separate process
(`codec_process`), RLE by `dicom_rle` and lossless JPEG by `ljpeg`. `ljpeg` is needed for DDSM, and
it also detects damaged streams for which libjpeg returns an image. Before decoding, the size that
a stream declares is compared with Rows and Columns, and its number of tiles is limited, because
both determine how much memory the decoder allocates.
"""

import io
import os
import pathlib
import signal
import struct
import subprocess
import sys
import zlib

import numpy as np
import pydicom
from pydicom import uid
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder

from tfds_ddsm.mammogram import MAX_PIXELS, StorageError
from tfds_ddsm.sources import codec_process

_PREAMBLE_BYTES = 132
_PIXEL_GROUP = 0x7FE0
# Pixel Data, and the extended offset table before it.
_PIXEL_TAGS = (0x7FE00001, 0x7FE00002, 0x7FE00010)
_MAX_HEADER_BYTES = 16 * 2**20
# First bytes of a file without preamble: the first attribute has group 2 or 8, little endian.
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
_UNCOMPRESSED = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
_LOSSLESS_JPEG = (uid.JPEGLossless, uid.JPEGLosslessSV1)
# pydicom plug-in used for decoding; empty: any installed one.
_PLUGINS = {
    uid.JPEGBaseline8Bit: "pillow",
    uid.JPEGExtended12Bit: "",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}
# A film of 50 million pixels takes a tenth of this.
_MAX_DECODING_SECONDS = 120
_END_OF_STREAM = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
_MAX_TILES = 4096

_REQUIRED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
_TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
_DICOMDIR = "1.2.840.10008.1.3.10"


def is_dicom(data: bytes) -> bool:
    """Returns whether a file's content starts like DICOM, with or without a preamble."""
    return data[128:_PREAMBLE_BYTES] == b"DICM" or data[:2] in _FIRST_GROUPS


def read(data: bytes, max_bytes: int) -> pydicom.Dataset:
    """Returns a DICOM file's attributes up to and including the pixels, and its meta information.

    Args:
        data: the file's content.
        max_bytes: maximum size of a deflated data set after decompression.

    Raises:
        ValueError: the file is a DICOMDIR, has no pixels near its beginning, or has a deflated data
            set that is truncated or too large. Damaged attributes raise pydicom's exceptions.
    """
    buffer = io.BytesIO(data)
    if data[128:_PREAMBLE_BYTES] == b"DICM":
        buffer.seek(_PREAMBLE_BYTES)
    meta = read_dataset(buffer, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    start = buffer.tell()
    if "TransferSyntaxUID" not in meta:
        is_explicit = data[start + 4 : start + 6].isalpha()
        meta.TransferSyntaxUID = (
            uid.ExplicitVRLittleEndian if is_explicit else uid.ImplicitVRLittleEndian
        )
    syntax = meta.TransferSyntaxUID
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        data, start = inflater.decompress(data[start:], max_bytes), 0
        if not inflater.eof:
            raise ValueError(
                f"the deflated data set is truncated, or has more than {max_bytes} bytes after "
                "decompression"
            )
    # Millions of empty elements would take minutes and gigabytes.
    buffer = io.BytesIO(data[: start + _MAX_HEADER_BYTES])
    buffer.seek(start)
    dataset = read_dataset(
        buffer,
        syntax == uid.ImplicitVRLittleEndian,
        syntax != uid.ExplicitVRBigEndian,
        stop_when=lambda tag, vr, length: tag.group >= _PIXEL_GROUP,
    )
    encoding = dataset.original_encoding
    start = buffer.tell()
    buffer = io.BytesIO(data)
    buffer.seek(start)
    dataset.update(
        read_dataset(buffer, *encoding, stop_when=lambda tag, vr, length: tag not in _PIXEL_TAGS)
    )
    dataset.file_meta = pydicom.dataset.FileMetaDataset(meta)
    if dataset.file_meta.get("MediaStorageSOPClassUID") == _DICOMDIR:
        raise ValueError("a DICOMDIR lists files; pass one of them")
    if "PixelData" not in dataset:
        raise ValueError(
            f"the first {min(len(data), _MAX_HEADER_BYTES)} bytes contain no pixel data"
        )
    return dataset


def stored_values(dataset: pydicom.Dataset) -> np.ndarray:
    """Returns the stored values of the only frame: uint8, uint16, int8 or int16 [height, width].

    Raises:
        ValueError: the file is not a film, no decoder for its transfer syntax is available, or its
            stream cannot be decoded. Damaged attributes raise pydicom's exceptions.
        StorageError: the machine is temporarily unable to run the stream's decoder.
    """
    _check_is_film(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _UNCOMPRESSED:
        stored, _ = get_decoder(syntax).as_array(dataset, raw=True, correct_unused_bits=False)
        return _checked(stored, dataset)
    if syntax not in (uid.RLELossless, *_LOSSLESS_JPEG, *_PLUGINS):
        raise ValueError(
            f"transfer syntax {uid.UID(syntax).name!r} is not supported; export the film again "
            "without compression (Explicit VR Little Endian)"
        )
    (frame,) = pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1)
    shape = dataset.Rows, dataset.Columns
    if syntax == uid.RLELossless:
        from tfds_ddsm.sources import dicom_rle  # numba takes a while to import

        stored = dicom_rle.decode(frame, *shape, dataset.BitsAllocated)
    elif syntax in _LOSSLESS_JPEG:
        from tfds_ddsm.sources import ljpeg

        _check_jpeg(frame, shape)
        stored = ljpeg.decode(frame, first_line_of_t81=True)
    else:
        check = _check_jpeg2000 if "2000" in uid.UID(syntax).name else _check_jpeg
        check(frame, shape)
        stored = _by_codec(dataset, frame, syntax)
    return _checked(stored, dataset)


def _check_is_film(dataset: pydicom.Dataset) -> None:
    class_uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    num_frames = dataset.get("NumberOfFrames") or 1
    if class_uid == _TOMOSYNTHESIS or num_frames != 1:
        raise ValueError(
            "tomosynthesis and other multi-frame images are not films; received NumberOfFrames "
            f"{num_frames}: pass the view's 2-D mammogram, or one frame as a separate file"
        )
    for keyword in _REQUIRED:
        if dataset.get(keyword) is None:
            raise ValueError(f"the file has no {keyword}")
    check_size(int(dataset.Rows), int(dataset.Columns))
    colours, interpretation = dataset.SamplesPerPixel, dataset.PhotometricInterpretation
    if colours != 1 or interpretation not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(
            "PhotometricInterpretation must be MONOCHROME1 or MONOCHROME2, with 1 sample per "
            f"pixel; received {interpretation!r} with {colours}: export the film in grey"
        )
    for keyword, allowed in (
        ("BitsAllocated", (8, 16)),
        ("PixelRepresentation", (0, 1)),
        ("BitsStored", tuple(range(8, dataset.BitsAllocated + 1))),
        ("HighBit", (dataset.BitsStored - 1,)),
    ):
        value = dataset.get(keyword)
        if value not in allowed:
            expected = " or ".join(map(str, allowed)) if len(allowed) < 3 else "8 to 16"
            raise ValueError(f"{keyword} must be {expected}; received {value!r}")


def check_size(height: int, width: int) -> None:
    """Raises ValueError if an image has no pixels, or more than a film can have."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(
            f"a film must have from 1 to {MAX_PIXELS} pixels; received {height} x {width} pixels"
        )


def _checked(stored: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Returns stored values with the sign declared by the file and no bits beyond its depth."""
    shape = dataset.Rows, dataset.Columns
    if stored.shape != shape:
        raise ValueError(f"the stream has the shape {stored.shape}, but the file declares {shape}")
    bits, allocated = dataset.BitsStored, dataset.BitsAllocated
    if stored.dtype.itemsize * 8 != allocated:
        if (brightest := int(stored.max())) >= 2**allocated:
            raise ValueError(f"BitsAllocated is {allocated}, but a stored value is {brightest}")
        stored = stored.astype(f"{stored.dtype.kind}{allocated // 8}")
    stored = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    unused = allocated - bits
    if dataset.PixelRepresentation:
        signed = np.left_shift(stored.view(f"i{allocated // 8}"), unused)
        return np.right_shift(signed, unused, out=signed)
    stored = stored.view(f"u{allocated // 8}")
    if unused and (brightest := int(stored.max())) >= 2**bits:
        if not _overlays_lie_in_pixels(dataset):
            raise ValueError(f"BitsStored is {bits}, but a stored value is {brightest}")
        stored = stored & np.array(2**bits - 1, stored.dtype)
    return stored


def _overlays_lie_in_pixels(dataset: pydicom.Dataset) -> bool:
    """Returns whether the bits beyond the depth contain overlays, as written by older devices."""
    return any(
        dataset.get((group, 0x0102)) is not None and (group, 0x3000) not in dataset
        for group in range(0x6000, 0x6020, 2)
    )


def _check_jpeg(stream: bytes, shape: tuple[int, int]) -> None:
    """Raises ValueError unless a JPEG or JPEG-LS stream has an end and a grey frame of `shape`."""
    _check_end(stream)
    if stream[:2] != b"\xff\xd8":
        raise ValueError("the stream is not JPEG")
    offset = 2
    while True:
        while stream[offset : offset + 2] == b"\xff\xff":
            offset += 1
        marker, length = struct.unpack_from(">HH", stream, offset)
        if 0xFFC0 <= marker <= 0xFFC3 or marker == 0xFFF7:
            height, width, colours = struct.unpack_from(">HHB", stream, offset + 5)
            _check_frame((height, width), colours, shape)
            return
        if marker < 0xFFC0 or marker in (0xFFD8, 0xFFD9, 0xFFDA) or length < 2:
            raise ValueError("the stream has no frame header")
        offset += 2 + length


def _check_jpeg2000(stream: bytes, shape: tuple[int, int]) -> None:
    """Like `_check_jpeg` for JPEG 2000; also raises ValueError for empty or too many tiles."""
    _check_end(stream)
    start = stream.find(b"\xff\x4f\xff\x51")  # SOC, SIZ (ITU-T T.800, A.5.1)
    if start < 0:
        raise ValueError("the stream is not JPEG 2000")
    right, bottom, left, top, across, down = struct.unpack_from(">6I", stream, start + 8)
    (colours,) = struct.unpack_from(">H", stream, start + 40)
    _check_frame((bottom - top, right - left), colours, shape)
    if not across or not down:
        raise ValueError(f"tiles must have at least 1 x 1 pixels; received {down} x {across}")
    num_tiles = -(-right // across) * -(-bottom // down)
    if num_tiles > _MAX_TILES:
        raise ValueError(f"an image must have at most {_MAX_TILES} tiles; received {num_tiles}")


def _check_end(stream: bytes) -> None:
    if _END_OF_STREAM not in stream.rstrip(b"\0")[-4:]:  # padding may follow
        raise ValueError("the stream is truncated: it has no end marker")


def _check_frame(size: tuple[int, int], colours: int, shape: tuple[int, int]) -> None:
    if size != shape or colours != 1:
        raise ValueError(
            f"the stream has {size[0]} x {size[1]} pixels with {colours} samples each, but the "
            f"file declares {shape[0]} x {shape[1]} with 1"
        )


def _by_codec(dataset: pydicom.Dataset, frame: bytes, syntax: uid.UID) -> np.ndarray:
    plugin = _PLUGINS[syntax]
    if syntax == uid.JPEGExtended12Bit and dataset.BitsStored == 8:
        plugin = "pillow"
    elif (
        syntax == uid.JPEGExtended12Bit and "pylibjpeg" not in get_decoder(syntax).available_plugins
    ):
        raise ValueError("12-bit JPEG needs an additional decoder: pip install pylibjpeg-libjpeg")
    alone = pydicom.Dataset()
    for keyword in (
        *("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns"),
        *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    ):
        setattr(alone, keyword, dataset[keyword].value)
    alone.PixelData = pydicom.encaps.encapsulate([frame])
    alone.file_meta = pydicom.dataset.FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = syntax
    alone.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    alone.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    content = io.BytesIO()
    alone.save_as(content, enforce_file_format=True)
    try:
        finished = subprocess.run(
            [sys.executable, "-W", "ignore", pathlib.Path(codec_process.__file__), plugin],
            input=content.getvalue(),
            capture_output=True,
            timeout=_MAX_DECODING_SECONDS,
            # Each further thread of OpenBLAS would use some of the process's limited address space.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"the stream may be damaged: its decoder did not finish in {_MAX_DECODING_SECONDS} s"
        ) from None
    except OSError as error:
        raise StorageError(
            f"the decoder cannot be started ({error.strerror}); run the same command again when "
            "the machine has more free memory and runs fewer processes"
        ) from error
    if finished.returncode in (-signal.SIGKILL, -signal.SIGTERM):
        raise StorageError(
            f"the decoder was killed by signal {-finished.returncode}, possibly because the "
            "machine ran out of memory; run the same command again with fewer processes"
        )
    if finished.returncode != 0:
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        reason = (
            lines[-1].strip()
            if lines
            else f"its decoder was killed by signal {-finished.returncode}"
        )
        raise ValueError(f"the stream cannot be decoded: {reason}")
    return np.load(io.BytesIO(finished.stdout), allow_pickle=False)
