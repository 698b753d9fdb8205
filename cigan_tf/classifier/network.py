"""The malignancy classifier: ResNet-50 (paper section 3.2) or VGG-16 on grey patches."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import layers, ops

from cigan_tf.models.pretrained import load_weights
from cigan_tf.models.vgg_features import draw_he_normal
from cigan_tf.randomness import seeded


class _Family(NamedTuple):
    """A network of keras.applications.

    Attributes:
        application: name of the network's function in keras.applications.
        preprocess: the network's preprocessing of RGB images in 0..255.
        file_to_bring: Keras' file with the network's ImageNet weights, without the top.
        last_stage: prefix of the names of the layers in the last stage.
        draw: function (model, seed) that prepares the network for training from random weights.
    """

    application: str
    preprocess: Callable
    file_to_bring: str
    last_stage: str
    draw: Callable[[keras.Model, int], None]


def build_classifier(
    patch_size: int, weights: str, seed: int, network: str = "resnet50", trainable: str = "all"
) -> keras.Model:
    """Returns a network of keras.applications with one output, the probability of malignancy.

    Args:
        patch_size: side of a patch in pixels, at least 32.
        weights: 'imagenet', 'random', or the path of a file for `pretrained.load_weights` with the
            weights of the network without its top.
        seed: seed of the output layer's weights, and of all weights if they are random.
        network: 'resnet50' or 'vgg16'.
        trainable: layers that are trained: 'all'; 'last', the output layer and the last stage
            (ResNet-50's conv5, VGG-16's block5); 'none', only the output layer. A frozen layer of
            batch normalisation uses its moving averages during training.

    Returns:
        A model from `image` [N, p, p, 1] in [0, 1] to `malignant` [N, 1] in [0, 1]; its layer
        `avg_pool` gives the features, [N, 2048] or [N, 512].

    Raises:
        UserError: the weights cannot be downloaded or do not fit.

    References:
        He, Zhang, Ren, Sun. Deep residual learning for image recognition. CVPR 2016.
        Simonyan, Zisserman. Very deep convolutional networks. ICLR 2015.
    """
    family = _FAMILIES[network]
    application = getattr(keras.applications, family.application)
    image = keras.Input((patch_size, patch_size, 1), name="image")
    rgb = layers.Concatenate(name="grey_to_rgb")([layers.Rescaling(255.0)(image)] * 3)
    with seeded(seed):
        stages = application(
            include_top=False, weights=None, input_tensor=family.preprocess(rgb), pooling=None
        )
        features = layers.GlobalAveragePooling2D(name="avg_pool")(stages.output)
        head = layers.Dense(1, activation="sigmoid", name="malignant", dtype="float32")
        classifier = keras.Model(image, head(features), name="classifier")
    load_weights(
        stages,
        application,
        weights,
        setting="classifier_weights",
        file_to_bring=family.file_to_bring,
        draw=lambda drawn: family.draw(drawn, seed),
    )
    for layer in stages.layers:
        in_last = layer.name.startswith(family.last_stage)
        layer.trainable = trainable == "all" or (trainable == "last" and in_last)
    return classifier


def _zero_init_residuals(resnet: keras.Model, seed: int) -> None:
    # Without ImageNet weights, each residual block starts as the identity (Goyal et al. 2017,
    # section 5.1), so that fifty layers learn within hundreds of steps. Keras has already drawn
    # all other weights.
    del seed
    for layer in resnet.layers:
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(ops.zeros_like(layer.gamma))


_FAMILIES = {
    "resnet50": _Family(
        "ResNet50",
        keras.applications.resnet50.preprocess_input,
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "conv5_",
        _zero_init_residuals,
    ),
    "vgg16": _Family(
        "VGG16",
        keras.applications.vgg16.preprocess_input,
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        "block5_",
        draw_he_normal,
    ),
}
