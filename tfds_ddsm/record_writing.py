"""How TFDS writes this dataset's records: with repeatable bytes, and sorted in little memory."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tensorflow_datasets.core import example_serializer, shuffle
from tensorflow_datasets.core.utils import py_utils

_SHUFFLE_BUFFER_BYTES = 256 * 2**20


class _RepeatableSerializer(example_serializer.ExampleSerializer):
    """Writes the features of a record in one order.

    Protocol buffers write a map in an order that changes with the process.
    """

    def serialize_example(self, example: Any) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """Lets a rebuild have the same bytes, whichever process serializes a record.

    TFDS sorts what a split's records take beyond 256 MiB on disk; its own bound is 1 GB. The order
    of the records is the same.
    """
    assign = py_utils.temporary_assignment
    with (
        # The whole class, which Beam's workers import; a method assigned here would stay behind.
        assign(example_serializer, "ExampleSerializer", _RepeatableSerializer),
        assign(shuffle, "MAX_MEM_BUFFER_SIZE", _SHUFFLE_BUFFER_BYTES),
    ):
        yield
