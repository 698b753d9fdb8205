"""The trained generator for servers: the same function with fewer operations.

There are two changes from `cigan_tf.models.generator.Generator`; neither changes the function. The
weights are constants of the graph, so that the optimizer can fold and reorder them. And a
convolution of an upsampled map is computed on the small map. Nearest-neighbour upsampling repeats
every cell as 2x2 pixels, so a 3x3 kernel on these pixels reads a 2x2 window of cells, and the
weights summed per cell depend only on the position of the output pixel inside its own cell. Four
2x2 convolutions, one for each position, need 16 products instead of 36 per cell and channel, and
the upsampled map is never written to memory.
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from cigan_tf import masks
from cigan_tf.config import ModelConfig
from cigan_tf.models.generator import SMALLEST_SCALE_PX, Generator

# Channels concatenated to the features at every scale: context, mask and two class maps.
_CONTEXT, _MASK, _CLASS = 0, 1, slice(2, 4)
_PLACES = ((0, 0), (0, 1), (1, 0), (1, 1))


def fold_infill(generator: Generator, model: ModelConfig) -> Callable[..., tf.Tensor]:
    """Returns infill(image, mask, label, noise) with the generator's current weights as constants.

    The function takes image, mask and noise as float32 [N, p, p, 1] and label as int32 [N], and
    returns the infilled patches, float32 [N, p, p, 1] in [0, 1].

    Args:
        generator: a trained generator.
        model: how its output is combined with the patch.
    """
    generate = fold(generator)

    def infill(image, mask, label, noise):
        generated = generate(masks.corrupt(image, mask, noise), mask, label)
        return masks.place(image, mask, generated, model)

    return infill


def fold(generator: Generator) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns generate(context, mask, label) with the generator's current weights as constants.

    The function takes context as float32 [N, p, p, 1] in [0, 1], mask as float32 [N, p, p, 1] in
    {0, 1} and label as int32 [N] in {0, 1}. It returns float32 [N, p, p, 1] in (0, 1), equal to the
    generator's output up to rounding.

    Args:
        generator: a trained generator.
    """
    weights = {
        layer.name: (layer.kernel.numpy(), layer.bias.numpy())
        for layer in generator.layers
        if isinstance(layer, keras.layers.Conv2D)
    }

    def generate(context, mask, label):
        pair = tf.concat([context, mask], axis=-1)
        classes = tf.one_hot(label, masks.NUM_CLASSES)[:, None, None, :]
        features = None
        for block in range(masks.num_scales(generator.patch_size)):
            scale_px = SMALLEST_SCALE_PX * 2**block
            # Takes the pixel nearest to the centre of each coarse pixel, as resizing does.
            step = generator.patch_size // scale_px
            pair_at_scale = pair[:, step // 2 :: step, step // 2 :: step]
            first, second = (weights[f"scale{scale_px}_conv{number}"] for number in (1, 2))
            if features is None:
                stack = tf.concat([pair_at_scale, _maps(classes, pair_at_scale)], axis=-1)
                features = _convolve(stack, *first)
            else:
                features = _enlarge_and_convolve(features, pair_at_scale, classes, *first)
            features = _convolve(features, *second)
        return tf.sigmoid(_convolve(features, *weights["to_grey"], activation=tf.identity))

    return generate


def _convolve(features, kernel, bias, padding="SAME", activation=tf.nn.relu):
    return activation(tf.nn.bias_add(tf.nn.conv2d(features, kernel, 1, padding), bias))


def _maps(classes, like):
    # Not tf.tile: OpenVINO 2026.4 repeats the classes in the wrong order.
    size = [tf.shape(classes)[0], *like.shape[1:3], masks.NUM_CLASSES]
    return tf.broadcast_to(classes, size)


def _enlarge_and_convolve(features, pair, classes, kernel, bias):
    """Upsamples `features`, concatenates the finer stack and convolves, all on the coarse grid.

    Args:
        features: [N, h, w, c].
        pair: context and mask, [N, 2h, 2w, 2].
        classes: one-hot, [N, 1, 1, 2].
        kernel: [3, 3, c + 4, k], for the concatenated channels.
        bias: [k].

    Returns:
        [N, 2h, 2w, k], after ReLU.
    """
    # A cell of the coarse grid has its features and classes once, and four pixels of context and
    # mask.
    pixels = tf.nn.space_to_depth(pair, 2)
    cells = tf.concat([features, pixels, _maps(classes, features)], axis=-1)
    kernels = place_kernels(kernel)
    places = [
        # The window of an upper position starts one row above its cell; that of a lower one starts
        # in its cell.
        _convolve(
            cells,
            kernels[row, column],
            bias,
            padding=[[0, 0], [1 - row, row], [1 - column, column], [0, 0]],
        )
        for row, column in _PLACES
    ]
    return tf.nn.depth_to_space(tf.concat(places, axis=-1), 2)


def place_kernels(kernel: np.ndarray) -> np.ndarray:
    """Returns the four kernels on cells that are equivalent to one kernel on pixels.

    Args:
        kernel: float32 [3, 3, c + 4, k]; its last four input channels are context, mask, classes.

    Returns:
        float32 [2, 2, 2, 2, c + 10, k]: row and column of the output pixel in its cell, row and
        column in the window of cells, channels in the order of `_enlarge_and_convolve`.
    """
    num_features = kernel.shape[2] - 4
    stack = kernel[:, :, num_features:]
    folded = np.zeros((2, 2, 2, 2, num_features + 10, kernel.shape[3]), kernel.dtype)
    for row, column in _PLACES:
        for i in range(3):
            for j in range(3):
                cell_row, pixel_row = _cell_and_pixel(row, i)
                cell_column, pixel_column = _cell_and_pixel(column, j)
                window = folded[row, column, cell_row, cell_column]
                pixel = num_features + 2 * (2 * pixel_row + pixel_column)
                window[:num_features] += kernel[i, j, :num_features]
                window[pixel + _CONTEXT] += stack[i, j, _CONTEXT]
                window[pixel + _MASK] += stack[i, j, _MASK]
                window[num_features + 8 :] += stack[i, j, _CLASS]
    return folded


def _cell_and_pixel(place: int, tap: int) -> tuple[int, int]:
    """Returns the position of a tap of a 3-tap kernel: cell in the window, pixel in the cell."""
    offset = place + tap - 1
    return offset // 2 + 1 - place, offset % 2
