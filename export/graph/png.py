"""Decodes and encodes grey PNGs in the graph; received PNGs are treated as hostile.

A PNG states its size in its header and may claim any size. The header is read before decoding, so
that a few bytes cannot make a server allocate gigabytes.
"""

import tensorflow as tf

from cigan_tf.patch_format import WHITE

_HEADER_BYTES = 26  # signature, length and type of IHDR, width, height, bit depth, colour type
_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_GREY = 0
# Number of PNG files processed in parallel, if TensorFlow has that many threads.
_AT_ONCE = 64


def decode(encoded, name: str, side: int):
    """Decodes PNGs to float32 [N, side, side, 1] in [0, 1]; white is 1 at every bit depth.

    Args:
        encoded: string [N].
        name: name of the input in the signature, for error messages.
        side: height and width in pixels that every PNG must have.

    Raises:
        tf.errors.InvalidArgumentError: an element is not a complete grey PNG of that size.
    """

    def decode_one(png):
        with tf.control_dependencies(_header_checks(png, name, side)):
            checked = tf.identity(png)
        # Named, because the decoder's own error message contains only the name of its node.
        node = f"decode_{name.replace('/', '_')}"
        picture = tf.io.decode_png(checked, dtype=tf.uint16, name=node)
        shape = tf.shape(picture)
        message = f"{name} must be grey PNGs without transparency. Received the shape:"
        grey = tf.debugging.Assert(tf.reduce_all(shape == (side, side, 1)), [message, shape])
        with tf.control_dependencies([grey]):
            # Not tf.ensure_shape: the graph optimizer would run it first, with its own message.
            return tf.reshape(tf.cast(picture, tf.float32) / WHITE, (side, side, 1))

    return _of_each(decode_one, encoded, tf.float32)


def encode(grey):
    """Encodes float32 [N, p, p, 1] in [0, 1] as N 16-bit PNGs."""
    levels = tf.cast(tf.round(grey * WHITE), tf.uint16)
    return _of_each(tf.io.encode_png, levels, tf.string)


def _of_each(function, elements, dtype):
    """Returns the function's result for each element.

    A graph processes as many at once as there are threads, but at most `_AT_ONCE`.
    """
    at_once = None if tf.executing_eagerly() else _AT_ONCE
    return tf.map_fn(function, elements, fn_output_signature=dtype, parallel_iterations=at_once)


def _header_checks(png, name: str, side: int) -> list:
    # Padded, so that every position can be read even if the string is too short.
    header = tf.strings.substr(tf.strings.join([png, b"\x00" * _HEADER_BYTES]), 0, _HEADER_BYTES)
    tail = tf.strings.substr(tf.strings.join([b"\x00" * len(_END), png]), -len(_END), len(_END))
    whole = (tf.strings.substr(header, 0, len(_START)) == _START) & (tail == _END)
    size = tf.io.decode_raw(tf.strings.substr(header, 16, 8), tf.int32, little_endian=False)
    colour_type = tf.io.decode_raw(tf.strings.substr(header, 25, 1), tf.uint8)
    fits = tf.reduce_all(size == side) & tf.reduce_all(colour_type == _GREY)
    return [
        tf.debugging.Assert(
            whole,
            [
                f"{name} must be complete PNG files. Received this many bytes:",
                tf.strings.length(png),
            ],
        ),
        tf.debugging.Assert(
            fits | ~whole,
            [
                f"{name} must be grey PNGs of {side}x{side} pixels. Received width, height and "
                "colour type (0 is grey):",
                size,
                colour_type,
            ],
        ),
    ]
