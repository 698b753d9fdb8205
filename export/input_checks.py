"""Assertions inside the graph that name the input which breaks a signature's contract.

A server hands the tensors that it was sent to the graph without looking at their shapes, and the
graph's optimiser believes the signature: a check of a dimension that the signature fixes would be
folded to "true" before the first request. The shapes are therefore hidden from it.
"""

import tensorflow as tf


def patch_checks(inputs: dict[str, tf.Tensor], side: int) -> list[tf.Operation]:
    """Returns assertions that every tensor is [N, side, side, 1], all of the same N."""
    batch = _shape_as_sent(next(iter(inputs.values())))[0]
    return [
        _assert_shape(name, tensor, [batch, side, side, 1], f"[N,{side},{side},1]")
        for name, tensor in inputs.items()
    ]


def vector_checks(inputs: dict[str, tf.Tensor], batch) -> list[tf.Operation]:
    """Returns assertions that every tensor is [batch]."""
    return [_assert_shape(name, tensor, [batch], "[N]") for name, tensor in inputs.items()]


def value_checks(**inputs: tf.Tensor) -> list[tf.Operation]:
    """Returns assertions of the ranges of `image`, `mask` and `label`; what is NaN lies in none."""
    rules = {
        "image": (lambda x: (x >= 0) & (x <= 1), "image must lie in [0, 1], without NaN."),
        "mask": (lambda x: (x == 0) | (x == 1), "mask must hold 0 and 1 alone."),
        "label": (
            lambda x: (x == 0) | (x == 1),
            "label must be 0 (non-malignant) or 1 (malignant).",
        ),
    }
    return [
        tf.debugging.Assert(tf.reduce_all(rules[name][0](value)), [rules[name][1]])
        for name, value in inputs.items()
    ]


def _assert_shape(name: str, tensor, expected: list, in_words: str) -> tf.Operation:
    shape = _shape_as_sent(tensor)
    # Vectors of different lengths, as those of another rank are, compare as unequal.
    equal = tf.raw_ops.Equal(x=shape, y=tf.stack(expected), incompatible_shape_error=False)
    return tf.debugging.Assert(
        tf.reduce_all(equal),
        [f"{name} must be of shape {in_words}, N the same for all inputs. Received:", shape],
        summarize=8,
    )


def _shape_as_sent(tensor):
    return tf.io.parse_tensor(tf.io.serialize_tensor(tf.shape(tensor)), tf.int32)
