"""The loss terms, compared with their formulas."""

import numpy as np
import pytest

from cigan_tf import losses


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_adversarial_losses_follow_the_formulas():
    real, fake = np.array([[2.0], [-1.0]], np.float32), np.array([[0.5], [-3.0]], np.float32)
    generator = float(losses.adversarial_generator_loss(fake))
    discriminator = float(losses.adversarial_discriminator_loss(real, fake))
    assert generator == pytest.approx(np.mean(-np.log(sigmoid(fake))), rel=1e-6)
    halves = np.mean(-np.log(sigmoid(real))) + np.mean(-np.log(1 - sigmoid(fake)))
    assert discriminator == pytest.approx(halves / 2, rel=1e-6)


def test_an_undecided_discriminator_costs_log_2_to_both():
    zero = np.zeros((4, 1), np.float32)
    assert float(losses.adversarial_generator_loss(zero)) == pytest.approx(np.log(2))
    assert float(losses.adversarial_discriminator_loss(zero, zero)) == pytest.approx(np.log(2))


def test_adversarial_losses_stay_finite_at_extreme_logits():
    extreme = np.array([[-1e4], [1e4]], np.float32)
    assert np.isfinite(float(losses.adversarial_generator_loss(extreme)))
    assert np.isfinite(float(losses.adversarial_discriminator_loss(extreme, -extreme)))


def test_feature_loss_sums_the_layers_means():
    real = {"input": np.zeros((2, 4, 4, 3), "f4"), "pool1": np.zeros((2, 2, 2, 8), "f4")}
    infilled = {"input": real["input"] + 0.5, "pool1": real["pool1"] - 2.0}
    assert float(losses.feature_loss(real, infilled)) == pytest.approx(2.5)


def test_the_diversity_loss_decreases_with_the_mean_difference_of_infills():
    mask = np.zeros((2, 32, 32, 1), np.float32)
    mask[:, 8:24, 8:24] = 1
    infilled = np.full_like(mask, 0.5)
    for difference, expected in ((0.0, 1.0), (0.01, 0.5), (0.02, 0.0), (0.1, 0.0)):
        loss = losses.diversity_loss(infilled, infilled + difference, mask)
        assert float(loss) == pytest.approx(expected, abs=1e-3)
    # Different grain is hardly diverse.
    grain = 0.005 * np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
    assert float(losses.diversity_loss(infilled, infilled + grain, mask)) > 0.9


def test_boundary_loss_is_the_weighted_mean():
    real, infilled = np.ones((1, 4, 4, 1), np.float32), np.zeros((1, 4, 4, 1), np.float32)
    weight = np.zeros((1, 4, 4, 1), np.float32)
    weight[0, 0, 0, 0] = 0.8
    assert float(losses.boundary_loss(real, infilled, weight)) == pytest.approx(0.8 / 16)


def test_real_patches_of_the_wrong_class_count_as_fakes():
    real, fake, wrong = (np.random.default_rng(s).normal(size=(4, 1)) for s in range(3))
    paper = losses.adversarial_discriminator_loss(real, fake)
    on_wrong_alone = losses.adversarial_discriminator_loss(real, wrong)
    both = losses.adversarial_discriminator_loss(real, fake, wrong, 3.0)
    assert float(both) == pytest.approx(0.25 * float(paper) + 0.75 * float(on_wrong_alone))


def test_infills_of_the_opposite_class_count_by_their_weight():
    zero, logits = np.zeros((2, 1), np.float32), np.full((2, 1), 2.0, np.float32)
    loss = losses.adversarial_discriminator_loss(
        zero, zero, opposite_logits=logits, opposite_class_weight=3.0
    )
    on_fakes = (np.log(2) + 3 * np.log1p(np.exp(2))) / 4
    np.testing.assert_allclose(loss, 0.5 * (np.log(2) + on_fakes), rtol=1e-6)
