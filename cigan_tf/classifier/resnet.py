"""The malignancy classifier: ResNet-50 on grey patches (paper section 3.2; He et al. 2015)."""

import keras
from keras import layers, ops

from cigan_tf.models.pretrained import load_weights
from cigan_tf.randomness import seeded


def build_classifier(
    patch_size: int, weights: str, seed: int, setting: str = "classifier_weights"
) -> keras.Model:
    """Returns ResNet-50 with one output, the patch's probability of malignancy.

    Args:
        patch_size: side of a patch in pixels, at least 32.
        weights: 'imagenet', 'random', or the path of a .weights.h5 file of
            keras.applications.ResNet50 without its top.
        seed: of the output layer's weights, and of all where they are random.
        setting: the flag that `weights` came from.

    Returns:
        A model from `image` [N, p, p, 1] in [0, 1] to `malignant` [N, 1] in [0, 1]; its layer
        `avg_pool` gives the features, [N, 2048].

    Raises:
        UserError: the weights cannot be fetched or do not fit.
    """
    image = keras.Input((patch_size, patch_size, 1), name="image")
    rgb = layers.Concatenate(name="grey_to_rgb")([layers.Rescaling(255.0)(image)] * 3)
    with seeded(seed):
        resnet = keras.applications.ResNet50(
            include_top=False,
            weights=None,
            input_tensor=keras.applications.resnet50.preprocess_input(rgb),
            pooling="avg",
        )
        head = layers.Dense(1, activation="sigmoid", name="malignant", dtype="float32")
        classifier = keras.Model(image, head(resnet.output), name="classifier")
    load_weights(
        resnet,
        keras.applications.ResNet50,
        weights,
        setting=setting,
        file_to_bring="resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
        draw=_still_residual_branches,
    )
    return classifier


def _still_residual_branches(resnet: keras.Model) -> None:
    # Without ImageNet's weights each residual block begins as the identity (Goyal et al. 2017,
    # section 5.1): fifty layers then learn within hundreds of steps. All else was drawn by Keras.
    for layer in resnet.layers:
        if layer.name.endswith("_3_bn"):
            layer.gamma.assign(ops.zeros_like(layer.gamma))
