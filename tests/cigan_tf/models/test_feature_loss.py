"""The feature loss in windows, compared with the loss on whole patches."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from cigan_tf import losses
from cigan_tf.models import feature_loss
from cigan_tf.models.feature_loss import FeatureLoss
from cigan_tf.models.vgg_features import build_vgg_features

PATCH = 64
EVERYWHERE = [(0, 0), (0, 1), (1, 0), (0.5, 0.5), (1, 1), (0.3, 0.8)]


def patches(box, places=EVERYWHERE, size=PATCH):
    """Returns noise patches, their infills, and masks that are boxes at the given places."""
    rng = np.random.default_rng(box)
    mask = np.zeros((len(places), size, size, 1), np.float32)
    for one, (down, right) in zip(mask, places, strict=True):
        row, column = round(down * (size - box)), round(right * (size - box))
        one[row : row + box, column : column + box - box // 4] = 1
    real, fill = (rng.random(mask.shape, dtype=np.float32) for _ in range(2))
    return tf.constant(real), tf.constant(np.where(mask > 0, fill, real)), tf.constant(mask)


def traced(loss, **compile_options):
    """Returns the loss as a function of patches that returns its value and gradient."""

    @tf.function(autograph=False, **compile_options)
    def compute(real, infilled, mask):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(infilled)
            value = loss(real, infilled, mask)
        return value, mask * tape.gradient(value, infilled)

    def value_and_gradient(*given):
        value, gradient = compute(*given)
        return float(value), gradient.numpy()

    return value_and_gradient


def assert_same(measured, expected):
    assert measured[0] == pytest.approx(expected[0], rel=1e-6)
    # Rounding can change the sign of a difference near zero, and so the gradient of one pixel.
    error = np.linalg.norm(measured[1] - expected[1]) / np.linalg.norm(expected[1])
    assert error < 1e-3


@pytest.fixture(scope="module")
def two_pools():
    return build_vgg_features("random", feature_layers=("input", "pool1", "pool2"))


@pytest.fixture(scope="module")
def whole(two_pools):
    return traced(FeatureLoss(two_pools, PATCH, windows=False, reach_px=6))


@pytest.fixture(scope="module")
def windowed(two_pools):
    return traced(FeatureLoss(two_pools, PATCH, windows=True, reach_px=6))


@pytest.mark.parametrize("box", [1, 9, 22, 40, 64])
def test_windows_give_the_loss_and_gradient_of_the_whole_patch(two_pools, whole, windowed, box):
    given = patches(box)
    expected = whole(*given)
    maps = zip(two_pools(given[0]).values(), two_pools(given[1]).values(), strict=True)
    by_hand = sum(np.abs(real - infilled).mean() for real, infilled in maps)
    assert expected[0] == pytest.approx(by_hand, rel=1e-5)
    assert_same(windowed(*given), expected)


def test_windows_are_exact_at_the_papers_maps():
    features = build_vgg_features("random")
    given = patches(20, places=[(0.5, 0.6), (0, 1)], size=128)
    expected = traced(FeatureLoss(features, 128, False, 22))(*given)
    assert_same(traced(FeatureLoss(features, 128, True, 22))(*given), expected)
    # A shorter reach misses some changes and its padding adds others, so the loss may be larger or
    # smaller.
    cut_short, _ = traced(FeatureLoss(features, 128, True, 10))(*given)
    assert cut_short != pytest.approx(expected[0], rel=1e-5)
    assert cut_short == pytest.approx(expected[0], rel=0.2)


def test_patches_of_a_batch_may_share_a_window(two_pools, whole, monkeypatch):
    given = patches(22)
    expected = whole(*given)
    monkeypatch.setattr(feature_loss, "_has_accelerator", lambda: True)
    assert_same(traced(FeatureLoss(two_pools, PATCH, True, 6))(*given), expected)


def test_the_gradient_survives_float16_at_the_papers_size(monkeypatch):
    # The mean over 8 patches of 256 px, as on a GPU, gives each pixel a gradient of about 2**-20.
    monkeypatch.setattr(feature_loss, "_has_accelerator", lambda: True)
    given = patches(20, places=[(0.1 * i, 0.5) for i in range(8)], size=256)
    gradients = {}
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        try:
            features = build_vgg_features("random", feature_layers=("pool1", "pool2"))
        finally:
            keras.config.set_dtype_policy("float32")
        loss = FeatureLoss(features, 256, windows=True, reach_px=6)
        _, gradients[policy] = traced(loss)(*given)
    exact, half = gradients["float32"].ravel(), gradients["mixed_float16"].ravel()
    cosine = exact @ half / (np.linalg.norm(exact) * np.linalg.norm(half))
    assert cosine >= 0.99
    assert np.linalg.norm(half) == pytest.approx(np.linalg.norm(exact), rel=0.02)


def test_it_compiles_as_a_whole():
    features = build_vgg_features("random", feature_layers=("pool1",))
    given = patches(10, places=[(0, 0.5), (0.5, 1)], size=32)
    loss = FeatureLoss(features, 32, True, 2)
    assert_same(traced(loss, jit_compile=True)(*given), traced(loss)(*given))


def test_an_empty_mask_has_no_loss(windowed):
    real, _, mask = patches(22)
    value, gradient = windowed(real, real, 0 * mask)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_whole_patches_are_used_if_windows_do_not_help():
    # At pool3, every window of a 32 px patch would be larger than the patch.
    features = build_vgg_features("random")
    real, infilled, mask = patches(8, size=32)
    value = FeatureLoss(features, 32, True, 22)(real, infilled, mask)
    plain = losses.feature_loss(features(real), features(infilled))
    assert float(value) == float(plain)
