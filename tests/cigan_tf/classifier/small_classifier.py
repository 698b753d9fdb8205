"""A classifier trained in seconds, in a separate module so that spawned processes can import it."""

import contextlib
from collections.abc import Iterator

import keras
import pytest

from cigan_tf.classifier import classifier_run, curves
from cigan_tf.hardware_config import HardwareConfig


def build_small_classifier(patch_size, weights, seed, network=None, trainable=None):
    """Returns a small network with the layers of ResNet-50 that other code uses by name."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((patch_size, patch_size, 1))
    features = keras.layers.Conv2D(8, 3, strides=2)(image)
    features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
    features = keras.layers.GlobalAveragePooling2D(name="avg_pool")(features)
    return keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(features))


@contextlib.contextmanager
def small_classifiers() -> Iterator[None]:
    """Trains a small network instead of ResNet-50, which test_network.py tests, without tracing.

    Tracing and drawing take longer than all steps, so only classifiers with hardware flags are
    traced, and all points show the curves of the first one.
    """
    untrained = classifier_run._untrained

    def untraced(config, seed):
        classifier = untrained(config, seed)
        classifier.run_eagerly = config.hardware == HardwareConfig()
        return classifier

    draw, drawn = curves._draw_curves, []

    def drawn_once(scores):
        if not drawn:
            drawn.append(draw(scores))
        return drawn[0]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classifier_run, "build_classifier", build_small_classifier)
        patched.setattr(classifier_run, "_untrained", untraced)
        patched.setattr(curves, "_draw_curves", drawn_once)
        yield
