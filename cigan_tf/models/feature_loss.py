"""The feature loss of the paper (section 2.2), computed where a lesion mask can change it."""

import math

import keras
import tensorflow as tf
from keras import layers

from cigan_tf import losses, masks
from cigan_tf.models import vgg_features
from cigan_tf.models.feature_window import FeatureWindow

# Pixels of patches whose maps stay in a processor's cache; more at once run slower, fewer leave it
# little to do at a time.
_CACHED_PX = 2**14


class FeatureLoss:
    """Sum over layers of the mean absolute difference of real and infilled patches' maps.

    With windows the value and its gradient are those of the whole patch up to rounding, for a
    fraction of the arithmetic. Each patch takes the smallest of a few windows that fits its mask.
    The infilled patch's map is the real one plus a change, and the change passes through a
    convolution by itself: that is linear, and around the change there are only zeros.

    Args:
        features: from `vgg_features.build_vgg_features`.
        patch_size: side of a patch in pixels.
        windows: whether patches agree outside their masks, so that windows can be used.
        reach_px: pixels up to which a change is followed beyond the mask's bounding box.
    """

    def __init__(self, features: keras.Model, patch_size: int, windows: bool, reach_px: int):
        self._features = features
        self._patch_size = patch_size
        self._window = FeatureWindow(vgg_features.network(features), reach_px)
        self._sizes = self._window.sizes(patch_size) if windows else []
        # Traced once, however many steps of the model call it.
        self._total_and_gradient = tf.function(self._compute, autograph=False)

    def __call__(self, real, infilled, mask):
        """Returns the loss. Its gradient reaches `infilled` alone, with windows in the mask alone.

        Args:
            real: [N, p, p, 1] in [0, 1].
            infilled: [N, p, p, 1] in [0, 1]; with windows it is `real` outside the mask.
            mask: [N, p, p, 1] in {0, 1}.

        Returns:
            Scalar >= 0.
        """
        if not self._sizes:
            return losses.feature_loss(self._features(real), self._features(infilled))

        # The gradient comes with the value: no map outlives its window, no tape sees inside.
        fixed = tf.stop_gradient(infilled)
        total, gradient = self._total_and_gradient(real, fixed, mask)
        by_infilled = gradient * (infilled - fixed)
        num_pixels = tf.cast(tf.size(infilled), tf.float32)
        return (total + tf.reduce_sum(by_infilled)) / num_pixels

    def _compute(self, real, infilled, mask):
        """Returns the loss times the batch's pixels, and its gradient by `infilled`."""
        first_px, last_px = masks.bounding_box(mask)
        first_cell, last_cell = self._window.first_and_last_cell(first_px, last_px)
        cells = tf.reduce_max(last_cell - first_cell + 1, axis=-1)
        # Patches are computed in groups of like lesions, each group in a window of its own size.
        order = tf.argsort(cells)
        cells, first_cell, real, infilled = (
            tf.gather(values, order) for values in (cells, first_cell, real, infilled)
        )
        at_once = self._patches_at_once(real.shape[0])
        cells = tf.reduce_max(tf.reshape(cells, (-1, at_once)), axis=1)

        largest = self._window.squares(self._sizes[-1])[0]
        corner = first_cell * largest.per_cell + largest.offset
        real_window = _cut(real, corner, largest.real)
        inside = _cut(tf.ones_like(real), corner, largest.real) > 0
        corner += largest.ring
        change_window = _cut(infilled, corner, largest.change)
        groups = (
            tf.reshape(values, (-1, at_once, *values.shape[1:]))
            for values in (real, infilled, real_window, change_window, inside)
        )
        patches = (self._patch_size, self._patch_size, 1)
        totals, gradients = tf.map_fn(
            lambda group: self._in_common_window(*group),
            (cells, *groups),
            parallel_iterations=1,
            fn_output_signature=(
                tf.TensorSpec((), tf.float32),
                tf.TensorSpec((at_once, *patches), tf.float32),
            ),
        )
        whole = tf.repeat(cells > self._sizes[-1], at_once)[:, None]
        gradient = tf.reshape(gradients, (-1, *patches))
        gradient = _cut(gradient, tf.where(whole, 0, -corner), self._patch_size)
        return tf.reduce_sum(totals), tf.gather(gradient, tf.argsort(order))

    def _patches_at_once(self, batch_size: int | None) -> int:
        if batch_size is None:
            return 1
        if _has_accelerator():
            return batch_size  # few large kernels
        return math.gcd(batch_size, max(1, _CACHED_PX // self._patch_size**2))

    def _in_common_window(self, cells, real, infilled, *windows):
        """The same for patches that share the smallest window which holds so many cells."""
        branches = [lambda size=size: self._in_window(size, *windows) for size in self._sizes]
        branches.append(lambda: self._in_whole_patch(real, infilled))
        smaller = tf.constant(self._sizes) < cells
        return tf.switch_case(tf.reduce_sum(tf.cast(smaller, tf.int32)), branches)

    def _in_whole_patch(self, real, infilled):
        real_maps = self._features(real)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(infilled)
            infilled_maps = self._features(infilled)
            total = tf.add_n(
                [self._total(infilled_maps[name] - real_maps[name], name) for name in real_maps]
            )
        return total, tape.gradient(total, infilled)

    def _in_window(self, cells: int, real, infilled, inside):
        squares = self._window.squares(cells)
        real, inside = (maps[:, : squares[0].real, : squares[0].real] for maps in (real, inside))
        infilled = infilled[:, : squares[0].change, : squares[0].change]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(infilled)
            total = self._total_in_window(squares, real, infilled, inside)
        gradient = tape.gradient(total, infilled)
        margin = [0, self._patch_size - squares[0].change]
        return total, tf.pad(gradient, [[0, 0], margin, margin, [0, 0]])

    def _total_in_window(self, squares, real, infilled, inside):
        """Carries the real map, and the change in the middle of it, from layer to layer."""
        ring = squares[0].ring
        real = tf.where(inside, vgg_features.vgg_input(real), 0.0)
        infilled = tf.where(_crop(inside, ring), vgg_features.vgg_input(infilled), 0.0)
        change = infilled - _crop(real, ring)
        total = self._total(change, "input")
        dtype = self._window.network[0].compute_dtype
        real, change = tf.cast(real, dtype), tf.cast(change, dtype)
        for layer, followed, square in zip(
            self._window.network, self._window.followed, squares[1:], strict=True
        ):
            if isinstance(layer, layers.MaxPooling2D):
                inside = inside[:, ::2, ::2]
                real = tf.nn.max_pool2d(real, 2, 2, "VALID")
                infilled = tf.nn.max_pool2d(infilled, 2, 2, "VALID")
                change = infilled - _crop(real, square.ring)
                total += self._total(change, vgg_features.MAP_OF_LAYER[layer.name])
            else:
                kernel = tf.cast(layer.kernel, dtype)
                margin = [2, 2] if followed else [1, 1]
                change = tf.nn.conv2d(change, kernel, 1, [[0, 0], margin, margin, [0, 0]])
                real = tf.nn.conv2d(real, kernel, 1, "VALID") + tf.cast(layer.bias, dtype)
                # Beyond the patch lie zeros at every layer, whatever the patch holds beside them:
                # what is far below zero stays below it, and ReLU makes it zero.
                inside = _crop(inside, 1)
                real = tf.where(inside, real, real.dtype.min)
                infilled = tf.nn.relu(_crop(real, square.ring) + change)
                real = tf.nn.relu(real)
                change = infilled - _crop(real, square.ring)
        return total

    def _total(self, change, name: str):
        """Returns a map's part of the loss, times the patch's pixels."""
        if name not in self._features.output:
            return 0.0
        height, width, channels = self._features.output[name].shape[1:]
        weight = self._patch_size**2 / (height * width * channels)
        return weight * tf.reduce_sum(tf.abs(tf.cast(change, tf.float32)))


def _has_accelerator() -> bool:
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def _crop(maps, ring: int):
    """Returns the maps without their outermost pixels."""
    height, width = maps.shape[1:3]
    return maps[:, ring : height - ring, ring : width - ring]


def _cut(images, corner, side: int):
    """Returns the square at `corner`, int [N, 2]: zero where it leaves the image."""
    height = images.shape[1]
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    at = tf.clip_by_value(corner[..., None] + tf.range(side) + 1, 0, height + 1)
    rows = tf.gather(padded, at[:, 0], axis=1, batch_dims=1)
    return tf.gather(rows, at[:, 1], axis=2, batch_dims=1)
