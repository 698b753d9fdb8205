"""Tests of the search of the nearest training patch."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import nearest_patch
from tests.cigan_tf.evaluation.smooth_tissue import SIZE, random_masks, training_chunks


@pytest.fixture(scope="module")
def training():
    return training_chunks()


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("shift", [(3, -3), (-3, 1)])
def test_the_training_patch_is_named(orientation, shift, training):
    rng = np.random.default_rng(5)
    image = nearest_patch.oriented(training[1]["image"][7, ..., 0], orientation)
    image = np.roll(image, shift, axis=(0, 1))[None, ..., None]
    # Brightness and contrast must not matter.
    found = nearest_patch.nearest_training_patch(0.3 * image + 0.2, random_masks(rng, 1), training)
    assert found.index.tolist() == [107]
    assert found.correlation[0] > 0.99


def test_the_correlation_is_that_of_the_detail_inside(training):
    rng = np.random.default_rng(6)
    masks = random_masks(rng, 3)
    noise = 0.05 * rng.normal(size=masks.shape).astype(np.float32)
    images = training[0]["image"][:3] + noise
    found = nearest_patch.nearest_training_patch(images, masks, training)
    assert found.index.tolist() == [0, 1, 2]
    for i in range(3):
        y, x = np.nonzero(masks[i, ..., 0])
        surfaces = np.stack([np.ones_like(y), y, x, y * x, y**2, x**2], axis=1).astype(float)

        def detail(image, y=y, x=x, surfaces=surfaces):
            values = image[y, x, 0].astype(float)
            return values - surfaces @ np.linalg.lstsq(surfaces, values)[0]

        expected = np.corrcoef(detail(images[i]), detail(training[0]["image"][i]))[0, 1]
        assert found.correlation[i] == pytest.approx(expected, abs=1e-4)


def test_smooth_surfaces_are_not_detail(training):
    masks = random_masks(np.random.default_rng(9), 1)
    y, x = np.indices((SIZE, SIZE)) / SIZE
    image = training[0]["image"][3:4] + (0.1 * y**2 - 0.2 * x * y + 0.1 * x)[None, ..., None]
    found = nearest_patch.nearest_training_patch(image, masks, training)
    assert found.index.tolist() == [3]
    assert found.correlation[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("side_px", [3, 7, 20, 31])
def test_masks_of_any_size_and_place(side_px, training):
    masks = np.zeros((2, SIZE, SIZE, 1), np.float32)
    masks[0, :side_px, -side_px:] = 1
    masks[1, 1 : 1 + side_px, :side_px] = 1
    images = training[1]["image"][[11, 12]]
    found = nearest_patch.nearest_training_patch(images, masks, training)
    assert found.index.tolist() == [111, 112] or side_px < 5
    assert found.correlation == pytest.approx(1, abs=1e-3)


def test_patches_of_the_same_group_are_left_out(training):
    masks = random_masks(np.random.default_rng(7), 5)
    images = training[0]["image"][:5]
    groups = [{"image": c["image"], "group": np.arange(len(c["image"]))} for c in training[:1]]
    found = nearest_patch.nearest_training_patch(images, masks, groups, np.arange(5))
    assert (found.correlation < 0.95).all()
    found = nearest_patch.nearest_training_patch(images, masks, groups, np.arange(5) + 1)
    assert found.index.tolist() == [0, 1, 2, 3, 4]


def test_flat_regions_have_no_correlation(training):
    masks = random_masks(np.random.default_rng(8), 1)
    found = nearest_patch.nearest_training_patch(np.full_like(masks, 0.1), masks, training)
    assert found.correlation.tolist() == [0.0]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 8, 8, 1), (1, 8, 8, 1), (1, 9, 8, 1)), "the same shape"),
        (((1, 8, 8, 1), (2, 8, 8, 1), (1, 8, 8, 1)), "the same shape"),
        (((1, 8, 8, 1), (1, 8, 8, 1), (0, 8, 8, 1)), "received none"),
    ],
)
def test_wrong_input_gets_one_line(shapes, message):
    images, masks, training = np.zeros(shapes[0]), np.ones(shapes[1]), np.zeros(shapes[2])
    with pytest.raises(UserError, match=message) as error:
        nearest_patch.nearest_training_patch(images, masks, [{"image": training}])
    assert "\n" not in str(error.value)


def test_an_empty_mask_is_refused(training):
    none = np.zeros((1, SIZE, SIZE, 1))
    with pytest.raises(UserError, match="empty mask for patch 0"):
        nearest_patch.nearest_training_patch(none, none, training)
