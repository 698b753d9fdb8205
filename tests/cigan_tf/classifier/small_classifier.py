"""A classifier trained in seconds, in a separate module so that spawned processes can import it."""

import keras


def build_small_classifier(patch_size, weights, seed, network=None, trainable=None):
    """Returns a small network with the layers of ResNet-50 that other code uses by name."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((patch_size, patch_size, 1))
    features = keras.layers.Conv2D(8, 3, strides=2)(image)
    features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
    features = keras.layers.GlobalAveragePooling2D(name="avg_pool")(features)
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(features))
