import struct

import numpy as np
import pydicom
import pytest

from tests.tfds_ddsm.sources import cbis_ddsm_tree
from tfds_ddsm.sources import dicom_rle

RNG = np.random.default_rng(0)


def segments(*planes):
    """Returns a frame: the header and the codes of the planes."""
    starts = np.cumsum([64, *map(len, planes)])[:-1]
    header = struct.pack("<16I", len(planes), *starts, *[0] * (15 - len(planes)))
    return header + b"".join(planes)


def encoded_by_pydicom(pixels):
    dataset = cbis_ddsm_tree.dicom(pixels)
    dataset.compress(pydicom.uid.RLELossless)
    return next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["noise", "runs", "constant"])
def test_streams_of_another_encoder_are_decoded(dtype, kind):
    pixels = RNG.integers(0, np.iinfo(dtype).max, (301, 257), dtype, endpoint=True)
    if kind == "runs":
        pixels[pixels < pixels.max() // 4 * 3] = 7
    elif kind == "constant":
        pixels[:] = np.iinfo(dtype).max

    decoded = dicom_rle.decode(encoded_by_pydicom(pixels), 301, 257, 8 * pixels.itemsize)

    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, pixels)


def test_copies_runs_and_padding_by_hand():
    copy, run, nothing, padding = b"\x02\x0a\x0b\x0c", b"\xfe\x07", b"\x80", b"\0"
    frame = segments(copy + nothing + run + padding)

    assert dicom_rle.decode(frame, 2, 3, 8).tolist() == [[10, 11, 12], [7, 7, 7]]
    high, low = b"\x01\x01\x02", b"\xff\x05"
    assert dicom_rle.decode(segments(high, low), 1, 2, 16).tolist() == [[0x105, 0x205]]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "64 bytes; received 0"),
        (segments(b"\x01\x01\x02", b"\xff\x05"), "must be 1 for 8-bit pixels; received 2"),
        (segments(b"\0\x07"), "an RLE segment must decode to 6 bytes; received 1"),
        (segments(b"\x05\x01\x02"), "received 0"),  # a copy beyond the end of the codes
        (segments(b"\xf0\x01"), "received 0"),  # a run beyond the end of the plane
        (segments(b"\xfe"), "received 0"),  # a run without its value
        (struct.pack("<16I", 1, 63, *[0] * 14) + b"\xfb\x01", "must follow the header"),
        (struct.pack("<16I", 1, 2**32 - 1, *[0] * 14) + b"\xfb\x01", "must follow the header"),
    ],
)
def test_a_damaged_stream_is_an_error(frame, message):
    with pytest.raises(ValueError, match=message):
        dicom_rle.decode(frame, 2, 3, 8)


def test_random_damage_is_an_error_or_other_pixels():
    frame = encoded_by_pydicom(RNG.integers(0, 2**16, (20, 30), np.uint16))
    for _ in range(2000):
        damaged = bytearray(frame[: RNG.integers(1, len(frame) + 1)])
        for place in RNG.integers(0, len(damaged), 3):
            damaged[place] = RNG.integers(0, 256)
        try:
            decoded = dicom_rle.decode(bytes(damaged), 20, 30, 16)
        except ValueError:
            continue
        assert decoded.shape == (20, 30)
