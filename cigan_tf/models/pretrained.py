"""Weights of the networks of keras.applications: fetched, read from a file, or drawn."""

import os
import warnings
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np

from cigan_tf.errors import UserError

# What a file raises that is of another kind, another network's or cut off.
_DAMAGED = (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile)


def load_weights(
    network: keras.Model,
    application: Callable[..., keras.Model],
    source: str,
    setting: str,
    file_to_bring: str,
    draw: Callable[[keras.Model], None],
) -> None:
    """Gives a network without its top, or its first layers, the weights that a setting names.

    A file may hold fewer layers than the application: those of `network` are enough. It is a
    .weights.h5 or .h5 file of Keras, or an .npz file whose arrays are named `LAYER_kernel` and
    `LAYER_bias`, such as `block1_conv1_kernel`, in Keras' order of dimensions.

    Args:
        network: receives them; its layers are named as the application's.
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
        # Layers without weights, such as the input, have names of their own in each network.
        for layer in filter(lambda layer: layer.weights, network.layers):
            layer.set_weights(fetched.get_layer(layer.name).get_weights())
    else:
        path = os.path.expanduser(source)
        if not os.path.isfile(path):
            raise UserError(
                f"{setting} must be 'imagenet', 'random', or the path of a weights file of {name} "
                f"without its top; there is no file {source!r}."
            )
        try:
            _load_file(network, path)
        except _DAMAGED as error:
            raise UserError(
                f"The file {source!r} does not hold the weights of keras.applications.{name} "
                f"without its top: {_first_line(error)}."
            ) from None


def _load_file(network: keras.Model, path: str) -> None:
    if path.endswith(".npz"):
        # NumPy does not close a damaged file that it opened itself.
        with open(path, "rb") as file, np.load(file) as arrays:
            _assign(
                network, lambda layer: [arrays[f"{layer.name}_{w.name}"] for w in layer.weights]
            )
        return
    with h5py.File(path) as file:
        legacy = file.get("model_weights", file)
        if "layer_names" in legacy.attrs:
            # Keras itself reads such a file only into a network of as many layers.
            _assign(network, lambda layer: _legacy_arrays(legacy[layer.name]))
            return
    with warnings.catch_warnings():
        # Keras warns of each missing group before it raises; one line is enough.
        warnings.simplefilter("ignore")
        network.load_weights(path)


def _assign(network: keras.Model, arrays_of: Callable[[keras.Layer], list[np.ndarray]]) -> None:
    for layer in network.layers:
        if not layer.weights:
            continue
        try:
            arrays = arrays_of(layer)
        except KeyError:
            raise ValueError(f"it has no weights of the layer {layer.name!r}") from None
        layer.set_weights(arrays)


def _legacy_arrays(group: h5py.Group) -> list[np.ndarray]:
    return [group[name][()] for name in group.attrs["weight_names"]]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
