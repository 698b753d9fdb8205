"""Which part of each map is computed."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.models import vgg_features
from cigan_tf.models.feature_window import FeatureWindow


def window(*feature_layers, reach_px=22):
    features = vgg_features.build_vgg_features(64, "random", feature_layers=feature_layers)
    return FeatureWindow(vgg_features.network(features), reach_px)


@pytest.mark.parametrize(
    ("layer", "grown_px", "field_px"), [("pool1", 2, 6), ("pool2", 6, 16), ("pool3", 22, 52)]
)
def test_one_cell_sees_its_receptive_field(layer, grown_px, field_px):
    geometry = window(layer)
    assert geometry.grown_px == grown_px
    assert geometry.squares(1)[0].real == field_px


def test_no_change_leaves_the_cells():
    # Gradients show which pixels one cell of a map depends on.
    features = vgg_features.build_vgg_features(64, "random", feature_layers=("pool2",))
    geometry = FeatureWindow(vgg_features.network(features), 6)
    image = tf.random.stateless_uniform((1, 64, 64, 1), (1, 2))
    with tf.GradientTape() as tape:
        tape.watch(image)
        cell = tf.reduce_sum(features(image)["pool2"][:, 7, 9])
    rows, columns = np.nonzero(tape.gradient(cell, image)[0, :, :, 0])
    for pixels, at in ((rows, 7), (columns, 9)):
        for pixel in np.unique(pixels):
            first, last = geometry.first_and_last_cell(pixel, pixel)
            assert first <= at <= last
        # Its neighbours beyond the receptive field change the next cell at most.
        assert geometry.first_and_last_cell(at * 4 - 7, at * 4 - 7)[1] == at - 1
        assert geometry.first_and_last_cell(at * 4 + 10, at * 4 + 10)[0] == at + 1


def test_the_median_lesion_fits_little_more_than_itself():
    geometry = window("input", "pool1", "pool2", "pool3")
    for first_px in range(8):
        first, last = geometry.first_and_last_cell(first_px, first_px + 79)
        assert last - first + 1 <= 17
    assert 17 in geometry.sizes(256)
    patch = geometry.squares(17)[0]
    assert (patch.real, patch.change) == (180, 92)


def test_a_shorter_reach_makes_smaller_windows():
    exact, short = window("pool3"), window("pool3", reach_px=10)
    assert short.grown_px == 10
    assert short.first_and_last_cell(100, 180) == (11, 23)
    assert exact.first_and_last_cell(100, 180) == (9, 25)


def test_windows_larger_than_the_patch_are_not_offered():
    assert window("pool3").sizes(32) == []
    assert window("input").sizes(256) == []
