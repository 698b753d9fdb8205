"""Fréchet and kernel distances between features of generated and real patches.

A distance cannot be interpreted without a reference: it depends on the features, on the number of
patches, and on the variation between patients. Report it together with the distance between real
patches of two groups of patients (`first_half`).
"""

from typing import NamedTuple

import cv2
import numpy as np

from cigan_tf.errors import UserError

# Margin on each side of the lesion, as a share of its longer side.
_PADDING = 0.125
# Rows of the kernel matrix kept in memory at a time.
_ROWS_AT_A_TIME = 1024


class FrechetDistance(NamedTuple):
    """Result of `frechet_distance`: the distance, and the number of patches on each side."""

    distance: float
    num_a: int
    num_b: int


class KernelDistance(NamedTuple):
    """Result of `kernel_distance`.

    Attributes:
        distance: mean over the subsets.
        sd: standard deviation over the subsets.
        subset_size: number of patches of each side in a subset.
        num_a: number of patches on the first side.
        num_b: number of patches on the second side.
    """

    distance: float
    sd: float
    subset_size: int
    num_a: int
    num_b: int


def lesion_window(images: np.ndarray, masks: np.ndarray, size: int) -> np.ndarray:
    """Crops a square around each lesion mask, so that features describe mainly the lesion.

    The square contains the mask's bounding box and a margin of an eighth of the box's longer side.
    It is moved inwards if it would extend beyond the patch, is at most as large as the patch, and
    is resized (area interpolation down, bilinear up).

    Args:
        images: any range, [n, height, width, 1].
        masks: {0, 1}, none of them empty, [n, height, width, 1].
        size: side of the windows in px.

    Returns:
        float32 [n, size, size, 1], in the images' range.

    Raises:
        UserError: shapes differ, or a mask is empty.
    """
    images, masks = np.asarray(images), np.asarray(masks)
    if images.ndim != 4 or images.shape[-1] != 1 or images.shape != masks.shape:
        raise UserError(
            "images and masks must both be of shape [n, height, width, 1]; received "
            f"{images.shape} and {masks.shape}."
        )
    windows = np.empty((len(images), size, size, 1), np.float32)
    for i, (image, mask) in enumerate(zip(images[..., 0], masks[..., 0], strict=True)):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not rows.size:
            raise UserError(
                f"every mask must cover at least one pixel; received an empty mask for patch {i}."
            )
        extents = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
        longer = max(end - start for start, end in extents)
        side = min(int(np.ceil(longer * (1 + 2 * _PADDING))), *image.shape)
        top, left = (
            int(np.clip((start + end - side) // 2, 0, length - side))
            for (start, end), length in zip(extents, image.shape, strict=True)
        )
        crop = image[top : top + side, left : left + side].astype(np.float32)
        method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        windows[i, ..., 0] = cv2.resize(crop, (size, size), interpolation=method)
    return windows


def frechet_distance(features_a: np.ndarray, features_b: np.ndarray) -> FrechetDistance:
    """Returns |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of features.

    This is the squared 2-Wasserstein distance of Gaussians with the same means and covariances, in
    [0, inf). If the features are Inception's pooled features, it is FID. The estimate from a finite
    sample is too large, more so with fewer patches and more dimensions, so compare only distances
    for the same n. With n <= d, the covariances are rank-deficient and the value is mostly bias.

    Args:
        features_a: finite, [n_a, d], n_a >= 2.
        features_b: finite, [n_b, d], n_b >= 2.

    Raises:
        UserError: wrong shapes, fewer than two patches, features not finite.

    References:
        Heusel et al. GANs Trained by a Two Time-Scale Update Rule. NeurIPS 2017.
        Chong, Forsyth. Effectively Unbiased FID and Inception Score. CVPR 2020 (the bias).
    """
    features_a, features_b = _checked_features(features_a, features_b, at_least=2)
    root_a, root_b = _covariance_root(features_a), _covariance_root(features_b)
    shift = features_a.mean(axis=0) - features_b.mean(axis=0)
    # With C = R^T R, the trace of (C_a C_b)^(1/2) is the sum of the singular values of R_a R_b^T.
    # No matrix is squared and rooted, so small or missing directions lose no precision.
    shared = np.linalg.norm(root_a @ root_b.T, ord="nuc")
    distance = shift @ shift + np.sum(root_a**2) + np.sum(root_b**2) - 2 * shared
    return FrechetDistance(max(0.0, float(distance)), len(features_a), len(features_b))


def kernel_distance(
    features_a: np.ndarray,
    features_b: np.ndarray,
    seed: int,
    num_subsets: int = 100,
    subset_size: int = 1000,
) -> KernelDistance:
    """Returns the kernel distance (KID): unbiased MMD^2 with the kernel (x . y / d + 1)^3.

    It is unbiased for any n and may be slightly below 0. Mean and standard deviation are over
    `num_subsets` random subsets of each side. If a set has fewer than twice `subset_size` patches,
    subsets have half the size of the smaller set, so that they differ; the standard deviation is
    then not comparable with published values.

    Args:
        features_a: finite, [n_a, d], n_a >= 4.
        features_b: finite, [n_b, d], n_b >= 4.
        seed: seed of the subsets.
        num_subsets: at least 1.
        subset_size: maximum number of patches of each side in a subset; at least 2.

    Raises:
        UserError: wrong shapes, fewer than four patches, features not finite, num_subsets below 1,
            subset_size below 2.

    References:
        Binkowski, Sutherland, Arbel, Gretton. Demystifying MMD GANs. ICLR 2018.
    """
    features_a, features_b = _checked_features(features_a, features_b, at_least=4)
    if subset_size < 2 or num_subsets < 1:
        raise UserError(
            "there must be at least 1 subset of at least 2 patches; received "
            f"num_subsets={num_subsets} and subset_size={subset_size}."
        )
    subset_size = min(subset_size, len(features_a) // 2, len(features_b) // 2)
    rng = np.random.default_rng(seed)
    # 1 for the patches of a subset: [num_subsets, n].
    picks_a = np.zeros((num_subsets, len(features_a)))
    picks_b = np.zeros((num_subsets, len(features_b)))
    for of_a, of_b in zip(picks_a, picks_b, strict=True):
        of_a[rng.choice(len(features_a), subset_size, replace=False)] = 1
        of_b[rng.choice(len(features_b), subset_size, replace=False)] = 1
    within = (
        _kernel_sums(side, side, picks, picks) - picks @ _kernel_with_itself(side)
        for side, picks in ((features_a, picks_a), (features_b, picks_b))
    )
    between = _kernel_sums(features_a, features_b, picks_a, picks_b)
    distances = sum(within) / (subset_size * (subset_size - 1)) - 2 * between / subset_size**2
    return KernelDistance(
        float(np.mean(distances)),
        float(np.std(distances)),
        subset_size,
        len(features_a),
        len(features_b),
    )


def first_half(groups: np.ndarray, seed: int) -> np.ndarray:
    """Returns bool [n], True for the patches of random patients who have about half of all patches.

    Args:
        groups: patient of each patch, [n].
        seed: seed of the draw.

    Raises:
        UserError: fewer than two patients.
    """
    patients, patient_of_patch, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if patients.size < 2:
        raise UserError(
            "real patches are compared between two groups of patients, so they must be from at "
            f"least two patients; received {patients.size}."
        )
    order = np.random.default_rng(seed).permutation(patients.size)
    until_here = np.cumsum(sizes[order])
    # Cuts where the first part is closest to half; it never includes the last patient.
    num_first = 1 + np.argmin(np.abs(until_here[:-1] - until_here[-1] / 2))
    return np.isin(patient_of_patch, order[:num_first])


def _covariance_root(features: np.ndarray) -> np.ndarray:
    """Returns R [min(n, d), d] with R^T R the covariance."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return np.linalg.qr(centred, mode="r") if len(centred) > centred.shape[1] else centred


def _kernel_sums(a, b, picks_a, picks_b) -> np.ndarray:
    """Returns the sum of the kernel over all pairs of a and b in each subset, [num_subsets]."""
    sums = np.zeros(len(picks_a))
    for start in range(0, len(a), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        affine = a[part] @ b.T / a.shape[1] + 1
        cubed = affine * affine * affine  # NumPy's ** 3 is many times slower.
        sums += np.sum(picks_a[:, part] @ cubed * picks_b, axis=1)
    return sums


def _kernel_with_itself(features) -> np.ndarray:
    return (np.sum(features**2, axis=1) / features.shape[1] + 1) ** 3


def _checked_features(features_a, features_b, at_least: int):
    features = [np.asarray(side, np.float64) for side in (features_a, features_b)]
    shapes = [side.shape for side in features]
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise UserError(f"features must be of shapes [n_a, d] and [n_b, d]; received {shapes}.")
    if min(shapes)[0] < at_least:
        raise UserError(
            f"each set must have at least {at_least} patches; received {shapes[0][0]} and "
            f"{shapes[1][0]}."
        )
    for side in features:
        if not np.isfinite(side).all():
            raise UserError("features must be finite; received NaN or infinite values.")
    return features
