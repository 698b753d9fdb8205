"""Loading and calling a SavedModel."""

import shutil

import numpy as np
import pytest

from cigan_tf import input_pipeline
from cigan_tf.errors import UserError
from cigan_tf.exported_generator import ExportedGenerator


@pytest.fixture(scope="module")
def generator(exported):
    return ExportedGenerator(exported)


def test_batches_are_split_and_joined(generator, exported, tiny_config):
    batch = input_pipeline.picture_patches(tiny_config, "validation", 2)
    inputs = (batch["image"], batch["mask"], batch["label"], np.arange(6, dtype=np.int32))
    cut = ExportedGenerator(exported, batch_size=4)
    assert generator.patch_size == 32
    np.testing.assert_allclose(generator(*inputs), cut(*inputs), atol=1e-6)


def test_no_patches_give_no_infills(generator):
    nothing = np.zeros((0, 32, 32, 1), np.float32)
    infilled = generator(nothing, nothing, np.zeros(0), np.zeros(0))
    assert infilled.shape == (0, 32, 32, 1)
    assert infilled.dtype == np.float32


def test_a_record_of_other_weights_is_refused(generator, exported, tmp_path):
    assert generator.provenance["dataset"]["name"] == "ddsm_patches/tiny"
    shutil.copytree(exported, tmp_path / "1")
    path = tmp_path / "1" / "assets.extra" / "provenance.json"
    path.write_text(path.read_text().replace("weights_sha256", "other_sha256"))
    with pytest.raises(UserError, match="belongs to different weights"):
        ExportedGenerator(tmp_path / "1")


@pytest.mark.parametrize("file", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_saved_model_is_named(exported, file, tmp_path):
    damaged = shutil.copytree(exported, tmp_path / "1") / file
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be read \(.*export the run again"):
        ExportedGenerator(tmp_path / "1")


def test_the_newest_version_is_taken(exported, tmp_path):
    for version in ("2", "10"):
        shutil.copytree(exported, tmp_path / version)
    assert ExportedGenerator(tmp_path).path.name == "10"
    assert ExportedGenerator(tmp_path / "2").path.name == "2"


def test_a_folder_without_a_saved_model_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no SavedModel"):
        ExportedGenerator(tmp_path)
    with pytest.raises(UserError, match="There is no SavedModel"):
        ExportedGenerator(tmp_path / "absent")


def test_a_model_of_another_kind_is_named(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.export(tmp_path / "1", verbose=False)
    with pytest.raises(UserError, match="not an infilling generator"):
        ExportedGenerator(tmp_path)
