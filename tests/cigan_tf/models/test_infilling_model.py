"""ciGAN as a Keras model: built from arguments, fitted with callbacks, saved and loaded."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.errors import UserError
from cigan_tf.models import presets
from cigan_tf.models.cigan import CiGAN
from cigan_tf.models.discriminator import Discriminator
from cigan_tf.models.generator import Generator
from cigan_tf.models.infilling_model import as_batch
from tests import warm_commands

ROOT = pathlib.Path(__file__).parents[3]
PATCH = 32
QUICK = {"vgg_weights": "random", "feature_layers": ("input",), "pretraining_steps": 1}


def make_model(dtype="float32", **settings):
    keras.utils.set_random_seed(0)
    model = CiGAN(
        Generator(PATCH, dtype=dtype), Discriminator(PATCH, dtype=dtype), **{**QUICK, **settings}
    )
    # Tracing takes seconds and a step at this size milliseconds.
    model.compile(run_eagerly=True)
    return model


def patches(count=4):
    rng = np.random.default_rng(0)
    mask = np.zeros((count, PATCH, PATCH, 1), np.uint8)
    mask[:, 8:24, 10:22] = 1
    return {
        "image": rng.random((count, PATCH, PATCH, 1), np.float32),
        "mask": mask,
        "label": np.arange(count) % 2,
    }


def batches():
    return tf.data.Dataset.from_tensor_slices(patches()).batch(2, drop_remainder=True).repeat()


def infills(model):
    return model.generate(**patches(), seed=np.arange(4))


def assert_same_weights(one, other):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_settings_are_plain_arguments():
    model = make_model(feature_weight=3.0, seed=7, composite=False)
    assert model.loss_config.feature_weight == 3
    assert model.training_config.seed == 7
    assert not model.composite
    with pytest.raises(UserError, match="no settings with these names: lerning_rate"):
        make_model(lerning_rate=1.0)
    with pytest.raises(UserError, match="seed must be in"):
        make_model(seed=-1)


def test_generate_keeps_the_context_and_depends_only_on_its_own_seed():
    model, inputs = make_model(), patches()
    infilled = model.generate(**inputs, seed=[3, 4, 5, 6])
    outside = inputs["mask"] == 0
    assert infilled.dtype == np.float32
    np.testing.assert_array_equal(infilled[outside], inputs["image"][outside])
    assert (infilled[~outside] != inputs["image"][~outside]).mean() > 0.99
    one = {name: value[2:3] for name, value in inputs.items()}
    np.testing.assert_allclose(model.generate(**one, seed=[5])[0], infilled[2], atol=1e-6)
    assert np.abs(model.generate(**one, seed=[6])[0] - infilled[2]).max() > 0
    in_parts = model.generate(**inputs, seed=[3, 4, 5, 6], batch_size=3)
    np.testing.assert_allclose(in_parts, infilled, atol=1e-6)
    assert model.generate(**{n: v[:0] for n, v in inputs.items()}, seed=[]).shape == (0, 32, 32, 1)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"image": np.full((4, 32, 32, 1), 255.0)}, "image must be in"),
        ({"image": np.zeros((4, 64, 64, 1))}, r"image must be of shape \[N, 32, 32, 1\]"),
    ],
)
def test_a_wrong_input_is_named(changed, named):
    with pytest.raises(UserError, match=named):
        make_model().generate(**{**patches(), "seed": np.arange(4), **changed})


def test_predict_infills_the_same_patches_identically():
    model = make_model()
    first = model.predict(batches().take(2), verbose=0)
    np.testing.assert_array_equal(first, model.predict(batches().take(2), verbose=0))
    outside = patches()["mask"] == 0
    np.testing.assert_array_equal(first[outside], patches()["image"][outside])


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_saved_model_continues_as_if_it_had_not_been_saved(tmp_path, dtype):
    settings = {"generator_ema": 0.9, "max_steps_per_turn": 1, "learning_rate": 1e-3}
    model = make_model(dtype, match_grain=True, match_rim=True, **settings)
    model.fit(batches(), steps_per_epoch=6, shuffle=False, verbose=0)
    predicted = model.predict({**patches(), "seed": np.arange(4)}, verbose=0)
    # In half precision, the graphs of `predict` and `generate` round differently.
    tolerance = 1e-5 if dtype == "float32" else 0.01
    np.testing.assert_allclose(predicted, infills(model), atol=tolerance)
    # Both use the moving average of the weights; a call of the model does not.
    called = model({**patches(), "seed": np.arange(4)}).numpy()
    assert np.abs(called - predicted).max() > 2 * tolerance
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(infills(loaded), infills(model))
    assert loaded.generator.dtype_policy.name == loaded.discriminator.dtype_policy.name == dtype
    assert loaded.generator.get_layer("scale4_conv1").compute_dtype == dtype.rpartition("_")[2]
    assert loaded.get_config() == model.get_config()
    for each in (model, loaded):
        each.fit(batches(), steps_per_epoch=2, shuffle=False, verbose=0)
        assert int(each.step.numpy()) == 8
    assert_same_weights(model, loaded)
    np.testing.assert_array_equal(infills(loaded), infills(model))


def test_other_optimizers_are_saved_and_none_is_needed_to_generate(tmp_path):
    model = make_model()
    model.compile(keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.25), run_eagerly=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.discriminator_optimizer, keras.optimizers.SGD)
    assert float(loaded.discriminator_optimizer.learning_rate) == 0.25
    uncompiled = keras.models.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(infills(uncompiled), infills(model))


def test_an_optimizer_without_the_moving_average_is_refused():
    model = make_model(generator_ema=0.9)
    with pytest.raises(UserError, match=r"generator_ema=0\.9.*use_ema=True"):
        model.compile("sgd")
    model.compile(keras.optimizers.SGD(use_ema=True, ema_momentum=0.5), "sgd")


def test_single_batches_can_be_trained_and_evaluated():
    model = make_model(pretraining_steps=0)
    trained = model.train_on_batch(patches(), return_dict=True)
    assert int(model.step.numpy()) == 1
    assert trained["adversarial_discriminator_loss"] > 0
    # It was the discriminator's turn.
    assert np.isnan(trained["feature_loss"])
    measured = model.test_on_batch(patches(), return_dict=True)
    assert all(np.isfinite(value) for value in measured.values())


def test_a_smaller_last_batch_has_a_smaller_weight():
    # The terms of these weights are not measured.
    model = make_model(r1_weight=0.1, diversity_weight=0.5)
    in_batches = list(tf.data.Dataset.from_tensor_slices(patches(3)).batch(2))
    measured = model.evaluate(
        tf.data.Dataset.from_tensor_slices(patches(3)).batch(2), verbose=0, return_dict=True
    )
    terms = [model.measure(as_batch(batch)) for batch in in_batches]
    assert measured.keys() == terms[0].keys()
    for name, value in measured.items():
        expected = np.average([float(of[name]) for of in terms], weights=[2, 1])
        assert value == pytest.approx(expected, rel=1e-5)


def test_networks_that_do_not_fit_are_refused():
    generator, blind = Generator(32), Discriminator(32, sees_class=False)
    with pytest.raises(UserError, match="wrong_class_weight needs"):
        CiGAN(generator, blind, wrong_class_weight=1.0)
    with pytest.raises(UserError, match="generator of 32 px and a discriminator of 64 px"):
        CiGAN(generator, Discriminator(64))
    with pytest.raises(UserError, match="patch_size must be a power of two"):
        Generator(48)
    with pytest.raises(UserError, match="discriminator_view must be one of"):
        Discriminator(32, view="lesoin")


def test_a_batch_of_something_else_is_named():
    images = tf.data.Dataset.from_tensors(patches()["image"])
    with pytest.raises(UserError, match="must be a dict of image, mask and label"):
        make_model().fit(images, shuffle=False, verbose=0)


def test_fit_takes_callbacks_and_trains_the_same_weights_on_two_devices(tmp_path):
    for name in ("single", "double"):
        (tmp_path / name).mkdir()
    finished = warm_commands.run("tests.cigan_tf.models.fit_on_two_devices", tmp_path)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_lines_of_the_documentation_work(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(presets, "BUILT_IN", tmp_path)
    monkeypatch.chdir(tmp_path)
    make_model(dtype).save_to_preset(tmp_path / "cbis_mass_128")
    (lines,) = (
        block.partition("```")[0]
        for block in (ROOT / "docs" / "keras.md").read_text().split("```python\n")
        if "model.fit" in block.partition("```")[0]
    )
    names = {**patches(), "seed": np.arange(4)}
    exec(compile(lines, "keras.md", "exec"), names)
    assert names["model"].generator.dtype_policy.name == dtype
    assert int(names["again"].step.numpy()) == 10
    assert infills(CiGAN.from_preset("finetuned")).shape == names["infilled"].shape
