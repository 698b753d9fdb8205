"""Weights files, complete and partial."""

import keras
import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.models import vgg_features

# The layers needed for the maps up to pool1.
FIRST = ("block1_conv1", "block1_conv2")


def pool1(source):
    image = np.random.default_rng(0).random((1, 16, 16, 1), dtype=np.float32)
    features = vgg_features.build_vgg_features(str(source), feature_layers=("pool1",))
    return np.asarray(features(image)["pool1"])


@pytest.fixture(scope="module")
def vgg():
    return keras.applications.VGG19(include_top=False, weights=None)


@pytest.fixture(scope="module")
def expected(vgg, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "whole.weights.h5"
    vgg.save_weights(path)
    return pool1(path)


def arrays(vgg, names):
    return {
        f"{name}_{part}": np.asarray(getattr(vgg.get_layer(name), part))
        for name in names
        for part in ("kernel", "bias")
    }


def test_an_npz_file_may_contain_only_the_layers_that_are_used(vgg, expected, tmp_path):
    path = tmp_path / "first.npz"
    np.savez(path, **arrays(vgg, FIRST))
    np.testing.assert_array_equal(pool1(path), expected)


@pytest.mark.parametrize("name", ["first.weights.h5", "first.h5"])
def test_a_file_of_the_first_layers_is_enough(name, vgg, expected, tmp_path):
    first = keras.Model(vgg.input, vgg.get_layer("block2_conv1").output)
    path = tmp_path / name
    if name == "first.h5":
        first.save(path)
    else:
        first.save_weights(path)
    np.testing.assert_array_equal(pool1(path), expected)


def test_a_missing_layer_is_named(vgg, tmp_path):
    path = tmp_path / "first.npz"
    np.savez(path, **arrays(vgg, FIRST[:1]))
    with pytest.raises(UserError, match="no weights of the layer 'block1_conv2'") as error:
        pool1(path)
    assert "\n" not in str(error.value)


def test_weights_of_another_shape_are_refused(vgg, tmp_path):
    path = tmp_path / "first.npz"
    wrong = arrays(vgg, FIRST)
    wrong["block1_conv2_kernel"] = wrong["block1_conv2_kernel"][..., :32]
    np.savez(path, **wrong)
    with pytest.raises(UserError, match="does not contain the weights"):
        pool1(path)


@pytest.mark.parametrize("name", ["cut.npz", "cut.h5"])
def test_a_damaged_file_is_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match="does not contain the weights"):
        pool1(path)
