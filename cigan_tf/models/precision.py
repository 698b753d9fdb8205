"""Dtype policy of new layers: float32, or half precision with float32 weights."""

import contextlib
from collections.abc import Iterator

import keras

# Keras' dtype policies by the names in `hardware_config.PRECISIONS`.
POLICIES = {"none": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


@contextlib.contextmanager
def default_policy(policy: str | keras.DTypePolicy) -> Iterator[None]:
    """Sets the dtype policy of layers created in the context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
