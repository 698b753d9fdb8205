import io
import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from tfds_ddsm import png_file

RNG = np.random.default_rng(0)
PICTURES = {
    "noise, 16 bits": RNG.integers(0, 2**16, (64, 64, 1), np.uint16),
    "noise, 8 bits": RNG.integers(0, 2**8, (64, 64, 1), np.uint8),
    "smooth": np.linspace(0, 65_535, 256 * 256).astype(np.uint16).reshape(256, 256, 1),
    "extremes": np.tile(np.array([0, 65_535], np.uint16), 512).reshape(32, 32, 1),
    "mask": (RNG.random((512, 512, 1)) < 0.001).astype(np.uint8),
    "empty mask": np.zeros((256, 256, 1), np.uint8),
    "one column": RNG.integers(0, 2**16, (3, 1, 1), np.uint16),
    "a window of a film": RNG.integers(0, 2**16, (90, 80), np.uint16)[9:41, 7:39][..., None],
}


@pytest.mark.parametrize("image", PICTURES.values(), ids=PICTURES)
def test_other_decoders_read_the_same_pixels(image):
    import tensorflow as tf

    data = png_file.encode(image)

    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    by_pillow = np.asarray(PIL.Image.open(io.BytesIO(data)))
    by_tensorflow = tf.io.decode_png(data, dtype=image.dtype).numpy()
    for decoded in (by_opencv, by_pillow, by_tensorflow):
        assert decoded.dtype == image.dtype
        np.testing.assert_array_equal(decoded.reshape(image.shape), image)


@pytest.mark.parametrize("image", PICTURES.values(), ids=PICTURES)
def test_the_file_conforms_to_the_standard(image):
    data = png_file.encode(image)

    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    names, start = [], 8
    while start < len(data):
        (length,) = struct.unpack(">I", data[start : start + 4])
        body = data[start + 4 : start + 8 + length]
        (checksum,) = struct.unpack(">I", data[start + 8 + length : start + 12 + length])
        assert zlib.crc32(body) == checksum
        names.append(body[:4])
        start += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]


def test_a_smooth_picture_takes_much_less_than_its_pixels():
    assert len(png_file.encode(PICTURES["smooth"])) < PICTURES["smooth"].nbytes / 20
