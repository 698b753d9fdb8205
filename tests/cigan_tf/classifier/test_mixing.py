"""The share of real patches at each step."""

import numpy as np
import pytest

from cigan_tf.classifier.mixing import draw_synthetic, places_in_streams, real_share_by_step
from cigan_tf.experiment_config import ClassifierConfig


@pytest.mark.parametrize(
    ("reading", "by_stage"),
    [
        ("share_x1.2", [0.5, 0.6, 0.72, 0.864, 0.9, 0.9]),
        ("synthetic_x0.8", [0.5, 1 / 1.8, 1 / 1.64, 1 / 1.512, 1 / 1.4096, 1 / 1.32768]),
        ("plus_20_points", [0.5, 0.7, 0.9, 0.9, 0.9, 0.9]),
    ],
)
def test_the_share_grows_from_a_half_as_each_reading_says(reading, by_stage):
    share = real_share_by_step(ClassifierConfig(synthetic_use="mixed", real_share_reading=reading))
    assert share.shape == (10_000,)
    np.testing.assert_allclose(share[:6000:1000], by_stage, rtol=1e-6)
    np.testing.assert_array_equal(share[999], share[0])
    assert 0.88 <= share[-1] <= 0.9 + 1e-6, "the final iteration is trained on 90 % real data"


def test_pretraining_is_synthetic_first_and_only_real_afterwards():
    share = real_share_by_step(
        ClassifierConfig(
            synthetic_use="pretraining", classifier_steps=10, synthetic_pretraining_share=0.3
        )
    )
    assert share.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_without_mixing_the_share_is_one_or_nothing():
    assert real_share_by_step(ClassifierConfig()).min() == 1
    assert real_share_by_step(ClassifierConfig(synthetic_use="only")).max() == 0


def test_patches_are_synthetic_with_the_probability_of_their_step():
    settings = ClassifierConfig(
        synthetic_use="mixed", real_share_reading="plus_20_points", classifier_steps=3000
    )
    drawn = draw_synthetic(settings, seed=0)
    assert drawn.shape == (3000, 32)
    np.testing.assert_allclose(drawn.reshape(3, -1).mean(axis=1), [0.5, 0.3, 0.1], atol=0.01)
    shorter = ClassifierConfig(
        synthetic_use="mixed", real_share_reading="plus_20_points", classifier_steps=1500
    )
    np.testing.assert_array_equal(draw_synthetic(shorter, seed=0), drawn[:1500])
    assert (draw_synthetic(settings, seed=1) != drawn).any()


def test_a_place_counts_the_patches_of_its_stream_before():
    streams = np.array([[0, 1, 2, 1], [0, 3, 1, 1]])
    assert places_in_streams(streams).tolist() == [[0, 0, 0, 1], [1, 0, 2, 3]]
