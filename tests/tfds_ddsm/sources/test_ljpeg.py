import importlib.util
import pathlib

import numpy as np
import pytest

from tfds_ddsm.sources import ljpeg

_HERE = pathlib.Path(__file__).parent
_spec = importlib.util.spec_from_file_location("pvrg_encoder", _HERE / "pvrg_encoder.py")
pvrg_encoder = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pvrg_encoder)

STREAMS = _HERE.parents[3] / "shared" / "data" / "ljpeg"
needs_streams = pytest.mark.skipif(not STREAMS.exists(), reason="no streams of the PVRG encoder")


def _random(rng, shape, precision):
    return rng.integers(0, 1 << precision, shape)


def _smooth(rng, shape, precision):
    slope = np.add.outer(3 * np.arange(shape[0]), 5 * np.arange(shape[1]))
    return (slope + rng.integers(0, 3, shape)) % (1 << precision)


def _extreme(rng, shape, precision):
    """Returns samples with differences of all sizes up to SSSS 16 and sums that exceed 16 bits."""
    return rng.choice([0, 1 << (precision - 1), (1 << precision) - 1], shape)


def _film():
    return _smooth(np.random.default_rng(0), (24, 17), 12)


@needs_streams
@pytest.mark.parametrize("name", ["1", "4", "7", "7_swapped_dims"])
def test_decodes_streams_of_the_pvrg_encoder(name):
    crop = np.load(STREAMS / "crop_a.npy")

    image = ljpeg.decode((STREAMS / f"crop_a_predictor{name}.LJPEG").read_bytes())

    assert image.dtype == np.uint16
    assert image.shape == (crop.T.shape if "swapped" in name else crop.shape)
    np.testing.assert_array_equal(image.reshape(crop.shape), crop)


@needs_streams
@pytest.mark.parametrize("name", ["1", "4", "7", "7_swapped_dims"])
def test_test_encoder_writes_the_bytes_of_the_pvrg_encoder(name):
    stream = (STREAMS / f"crop_a_predictor{name}.LJPEG").read_bytes()
    crop = np.load(STREAMS / "crop_a.npy")
    if "swapped" in name:
        crop = crop.reshape(crop.T.shape)
    start = stream.index(b"\xff\xc4")
    table = stream[start + 5 : start + 2 + int.from_bytes(stream[start + 2 : start + 4])]

    encoded = pvrg_encoder.encode(crop, int(name[0]), huffman=(table[:16], table[16:]))

    assert encoded == stream


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("precision", [2, 8, 12, 16])
@pytest.mark.parametrize("make_image", [_random, _smooth, _extreme])
def test_round_trip(predictor, precision, make_image):
    rng = np.random.default_rng(predictor)
    for shape in ((37, 53), (1, 9), (9, 1), (1, 1), (2, 3)):
        image = make_image(rng, shape, precision)

        decoded = ljpeg.decode(pvrg_encoder.encode(image, predictor, precision))

        np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize("restart_lines", [1, 4, 24])
@pytest.mark.parametrize("predictor", [1, 7])
def test_restart_markers(restart_lines, predictor):
    film = _film()

    stream = pvrg_encoder.encode(film, predictor, restart_lines=restart_lines)

    assert (b"\xff\xd7" in stream) == (restart_lines == 1)  # all eight markers occur
    np.testing.assert_array_equal(ljpeg.decode(stream), film)


def test_skips_segments_without_effect_on_the_pixels():
    film = _film()
    stream = pvrg_encoder.encode(film)
    comment = pvrg_encoder.segment(0xFE, b"\xff\xd9 digitized") + pvrg_encoder.segment(0xE0, b"")

    stream = stream[:2] + comment + b"\xff\xff" + stream[2:-2]  # with fill bytes and without EOI

    np.testing.assert_array_equal(ljpeg.decode(stream), film)


def _replaced(stream, marker, position, value):
    """Returns the stream with bytes of a marker segment's parameters replaced."""
    start = stream.index(bytes((0xFF, marker))) + 4 + position
    return stream[:start] + value + stream[start + len(value) :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: b"", "byte 0: a JPEG stream must start with FFD8; received ''"),
        (lambda s: b"P5" + s, "byte 0: a JPEG stream must start with FFD8; received '5035'"),
        (lambda s: s[:2], "byte 2: expected a marker"),
        (lambda s: s[:2] + b"\xff\xff", "byte 4: the stream ends within a marker"),
        (lambda s: s[:9], "byte 4: the segment of marker FFC3 .* remaining 5; received 11"),
        (lambda s: s.replace(b"\xff\xc3", b"\xff\xc0"), "byte 4: marker FFC0 is not allowed"),
        (lambda s: s[:15] + s[2:], "byte 17: the stream has a second frame header"),
        (lambda s: s[:2] + s[15:], r"a lossless frame header \(SOF3\) must precede the scan"),
        (lambda s: _replaced(s, 0xC3, 0, b"\1"), "precision must be 2 to 16 bits; received 1"),
        (lambda s: _replaced(s, 0xC3, 1, b"\0\0"), "at least 1; received 0 x 17"),
        (lambda s: _replaced(s, 0xC3, 1, b"\x1b\x58\x1b\x58"), "7000 x 7000 samples need"),
        (lambda s: _replaced(s, 0xC3, 1, b"\xff\xff\xff\xff"), "samples; received 65535 x 65535"),
        (
            lambda s: _replaced(s, 0xC3, 5, b"\3"),
            "SOF3 must have 9 bytes and 1 component; received 9 bytes and 3",
        ),
        (lambda s: _replaced(s, 0xC4, 1, b"\3\0"), "more codes than their lengths allow"),
        (lambda s: _replaced(s, 0xC4, 17, b"\x11"), "SSSS must be 0 to 16 .*; received 17"),
        (lambda s: _replaced(s, 0xC4, 16, b"\xff"), "a Huffman table of 271 codes is truncated"),
        (lambda s: _replaced(s, 0xDA, 1, b"\2"), "only the frame's component 1"),
        (lambda s: _replaced(s, 0xDA, 2, b"\x10"), "Huffman table 1, which is undefined"),
        (lambda s: _replaced(s, 0xDA, 3, b"\0"), "the predictor must be 1 to 7; received 0"),
        (lambda s: _replaced(s, 0xDA, 5, b"\1"), "the point transform must be 0; received 1"),
        (lambda s: s[:-4], "the coded data end in line 23 of 24"),
        (lambda s: s[:-60] + b"\xff\xff" + s[-60:], "the coded data end in line"),
    ],
)
def test_damaged_streams_are_described(damage, message):
    stream = pvrg_encoder.encode(_film())

    with pytest.raises(ljpeg.LjpegError, match=message) as caught:
        ljpeg.decode(damage(stream))

    assert str(caught.value).startswith("byte ")
    assert "\n" not in str(caught.value)


def test_names_the_byte_of_a_code_that_does_not_exist():
    counts, values = bytes((0, 3, *[1] * 14)), bytes(range(17))
    film = np.full((8, 8), 1 << 15)  # all differences are 0: eight codes '00' per line
    stream = pvrg_encoder.encode(film, huffman=(counts, values))

    broken = stream[:-12] + b"\xff\0\xff\0" + stream[-8:]  # 16 ones: more than in any code

    offset = len(stream) - 12
    with pytest.raises(ljpeg.LjpegError, match=f"byte {offset}: the bits of line 3"):
        ljpeg.decode(broken)


def test_says_which_restart_marker_is_missing():
    stream = pvrg_encoder.encode(_film(), restart_lines=4)
    offset = stream.index(b"\xff\xd2")

    with pytest.raises(ljpeg.LjpegError, match=f"byte {offset}: expected restart marker FFD2"):
        ljpeg.decode(stream.replace(b"\xff\xd2", b"\xff\xd3"))

    with pytest.raises(
        ljpeg.LjpegError, match="a whole number of lines of 17 samples; received 18"
    ):
        ljpeg.decode(_replaced(stream, 0xDD, 0, b"\0\x12"))


@pytest.mark.parametrize("restart_lines", [0, 4])
def test_every_truncation_is_an_error(restart_lines):
    stream = pvrg_encoder.encode(_film(), restart_lines=restart_lines)

    for length in range(len(stream) - 3):
        with pytest.raises(ljpeg.LjpegError):
            ljpeg.decode(stream[:length])


def test_mutated_streams_decode_or_raise_one_error():
    rng = np.random.default_rng(0)
    stream = pvrg_encoder.encode(_film(), restart_lines=8)
    num_errors = 0
    for index in range(600):
        mutated = bytearray(stream)
        last = 80 if index % 2 else len(stream)  # half of them change the header
        for position in rng.integers(0, last, rng.integers(1, 4)):
            mutated[position] = rng.integers(0, 256)
        try:
            ljpeg.decode(bytes(mutated))
        except ljpeg.LjpegError:
            num_errors += 1
    assert 100 < num_errors < 600


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("restart_lines", [0, 4])
def test_first_lines_of_t81_are_predicted_from_the_left(predictor, restart_lines):
    image = np.random.default_rng(0).integers(0, 2**12, (19, 23), np.uint16)
    stream = pvrg_encoder.encode(
        image, predictor, 12, restart_lines=restart_lines, first_line_of_t81=True
    )
    np.testing.assert_array_equal(ljpeg.decode(stream, first_line_of_t81=True), image)
    by_pvrgs_rule = ljpeg.decode(stream)
    assert np.array_equal(by_pvrgs_rule, image) == (predictor in (1, 4, 5) and not restart_lines)
