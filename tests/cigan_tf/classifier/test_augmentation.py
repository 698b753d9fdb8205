"""Traditional augmentation: known transforms, and the range of random ones."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.classifier import augmentation
from cigan_tf.experiment_config import ClassifierConfig

SIZE = 32


@pytest.fixture
def image():
    return np.random.default_rng(0).random((SIZE, SIZE, 1), dtype=np.float32)


def disc(radius):
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    return (rows**2 + columns**2 < radius**2)[..., None].astype(np.float32)


def transformed(image, angle=0.0, scale=1.0, mirrored=False):
    arguments = tf.constant(angle, tf.float32), tf.constant(scale, tf.float32)
    return augmentation.transform(tf.constant(image), *arguments, tf.constant(mirrored)).numpy()


def test_the_identity_transform_changes_nothing(image):
    np.testing.assert_allclose(transformed(image), image, atol=1e-5)


def test_a_quarter_turn_is_anticlockwise(image):
    np.testing.assert_allclose(transformed(image, np.pi / 2), np.rot90(image), atol=1e-4)


def test_mirrored_left_to_right(image):
    np.testing.assert_allclose(transformed(image, mirrored=True), image[:, ::-1], atol=1e-5)


def test_a_turned_patch_is_mirrored_first(image):
    expected = np.rot90(image[:, ::-1])
    np.testing.assert_allclose(transformed(image, np.pi / 2, 1.0, True), expected, atol=1e-4)


@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_scale_is_magnification(scale):
    areas = [picture.sum() for picture in (transformed(disc(8), scale=scale), disc(8))]
    assert areas[0] / areas[1] == pytest.approx(scale**2, rel=0.05)


def test_no_black_corners():
    assert transformed(np.ones((SIZE, SIZE, 1), np.float32), 0.5, 0.75).min() > 0.999


def test_draws_fill_their_range_and_follow_the_seed(monkeypatch):
    drawn = []
    monkeypatch.setattr(augmentation, "transform", lambda image, *draws: drawn.append(draws))
    for number in range(300):
        augmentation.augment(None, tf.constant([number, 7], tf.int64), ClassifierConfig())
    angle, scale, mirrored = (np.array([float(d[i]) for d in drawn]) for i in range(3))
    assert np.degrees(angle).min() == pytest.approx(-30, abs=1)
    assert np.degrees(angle).max() == pytest.approx(30, abs=1)
    assert (scale.min(), scale.max()) == pytest.approx((0.75, 1.25), abs=0.01)
    assert 0.4 < mirrored.mean() < 0.6
    assert abs(np.corrcoef([angle, scale, mirrored])[np.triu_indices(3, 1)]).max() < 0.2


def test_the_same_seed_gives_the_same_patch(image):
    settings = ClassifierConfig()
    first, second, other = (
        augmentation.augment(tf.constant(image), tf.constant(seed, tf.int64), settings).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.1
