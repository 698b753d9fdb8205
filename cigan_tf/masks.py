"""Functions of lesion masks: corruption, input stack, placing an infill, grain, windows, boundary.

Pure functions of tensors. Images are float [N, p, p, 1] in [0, 1], lesion masks float
[N, p, p, 1] in {0, 1}, labels int [N] with 0 non-malignant and 1 malignant.
"""

import math

import numpy as np
from keras import ops

NUM_CLASSES = 2

# The smallest share of a mask's pixels that must be on breast tissue in another patch.
MIN_TISSUE_SHARE = 0.9

# A Gaussian is truncated where it has fallen to exp(-8), the default of scipy.ndimage.
_GAUSSIAN_TRUNCATE_SIGMAS = 4.0

# Detail is the part of the image that a Gaussian filter with this standard deviation removes. The
# value does not depend on the patch size, because a film's grain is about a pixel wide.
_DETAIL_SIGMA_PX = 1.0
# The grain of a film is measured in the tissue within about twice this distance of the mask.
_GRAIN_REACH_PX = 4.0
# The grain at which `match_grain` changes nothing, and the limits of what is measured. Real films
# have 0.003 to 0.01. Below the least grain there is only rounding, and above the most, something
# other than a film.
_USUAL_GRAIN = 0.005
_LEAST_GRAIN, _MOST_GRAIN = 1e-4, 0.02
# The usual grain counts like this many pixels of tissue, in case there are fewer.
_USUAL_GRAIN_WEIGHT = 1.0
# In units of the grain; only dust and calcifications exceed it.
_MOST_DETAIL = 8.0
# Keeps the logarithm of detail finite in a flat infill; much less than the grain, 1.
_LEAST_DETAIL_STRENGTH = 0.05
# Keeps quotients finite if there is no ring or no mask.
_LEAST_WEIGHT = 1e-12
# Less than a pixel's own weight in the Gaussian filter of the detail, 0.16.
_LEAST_SEEN_WEIGHT = 0.1


def corrupt(image, mask, noise):
    """Returns the context image: the lesion replaced by noise (paper section 2.1).

    Args:
        image: [N, p, p, 1].
        mask: [N, p, p, 1].
        noise: uniform values in [0, 1), [N, p, p, 1].
    """
    return ops.where(mask > 0.5, noise, image)


def class_maps(label, like):
    """Returns two channels: [1, 0] for non-malignant, [0, 1] for malignant.

    Args:
        label: int [N].
        like: [N, h, w, 1], gives height, width and dtype.

    Returns:
        [N, h, w, 2].
    """
    one_hot = ops.one_hot(label, NUM_CLASSES, dtype=like.dtype)
    return ops.ones_like(like) * one_hot[:, None, None, :]


def input_stack(context, mask, label):
    """Returns the generator's four input channels: context, mask, two class maps (Fig. 2)."""
    return ops.concatenate([context, mask, class_maps(label, mask)], axis=-1)


def place(image, mask, generated, settings):
    """Returns the image with the generated patch in its lesion mask.

    Args:
        image: [N, p, p, 1] in [0, 1].
        mask: [N, p, p, 1].
        generated: the generator's output, [N, p, p, 1] in [0, 1].
        settings: `match_grain`, `match_rim`, `rim_reach_px` and `composite`, as in `ModelConfig`.

    Returns:
        [N, p, p, 1] in [0, 1].
    """
    if settings.match_grain:
        generated = match_grain(image, mask, generated)
    if settings.match_rim:
        generated = match_rim(image, mask, generated, settings.rim_reach_px)
    return composite(image, mask, generated) if settings.composite else generated


def composite(image, mask, generated):
    """Returns the image with its lesion mask infilled; pixels outside do not change."""
    return ops.where(mask > 0.5, generated, image)


def match_grain(image, mask, generated):
    """Returns the generated patch with its detail scaled to the grain of the surrounding tissue.

    Films differ in their grain. The generator decides how much detail a lesion has relative to the
    surrounding tissue; the film decides how much that is. Only pixels outside the mask are used, so
    the original lesion has no influence.

    Args:
        image: [N, p, p, 1] in [0, 1].
        mask: [N, p, p, 1].
        generated: [N, p, p, 1] in [0, 1].

    Returns:
        [N, p, p, 1] in [0, 1]; `generated` unchanged if the mask is empty or covers the whole
        patch.
    """
    detail = _detail(generated, ops.ones_like(mask))
    added = detail * (grain(image, mask) / _USUAL_GRAIN - 1.0)
    return ops.clip(generated + added, 0.0, 1.0)


def relative_detail(image, mask):
    """Returns each pixel's detail in units of the grain of the tissue around the mask.

    This gives a film's grain the same strength in every patch, and removes smooth shading.

    Args:
        image: [N, p, p, 1] in [0, 1].
        mask: [N, p, p, 1].

    Returns:
        [N, p, p, 1] in [-8, 8].
    """
    relative = _detail(image, ops.ones_like(mask)) / grain(image, mask)
    return ops.clip(relative, -_MOST_DETAIL, _MOST_DETAIL)


def grain(image, mask):
    """Returns the mean absolute detail of the tissue around the mask.

    Pixels inside the mask have no influence. Air near the mask counts as tissue.

    Args:
        image: [N, p, p, 1] in [0, 1].
        mask: [N, p, p, 1].

    Returns:
        [N, 1, 1, 1] in [0.0001, 0.02]; a usual value if the mask is empty or covers the whole
        patch.
    """
    outside = 1.0 - mask
    near = outside * gaussian_blur(mask, _GRAIN_REACH_PX)
    strength = near * ops.abs(_detail(image, outside))
    total, weight = (ops.sum(part, axis=(1, 2, 3), keepdims=True) for part in (strength, near))
    level = (total + _USUAL_GRAIN_WEIGHT * _USUAL_GRAIN) / (weight + _USUAL_GRAIN_WEIGHT)
    return ops.clip(level, _LEAST_GRAIN, _MOST_GRAIN)


def _detail(image, seen):
    """Returns each pixel's difference from the Gaussian mean of the pixels seen around it."""
    weight = ops.maximum(gaussian_blur(seen, _DETAIL_SIGMA_PX), _LEAST_SEEN_WEIGHT)
    return image - gaussian_blur(image * seen, _DETAIL_SIGMA_PX) / weight


def match_rim(image, mask, generated, reach_px: float = 0.0):
    """Returns the generated patch with grey levels adjusted to the image at the lesion mask's edge.

    The difference from the image is measured on the ring of pixels around the mask. It is spread
    over the patch with weights proportional to the inverse fourth power of the distance,
    approximated by a sum of Gaussians, and added. Only pixels outside the mask are used, so the
    original lesion has no influence.

    Args:
        image: [N, p, p, 1] in [0, 1].
        mask: [N, p, p, 1].
        generated: [N, p, p, 1] in [0, 1].
        reach_px: distance from a straight rim at which half of the difference is added; 0: the
            whole difference everywhere.

    Returns:
        [N, p, p, 1] in [0, 1]; `generated` unchanged if there is no ring inside the patch.
    """
    ring = outer_rim(mask)
    difference = ring * (image - generated)
    sigmas_px = [2.0**power for power in range(num_scales(image.shape[1]))]
    spread, weight = 0.0, _LEAST_WEIGHT
    if reach_px:
        # The weight of a straight rim at that distance.
        weight += sum(
            math.exp(-0.5 * (reach_px / sigma_px) ** 2) / (math.sqrt(2 * math.pi) * sigma_px**3)
            for sigma_px in sigmas_px
        )
    for sigma_px in sigmas_px:
        spread = spread + gaussian_blur(difference, sigma_px) / sigma_px**2
        weight = weight + gaussian_blur(ring, sigma_px) / sigma_px**2
    return ops.clip(generated + spread / weight, 0.0, 1.0)


def relative_brightness(image, mask):
    """Returns grey levels relative to their mean on the ring of pixels around the mask.

    Args:
        image: [N, p, p, 1] in [0, 1].
        mask: [N, p, p, 1].

    Returns:
        [N, p, p, 1] in [-1, 1]; relative to the mean of the patch if there is no ring inside it.
    """
    ring = outer_rim(mask)
    # A tiny weight, so that the whole patch counts only if there is no ring.
    weight = ring + _LEAST_WEIGHT
    axes = {"axis": (1, 2, 3), "keepdims": True}
    return image - ops.sum(weight * image, **axes) / ops.sum(weight, **axes)


def detail_strength(detail, mask, sigma_px: float):
    """Returns the logarithm of the mean absolute detail around each pixel, inside the mask.

    Args:
        detail: result of `relative_detail`, [N, p, p, 1].
        mask: [N, p, p, 1].
        sigma_px: standard deviation of the mean's Gaussian.

    Returns:
        [N, p, p, 1] in [-3, 2.1]: about 0 for detail as strong as the grain around the mask, and 0
        outside the mask.
    """
    mean = mean_inside(ops.abs(detail), mask, sigma_px)
    return mask * ops.log(mean + _LEAST_DETAIL_STRENGTH)


def mean_inside(values, mask, sigma_px: float):
    """Returns the Gaussian mean of the values inside the mask around each of its pixels.

    Args:
        values: [N, p, p, 1].
        mask: [N, p, p, 1].
        sigma_px: standard deviation of the Gaussian.

    Returns:
        [N, p, p, 1]; 0 outside the mask.
    """
    weight = ops.maximum(gaussian_blur(mask, sigma_px), _LEAST_WEIGHT)
    return mask * gaussian_blur(values * mask, sigma_px) / weight


def dilate(mask, by_px: int):
    """Returns the mask with all pixels within `by_px` rows and columns of it, [N, p, p, 1]."""
    for pool_size in ((2 * by_px + 1, 1), (1, 2 * by_px + 1)):
        mask = ops.max_pool(mask, pool_size=pool_size, strides=1, padding="same")
    return mask


def outer_rim(mask):
    """Returns the ring of pixels around the mask, one pixel wide, outside the mask."""
    return dilate(mask, 1) - mask


def inner_rim(mask):
    """Returns the mask's outermost ring of pixels, one pixel wide, inside the mask.

    A mask that extends beyond the patch has no rim at the patch's edge, because there is nothing to
    blend with.
    """
    # What is beyond the patch has no influence, so the mask is not eroded from there.
    return mask * dilate(1.0 - mask, 1)


def bounding_box(mask):
    """Returns the first and last row and column of the mask.

    Args:
        mask: [N, p, p, 1].

    Returns:
        Two int32 [N, 2], (row, column); those of the whole patch if the mask is empty.
    """
    size = ops.shape(mask)[1]
    covered = ops.stack([ops.max(mask, axis=(2, 3)), ops.max(mask, axis=(1, 3))], axis=1)
    first = ops.argmax(covered, axis=-1)
    last = size - 1 - ops.argmax(ops.flip(covered, axis=-1), axis=-1)
    return ops.cast(first, "int32"), ops.cast(last, "int32")


def lesion_window(images, mask):
    """Returns a square of half the patch's side, centred on each mask's bounding box if possible.

    Args:
        images: [N, p, p, c].
        mask: [N, p, p, 1].

    Returns:
        [N, p/2, p/2, c]. The square lies inside the patch, so it is not centred on a lesion near
        the patch's edge.
    """
    size = images.shape[1]
    side = size // 2
    first, last = bounding_box(mask)
    corner = ops.clip((first + last + 1 - side) // 2, 0, size - side)
    return square_at(images, corner, side)


def square_at(images, corner, side: int):
    """Returns the square of each image that starts at the given corner.

    Args:
        images: [N, h, w, c].
        corner: int32 [N, 2], (row, column); the square must be inside the image.
        side: side of the square in pixels.

    Returns:
        [N, side, side, c].
    """
    rows, columns = (corner[:, axis, None] + ops.arange(side, dtype="int32") for axis in (0, 1))
    square = ops.take_along_axis(images, rows[:, :, None, None], axis=1)
    return ops.take_along_axis(square, columns[:, None, :, None], axis=2)


def gaussian_blur(image, sigma_px: float):
    """Returns images [N, p, p, 1] after a Gaussian filter; pixels beyond the patch count as 0.

    The filter is a matrix product along each axis. A convolution with one channel and a long kernel
    is slower, and oneDNN in TensorFlow 2.21 aborts the process for it on AMD Zen 5.
    """
    position_px = ops.arange(image.shape[1], dtype="int32")
    distance_px = ops.abs(position_px[:, None] - position_px[None, :])
    weights = ops.cast(_gaussian_weights(sigma_px, image.shape[1]), image.dtype)
    # Computed in the graph: as constants, these matrices would add megabytes to a SavedModel.
    matrix = ops.take(weights, distance_px)
    return ops.matmul(ops.matmul(matrix, image[..., 0]), matrix)[..., None]


def tissue_share(image, mask, tissue_fraction):
    """Returns the share of a mask's pixels on breast tissue, as opposed to air.

    Air is the darkest part of a patch; the dataset gives the share of the patch that is tissue.

    Args:
        image: the patch, [p, p, 1].
        mask: candidate masks, [..., p, p, 1], none of them empty.
        tissue_fraction: share of the patch that is tissue, in [0, 1], from the dataset.

    Returns:
        float32 [...] in [0, 1].
    """
    levels = ops.sort(ops.reshape(image, (-1,)))
    num_pixels = levels.shape[0]
    num_air = ops.cast(ops.round((1.0 - tissue_fraction) * num_pixels), "int32")
    brightest_air = ops.take(levels, ops.maximum(num_air - 1, 0))
    tissue = ops.cast(ops.logical_or(image > brightest_air, num_air == 0), "float32")
    mask = ops.cast(mask, "float32")
    return ops.sum(mask * tissue, axis=(-3, -2, -1)) / ops.sum(mask, axis=(-3, -2, -1))


def _gaussian_weights(sigma_px: float, size_px: int) -> np.ndarray:
    """Returns the weight at each distance from 0 to `size_px` - 1 px, float32 [size_px].

    The weights of all distances on both sides sum to 1 before those beyond `size_px` are cut off.
    """
    radius_px = int(_GAUSSIAN_TRUNCATE_SIGMAS * sigma_px + 0.5)
    weights = np.exp(-0.5 * (np.arange(radius_px + 1) / sigma_px) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    return np.pad(weights, (0, size_px))[:size_px].astype("float32")


def boundary_map(mask, sigma_px: float):
    """Returns w of the boundary loss: the mask's rim after a Gaussian filter (section 2.2).

    Args:
        mask: [N, p, p, 1].
        sigma_px: standard deviation of the filter in pixels of this patch.

    Returns:
        [N, p, p, 1], not rescaled: about 0.4 / sigma_px at a straight rim.
    """
    return gaussian_blur(inner_rim(mask), sigma_px)


def sigma_for_patch(sigma_px_at_256: float, patch_size: int) -> float:
    """Returns the boundary filter's standard deviation in pixels of a patch of the given size.

    Args:
        sigma_px_at_256: standard deviation in pixels of a 256 px patch.
        patch_size: side of the patch in pixels.
    """
    return sigma_px_at_256 * patch_size / 256


def num_scales(patch_size: int) -> int:
    """Returns the number of resolutions from 4x4 up to the patch: 7 at 256 px."""
    return int(math.log2(patch_size)) - 1
