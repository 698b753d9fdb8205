"""The networks, and ciGAN as a Keras model."""

from cigan_tf.models.cigan import CiGAN
from cigan_tf.models.presets import list_presets

__all__ = ["CiGAN", "list_presets"]
