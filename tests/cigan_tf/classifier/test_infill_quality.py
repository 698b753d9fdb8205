"""Evaluation of a generator: features, the number of patches, and the data searched for copies."""

import numpy as np
import pytest

from cigan_tf import input_pipeline, provenance
from cigan_tf.classifier import infill_quality
from cigan_tf.classifier.network import build_classifier
from cigan_tf.errors import UserError


def test_features_are_the_classifiers_pooled_maps():
    classifier = build_classifier(32, "random", seed=3, network="vgg16")
    images = np.random.default_rng(0).random((3, 32, 32, 1)).astype(np.float32)
    found = infill_quality.feature_function("classifier", classifier)(images)
    assert found.shape == (3, 512)
    head = classifier.get_layer("malignant")
    expected = classifier(images, training=False)
    logits = found @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, rtol=1e-4)


def test_unavailable_features_are_named(tmp_path):
    with pytest.raises(UserError, match="need a trained classifier"):
        infill_quality.feature_function("classifier")
    with pytest.raises(UserError, match=r"the file '.*absent\.h5' does not exist"):
        infill_quality.feature_function(str(tmp_path / "absent.h5"))


def test_larger_patches_are_fewer():
    assert [infill_quality.max_patches_of(side) for side in (32, 128, 256, 512)] == [
        *(2000, 2000),
        *(500, 125),
    ]


def test_training_data_outside_the_searched_patches_are_named(discs_config):
    record = provenance.training_record(discs_config)
    assert infill_quality._not_searched(discs_config, record) == []
    assert infill_quality._not_searched(discs_config, {**record, "init_from": record}) == []
    other = {**record["dataset"], "name": "ddsm_patches/mass", "fingerprint": "0" * 64}
    of_preset = {"dataset": other, "patients": ["P_1"]}
    tuned = provenance.begun_from(record, of_preset)
    assert infill_quality._not_searched(discs_config, tuned) == ["ddsm_patches/mass"]
    # Its first steps were taken on more patients of the same dataset.
    later = {**record, "patient_share": 1e-6}
    assert infill_quality._not_searched(discs_config, later) == [
        "4 more patients of ddsm_patches/discs"
    ]


@pytest.mark.parametrize(("split", "share"), [("validation", 1.0), ("train", 0.5)])
def test_copies_are_searched_in_the_generators_own_training_data(discs_config, split, share):
    record = {"train_split": split, "patient_share": share}
    config = infill_quality.as_trained(discs_config, record)
    builder = input_pipeline.open_dataset(config.data, 32)
    patients = input_pipeline.patches_per_patient(builder, split, share)
    assert 0 < len(patients) < 4
    training = infill_quality.TrainingPatches(config)
    for _ in range(2):  # the search iterates many times
        films = [film.decode() for chunk in training for film in chunk["group"]]
        assert set(films) == {f"{patient}_CC" for patient in patients}
        assert len(films) == 8 * len(patients)
    assert hash(config) == hash(infill_quality.as_trained(discs_config, record))
