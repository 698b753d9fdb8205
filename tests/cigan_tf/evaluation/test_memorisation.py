"""Tests of the search for copied training patches."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.evaluation import memorisation
from tests.cigan_tf.evaluation.smooth_tissue import random_masks, tissue, training_chunks


def patches(rng, num):
    return {
        "image": tissue(rng, num),
        "mask": random_masks(rng, num),
        "patient_id": np.arange(num) // 4,
    }


@pytest.fixture(scope="module")
def training():
    return training_chunks()


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
    hosts = patches(np.random.default_rng(3), 20)
    copies = {
        kind: {
            **hosts,
            "image": memorisation.planted_copies(hosts["image"], hosts["mask"], training, kind, 4),
        }
        for kind in memorisation.PLANTED
    }
    found = memorisation.audit(copies, training, calibration)
    assert min(found.share_copied.values()) >= 0.95


def test_the_threshold_is_a_conformal_quantile():
    values = np.random.default_rng(10).permutation(199) / 198
    # Rank 198 of 200: the 198th of the 199 values.
    assert memorisation._threshold(values) == 197 / 198
    assert memorisation._threshold(values[:50]) == values[:50].max()


def test_infills_of_training_patches_are_not_copies_of_their_own(training, calibration):
    rng = np.random.default_rng(11)
    hosts = {
        "image": training[0]["image"][:20],
        "mask": random_masks(rng, 20),
        "group": np.arange(20) // 2,
    }
    number = np.arange(150) // 2
    grouped = [{"image": np.concatenate([c["image"] for c in training]), "group": number}]
    from_others = memorisation.planted_copies(hosts["image"], hosts["mask"], grouped, "plain", 12)
    sets = {"rebuilt": hosts, "pasted": {**hosts, "image": from_others}}
    found = memorisation.audit(sets, grouped, calibration)
    # The threshold is the largest of 20 values, so a new patch exceeds it with 5 % probability.
    assert found.share_copied["rebuilt"] <= 0.25
    assert found.share_copied["pasted"] >= 0.9


def test_a_set_without_patches_is_refused(training, held_out, calibration):
    none = {name: values[:0] for name, values in held_out.items()}
    with pytest.raises(UserError, match="there must be held-out patches"):
        memorisation.calibrate(none, training, seed=0)
    with pytest.raises(UserError, match="'none': 0"):
        memorisation.audit({"none": none}, training, calibration)
