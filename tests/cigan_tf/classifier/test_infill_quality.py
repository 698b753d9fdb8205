"""Tests of the features with which infills are compared."""

import numpy as np
import pytest

from cigan_tf.classifier import infill_quality
from cigan_tf.classifier.network import build_classifier
from cigan_tf.errors import UserError


def test_features_are_the_classifiers_pooled_maps():
    classifier = build_classifier(32, "random", seed=3)
    images = np.random.default_rng(0).random((3, 32, 32, 1)).astype(np.float32)
    found = infill_quality.feature_function("classifier", classifier)(images)
    assert found.shape == (3, 2048)
    head = classifier.get_layer("malignant")
    expected = classifier.predict_on_batch(images)
    logits = found @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, rtol=1e-4)


def test_unavailable_features_are_named(tmp_path):
    with pytest.raises(UserError, match="need a trained classifier"):
        infill_quality.feature_function("classifier")
    with pytest.raises(UserError, match=r"the file '.*absent\.h5' does not exist"):
        infill_quality.feature_function(str(tmp_path / "absent.h5"))
