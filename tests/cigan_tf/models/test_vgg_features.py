"""The frozen feature network."""

import keras
import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.models import vgg_features


@pytest.fixture
def image():
    return np.random.default_rng(0).random((1, 32, 32, 1), dtype=np.float32)


def test_maps_are_the_input_and_three_pools_of_vgg19(image):
    features = vgg_features.build_vgg_features("random")
    assert {name: tuple(f.shape) for name, f in features(image).items()} == {
        "input": (1, 32, 32, 3),
        "pool1": (1, 16, 16, 64),
        "pool2": (1, 8, 8, 128),
        "pool3": (1, 4, 4, 256),
    }
    assert features.trainable_variables == []


@pytest.mark.parametrize("chosen", [("input",), ("pool2",), ("pool1", "input")])
def test_chosen_maps_are_those_of_the_whole_list(image, chosen):
    whole = vgg_features.build_vgg_features("random")(image)
    some = vgg_features.build_vgg_features("random", feature_layers=chosen)
    maps = some(image)
    assert set(maps) == set(chosen)
    for name, feature_map in maps.items():
        np.testing.assert_allclose(feature_map, whole[name], rtol=1e-5, atol=1e-4)


def test_the_input_map_equals_keras_preprocessing_for_vgg19(image):
    given = np.repeat(image * 255.0, 3, axis=-1)
    expected = keras.applications.vgg19.preprocess_input(given.copy())
    vgg_input = vgg_features.build_vgg_features("random")(image)["input"]
    np.testing.assert_allclose(vgg_input, expected, rtol=1e-5, atol=1e-3)


def test_random_weights_follow_the_seed(image):
    def pool3(seed):
        return np.asarray(vgg_features.build_vgg_features("random", seed)(image)["pool3"])

    np.testing.assert_array_equal(pool3(1), pool3(1))
    assert np.abs(pool3(1) - pool3(2)).max() > 0


def test_weights_from_a_file(tmp_path, image):
    vgg = keras.applications.VGG19(include_top=False, weights=None)
    path = tmp_path / "vgg19.weights.h5"
    vgg.save_weights(path)
    pool1 = vgg_features.build_vgg_features(str(path))(image)["pool1"]
    reference = keras.Model(vgg.input, vgg.get_layer("block1_pool").output)
    given = keras.applications.vgg19.preprocess_input(np.repeat(image * 255.0, 3, axis=-1))
    np.testing.assert_allclose(pool1, reference(given), rtol=1e-4, atol=1e-3)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"the file '/nowhere/vgg.h5' does not exist"):
        vgg_features.build_vgg_features("/nowhere/vgg.h5")


def test_a_file_of_something_else_is_named(tmp_path):
    path = tmp_path / "other.weights.h5"
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    other.save_weights(path)
    with pytest.raises(UserError, match="does not contain the weights"):
        vgg_features.build_vgg_features(str(path))


def test_no_network_names_the_flag_and_the_file(monkeypatch):
    original = keras.applications.VGG19

    def unreachable(*args, weights=None, **kwargs):
        if weights == "imagenet":
            raise Exception("URL fetch failure: name resolution")
        return original(*args, weights=weights, **kwargs)

    monkeypatch.setattr(keras.applications, "VGG19", unreachable)
    with pytest.raises(UserError, match=r"--vgg_weights") as error:
        vgg_features.build_vgg_features("imagenet")
    assert "\n" not in str(error.value)
    assert "notop.h5" in str(error.value)
