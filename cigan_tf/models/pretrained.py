"""Weights of the networks of keras.applications: fetched, read from a file, or drawn."""

import os
import warnings
from collections.abc import Callable

import keras

from cigan_tf.errors import UserError


def load_weights(
    network: keras.Model,
    application: Callable[..., keras.Model],
    source: str,
    setting: str,
    file_to_bring: str,
    draw: Callable[[keras.Model], None],
) -> None:
    """Gives a network without its top the weights that a setting names.

    Args:
        network: receives them.
        application: makes it, such as keras.applications.VGG19.
        source: 'imagenet' (fetched by Keras), 'random', or the path of a weights file.
        setting: the flag that `source` came from, for the error's line.
        file_to_bring: name of Keras' own file, for where there is no network.
        draw: draws random weights.

    Raises:
        UserError: the weights cannot be fetched, or the file is absent or another network's.
    """
    name = application.__name__
    if source == "random":
        draw(network)
    elif source == "imagenet":
        try:
            fetched = application(include_top=False, weights="imagenet")
        except Exception as error:  # urllib, socket and Keras errors alike: no network, no file
            raise UserError(
                f"The ImageNet weights of {name} cannot be fetched ({_first_line(error)}); bring "
                f"{file_to_bring} and pass its path as --{setting}, or pass --{setting}=random."
            ) from None
        network.set_weights(fetched.get_weights())
    else:
        path = os.path.expanduser(source)
        if not os.path.isfile(path):
            raise UserError(
                f"{setting} must be 'imagenet', 'random', or the path of a weights file of {name} "
                f"without its top; there is no file {source!r}."
            )
        try:
            with warnings.catch_warnings():
                # Keras warns of each missing group before it raises; one line is enough.
                warnings.simplefilter("ignore")
                network.load_weights(path)
        except (ValueError, OSError, KeyError) as error:
            raise UserError(
                f"The file {source!r} does not hold the weights of keras.applications.{name} "
                f"without its top: {_first_line(error)}."
            ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
