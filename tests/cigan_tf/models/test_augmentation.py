"""Differentiable augmentation: changes, invariants and gradients."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.models.augmentation import NUM_DRAWS, augment_view

# Draws that change only a corner: contrast 1, brightness 0, no shift, the hole centred on the
# corner, no flip. Each test replaces some of them.
_STILL = np.array([0.5, 0.5, 0.5, 0.5, 0, 0, 0.9, 0.9, 0.9], np.float32)


@pytest.fixture
def view():
    grey = np.random.default_rng(0).uniform(0.2, 0.8, (1, 16, 16, 1)).astype(np.float32)
    return np.concatenate([grey, (grey > 0.5).astype(np.float32)], axis=-1)


def _augmented(view, **draws):
    changed = _STILL.copy()
    for index, value in draws.items():
        changed[int(index[1:])] = value
    return np.asarray(augment_view(view, changed[None]))


def _but_hole(values):
    return values[:, 3:, 3:]


def test_the_middle_of_the_draws_changes_nothing_but_the_hole(view):
    np.testing.assert_allclose(_but_hole(_augmented(view)), _but_hole(view), atol=1e-6)
    np.testing.assert_array_equal(_augmented(view)[:, :3, :3], 0)


def test_contrast_and_brightness_change_only_grey_levels(view):
    changed = _augmented(view, _0=0.0, _1=1.0)
    mean = view[..., :1].mean()
    expected = (view[..., :1] - mean) * 0.5 + mean + 0.15
    np.testing.assert_allclose(_but_hole(changed)[..., :1], _but_hole(expected), atol=1e-5)
    np.testing.assert_array_equal(_but_hole(changed)[..., 1:], _but_hole(view)[..., 1:])


def test_shift_moves_all_channels_and_lets_zeros_in(view):
    # The largest shift is two pixels: row 2 moves to row 0.
    changed = _augmented(view, _2=0.999)
    np.testing.assert_allclose(changed[:, 3:14, 3:], view[:, 5:, 3:], atol=1e-6)
    np.testing.assert_array_equal(changed[:, 14:], 0)


def test_orientations(view):
    flipped = _augmented(view, _6=0.1, _4=0.999, _5=0.999)
    np.testing.assert_allclose(flipped[:, 4:, :-4], view[:, ::-1][:, 4:, :-4], atol=1e-6)
    transposed = _augmented(view, _8=0.1)
    np.testing.assert_allclose(
        _but_hole(transposed), _but_hole(view.transpose(0, 2, 1, 3)), atol=1e-6
    )


def test_each_patch_has_its_own_draws_and_the_gradient_passes(view):
    views = tf.constant(np.repeat(view, 4, axis=0))
    draws = np.random.default_rng(1).random((4, NUM_DRAWS), dtype=np.float32)
    with tf.GradientTape() as tape:
        tape.watch(views)
        augmented = augment_view(views, draws)
        total = tf.reduce_sum(augmented[..., 0])
    gradient = tape.gradient(total, views).numpy()
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient[..., 0]).sum((1, 2)) > 0).all()
    assert np.abs(np.diff(augmented.numpy(), axis=0)).max() > 0.05
