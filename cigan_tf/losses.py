"""The loss terms, each computed by a pure function (paper section 2.2).

A term used by both networks has two functions, xxx_generator_loss and xxx_discriminator_loss. Every
term is a mean over the given batch. Only the train step divides by the number of replicas.
"""

from keras import ops

from cigan_tf import masks

# Difference in grey level at which two infills are diverse enough. Most masses are brighter than
# their surroundings by 0.03 to 0.14.
_DIVERSE = 0.02
# Divisor of the patch's side for the standard deviation of the differences' Gaussian.
_DIVERSITY_SIGMAS = 16


def adversarial_generator_loss(fake_logits):
    """Returns the non-saturating loss, -log D(c, S) (Goodfellow et al. 2014, section 3).

    Args:
        fake_logits: [N, 1], the discriminator's output for infilled patches, in (-inf, inf).

    Returns:
        Scalar >= 0; log 2 = 0.693 if the discriminator is at chance.
    """
    return ops.mean(ops.softplus(-fake_logits))


def adversarial_discriminator_loss(
    real_logits,
    fake_logits,
    wrong_class_logits=None,
    wrong_class_weight=0.0,
    opposite_logits=None,
    opposite_class_weight=0.0,
):
    """Returns the mean of -log D(c, R) and -log(1 - D(c, S)).

    The two terms are averaged, not added, so that the threshold of 0.3 for ending a turn has the
    same meaning for both networks.

    Args:
        real_logits: [N, 1], the discriminator's output for real patches, in (-inf, inf).
        fake_logits: [N, 1], the discriminator's output for infilled patches, in (-inf, inf).
        wrong_class_logits: [N, 1], the discriminator's output for real patches given the
            opposite class; they count as fakes.
        wrong_class_weight: weight of these patches relative to the infilled patches.
        opposite_logits: [N, 1], the discriminator's output for patches infilled as the opposite
            class, given that class; they count as fakes.
        opposite_class_weight: weight of these patches relative to patches infilled as their own
            class.

    Returns:
        Scalar >= 0; log 2 = 0.693 if the discriminator is at chance.

    References:
        Reed et al. Generative Adversarial Text to Image Synthesis. ICML 2016 (GAN-CLS).
    """
    on_fakes = ops.mean(ops.softplus(fake_logits))
    if opposite_class_weight:
        on_opposite = ops.mean(ops.softplus(opposite_logits))
        on_fakes = weighted_mean(on_fakes, on_opposite, opposite_class_weight)
    if wrong_class_weight:
        on_wrong_class = ops.mean(ops.softplus(wrong_class_logits))
        on_fakes = weighted_mean(on_fakes, on_wrong_class, wrong_class_weight)
    return 0.5 * (ops.mean(ops.softplus(-real_logits)) + on_fakes)


def r1_penalty(gradient, weight: float):
    """Returns half the weighted mean squared norm of a gradient on real patches.

    Args:
        gradient: [N, h, w, c], of the logits with respect to the discriminator's input.
        weight: gamma of the reference.

    Returns:
        Scalar >= 0.

    References:
        Mescheder et al. Which Training Methods for GANs do actually Converge? ICML 2018.
    """
    return 0.5 * weight * ops.mean(ops.sum(ops.square(gradient), axis=(1, 2, 3)))


def weighted_mean(value, other, other_weight: float):
    """Returns the weighted mean of a value with weight 1 and another with `other_weight`."""
    return value + other_weight * (other - value) / (1 + other_weight)


def feature_loss(real_features, infilled_features):
    """Returns the sum over layers of the mean absolute difference between the feature maps.

    Args:
        real_features: dict of maps [N, h, w, c] of the real patches: some of VGG-19's input,
            pool1, pool2 and pool3.
        infilled_features: the same maps of the infilled patches.

    Returns:
        Scalar >= 0.
    """

    # Maps may be in half precision, and the real and infilled patches' maps may differ in it.
    def mean_difference(real, infilled):
        return ops.mean(ops.abs(ops.cast(real, "float32") - ops.cast(infilled, "float32")))

    return sum(
        mean_difference(real, infilled_features[name]) for name, real in real_features.items()
    )


def diversity_loss(infilled, other, mask):
    """Returns 1 for equal infills and 0 for infills that differ by 0.02 or more in grey level.

    Differences are averaged over nearby pixels, so different grain is no diversity.

    Args:
        infilled: [N, p, p, 1] in [0, 1].
        other: infills of the same patches and classes with other noise.
        mask: [N, p, p, 1].

    Returns:
        Scalar in [0, 1].

    References:
        Yang et al. Diversity-Sensitive Conditional Generative Adversarial Networks. ICLR 2019.
    """
    sigma_px = mask.shape[1] / _DIVERSITY_SIGMAS
    difference = ops.abs(masks.mean_inside(infilled - other, mask, sigma_px))
    num_pixels = ops.maximum(ops.sum(mask, axis=(1, 2, 3)), 1.0)
    spread = ops.sum(difference, axis=(1, 2, 3)) / num_pixels
    return ops.mean(1.0 - ops.minimum(spread / _DIVERSE, 1.0))


def boundary_loss(real, infilled, boundary_map):
    """Returns the mean of w * |R - S|.

    Args:
        real: [N, p, p, 1] in [0, 1].
        infilled: [N, p, p, 1] in [0, 1].
        boundary_map: w, [N, p, p, 1], from `masks.boundary_map`.

    Returns:
        Scalar >= 0.
    """
    return ops.mean(boundary_map * ops.abs(real - infilled))
