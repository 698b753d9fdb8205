"""Assertions inside the graph that name the input which breaks a signature's contract.

A server hands the tensors that it was sent to the graph without looking at their shapes, and the
graph's optimiser believes the signature: a check of a dimension that the signature fixes would be
folded to "true" before the first request. The shapes are therefore hidden from it.
"""

import tensorflow as tf

from cigan_tf import infill_inputs


def after(checks: list[tf.Operation], *tensors: tf.Tensor) -> list[tf.Tensor]:
    """Returns the tensors as they are once all checks have passed.

    What is computed from them then fails by a check, not in words of its own; operations that only
    stand under `tf.control_dependencies` may start earlier once a function is inlined.
    """
    with tf.control_dependencies(checks):
        return [tf.identity(tensor) for tensor in tensors]


def shape_checks(**inputs: tuple[tf.Tensor, tuple[int, ...]]) -> list[tf.Operation]:
    """Returns assertions of every tensor's shape: [N, ...], the same N as the first one's.

    Args:
        inputs: by name, the tensor and its dimensions after N.
    """
    first = next(iter(inputs))
    # A scalar has no N; the first assertion says so.
    batch = tf.concat([_shape_as_sent(inputs[first][0]), [0]], axis=0)[0]
    checks = []
    for name, (tensor, rest) in inputs.items():
        shape = _shape_as_sent(tensor)
        # Vectors of different lengths, as those of another rank are, compare as unequal, but for a
        # scalar's, which is empty.
        equal = tf.raw_ops.Equal(
            x=shape, y=tf.stack([batch, *rest]), incompatible_shape_error=False
        )
        in_words = f"[{','.join(['N', *map(str, rest)])}]"
        of = "" if name == first else f", N as of {first}"
        message = f"{name} must be of shape {in_words}{of}. Received:"
        holds = tf.reduce_all(equal) & (tf.size(shape) > 0)
        checks.append(tf.debugging.Assert(holds, [message, shape], summarize=8))
    return checks


def value_checks(**inputs: tf.Tensor) -> list[tf.Operation]:
    """Returns assertions of the ranges of `image`, `mask` and `label`; what is NaN lies in none."""
    checks = []
    for name, value in inputs.items():
        allowed, message = infill_inputs.RANGES[name]
        checks.append(tf.debugging.Assert(tf.reduce_all(allowed(value)), [message]))
    return checks


def _shape_as_sent(tensor):
    return tf.io.parse_tensor(tf.io.serialize_tensor(tf.shape(tensor)), tf.int32)
