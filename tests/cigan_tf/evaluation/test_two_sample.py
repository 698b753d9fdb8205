"""Tests of the classifiers that distinguish infills from real lesions, on simulated features."""

import numpy as np
import pytest
from scipy import ndimage

from cigan_tf.errors import UserError
from cigan_tf.evaluation import two_sample


def patients_that_differ(rng, num_patients=40, patches_each=5, num_features=20):
    """Returns features that are similar within a patient, and the patient of each patch."""
    patients = np.repeat(np.arange(num_patients), patches_each)
    of_patient = rng.normal(size=(num_patients, num_features))
    features = of_patient[patients] + 0.3 * rng.normal(size=(patients.size, num_features))
    return features, patients


def test_differences_between_patients_are_not_differences_between_sides():
    aucs = []
    for seed in range(12):
        features, patients = patients_that_differ(np.random.default_rng(seed))
        classifier = two_sample.feature_classifier()
        found = two_sample.two_sample_test(features, patients < 20, patients, classifier, seed)
        aucs.append((found.auc, *found.interval))
    auc, low, high = np.transpose(aucs)
    assert abs(auc.mean() - 0.5) < 0.08
    assert np.mean((low < 0.5) & (high > 0.5)) >= 0.75


def test_different_sides_are_separated():
    features, patients = patients_that_differ(np.random.default_rng(0))
    features[patients < 20, :5] += 1.5
    classifier = two_sample.feature_classifier()
    found = two_sample.two_sample_test(features, patients < 20, patients, classifier, 0)
    assert found.interval.low > 0.6
    assert found.interval.low < found.auc < found.interval.high
    assert found.num_folds == 5
    again = two_sample.two_sample_test(features, patients < 20, patients, classifier, 0)
    assert again == found


def tissue(rng, num, size=32):
    smooth = ndimage.gaussian_filter(rng.normal(size=(num, size, size, 1)), (0, 1, 1, 0))
    masks = np.zeros((num, size, size, 1))
    masks[:, 8:22, 10:24] = 1
    return 0.5 + 0.2 * smooth, masks


@pytest.mark.parametrize(("sigma_px", "is_found"), [(0, False), (2, True)])
def test_a_blur_inside_the_mask_is_found(sigma_px, is_found):
    images, masks = tissue(np.random.default_rng(1), 120)
    patients = np.arange(120) // 4
    generated = patients < 15
    blurred = ndimage.gaussian_filter(images, (0, sigma_px, sigma_px, 0))
    images = np.where(generated[:, None, None, None] * masks > 0, blurred, images)
    numbers = two_sample.texture_numbers(images, masks)
    classifier = two_sample.texture_classifier(seed=0)
    found = two_sample.two_sample_test(numbers, generated, patients, classifier, seed=0)
    assert (found.interval.low > 0.8) == is_found
    assert (found.interval.low < 0.5 < found.interval.high) != is_found


def test_texture_numbers_of_known_patches():
    rng = np.random.default_rng(2)
    images, masks = tissue(rng, 4)
    images[1] = np.where(masks[1] > 0, images[1] + 0.1, images[1])
    images[2] = np.where(masks[2] > 0, 3 * images[2], images[2])
    masks[3] = 1
    numbers = two_sample.texture_numbers(images, masks)
    named = [dict(zip(two_sample.TEXTURE_NUMBERS, row, strict=True)) for row in numbers]
    assert all(abs(named[0][name]) < 0.4 for name in ("laplacian", "gradient", "deviation"))
    assert named[1]["edge_step"] == pytest.approx(0.1, abs=0.05)
    assert named[1]["brightness"] == pytest.approx(0.1, abs=0.05)
    assert named[2]["deviation"] == pytest.approx(np.log(3), abs=0.4)
    assert set(named[3].values()) == {0.0}


def test_one_patient_of_a_side_gives_no_test():
    features, patients = patients_that_differ(np.random.default_rng(3), num_patients=4)
    classifier = two_sample.feature_classifier()
    assert two_sample.two_sample_test(features, patients < 1, patients, classifier, 0) is None
    found = two_sample.two_sample_test(features, patients < 2, patients, classifier, 0)
    assert found.num_folds == 2
    assert np.isfinite(found.interval).all()


def test_a_patient_on_both_sides_is_refused():
    features, patients = patients_that_differ(np.random.default_rng(4))
    sides = np.arange(len(patients)) % 2 == 0
    with pytest.raises(UserError, match="'0' on both"):
        two_sample.two_sample_test(features, sides, patients, two_sample.feature_classifier(), 0)


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        (np.zeros((1, 8, 8, 1)), np.ones((1, 9, 8, 1)), r"\(1, 9, 8, 1\)"),
        (np.zeros((1, 8, 8, 1)), np.zeros((1, 8, 8, 1)), "empty mask for patch 0"),
    ],
)
def test_texture_of_wrong_patches_gets_one_line(images, masks, message):
    with pytest.raises(UserError, match=message):
        two_sample.texture_numbers(images, masks)
