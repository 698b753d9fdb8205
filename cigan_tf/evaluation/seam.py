"""Is an infill's edge visible? Compares the gradient across the edge with that of the tissue."""

import numpy as np
from scipy import ndimage

from cigan_tf.errors import UserError


def seam_score(
    images: np.ndarray, masks: np.ndarray, near_px: float = 3, far_px: float = 8
) -> np.ndarray:
    """Returns the gradient across each mask's edge relative to that of the tissue near it.

    This is the mean |difference| of horizontal and vertical neighbours on opposite sides of the
    edge, divided by the mean |difference| of neighbours on the same side, `near_px` to `far_px`
    from the edge, inside and outside together. A score of 1 means no visible seam. A mask along a
    lesion's own border scores above 1 without any seam, so the floor is the score of the real patch
    with the same mask.

    Args:
        images: any range, [n, height, width, 1].
        masks: {0, 1}, [n, height, width, 1].
        near_px: distance from the edge at which the tissue near it begins, in px; beyond the pixels
            that compositing may blend.
        far_px: distance from the edge at which the tissue near it ends, in px.

    Returns:
        float64 [n], in [0, inf]; NaN if the mask has no edge (it is empty or covers the whole
        patch), or if there is no tissue near the edge; inf if the tissue is flat and the edge is
        not; 1 if both are flat.

    Raises:
        UserError: shapes differ; not 1 <= near_px < far_px.
    """
    images, masks = np.asarray(images, np.float64), np.asarray(masks)
    if images.ndim != 4 or images.shape[-1] != 1 or images.shape != masks.shape:
        raise UserError(
            "images and masks must both be of shape [n, height, width, 1]; received "
            f"{images.shape} and {masks.shape}."
        )
    if not 1 <= near_px < far_px:
        raise UserError(
            f"1 <= near_px < far_px is required; received near_px={near_px} and far_px={far_px}."
        )
    pairs = zip(images[..., 0], masks[..., 0] != 0, strict=True)
    return np.array([_score(image, inside, near_px, far_px) for image, inside in pairs], np.float64)


def _score(image: np.ndarray, inside: np.ndarray, near_px: float, far_px: float) -> float:
    if inside.all() or not inside.any():
        return np.nan
    # Distance to the nearest pixel of the other side: 1 for the pixels along the edge.
    depth = ndimage.distance_transform_edt(inside) + ndimage.distance_transform_edt(~inside)
    beside = (depth >= near_px) & (depth <= far_px)
    at_edge, in_tissue = [], []
    for one, other in (np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:]):
        difference = np.abs(image[one] - image[other])
        parted = inside[one] != inside[other]
        at_edge.append(difference[parted])
        in_tissue.append(difference[beside[one] & beside[other] & ~parted])
    at_edge, in_tissue = np.concatenate(at_edge), np.concatenate(in_tissue)
    if not in_tissue.size:
        return np.nan
    edge, tissue = at_edge.mean(), in_tissue.mean()
    if tissue == 0:
        return 1.0 if edge == 0 else np.inf
    return edge / tissue
