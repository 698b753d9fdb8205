"""Tests of the search for copied training patches."""

import numpy as np
import pytest
from scipy import ndimage

from cigan_tf.errors import UserError
from cigan_tf.evaluation import memorisation

SIZE = 32


def tissue(rng, num):
    smooth = ndimage.gaussian_filter(rng.normal(size=(num, SIZE, SIZE, 1)), (0, 1.5, 1.5, 0))
    return (0.5 + 0.5 * smooth).astype(np.float32)


def random_masks(rng, num):
    masks = np.zeros((num, SIZE, SIZE, 1), np.float32)
    for mask in masks:
        top, left = rng.integers(4, SIZE // 2 - 4, size=2)
        mask[top : top + 12, left : left + 14] = 1
    return masks


def patches(rng, num):
    return {
        "image": tissue(rng, num),
        "mask": random_masks(rng, num),
        "patient_id": np.arange(num) // 4,
    }


@pytest.fixture(scope="module")
def training():
    images = tissue(np.random.default_rng(0), 150)
    return [{"image": images[:100]}, {"image": images[100:]}]


@pytest.fixture(scope="module")
def held_out():
    return patches(np.random.default_rng(1), 80)


def audit(infills, held_out, training):
    return memorisation.audit(infills, held_out, training, seed=0)


def test_a_generator_of_new_patches_copies_nothing(training, held_out):
    found = audit(patches(np.random.default_rng(2), 80), held_out, training)
    assert found.share_copied <= 0.1
    assert found.false_alarms <= 0.1
    assert min(found.recall.values()) >= 0.95
    assert set(found.recall) == set(memorisation.PLANTED)
    assert found.num_training == 150


@pytest.mark.parametrize("kind", memorisation.PLANTED)
def test_a_generator_that_pastes_training_patches_is_caught(kind, training, held_out):
    hosts = patches(np.random.default_rng(3), 60)
    copies = memorisation.planted_copies(hosts["image"], hosts["mask"], training, kind, seed=4)
    assert audit({**hosts, "image": copies}, held_out, training).share_copied >= 0.95


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("shift", [(3, -3), (-3, 1)])
def test_the_training_patch_is_named(orientation, shift, training):
    rng = np.random.default_rng(5)
    image = memorisation._oriented(training[1]["image"][7, ..., 0], orientation)
    image = np.roll(image, shift, axis=(0, 1))[None, ..., None]
    # Any brightness and contrast.
    found = memorisation.nearest_training_patch(0.3 * image + 0.2, random_masks(rng, 1), training)
    assert found.index.tolist() == [107]
    assert found.correlation[0] > 0.99


def test_the_correlation_is_that_of_the_pixels_inside(training):
    rng = np.random.default_rng(6)
    masks = random_masks(rng, 3)
    noise = 0.05 * rng.normal(size=masks.shape).astype(np.float32)
    images = training[0]["image"][:3] + noise
    found = memorisation.nearest_training_patch(images, masks, training)
    for i in range(3):
        inside = masks[i] > 0
        expected = np.corrcoef(images[i][inside], training[0]["image"][i][inside])[0, 1]
        assert found.correlation[i] == pytest.approx(expected, abs=1e-4)


def test_patches_of_the_same_group_are_left_out(training):
    masks = random_masks(np.random.default_rng(7), 5)
    images = training[0]["image"][:5]
    groups = [{"image": c["image"], "group": np.arange(len(c["image"]))} for c in training[:1]]
    found = memorisation.nearest_training_patch(images, masks, groups, np.arange(5))
    assert (found.correlation < 0.95).all()
    found = memorisation.nearest_training_patch(images, masks, groups, np.arange(5) + 1)
    assert found.index.tolist() == [0, 1, 2, 3, 4]


def test_flat_regions_have_no_correlation(training):
    masks = random_masks(np.random.default_rng(8), 1)
    found = memorisation.nearest_training_patch(np.full_like(masks, 0.1), masks, training)
    assert found.correlation.tolist() == [0.0]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 8, 8, 1), (1, 8, 8, 1), (1, 9, 8, 1)), "of one size"),
        (((1, 8, 8, 1), (2, 8, 8, 1), (1, 8, 8, 1)), "of one size"),
        (((1, 8, 8, 1), (1, 8, 8, 1), (0, 8, 8, 1)), "received none"),
    ],
)
def test_wrong_input_gets_one_line(shapes, message):
    images, masks, training = np.zeros(shapes[0]), np.ones(shapes[1]), np.zeros(shapes[2])
    with pytest.raises(UserError, match=message) as error:
        memorisation.nearest_training_patch(images, masks, [{"image": training}])
    assert "\n" not in str(error.value)


def test_an_empty_mask_is_refused(training):
    none = np.zeros((1, SIZE, SIZE, 1))
    with pytest.raises(UserError, match="empty one at 0"):
        memorisation.nearest_training_patch(none, none, training)


def test_a_set_without_patches_is_refused(training, held_out):
    none = {name: values[:0] for name, values in held_out.items()}
    with pytest.raises(UserError, match="received 80 infills and 0 held-out"):
        audit(held_out, none, training)
