"""The inputs of an infill: their ranges, and validation of arrays."""

import numpy as np

from cigan_tf.errors import UserError

# For each input, a check of the values of an array or tensor, and the rule that an error states.
# NaN passes no check.
RANGES = {
    "image": (
        lambda x: (x >= 0) & (x <= 1),
        "image must be in [0, 1], without NaN; divide 16-bit grey levels by 65535.",
    ),
    "mask": (lambda x: (x == 0) | (x == 1), "mask must contain only 0 and 1."),
    "label": (lambda x: (x == 0) | (x == 1), "label must be 0 (non-malignant) or 1 (malignant)."),
}


def check(image, mask, label, seed, patch_size: int | None = None) -> dict[str, np.ndarray]:
    """Returns the inputs as arrays with the dtypes of a generator.

    Args:
        image: [N, p, p, 1] in [0, 1].
        mask: [N, p, p, 1] in {0, 1}.
        label: int [N], 0 non-malignant, 1 malignant.
        seed: int [N], any 32-bit values.
        patch_size: p in pixels; None: any size.

    Raises:
        UserError: an input has a wrong shape, type or range.
    """
    arrays = {"image": _floats("image", image), "mask": _floats("mask", mask)}
    shape = arrays["image"].shape
    side = patch_size or (shape[1] if len(shape) == 4 else None)
    if len(shape) != 4 or shape[1:] != (side, side, 1):
        p = patch_size or "p"
        raise UserError(f"image must be of shape [N, {p}, {p}, 1]. Received: {list(shape)}.")
    if arrays["mask"].shape != shape:
        raise UserError(
            f"mask must have the shape of image, {list(shape)}. "
            f"Received: {list(arrays['mask'].shape)}."
        )
    for name, values in arrays.items():
        _check_range(name, values)
    return {**arrays, **check_label_and_seed(label, seed, shape[0])}


def check_label_and_seed(label, seed, count: int) -> dict[str, np.ndarray]:
    """Returns `label` and `seed` as int32 [count].

    Raises:
        UserError: one of the two has a wrong shape, type or range.
    """
    vectors = {}
    limits = np.iinfo(np.int32)
    for name, values in (("label", label), ("seed", seed)):
        given = np.asarray(values)
        # An empty list is an array of floats.
        whole = given.dtype.kind in "iu" or not given.size
        if given.shape != (count,) or not whole:
            raise UserError(
                f"{name} must be one integer per image, of shape [{count}]. "
                f"Received: {given.dtype} of shape {list(given.shape)}."
            )
        if not ((given >= limits.min) & (given <= limits.max)).all():
            raise UserError(f"{name} must contain 32-bit integers. Received: {given.tolist()}.")
        vectors[name] = given.astype(np.int32)
    _check_range("label", vectors["label"])
    return vectors


def _floats(name: str, values) -> np.ndarray:
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise UserError(
            f"{name} must be an array of numbers. Received: {type(values).__name__}."
        ) from None


def _check_range(name: str, values: np.ndarray) -> None:
    allowed, message = RANGES[name]
    if not allowed(values).all():
        raise UserError(message)
