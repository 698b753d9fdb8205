"""Measures of infills during training, for generators of known quality."""

import numpy as np
import pytest

from cigan_tf.errors import UserError
from cigan_tf.training import held_out


def test_a_probe_finds_the_class_and_only_where_there_is_one():
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=400)
    features = rng.normal(size=(400, 20))
    told = features + label[:, None] * np.eye(20)[3] * 3
    for seen, least, most in ((told, 0.9, 1.0), (features, 0.35, 0.65)):
        logits = held_out.fit_probe(seen[:200], label[:200])(seen[200:])
        malignant, other = logits[label[200:] == 1], logits[label[200:] == 0]
        auc = np.mean(malignant[:, None] > other)
        assert least <= auc <= most


def test_a_probe_needs_both_classes():
    with pytest.raises(UserError, match="--evaluated_patches"):
        held_out.fit_probe(np.zeros((4, 2)), np.zeros(4, np.int32))


@pytest.fixture(scope="module")
def measures(tiny_config):
    import dataclasses

    training = dataclasses.replace(tiny_config.training, evaluated_patches=60)
    config = dataclasses.replace(tiny_config, training=training)

    def features(windows):
        # Mean, contrast and roughness.
        steps = np.abs(np.diff(windows[..., 0], axis=2)).mean(axis=(1, 2))
        spread = windows.std(axis=(1, 2, 3))
        return np.stack([windows.mean(axis=(1, 2, 3)), 5 * spread, 50 * steps], axis=1)

    return held_out.HeldOutMeasures(config, features)


def unchanged(image, mask, label, seed):
    return image


def flat(image, mask, label, seed):
    return np.where(mask > 0, 0.9, image)


def obedient(image, mask, label, seed):
    return np.where(mask > 0, 0.2 + 0.6 * label[:, None, None, None], image)


def contrary(image, mask, label, seed):
    return obedient(image, mask, 1 - label, seed)


def test_kid_of_real_patches_is_their_own_and_of_flat_infills_larger(measures):
    real = measures.measure(unchanged)
    assert real["held_out/kid"] == pytest.approx(real["held_out/kid_of_real_patches"])
    assert measures.measure(flat)["held_out/kid"] > real["held_out/kid"] + 0.05


def test_the_class_auc_is_that_of_the_requested_class(measures):
    # The requested class is the opposite of the patches' own class.
    real = measures.measure(unchanged)
    own = real["held_out/class_auc_of_real_patches"]
    assert real["held_out/class_auc"] == pytest.approx(1 - own)


def test_a_generator_that_obeys_has_a_class_auc_of_1(measures, monkeypatch):
    monkeypatch.setattr(measures, "_probe", lambda features: features[:, 0])  # brightness
    assert measures.measure(obedient)["held_out/class_auc"] > 0.8
    assert measures.measure(contrary)["held_out/class_auc"] < 0.2
