"""Batches of the classifier: shares, classes, seeds and errors."""

import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from cigan_tf.classifier import batches
from cigan_tf.classifier.context_patches import OnTheFly
from cigan_tf.classifier.synthetic_set import SyntheticSet
from cigan_tf.errors import UserError


@pytest.fixture(scope="module")
def synthetic(synthetic_folder):
    return SyntheticSet(synthetic_folder, 32)


@pytest.fixture(scope="module")
def known(discs_config, synthetic):
    """Returns whether an image is a real or a synthetic training patch."""
    pictures = {
        record["image"].tobytes(): "synthetic" for record in synthetic.records().as_numpy_iterator()
    }
    images, _ = batches.scored_batches(discs_config, "train")
    real = np.concatenate(list(images.as_numpy_iterator()))
    pictures.update({levels(image).tobytes(): "real" for image in real})
    return pictures


def levels(image):
    return np.rint(image * 65535).astype(np.uint16)


def drawn(config, seed=0, synthetic=None, first_step=0):
    steps = batches.training_batches(config, seed, synthetic, first_step=first_step)
    return [(np.array(image), np.array(label)) for image, label in steps]


def assert_same(steps, others):
    for (image, label), (same_image, same_label) in zip(steps, others, strict=True):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(label, same_label)


def test_as_many_batches_as_steps_half_of_each_class(discs_config):
    steps = drawn(discs_config)
    assert len(steps) == 4
    for image, label in steps:
        assert image.shape == (4, 32, 32, 1)
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert sorted(label[:, 0].tolist()) == [0, 0, 1, 1]


def test_the_share_of_real_patches_is_that_of_the_step(
    discs_config, with_classifier, synthetic, known
):
    config = with_classifier(
        discs_config,
        classifier_steps=300,
        synthetic_use="mixed",
        real_share_reading="plus_20_points",
        real_share_steps=100,
    )
    origins = np.array(
        [
            [known[levels(image).tobytes()] for image in images]
            for images, _ in drawn(config, 0, synthetic)
        ]
    )
    shares = (origins.reshape(3, -1) == "real").mean(axis=1)
    np.testing.assert_allclose(shares, [0.5, 0.7, 0.9], atol=0.06)


@pytest.mark.parametrize(
    ("use", "first", "last"),
    [
        ("none", "real", "real"),
        ("only", "synthetic", "synthetic"),
        ("pretraining", "synthetic", "real"),
    ],
)
def test_the_patches_an_arm_trains_on(
    discs_config, with_classifier, synthetic, known, use, first, last
):
    steps = drawn(with_classifier(discs_config, synthetic_use=use), 0, synthetic)
    for images, origin in ((steps[0][0], first), (steps[-1][0], last)):
        assert {known[levels(image).tobytes()] for image in images} == {origin}


def test_only_the_seed_matters(discs_config, with_classifier, synthetic):
    config = with_classifier(discs_config, synthetic_use="mixed", traditional_augmentation=True)
    tf.random.set_seed(1)
    first = drawn(config, 5, synthetic)
    tf.random.set_seed(2)
    second, other = drawn(config, 5, synthetic), drawn(config, 6, synthetic)
    assert_same(first, second)
    assert any(np.abs(a[0] - b[0]).max() > 0.01 for a, b in zip(first, other, strict=True))


def test_augmentation_changes_the_training_patches(discs_config, with_classifier, known):
    config = with_classifier(discs_config, traditional_augmentation=True)
    seen = [levels(image).tobytes() in known for images, _ in drawn(config) for image in images]
    assert not all(seen)


@pytest.mark.parametrize("use", ["mixed", "on_the_fly"])
def test_any_step_is_reached_at_once(
    discs_config, with_classifier, synthetic, infills_on_the_fly, use
):
    config = with_classifier(discs_config, synthetic_use=use, traditional_augmentation=True)
    infills = {"mixed": synthetic, "on_the_fly": infills_on_the_fly}[use]
    assert_same(drawn(config, 0, infills)[2:], drawn(config, 0, infills, first_step=2))


def test_each_pass_sees_every_patch_of_a_class_once(
    discs_config, with_classifier, synthetic, known
):
    config = with_classifier(discs_config, classifier_steps=100, synthetic_use="mixed")
    seen = collections.defaultdict(list)
    for images, labels in drawn(config, 0, synthetic):
        for image, label in zip(images, labels[:, 0], strict=True):
            picture = levels(image).tobytes()
            seen[known[picture], label].append(picture)
    assert len(seen) == 4
    for pictures in seen.values():
        assert len(set(pictures[:16])) == len(set(pictures[16:32])) == 16
        assert pictures[:16] != pictures[16:32]


@pytest.fixture(scope="module")
def infills_on_the_fly(discs_config, discs_generator):
    return OnTheFly(discs_config, discs_generator)


def test_infills_on_the_fly_are_new_in_each_pass(
    discs_config, with_classifier, infills_on_the_fly, known
):
    config = with_classifier(
        discs_config, classifier_steps=20, classifier_batch_size=8, synthetic_use="on_the_fly"
    )
    real = {picture for picture, origin in known.items() if origin == "real"}
    films = [np.frombuffer(picture, np.uint16).reshape(32, 32, 1) for picture in real]
    made = []
    for images, labels in drawn(config, 0, infills_on_the_fly):
        for image, label in zip(images, labels[:, 0], strict=True):
            if levels(image).tobytes() not in real:
                made.append((image, label))
    # About half of 160 patches are infills. Each pass over the 32 training patches makes 16 per
    # class.
    assert 50 <= len(made) <= 110
    assert len({image.tobytes() for image, _ in made}) == len(made)
    for image, _ in made:
        shares = [np.mean(levels(image) == film) for film in films]
        assert max(shares) > 0.5, "beside the lesion it is a training patch"
    generator, contexts = infills_on_the_fly.generator, infills_on_the_fly.contexts(0)
    (example,) = contexts.batches(5, 6, 1).as_numpy_iterator()
    infilled = generator(*(example[name] for name in ("image", "mask", "label", "seed")))
    of_class = [image for image, label in made if label == example["label"][0]]
    assert any(np.abs(image - infilled[0]).max() < 1e-6 for image in of_class), "as they are stored"


def test_fewer_patients_are_part_of_more(discs_config, with_classifier, known):
    patients = {}
    for share in (1.0, 0.5):
        config = with_classifier(discs_config, patient_share=share, classifier_steps=60)
        seen = {levels(image).tobytes() for images, _ in drawn(config) for image in images}
        patients[share] = seen
    assert len(patients[0.5]) < len(patients[1.0])
    assert patients[0.5] <= patients[1.0]


def test_the_scored_patches_and_their_facts(discs_config):
    images, facts = batches.scored_batches(discs_config, "test")
    assert sum(len(batch) for batch in images) == facts["label"].size == 16
    assert collections.Counter(facts["patient_id"].tolist()) == {"gil": 8, "hue": 8}
    assert len(set(facts["patch"].tolist())) == 16
    assert set(facts["scanner"]) == {"drawn"}
    # Lesion descriptions: these patches have neither density nor subtlety.
    assert set(facts["density"]) == set(facts["subtlety"]) == {-1}
    has_lesion = facts["lesion_type"] == "mass"
    assert has_lesion.sum() == 12
    assert (facts["lesion_area_px"][has_lesion] > 40).all()
    assert (facts["lesion_area_px"][~has_lesion] == 0).all()


@pytest.mark.parametrize(("most", "of_each_class"), [(5, 2), (8, 4), (1000, 8)])
def test_points_score_some_patches_of_each_class_and_patient(
    discs_config, with_classifier, most, of_each_class
):
    config = with_classifier(discs_config, validation_patches=most)
    images, facts = batches.scored_batches(config, "validation")
    some, of_some = batches.at_points(config, facts)
    assert collections.Counter(of_some["label"].tolist()) == dict.fromkeys((0, 1), of_each_class)
    pairs = collections.Counter(zip(of_some["label"], of_some["patient_id"], strict=True))
    assert set(pairs.values()) == {of_each_class // 2}, "both patients alike"
    whole = np.concatenate(list(images.as_numpy_iterator()))
    rows = np.flatnonzero(np.isin(facts["patch"], of_some["patch"]))
    np.testing.assert_array_equal(np.concatenate(list(some.as_numpy_iterator())), whole[rows])
    _, again = batches.at_points(config, facts)
    assert again["patch"].tolist() == of_some["patch"].tolist()


def on(config, dataset):
    data = dataclasses.replace(config.data, dataset=f"ddsm_patches/{dataset}")
    return dataclasses.replace(config, data=data)


def test_a_missing_class_is_named(discs_config):
    config = on(discs_config, "one_class")
    with pytest.raises(UserError, match=r"the train split of .* has real malignant patches"):
        drawn(config)
    with pytest.raises(UserError, match=r"The test split of .* has no malignant patch"):
        batches.scored_batches(config, "test")


def test_one_patient_is_not_enough(discs_config, with_classifier):
    with pytest.raises(UserError, match=r"at least two patients.*patient_share"):
        drawn(with_classifier(discs_config, patient_share=0.001))


def test_patients_in_two_splits_are_refused(discs_config):
    batches.refuse_shared_patients(discs_config)
    with pytest.raises(UserError, match="Patient 'ann' is in the splits 'train' and 'validation'"):
        batches.refuse_shared_patients(on(discs_config, "shared"))
