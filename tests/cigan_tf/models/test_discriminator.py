"""The discriminator against the paper's section 2.1."""

import numpy as np
import pytest

from cigan_tf.models.discriminator import Discriminator


def test_parameter_count_of_the_paper():
    assert Discriminator(256, sees_class=False).count_params() == 1_600_769


def test_the_class_costs_two_more_input_channels():
    assert Discriminator(256).count_params() == 1_600_769 + 2 * 9 * 32


@pytest.mark.parametrize("patch_size", [32, 64, 512])
def test_one_logit_per_patch(patch_size):
    image = np.random.default_rng(0).random((2, patch_size, patch_size, 1), dtype=np.float32)
    logits = Discriminator(patch_size)({"image": image, "label": np.array([0, 1])})
    assert logits.shape == (2, 1)


def test_the_class_changes_the_answer():
    image = np.random.default_rng(0).random((1, 32, 32, 1), dtype=np.float32)
    discriminator = Discriminator(32)
    benign = discriminator({"image": image, "label": np.array([0])})
    malignant = discriminator({"image": image, "label": np.array([1])})
    assert float(benign[0, 0]) != float(malignant[0, 0])
