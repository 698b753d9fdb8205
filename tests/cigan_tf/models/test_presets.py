"""Presets: writing, finding and reading them, and refusing hostile files."""

import dataclasses
import json
import shutil

import h5py
import keras
import numpy as np
import pytest

from cigan_tf import provenance
from cigan_tf.config import Config, ModelConfig, TrainingConfig
from cigan_tf.errors import UserError
from cigan_tf.models import CiGAN, list_presets, presets
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.generator import Generator

RECORD = {"dataset": {"name": "ddsm_patches/x", "fingerprint": "0"}, "patients": ["P_1", "P_2"]}


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return CiGAN(
        Generator(32),
        Discriminator(32, view="lesion"),
        vgg_weights="random",
        feature_layers=("input",),
        feature_weight=3.0,
        pretraining_steps=5,
    )


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "mine"
    model.save_to_preset(folder, record=RECORD)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def infills(model):
    mask = np.zeros((2, 32, 32, 1))
    mask[:, 8:24, 8:24] = 1
    return model.generate(np.full((2, 32, 32, 1), 0.5), mask, [0, 1], [0, 1])


def test_a_preset_restores_the_model(model, saved, tmp_path):
    loaded = CiGAN.from_preset(saved)
    np.testing.assert_array_equal(infills(loaded), infills(model))
    assert loaded.loss_config == model.loss_config
    assert loaded.discriminator.view == "lesion"
    for one, other in zip(
        loaded.discriminator.get_weights(), model.discriminator.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert loaded.training_config.pretraining_steps == 0
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: keras\n")
    # Until the first step, the training data of the weights are known.
    loaded.save_to_preset(tmp_path / "again")
    again = presets.read(tmp_path / "again").record
    assert again["patients"] == ["P_1", "P_2"]
    loaded.step.assign(1)
    loaded.save_to_preset(tmp_path / "trained")
    assert presets.read(tmp_path / "trained").record is None
    loaded.save_to_preset(tmp_path / "known", record={**RECORD, "patients": ["P_3"]})
    record = presets.read(tmp_path / "known").record
    assert record["patients"] == ["P_1", "P_2", "P_3"]
    loaded.save(tmp_path / "model.keras")
    later = keras.models.load_model(tmp_path / "model.keras")
    later.save_to_preset(tmp_path / "later", record={**RECORD, "patients": ["P_3"]})
    assert presets.read(tmp_path / "later").record["patients"] == record["patients"]
    with pytest.raises(UserError, match="on 1 of the test patients, including 'P_2'"):
        provenance.refuse_leaks(record, ["P_2"], record["dataset"])


def test_half_precision_takes_half_the_space_and_keeps_the_infills(model, saved, tmp_path):
    model.save_to_preset(tmp_path / "half", card="---\n---\n", half_precision=True)
    size = {
        path: sum(file.stat().st_size for file in path.glob("*.h5"))
        for path in (saved, tmp_path / "half")
    }
    assert size[tmp_path / "half"] < 0.55 * size[saved]
    half = CiGAN.from_preset(tmp_path / "half", dtype="mixed_bfloat16", seed=3)
    assert half.generator.dtype_policy.name == "mixed_bfloat16"
    assert half.training_config.seed == 3
    assert np.abs(infills(half) - infills(model)).max() < 0.05
    assert (tmp_path / "half" / "README.md").read_text() == "---\n---\n"


def test_presets_of_the_package_are_listed_and_found_by_name(saved, monkeypatch):
    monkeypatch.setattr(presets, "BUILT_IN", saved.parent)
    assert list_presets() == ["mine"]
    assert presets.read("mine").folder == saved


def test_presets_are_distinguished_from_other_folders(saved, tmp_path):
    assert presets.is_preset("cbis_mass_128")
    assert presets.is_preset("hf://owner/repository")
    assert presets.is_preset(saved)
    assert not presets.is_preset(tmp_path)
    assert not presets.is_preset("runs/quickstart/saved_model")


@pytest.mark.parametrize(
    ("preset", "named"),
    [
        ("absent", "There is no preset 'absent'"),
        ("hf://owner", "must be hf://OWNER/REPOSITORY"),
        ("hf://owner/repository/../..", "must be hf://OWNER/REPOSITORY"),
    ],
)
def test_a_preset_that_cannot_be_found_is_named(preset, named):
    with pytest.raises(UserError, match=named) as error:
        CiGAN.from_preset(preset)
    assert "\n" not in str(error.value)


def spoil_sizes(folder):
    groups = json.loads((folder / "config.json").read_text())
    groups["model"]["patch_size"] = 2**20
    (folder / "config.json").write_text(json.dumps(groups))


def spoil_weights(folder):
    with h5py.File(folder / "generator.weights.h5", "a") as file:
        paths = []
        file.visititems(lambda name, item: paths.append(name))
        first = next(p for p in paths if isinstance(file[p], h5py.Dataset) and file[p].ndim == 4)
        file[first][...] = np.nan
    (folder / "provenance.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "config.json").write_text("[" * 10**5), "cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "not valid in this version"),
        (lambda f: (f / "config.json").write_text('{"mode": {}}'), "not valid in this version"),
        (
            lambda f: (f / "config.json").write_text(" " * (2**20 + 1)),
            "must have at most 1048576 bytes",
        ),
        (spoil_sizes, "patch_size=1048576"),
        (lambda f: (f / "generator.weights.h5").write_bytes(b"no"), "belongs to different weights"),
        (lambda f: (f / "generator.weights.h5").unlink(), "belongs to different weights"),
        (lambda f: (f / "provenance.json").write_text("{"), "is not a provenance record"),
        (spoil_weights, "NaN or infinite"),
    ],
)
def test_hostile_files_give_one_line(folder, spoil, named):
    spoil(folder)
    with pytest.raises(UserError, match=named) as error:
        CiGAN.from_preset(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"no", "discriminator.weights.h5"])
def test_missing_or_wrong_weights_are_named(folder, content):
    (folder / "provenance.json").unlink()
    path = folder / "generator.weights.h5"
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        shutil.copy(folder / content, path)
    with pytest.raises(UserError, match="does not contain the weights of this generator") as error:
        CiGAN.from_preset(folder)
    assert "\n" not in str(error.value)


def test_a_preset_never_overwrites_a_folder_or_remains_incomplete(model, saved, tmp_path):
    with pytest.raises(UserError, match="exists"):
        model.save_to_preset(saved)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        model.save_to_preset(tmp_path / "file" / "preset")
    assert not list(tmp_path.glob(".*"))


def start(saved, **model):
    settings = TrainingConfig(init_from=str(saved))
    return Config(model=ModelConfig(**model), training=settings)


def test_a_run_takes_unspecified_architecture_settings_from_its_preset(saved, capsys):
    preset = presets.read(saved)
    config = presets.with_architecture(start(saved), lambda name: False)
    assert config.model.patch_size == 32
    assert config.model.discriminator_view == "lesion"
    assert presets.fitting(preset, config) == ("generator", "discriminator")
    own = presets.with_architecture(
        start(saved, discriminator_view="patch"), lambda name: name == "discriminator_view"
    )
    assert presets.fitting(preset, own) == ("generator",)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "discriminator_view: 'lesion' in the preset, 'patch' given" in warning
    for output in ({"rim_reach_px": 3.0}, {"match_grain": not config.model.match_grain}):
        own = dataclasses.replace(config, model=dataclasses.replace(config.model, **output))
        assert presets.fitting(preset, own) == ("generator", "discriminator")
    begun = dataclasses.replace(config, training=TrainingConfig(init_from="hf://far/away"))
    resumed = Config(training=TrainingConfig(init_from="hf://far/away"))
    assert presets.with_architecture(resumed, lambda name: False, begun).model == config.model
    with pytest.raises(UserError, match="patch_size: 32 in the preset, 64 given"):
        presets.fitting(preset, start(saved, patch_size=64))
