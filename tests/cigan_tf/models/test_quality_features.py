"""The features used to compare infills with real lesions."""

import keras
import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.models import quality_features


@pytest.fixture(scope="module")
def features():
    return quality_features.build("random")


def test_they_are_the_mean_of_vgg16s_last_maps(tmp_path):
    vgg = keras.applications.VGG16(include_top=False, weights=None)
    path = tmp_path / "vgg16.weights.h5"
    vgg.save_weights(path)
    images = np.random.default_rng(0).random((2, 64, 64, 1), dtype=np.float32)
    found = quality_features.build(str(path)).predict(images, verbose=0)
    given = keras.applications.vgg16.preprocess_input(np.repeat(images * 255, 3, axis=-1))
    maps = keras.Model(vgg.input, vgg.get_layer("block5_conv3").output).predict(given, verbose=0)
    np.testing.assert_allclose(found, maps.mean(axis=(1, 2)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_a_window_may_have_any_size(features, size):
    images = np.random.default_rng(1).random((3, size, size, 1), dtype=np.float32)
    found = features.predict(images, verbose=0)
    assert found.shape == (3, 512)
    assert np.isfinite(found).all()
    assert found.std(axis=0).max() > 0


def test_no_weights_are_trained(features):
    assert features.trainable_variables == []


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"quality_features must be.*VGG16"):
        quality_features.build("absent.npz")
