"""Assertions inside the graph that name an invalid input of a signature, and empty batches.

A server passes received tensors to the graph without checking their shapes, and the graph's
optimizer trusts the signature: it would fold a check of a fixed dimension to "true" before the
first request. Therefore the checks hide the shapes from the optimizer.
"""

import tensorflow as tf

from cigan_tf import infill_inputs


def after(checks: list[tf.Operation], *tensors: tf.Tensor) -> list[tf.Tensor]:
    """Returns the tensors after all checks have passed.

    A bad request then fails with the check's message, not with that of a later operation.
    Operations that only have `tf.control_dependencies` may start earlier once a function is
    inlined.
    """
    with tf.control_dependencies(checks):
        return [tf.identity(tensor) for tensor in tensors]


def shape_checks(**inputs: tuple[tf.Tensor, tuple[int, ...]]) -> list[tf.Operation]:
    """Returns assertions that every tensor has its shape [N, ...], with the N of the first tensor.

    Args:
        inputs: by name, the tensor and its dimensions after N.
    """
    first = next(iter(inputs))
    # A scalar has no N; the first assertion reports it.
    batch = tf.concat([_shape_as_sent(inputs[first][0]), [0]], axis=0)[0]
    checks = []
    for name, (tensor, rest) in inputs.items():
        shape = _shape_as_sent(tensor)
        # Vectors of different lengths (shapes of different ranks) compare as unequal, except for
        # the empty shape of a scalar.
        equal = tf.raw_ops.Equal(
            x=shape, y=tf.stack([batch, *rest]), incompatible_shape_error=False
        )
        in_words = f"[{','.join(['N', *map(str, rest)])}]"
        of = "" if name == first else f", with the N of {first}"
        message = f"{name} must be of shape {in_words}{of}. Received:"
        holds = tf.reduce_all(equal) & (tf.size(shape) > 0)
        checks.append(tf.debugging.Assert(holds, [message, shape], summarize=8))
    return checks


def value_checks(**inputs: tf.Tensor) -> list[tf.Operation]:
    """Returns assertions of the ranges of `image`, `mask` and `label`; NaN is in no range."""
    checks = []
    for name, value in inputs.items():
        allowed, message = infill_inputs.RANGES[name]
        checks.append(tf.debugging.Assert(tf.reduce_all(allowed(value)), [message]))
    return checks


def never_on_empty(function, *tensors):
    """Returns the function's result; for a batch without patches, it processes a patch of zeros.

    oneDNN refuses a convolution of no patches.

    Args:
        function: function of the tensors, with a result of shape [N, ...].
        tensors: each of shape [N, ...].
    """
    # Shapes may be read before the checks have run: every tensor has a size, but a scalar has no
    # first dimension.
    added = tf.cast(tf.size(tensors[0]) == 0, tf.int32)
    padded = (tf.pad(t, [[0, added]] + [[0, 0]] * (len(t.shape) - 1)) for t in tensors)
    return function(*padded)[added:]


def _shape_as_sent(tensor):
    return tf.io.parse_tensor(tf.io.serialize_tensor(tf.shape(tensor)), tf.int32)
