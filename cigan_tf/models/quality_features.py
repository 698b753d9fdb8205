"""Features for comparing infills with real lesions: the spatial mean of VGG-16's last maps."""

import keras
import tensorflow as tf
from keras import layers, ops

from cigan_tf.models.pretrained import load_weights
from cigan_tf.models.vgg_features import draw_he_normal

# Five blocks halve the window four times: from 64 px, the last map has at least 16 cells.
_LEAST_WINDOW_PX = 64


def build(source: str, setting: str = "quality_features") -> keras.Model:
    """Returns a frozen network from grey patches to the spatial mean of VGG-16's block5_conv3.

    Windows below 64 px are enlarged (bilinear) by an integer factor. Distances between these
    features can be compared with each other, but not with published distances of Inception
    features.

    Args:
        source: 'imagenet' (downloaded by keras.applications), 'random' (He normal), or the path of
            a file for `pretrained.load_weights`, of keras.applications.VGG16 without its top.
        setting: the flag that `source` came from, for the error message.

    Returns:
        A model from [n, p, p, 1] in [0, 1], for any p, to [n, 512].

    Raises:
        UserError: the weights cannot be loaded or do not fit.

    References:
        Simonyan, Zisserman. Very Deep Convolutional Networks. ICLR 2015.
    """
    whole = keras.applications.VGG16(include_top=False, weights=None)
    vgg = keras.Model(whole.input, whole.get_layer("block5_conv3").output)
    load_weights(
        vgg,
        keras.applications.VGG16,
        source,
        setting=setting,
        file_to_bring="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        draw=lambda network: draw_he_normal(network, seed=0),
    )
    grey = keras.Input((None, None, 1), name="image")
    rgb = ops.concatenate([_Enlarge()(grey) * 255.0] * 3, axis=-1)
    maps = vgg(keras.applications.vgg16.preprocess_input(rgb))
    features = keras.Model(grey, ops.mean(maps, axis=(1, 2)), name="quality_features")
    features.trainable = False
    return features


class _Enlarge(layers.Layer):
    """Enlarges images that are smaller than the smallest window."""

    def call(self, images):
        # Computed at run time, because a graph for windows of several sizes does not know the side.
        sides = tf.shape(images)[1:3]
        times = -(-_LEAST_WINDOW_PX // tf.minimum(sides[0], _LEAST_WINDOW_PX))
        return tf.image.resize(images, sides * times, "bilinear")
