"""The networks, and ciGAN as a Keras model."""

import importlib

__all__ = ["CiGAN", "Discriminator", "Generator", "list_presets"]

_HOMES = {
    "CiGAN": "cigan_tf.models.cigan",
    "Discriminator": "cigan_tf.models.discriminator",
    "Generator": "cigan_tf.models.generator",
    "list_presets": "cigan_tf.models.presets",
}


def __getattr__(name: str):
    # Imported on demand: CiGAN needs TensorFlow, but the networks run on every Keras backend.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
