"""The part of a patch that is passed through VGG-19."""

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.models import vgg_features
from cigan_tf.models.feature_window import FeatureWindow


def window(*feature_layers, reach_px=22):
    features = vgg_features.build_vgg_features("random", feature_layers=feature_layers)
    return FeatureWindow(vgg_features.network(features), reach_px)


def num_cells(geometry, first_px, last_px, patch_size):
    first, last = geometry.first_and_last_cell(first_px, last_px, patch_size)
    return int(last - first) + 1


@pytest.mark.parametrize(("layer", "cell_px"), [("pool1", 2), ("pool2", 4), ("pool3", 8)])
def test_it_contains_the_receptive_fields_of_the_changed_cells(layer, cell_px):
    features = vgg_features.build_vgg_features("random", feature_layers=(layer,))
    geometry = FeatureWindow(vgg_features.network(features), 22)
    assert geometry.cell_px == cell_px
    image = np.random.default_rng(0).random((1, 128, 128, 1), dtype=np.float32)
    for column in (64, 63 + cell_px):
        changed = image.copy()
        changed[:, :, column] += 1
        difference = np.abs(features(changed)[layer] - features(image)[layer])
        cells = np.flatnonzero(difference.max(axis=(0, 1, 3)) > 1e-3)
        with tf.GradientTape() as tape:
            given = tf.Variable(image)
            seen = tf.reduce_sum(features(given)[layer][:, 8:9, cells[0] : cells[-1] + 1])
        columns = np.flatnonzero(np.abs(tape.gradient(seen, given)).max(axis=(0, 1, 3)))
        first, last = geometry.first_and_last_cell(column, column, 128)
        assert first * cell_px <= columns[0]
        assert columns[-1] < (last + 1) * cell_px
        assert (last + 1 - first) * cell_px - np.ptp(columns) <= 4 * cell_px


def test_the_median_lesion_takes_half_of_the_patch():
    geometry = window("input", "pool1", "pool2", "pool3")
    assert {num_cells(geometry, first, first + 79, 256) for first in range(88, 96)} == {22, 23}
    assert geometry.sizes(256) == [14, 17, 20, 23, 26, 32]


def test_the_window_does_not_extend_beyond_the_patch():
    geometry = window("pool1")
    assert num_cells(geometry, 31, 31, 64) == 5
    assert num_cells(geometry, 0, 0, 64) == 3
    assert num_cells(geometry, 0, 63, 64) == 32


def test_a_shorter_reach_makes_smaller_windows():
    exact, short = window("pool3"), window("pool3", reach_px=10)
    assert num_cells(short, 100, 180, 256) < num_cells(exact, 100, 180, 256)


def test_the_whole_patch_is_the_only_window_if_none_is_smaller():
    assert window("pool3").sizes(32) == [4]
    assert window("pool2").sizes(66) == [16]
    assert window("input").sizes(256) == [256]
