"""Weights of keras.applications networks: downloaded, read from a file, or random."""

import os
import warnings
import zipfile
from collections.abc import Callable

import h5py
import keras
import numpy as np

from cigan_tf.errors import UserError, first_line

# Errors raised for a file that is of another kind, of another network or truncated.
_DAMAGED = (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile)


def load_weights(
    network: keras.Model,
    application: Callable[..., keras.Model],
    source: str,
    setting: str,
    file_to_bring: str,
    draw: Callable[[keras.Model], None],
) -> None:
    """Loads weights into an application's network without its top, or into its first layers.

    A weights file may contain fewer layers than the application; the layers of `network` are
    enough. It is a .weights.h5 or .h5 file of Keras, or an .npz file with arrays named
    `LAYER_kernel` and `LAYER_bias`, such as `block1_conv1_kernel`, with Keras' order of dimensions.

    Args:
        network: receives the weights; its layers have the same names as those of the application.
        application: function that builds the whole network, such as keras.applications.VGG19.
        source: 'imagenet' (downloaded by Keras), 'random', or the path of a weights file.
        setting: the flag that `source` came from, for the error message.
        file_to_bring: name of Keras' own file, for machines without internet access.
        draw: function that sets random weights.

    Raises:
        UserError: the weights cannot be downloaded, or the file is missing or of another network.
    """
    name = application.__name__
    if source == "random":
        draw(network)
    elif source == "imagenet":
        try:
            fetched = application(include_top=False, weights="imagenet")
        except Exception as error:  # of urllib, socket or Keras: no connection, no file
            raise UserError(
                f"The ImageNet weights of {name} cannot be downloaded ({first_line(error)}); copy "
                f"{file_to_bring} to this machine and pass its path as --{setting}, or pass "
                f"--{setting}=random."
            ) from None
        # Layers without weights, such as the input, have different names in each network.
        for layer in filter(lambda layer: layer.weights, network.layers):
            layer.set_weights(fetched.get_layer(layer.name).get_weights())
    else:
        path = os.path.expanduser(source)
        if not os.path.isfile(path):
            raise UserError(
                f"{setting} must be 'imagenet', 'random', or the path of a weights file of {name} "
                f"without its top; the file {source!r} does not exist."
            )
        try:
            _load_file(network, path)
        except _DAMAGED as error:
            raise UserError(
                f"The file {source!r} does not contain the weights of keras.applications.{name} "
                f"without its top: {first_line(error)}."
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
            # Keras itself reads such a file only into a network with the same number of layers.
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
