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
    return patches(np.random.default_rng(1), 40)


@pytest.fixture(scope="module")
def calibration(held_out, training):
    return memorisation.calibrate(held_out, training, seed=0)


def test_planted_copies_are_found_and_new_patches_are_not(calibration):
    assert calibration.false_alarms <= 0.1
    assert min(calibration.recall.values()) >= 0.95
    assert set(calibration.recall) == set(memorisation.PLANTED)
    assert calibration.num_training == 150
    assert calibration.num_planted == calibration.num_tested * 2 == 40


def test_a_generator_of_new_patches_copies_nothing(training, calibration):
    infills = patches(np.random.default_rng(2), 40)
    found = memorisation.audit({"all": infills}, training, calibration)
    assert found.share_copied["all"] <= 0.1


def test_a_generator_that_pastes_training_patches_is_caught(training, calibration):
    hosts = patches(np.random.default_rng(3), 40)
    copies = {
        kind: {
            **hosts,
            "image": memorisation.planted_copies(hosts["image"], hosts["mask"], training, kind, 4),
        }
        for kind in memorisation.PLANTED
    }
    found = memorisation.audit(copies, training, calibration)
    assert min(found.share_copied.values()) >= 0.95


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("shift", [(3, -3), (-3, 1)])
def test_the_training_patch_is_named(orientation, shift, training):
    rng = np.random.default_rng(5)
    image = memorisation._oriented(training[1]["image"][7, ..., 0], orientation)
    image = np.roll(image, shift, axis=(0, 1))[None, ..., None]
    # Brightness and contrast must not matter.
    found = memorisation.nearest_training_patch(0.3 * image + 0.2, random_masks(rng, 1), training)
    assert found.index.tolist() == [107]
    assert found.correlation[0] > 0.99


def test_the_correlation_is_that_of_the_detail_inside(training):
    rng = np.random.default_rng(6)
    masks = random_masks(rng, 3)
    noise = 0.05 * rng.normal(size=masks.shape).astype(np.float32)
    images = training[0]["image"][:3] + noise
    found = memorisation.nearest_training_patch(images, masks, training)
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
    found = memorisation.nearest_training_patch(image, masks, training)
    assert found.index.tolist() == [3]
    assert found.correlation[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("side_px", [3, 7, 20, 31])
def test_masks_of_any_size_and_place(side_px, training):
    masks = np.zeros((2, SIZE, SIZE, 1), np.float32)
    masks[0, :side_px, -side_px:] = 1
    masks[1, 1 : 1 + side_px, :side_px] = 1
    images = training[1]["image"][[11, 12]]
    found = memorisation.nearest_training_patch(images, masks, training)
    assert found.index.tolist() == [111, 112] or side_px < 5
    assert found.correlation == pytest.approx(1, abs=1e-3)


def test_the_threshold_is_a_conformal_quantile():
    values = np.random.default_rng(10).permutation(199) / 198
    # Rank 198 of 200: the 198th of the 199 values.
    assert memorisation._threshold(values) == 197 / 198
    assert memorisation._threshold(values[:50]) == values[:50].max()


def test_infills_of_training_patches_are_not_copies_of_their_own(training, calibration):
    rng = np.random.default_rng(11)
    hosts = {
        "image": training[0]["image"][:40],
        "mask": random_masks(rng, 40),
        "group": np.arange(40) // 2,
    }
    number = np.arange(150) // 2
    grouped = [{"image": np.concatenate([c["image"] for c in training]), "group": number}]
    from_others = memorisation.planted_copies(hosts["image"], hosts["mask"], grouped, "plain", 12)
    sets = {"rebuilt": hosts, "pasted": {**hosts, "image": from_others}}
    found = memorisation.audit(sets, grouped, calibration)
    # The threshold is the largest of 20 values, so a new patch exceeds it with 5 % probability.
    assert found.share_copied["rebuilt"] <= 0.25
    assert found.share_copied["pasted"] >= 0.9


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
        (((1, 8, 8, 1), (1, 8, 8, 1), (1, 9, 8, 1)), "the same size"),
        (((1, 8, 8, 1), (2, 8, 8, 1), (1, 8, 8, 1)), "the same size"),
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


def test_a_set_without_patches_is_refused(training, held_out, calibration):
    none = {name: values[:0] for name, values in held_out.items()}
    with pytest.raises(UserError, match="there must be held-out patches"):
        memorisation.calibrate(none, training, seed=0)
    with pytest.raises(UserError, match="'none': 0"):
        memorisation.audit({"none": none}, training, calibration)
