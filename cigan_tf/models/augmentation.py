"""Differentiable augmentation of the discriminator's input (Zhao et al. 2020, DiffAugment)."""

from keras import ops

from cigan_tf import masks

# Number of uniform draws that `augment_view` uses per patch.
NUM_DRAWS = 9

_LEAST_CONTRAST, _MOST_CONTRAST = 0.5, 1.5
_MAX_BRIGHTNESS = 0.15
_MAX_SHIFT = 1 / 8
_CUTOUT = 3 / 8


def augment_view(view, draws):
    """Returns views with random contrast, brightness, translation, cutout and orientation.

    Real and infilled patches are augmented alike, and the gradient passes through to the generator.
    This makes it harder for the discriminator to memorise a small dataset. If only the training
    patches were augmented, the generator would learn to imitate the augmentations; here it does
    not need to, because its infills are augmented as well.

    Args:
        view: [N, w, w, c], grey levels or relative brightness in the first channel.
        draws: uniform in [0, 1), [N, `NUM_DRAWS`].

    Returns:
        [N, w, w, c], with 0 in pixels that were shifted in or cut out.

    References:
        Zhao et al. Differentiable Augmentation for Data-Efficient GAN Training. NeurIPS 2020.
    """
    contrast, brightness = (draws[:, i, None, None, None] for i in range(2))
    grey = view[..., :1]
    mean = ops.mean(grey, axis=(1, 2), keepdims=True)
    grey = (grey - mean) * (_LEAST_CONTRAST + (_MOST_CONTRAST - _LEAST_CONTRAST) * contrast) + mean
    grey = grey + _MAX_BRIGHTNESS * (2 * brightness - 1)
    view = ops.concatenate([grey, view[..., 1:]], axis=-1)
    view = _cut_out(_shift(view, draws[:, 2:4]), draws[:, 4:6])
    return _orient(view, draws[:, 6:9] < 0.5)


def _shift(view, draws):
    side = view.shape[1]
    reach = int(side * _MAX_SHIFT)
    padded = ops.pad(view, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    corner = ops.cast(ops.floor(draws * (2 * reach + 1)), "int32")
    return masks.square_at(padded, corner, side)


def _cut_out(view, draws):
    side = view.shape[1]
    hole = int(side * _CUTOUT)
    # Up to half of the cut-out square may be outside the view.
    first = ops.cast(ops.floor(draws * side), "int32") - hole // 2
    at = ops.arange(side, dtype="int32")
    rows, columns = (
        ops.logical_and(at >= first[:, axis, None], at < first[:, axis, None] + hole)
        for axis in (0, 1)
    )
    cut = ops.logical_and(rows[:, :, None], columns[:, None, :])
    return ops.where(cut[..., None], 0.0, view)


def _orient(view, flags):
    upside_down, mirrored, transposed = (flags[:, i, None, None, None] for i in range(3))
    view = ops.where(upside_down, ops.flip(view, axis=1), view)
    view = ops.where(mirrored, ops.flip(view, axis=2), view)
    return ops.where(transposed, ops.transpose(view, (0, 2, 1, 3)), view)
