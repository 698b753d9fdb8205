"""Does the infill's edge show? The gradient across it against the tissue's own."""

import numpy as np
from scipy import ndimage

from cigan_tf.errors import UserError


def seam_score(
    images: np.ndarray, masks: np.ndarray, near_px: float = 3, far_px: float = 8
) -> np.ndarray:
    """Returns how much steeper each image is across its mask's edge than in the tissue beside it.

    Mean |difference| of the horizontal and vertical neighbours that the edge parts, over that of
    the neighbours on one side of it, both `near_px` to `far_px` from the edge, inside and outside
    together. In [0, inf); 1 is no visible seam. A mask that follows a lesion's own border is steep
    there without any seam: the floor is the score of the real patch with the same mask.

    Args:
        images: any range, [n, height, width, 1].
        masks: {0, 1}, [n, height, width, 1].
        near_px: where the tissue beside the edge begins; beyond what compositing may have blended.
        far_px: where it ends.

    Returns:
        float64 [n]; NaN where the mask has no edge (empty, or the whole patch) or leaves no tissue
        beside it; inf where the tissue is flat and the edge is not; 1 where both are.

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
        raise UserError(f"1 <= near_px < far_px must hold; received {near_px} and {far_px}.")
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
