"""Frozen VGG-19 feature maps for the feature loss (paper section 2.2; Simonyan 2014)."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers, ops

from cigan_tf.config import FEATURE_LAYERS
from cigan_tf.models.pretrained import load_weights

_POOLS = {"pool1": "block1_pool", "pool2": "block2_pool", "pool3": "block3_pool"}
# Number of convolutions before each pool, and number of their filters.
_BLOCKS = {"block1": (2, 64), "block2": (2, 128), "block3": (4, 256)}


def build_vgg_features(
    weights: str, seed: int = 0, feature_layers: Sequence[str] = FEATURE_LAYERS
) -> keras.Model:
    """Returns a frozen network from grey patches to the maps compared by the feature loss.

    Args:
        weights: 'imagenet' (downloaded by keras.applications), 'random' (He normal with `seed`), or
            the path of a file for `pretrained.load_weights` with the layers of
            keras.applications.VGG19 up to the last map.
        seed: seed of the random weights.
        feature_layers: some of the four maps; layers after the last one are not computed.

    Returns:
        A model from [N, p, p, 1] in [0, 1], for any p, to a dict of maps: `input` (0..255 minus the
        ImageNet mean, [N, p, p, 3]), `pool1` [N, p/2, p/2, 64], `pool2` [N, p/4, p/4, 128] and
        `pool3` [N, p/8, p/8, 256].

    Raises:
        UserError: the weights cannot be loaded or do not fit.
    """
    grey = keras.Input((None, None, 1), name="image")
    rgb = ops.concatenate([grey * 255.0] * 3, axis=-1)
    maps = {"input": keras.applications.vgg19.preprocess_input(rgb)}
    pools = [name for name in feature_layers if name in _POOLS]
    if pools:
        vgg = _first_blocks(_POOLS[max(pools)], weights, seed)
        outputs = {name: vgg.get_layer(_POOLS[name]).output for name in pools}
        maps.update(keras.Model(vgg.input, outputs)(maps["input"]))
    features = keras.Model(grey, {name: maps[name] for name in feature_layers}, name="vgg_features")
    features.trainable = False
    return features


def network(features: keras.Model) -> list[layers.Layer]:
    """Returns the convolutions and pools of a network from `build_vgg_features`, in order."""
    return [
        layer
        for part in features.layers
        if isinstance(part, keras.Model)
        for layer in part.layers
        if isinstance(layer, layers.Conv2D | layers.MaxPooling2D)
    ]


def _first_blocks(last: str, weights: str, seed: int) -> keras.Model:
    # Built here, because keras.applications also draws the ten times larger layers after `last`.
    image = maps = keras.Input((None, None, 3))
    for block, (convolutions, filters) in _BLOCKS.items():
        for i in range(convolutions):
            options = {"padding": "same", "activation": "relu", "name": f"{block}_conv{i + 1}"}
            maps = layers.Conv2D(filters, 3, **options)(maps)
        maps = layers.MaxPooling2D(name=f"{block}_pool")(maps)
        if block == last.removesuffix("_pool"):
            break
    vgg = keras.Model(image, maps)
    load_weights(
        vgg,
        keras.applications.VGG19,
        weights,
        setting="vgg_weights",
        file_to_bring="vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5",
        draw=lambda network: draw_he_normal(network, seed),
    )
    return vgg


def draw_he_normal(vgg: keras.Model, seed: int) -> None:
    """Draws He normal kernels with `seed`, and sets biases to 0."""
    # keras.applications draws Glorot weights, with which ReLU maps shrink layer by layer; He
    # weights keep their variance, so that all pool levels contribute to the sum.
    rng = np.random.default_rng(seed)
    for weight in vgg.weights:
        if len(weight.shape) == 4:
            fan_in = int(np.prod(weight.shape[:-1]))
            weight.assign(rng.normal(0.0, np.sqrt(2.0 / fan_in), weight.shape).astype("float32"))
        else:
            weight.assign(ops.zeros_like(weight))
