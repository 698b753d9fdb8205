"""Changes how TFDS writes this dataset's records: with repeatable bytes and less memory."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.core import example_serializer, shuffle
from tensorflow_datasets.core.utils import py_utils

_SHUFFLE_BUFFER_BYTES = 256 * 2**20


class _RepeatableSerializer(example_serializer.ExampleSerializer):
    """Writes the features of a record in a fixed order.

    Protocol buffers write a map in an order that differs between processes.
    """

    def serialize_example(self, example: Any) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Makes rebuilds byte-identical, whichever process serializes a record.

    TFDS then sorts the records of a split on disk if they exceed 256 MiB, instead of its own limit
    of 1 GB. The order of the records is the same.
    """
    assign = py_utils.temporary_assignment
    with (
        # The whole class, which Beam's workers import; an assigned method would not be pickled.
        assign(example_serializer, "ExampleSerializer", _RepeatableSerializer),
        assign(shuffle, "MAX_MEM_BUFFER_SIZE", _SHUFFLE_BUFFER_BYTES),
    ):
        yield
