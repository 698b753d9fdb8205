"""The exported generator: its signatures, its guarantees and its independence of the package."""

import os
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import input_pipeline, provenance
from cigan_tf.errors import UserError
from cigan_tf.exported_generator import ExportedGenerator
from export.saved_model import export
from tests import warm_commands


@pytest.fixture(scope="module")
def loaded(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture
def signatures(loaded):
    return loaded.signatures


@pytest.fixture(scope="module")
def patches(tiny_config):
    return input_pipeline.picture_patches(tiny_config, "validation", 2)


@pytest.fixture
def request_of(patches):
    def make(**changed):
        count = len(patches["label"])
        inputs = {
            "image": patches["image"],
            "mask": patches["mask"],
            "label": patches["label"],
            "seed": np.arange(count, dtype=np.int32),
        }
        return {name: tf.constant(value) for name, value in {**inputs, **changed}.items()}

    return make


def encode(picture):
    return cv2.imencode(".png", picture)[1].tobytes()


def test_the_signatures_are_the_contract(signatures):
    assert set(signatures) == {"serving_default", "infill_png"}
    _, inputs = signatures["serving_default"].structured_input_signature
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "image": (tf.float32, [None, 32, 32, 1]),
        "mask": (tf.float32, [None, 32, 32, 1]),
        "label": (tf.int32, [None]),
        "seed": (tf.int32, [None]),
    }
    _, inputs = signatures["infill_png"].structured_input_signature
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "image_bytes": (tf.string, [None]),
        "mask_bytes": (tf.string, [None]),
        "label": (tf.int32, [None]),
        "seed": (tf.int32, [None]),
    }


def test_the_context_is_returned_bit_for_bit(signatures, request_of, patches):
    infilled = signatures["serving_default"](**request_of())["infilled"].numpy()
    outside = patches["mask"] == 0
    np.testing.assert_array_equal(infilled[outside], patches["image"][outside])
    assert (infilled[~outside] != patches["image"][~outside]).mean() > 0.99


def test_seed_and_class_decide_the_infill(signatures, request_of):
    def infill(**changed):
        return signatures["serving_default"](**request_of(**changed))["infilled"].numpy()

    first = infill()
    np.testing.assert_array_equal(first, infill())
    other_seed = infill(seed=np.arange(6, dtype=np.int32) + 50)
    other_class = infill(label=1 - request_of()["label"].numpy())
    assert (np.abs(first - other_seed).max(axis=(1, 2, 3)) > 0).all()
    assert (np.abs(first - other_class).max(axis=(1, 2, 3)) > 0).all()


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(signatures, request_of):
    whole = signatures["serving_default"](**request_of())["infilled"].numpy()
    alone = {name: value[3:4] for name, value in request_of().items()}
    np.testing.assert_allclose(
        signatures["serving_default"](**alone)["infilled"].numpy()[0], whole[3], atol=1e-6
    )


def test_png_in_png_out_is_the_same_infill_in_16_bits(signatures, request_of, patches):
    grey = np.round(patches["image"] * 65535).astype(np.uint16)
    answer = signatures["infill_png"](
        image_bytes=tf.constant([encode(g) for g in grey]),
        mask_bytes=tf.constant([encode((m * 255).astype(np.uint8)) for m in patches["mask"]]),
        label=request_of()["label"],
        seed=request_of()["seed"],
    )["infilled_bytes"].numpy()
    expected = signatures["serving_default"](**request_of())["infilled"].numpy()
    for png, original, mask, floats in zip(answer, grey, patches["mask"], expected, strict=True):
        infilled = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
        assert infilled.dtype == np.uint16
        outside = mask[..., 0] == 0
        np.testing.assert_array_equal(infilled[outside], original[..., 0][outside])
        np.testing.assert_allclose(infilled / 65535, floats[..., 0], atol=1e-5)


def test_grey_edges_of_a_mask_are_thresholded_at_half(signatures):
    mask = np.zeros((32, 32, 1), np.uint8)
    mask[8:16, 8:16] = 255
    soft = np.maximum(mask, cv2.GaussianBlur(mask, (0, 0), 1)[..., None] // 3)
    picture = np.random.default_rng(0).integers(0, 2**16, (32, 32, 1), np.uint16)
    sharp, same = signatures["infill_png"](
        image_bytes=tf.constant([encode(picture)] * 2),
        mask_bytes=tf.constant([encode(mask), encode(soft)]),
        label=tf.constant([1, 1]),
        seed=tf.constant([0, 0]),
    )["infilled_bytes"].numpy()
    assert (soft != mask).any()
    assert sharp == same


def test_an_8_bit_png_is_widened(signatures):
    flat = np.full((32, 32, 1), 200, np.uint8)
    mask = np.zeros((32, 32, 1), np.uint8)
    mask[8:16, 8:16] = 1
    answer = signatures["infill_png"](
        image_bytes=tf.constant([encode(flat)]),
        mask_bytes=tf.constant([encode(mask)]),
        label=tf.constant([1]),
        seed=tf.constant([0]),
    )["infilled_bytes"].numpy()[0]
    infilled = cv2.imdecode(np.frombuffer(answer, np.uint8), cv2.IMREAD_UNCHANGED)
    assert infilled[0, 0] == 200 * 257


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"label": np.array([0, 1, 2, 0, 0, 0], np.int32)}, "label must be 0"),
        ({"mask": np.full((6, 32, 32, 1), 0.5, np.float32)}, "mask must contain only 0 and 1"),
        ({"image": np.full((6, 32, 32, 1), np.nan, np.float32)}, "image must be in"),
        ({"image": np.full((6, 32, 32, 1), 1.5, np.float32)}, "image must be in"),
        ({"mask": np.zeros((5, 32, 32, 1), np.float32)}, "mask must be of shape"),
        ({"seed": np.zeros(1, np.int32)}, "seed must be of shape"),
    ],
)
def test_a_wrong_input_is_named(signatures, request_of, changed, named):
    with pytest.raises(tf.errors.InvalidArgumentError, match=named):
        signatures["serving_default"](**request_of(**changed))


@pytest.mark.parametrize(
    "picture",
    [np.zeros((16, 16, 1), np.uint16), np.zeros((32, 32, 3), np.uint8)],
    ids=["another size", "colour"],
)
def test_a_wrong_png_is_named(signatures, picture):
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes must be grey PNGs"):
        signatures["infill_png"](
            image_bytes=tf.constant([encode(picture)]),
            mask_bytes=tf.constant([encode(np.zeros((32, 32, 1), np.uint8))]),
            label=tf.constant([1]),
            seed=tf.constant([0]),
        )


def test_it_needs_no_code_of_the_package(exported):
    """It is loaded and run by a process that cannot import the package."""
    finished = warm_commands.run("tests.export.without_package", exported)
    assert finished.returncode == 0, finished.stderr


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no run"):
        export(tmp_path, tmp_path / "saved_model")
    assert not (tmp_path / "saved_model").exists()


def test_a_broken_list_of_models_stops_before_a_version_is_published(trained_run, tmp_path):
    (tmp_path / "models.config").write_text("model_config_list {")
    with pytest.raises(UserError, match=r"models\.config' is not a valid list of models"):
        export(trained_run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["models.config"]


def test_a_failed_export_leaves_no_version(trained_run, tmp_path, monkeypatch):
    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full_disk)
    with pytest.raises(UserError, match="No space left"):
        export(trained_run, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_record_of_the_run_is_in_the_version(exported, trained_run):
    record = provenance.read(exported / "assets.extra" / "provenance.json")
    of_run = provenance.read(trained_run / "provenance.json")
    generator = ExportedGenerator(exported)
    assert record == of_run | {"step": 6, "weights_sha256": generator.sha256}
    assert generator.provenance == record


def test_the_next_version_of_a_run_without_a_record_is_exported_with_a_warning(
    trained_run, exported, tmp_path, capsys
):
    run, output_dir = tmp_path / "run", tmp_path / "saved_model"
    shutil.copytree(trained_run, run, ignore=shutil.ignore_patterns("provenance.json"))
    assert exported.name == "1"
    shutil.copytree(exported, output_dir / "1")
    version = export(run, output_dir)
    assert sorted(path.name for path in output_dir.iterdir() if path.is_dir()) == ["1", "2"]
    assert version.name == "2"
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if "warning" in line)
    assert "has no provenance.json" in warning
    generator = ExportedGenerator(version)
    assert generator.provenance is None
    with pytest.raises(UserError, match="no provenance record"):
        provenance.require(generator.provenance, generator.path)
    assert "Not recorded" in (version / "MODEL_CARD.md").read_text()
