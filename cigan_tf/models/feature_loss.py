"""The feature loss of the paper (section 2.2), computed where a lesion mask can affect it."""

import math
import os

import keras
import tensorflow as tf

from cigan_tf import losses, masks
from cigan_tf.models import vgg_features
from cigan_tf.models.feature_window import FeatureWindow


class FeatureLoss:
    """Sum over layers of the mean absolute difference between real and infilled patches' maps.

    With windows, value and gradient equal those of whole patches up to rounding, with less
    arithmetic. The patches are grouped by lesion size, and each group is cut to the smallest of a
    few window sizes that its masks allow.

    Args:
        features: from `vgg_features.build_vgg_features`.
        patch_size: side of a patch in pixels.
        windows: whether patches are equal outside their masks, so that windows can be used.
        reach_px: see `FeatureWindow`.

    Attributes:
        features: the feature network.
    """

    def __init__(self, features: keras.Model, patch_size: int, windows: bool, reach_px: int):
        self.features = features
        self._patch_size = patch_size
        self._window = FeatureWindow(vgg_features.network(features), reach_px)
        self._sizes = self._window.sizes(patch_size)
        self._in_windows = windows and len(self._sizes) > 1
        # Traced only once, for all steps of the model that call it.
        self._value_and_gradient = tf.function(self._compute, autograph=False)

    def __call__(self, real, infilled, mask):
        """Returns the loss; a tape can compute its gradient with respect to `infilled`.

        Args:
            real: [N, p, p, 1] in [0, 1].
            infilled: [N, p, p, 1] in [0, 1]; with windows, equal to `real` outside the mask.
            mask: [N, p, p, 1] in {0, 1}.

        Returns:
            Scalar >= 0.
        """
        if not self._in_windows:
            return losses.feature_loss(self.features(real), self.features(infilled))
        # The gradient is computed together with the value, so that maps are freed after each window
        # and not kept by the tape of the training step.
        fixed = tf.stop_gradient(infilled)
        value, gradient = self._value_and_gradient(real, fixed, mask)
        return value + tf.reduce_sum(gradient * (infilled - fixed))

    def _compute(self, real, infilled, mask):
        """Returns the loss and its gradient with respect to `infilled`."""
        first, last = self._window.first_and_last_cell(*masks.bounding_box(mask), self._patch_size)
        # Sorted by lesion size, so that the patches of a group fit into a small window.
        order = tf.argsort(tf.reduce_max(last - first, axis=-1))
        at_once = _patches_at_once(real.shape[0])
        groups = [
            tf.reshape(tf.gather(values, order), (-1, at_once, *values.shape[1:]))
            for values in (first, last, real, infilled)
        ]
        values, gradients = tf.map_fn(
            lambda group: self._in_smallest_window(*group),
            groups,
            parallel_iterations=1,
            fn_output_signature=(
                tf.TensorSpec((), tf.float32),
                tf.TensorSpec((at_once, *infilled.shape[1:]), tf.float32),
            ),
        )
        num_groups = tf.cast(tf.size(values), tf.float32)
        gradient = tf.gather(tf.reshape(gradients, tf.shape(infilled)), tf.argsort(order))
        return tf.reduce_sum(values) / num_groups, gradient / num_groups

    def _in_smallest_window(self, first_cell, last_cell, real, infilled):
        """Returns loss and gradient of patches that share a window's size."""
        too_small = tf.constant(self._sizes) <= tf.reduce_max(last_cell - first_cell)
        return tf.switch_case(
            tf.reduce_sum(tf.cast(too_small, tf.int32)),
            [
                lambda cells=cells: self._in_window(cells, first_cell, real, infilled)
                for cells in self._sizes
            ],
        )

    def _in_window(self, cells: int, first_cell, real, infilled):
        side_px = cells * self._window.cell_px
        # A window stays inside its patch. Where it ends at the patch's edge, so do the maps of the
        # whole patch.
        corner_px = tf.minimum(first_cell * self._window.cell_px, self._patch_size - side_px)
        # A mean's gradient is too small for float16, and the optimizer's loss scale is applied only
        # after this tape. Multiplied by the number of pixels it is 1/16 to 1/4; powers of two are
        # exact.
        scale = 2.0 ** round(math.log2(infilled.shape[0] * self._patch_size**2))
        real, infilled = (_cut(images, corner_px, side_px) for images in (real, infilled))
        real_maps = self.features(real)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            # The window is watched, not the patch, because the gradient of a cut is slow to trace.
            tape.watch(infilled)
            infilled_maps = self.features(infilled)
            # Turns the mean over the window into the mean over the patch: outside the window there
            # is no difference.
            share = (side_px / self._patch_size) ** 2
            value = share * losses.feature_loss(real_maps, infilled_maps)
            scaled = value * scale
        gradient = tape.gradient(scaled, infilled) / scale
        return value, _in_patch(gradient, corner_px, self._patch_size)


def _patches_at_once(batch_size: int | None) -> int:
    """Returns the number of patches per window: few fit it closely, many keep the hardware busy."""
    if batch_size is None:
        return 1
    if _has_accelerator():
        return batch_size
    # Each core processes one patch.
    cores = len(os.sched_getaffinity(0))
    return max(n for n in range(1, batch_size + 1) if n <= cores and batch_size % n == 0)


def _has_accelerator() -> bool:
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def _cut(images, corner_px, side_px: int):
    """Returns the square of each image that starts at its corner, int [N, 2]."""
    if side_px == images.shape[1]:
        return images
    return _gather(images, corner_px[..., None] + tf.range(side_px))


def _in_patch(squares, corner_px, patch_size: int):
    """Returns patches that are 0 outside the squares at their corners: the reverse of `_cut`."""
    side_px = squares.shape[1]
    if side_px == patch_size:
        return squares
    at = tf.range(patch_size) - corner_px[..., None]
    at = tf.where((at >= 0) & (at < side_px), at, side_px)
    return _gather(tf.pad(squares, ((0, 0), (0, 1), (0, 1), (0, 0))), at)


def _gather(images, at):
    """Returns the pixels of each image at the rows and columns in `at`, int [N, 2, side]."""
    rows, columns = tf.unstack(at, axis=1)
    in_rows = tf.gather(images, rows, axis=1, batch_dims=1)
    return tf.gather(in_rows, columns, axis=2, batch_dims=1)
