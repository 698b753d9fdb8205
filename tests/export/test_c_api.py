"""The exported generator in TensorFlow's C++ loader, with valid and invalid requests."""

import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import input_pipeline
from tests.export.serving_process import RefusedError, ServingProcess

SIDE = 32
NUM_MALFORMED = 1000


@pytest.fixture(scope="module")
def server(exported):
    process = ServingProcess(exported)
    yield process
    process.close()


@pytest.fixture(scope="module")
def floats(tiny_config):
    """A valid request with three real patches for `serving_default`."""
    patches = input_pipeline.picture_patches(tiny_config, "validation", 1)
    return {
        "image": patches["image"],
        "mask": patches["mask"],
        "label": patches["label"],
        "seed": np.arange(len(patches["label"]), dtype=np.int32),
    }


@pytest.fixture(scope="module")
def pngs(floats):
    """The same request for `infill_png`."""
    return {
        "image_bytes": [encode(np.round(i * 65535).astype(np.uint16)) for i in floats["image"]],
        "mask_bytes": [encode((m * 255).astype(np.uint8)) for m in floats["mask"]],
        "label": floats["label"],
        "seed": floats["seed"],
    }


def encode(picture):
    return cv2.imencode(".png", picture)[1].tobytes()


def png_that_claims(width, height, colour_type=0):
    """Returns a small PNG file with valid chunks and a false size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_every_signature_gives_the_same_answer_as_in_python(server, exported, floats, pngs):
    signatures = tf.saved_model.load(str(exported)).signatures
    assert set(server.signatures) == {"serving_default", "infill_png"}
    for name, inputs in (("serving_default", floats), ("infill_png", pngs)):
        in_python = signatures[name](**{k: tf.constant(v) for k, v in inputs.items()})
        in_c = server.run(name, inputs)
        assert set(in_c) == set(in_python)
        for output, value in in_python.items():
            np.testing.assert_array_equal(in_c[output], value.numpy())


def malformed(rng, floats, pngs):
    """Returns an invalid request: (signature, inputs, the input that the error must name)."""

    def put(values, bad):
        values = list(values)
        values[rng.integers(len(values))] = bad
        return values

    image, mask = floats["image"], floats["mask"]
    other_shapes = [
        lambda x: x[:, : rng.integers(1, SIDE)],
        lambda x: x[..., 0],
        lambda x: x[0],
        lambda x: x.reshape(len(x), SIDE // 2, SIDE * 2, 1),
        lambda x: np.repeat(x, 3, axis=-1),
        lambda x: np.float32(0.5),
    ]
    bad_patch = image.copy()
    bad_patch[tuple(rng.integers(s) for s in image.shape)] = rng.choice(
        [np.nan, np.inf, -np.inf, -0.001, 1.001, 40000.0]
    )
    whole = pngs["image_bytes"][0]
    flipped = bytearray(whole)
    # Inside the compressed pixels, so that their checksum is wrong.
    flipped[rng.integers(45, len(whole) - 20)] ^= 0xFF
    bad_pngs = [
        b"",
        bytes(rng.integers(0, 256, rng.integers(1, 300), np.uint8)),
        whole[: rng.integers(1, len(whole))],
        bytes(flipped),
        png_that_claims(20_000, 20_000),
        png_that_claims(2**31 - 1, 2**31 - 1),
        png_that_claims(SIDE, SIDE),
        png_that_claims(SIDE, SIDE, colour_type=2),
        encode(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)),
        encode(rng.integers(0, 256, (SIDE, SIDE, 4), np.uint8)),
        encode(np.zeros((SIDE, SIDE + 1), np.uint16)),
    ]
    count = len(floats["label"])
    changes = {
        "image": [rng.choice(other_shapes)(image), bad_patch, image.astype(np.int32)],
        "mask": [rng.choice(other_shapes)(mask), mask * np.float32(0.5), mask[:1]],
        "image_bytes": [put(pngs["image_bytes"], bad) for bad in bad_pngs] + [[]],
        "mask_bytes": [put(pngs["mask_bytes"], bad) for bad in bad_pngs] + [[whole] * (count + 1)],
        "label": [
            np.full(count, rng.choice([-1, 2, 2**31 - 1]), np.int32),
            np.zeros((count, 1), np.int32),
            np.zeros(count + 1, np.int32),
            np.zeros(count, np.float32),
        ],
        "seed": [
            np.full(count, 2 ** rng.integers(31, 62), np.int64),
            np.zeros(0, np.int32),
            np.int32(3),
        ],
    }
    named = rng.choice(list(changes))
    signature, good = rng.choice(["serving_default", "infill_png"]), None
    if named in ("image", "mask"):
        signature = "serving_default"
    elif named.endswith("_bytes"):
        signature = "infill_png"
    good = floats if signature == "serving_default" else pngs
    wrong = changes[named][rng.integers(len(changes[named]))]
    return str(signature), {**good, str(named): wrong}, str(named)


def test_malformed_requests_are_refused_by_name_and_do_no_harm(server, floats, pngs):
    rng = np.random.default_rng(0)
    expected = server.run("serving_default", floats)["infilled"]
    expected_pngs = server.run("infill_png", pngs)["infilled_bytes"]
    for number in range(NUM_MALFORMED):
        signature, inputs, named = malformed(rng, floats, pngs)
        with pytest.raises(RefusedError) as refusal:
            server.run(signature, inputs)
        # A wrong dtype is refused before the graph runs. TensorFlow then gives the input's position
        # in alphabetical order.
        place = sorted(inputs).index(named)
        assert named in str(refusal.value) or f"arg[{place}]" in str(refusal.value), (
            f"{named} is not named: {refusal.value}"
        )
        if number == 200:
            settled_mb = server.peak_mb
        if number % 100 == 0:
            answer = server.run("serving_default", floats)["infilled"]
            np.testing.assert_array_equal(answer, expected)
            assert list(server.run("infill_png", pngs)["infilled_bytes"]) == list(expected_pngs)
    assert server.peak_mb < settled_mb + 16


def test_an_empty_batch_gives_an_empty_answer(server, floats, pngs):
    nothing, no_pngs = ({n: value[:0] for n, value in sent.items()} for sent in (floats, pngs))
    assert server.run("serving_default", nothing)["infilled"].shape == (0, SIDE, SIDE, 1)
    assert len(server.run("infill_png", no_pngs)["infilled_bytes"]) == 0
    assert len(server.run("serving_default", floats)["infilled"]) == len(floats["label"])
