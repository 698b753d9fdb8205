"""Tests of the seam score."""

import numpy as np
import pytest
from scipy import ndimage

from cigan_tf.errors import UserError
from cigan_tf.evaluation import seam

SIZE = 48


def square_mask(start=16, stop=32):
    mask = np.zeros((1, SIZE, SIZE, 1), np.uint8)
    mask[:, start:stop, start:stop] = 1
    return mask


def ramp():
    """Returns a ramp of 1 per pixel in both directions: every pair of neighbours differs by 1."""
    return np.add.outer(np.arange(SIZE), np.arange(SIZE))[None, ..., None].astype(np.float64)


def tissue(rng):
    image = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 1.5)
    return image[None, ..., None]


def test_score_of_a_step_is_known():
    # With 4 added inside, neighbours across the edge differ by 1 + 4 or by |1 - 4|: 4 on average.
    assert seam.seam_score(ramp(), square_mask()) == pytest.approx([1.0])
    assert seam.seam_score(ramp() + 4 * square_mask(), square_mask()) == pytest.approx([4.0])


def test_score_does_not_depend_on_brightness_and_contrast():
    image = tissue(np.random.default_rng(0)) + 0.5 * square_mask()
    score = seam.seam_score(image, square_mask())
    assert seam.seam_score(100 - 7 * image, square_mask()) == pytest.approx(score)


def test_tissue_without_a_seam_scores_about_one_and_a_pasted_patch_more():
    rng = np.random.default_rng(1)
    real, other = (np.concatenate([tissue(rng) for _ in range(40)]) for _ in range(2))
    masks = np.repeat(square_mask(), 40, axis=0)
    pasted = np.where(masks == 1, other, real)

    floor, scores = seam.seam_score(real, masks), seam.seam_score(pasted, masks)

    assert floor.mean() == pytest.approx(1, abs=0.05)
    assert scores.mean() > 1.5


def test_tissue_is_measured_on_both_sides_of_the_edge():
    def with_noise(where):
        noise = np.random.default_rng(2).normal(size=(SIZE, SIZE))[None, ..., None]
        return ramp() + 3 * noise * where

    rows = np.arange(SIZE)
    far = (rows < 6) | (rows > 41)
    outside = np.zeros((1, SIZE, SIZE, 1))
    outside[:, far] = 1
    assert seam.seam_score(with_noise(outside), square_mask()) == pytest.approx([1.0])
    # Rougher tissue more than 3 px from the edge, on either side, lowers the score of the same
    # edge.
    inside = square_mask(19, 29)
    assert seam.seam_score(with_noise(inside), square_mask()) < 0.9
    around = 1 - square_mask(13, 35)
    assert seam.seam_score(with_noise(around), square_mask()) < 0.9


def test_scores_of_degenerate_inputs():
    whole, none = np.ones((1, SIZE, SIZE, 1)), np.zeros((1, SIZE, SIZE, 1))
    assert np.isnan(seam.seam_score(ramp(), whole))
    assert np.isnan(seam.seam_score(ramp(), none))
    speck = np.zeros((1, 3, 3, 1))
    speck[:, 1, 1] = 1
    assert np.isnan(seam.seam_score(speck, speck))
    assert seam.seam_score(none, square_mask()) == [1.0]
    assert seam.seam_score(none + square_mask(), square_mask()) == [np.inf]
    assert seam.seam_score(np.ones((0, 8, 8, 1)), np.ones((0, 8, 8, 1))).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((1, 8, 8)), np.ones((1, 8, 8))), "height"),
        ((np.ones((1, 8, 8, 1)), np.ones((2, 8, 8, 1))), "height"),
        ((np.ones((1, 8, 8, 1)), np.ones((1, 8, 8, 1)), 8, 3), "received near_px=8 and far_px=3"),
    ],
)
def test_wrong_input_gets_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        seam.seam_score(*arguments)
    assert "\n" not in str(error.value)
