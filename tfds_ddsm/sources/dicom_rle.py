"""Decodes DICOM's RLE (PS3.5, Annex G): one segment for each byte of a pixel, packed with PackBits.

Reasons for our own decoder: pydicom's is in Python and takes 5 times as long, Pillow's takes 3
times as long, and pydicom's compiled plug-in panics on damaged streams. The first call in a process
spends half a second on compilation.
"""

import itertools
import struct

import numba
import numpy as np

_HEADER = struct.Struct("<16I")


def decode(frame: bytes, height: int, width: int, bits: int) -> np.ndarray:
    """Decodes one frame of grey values.

    Args:
        frame: the stream, beginning with its header.
        height: height of the image in pixels. Check height and width before the call: memory is
            allocated for the image.
        width: width of the image in pixels.
        bits: bits per pixel, 8 or 16.

    Returns:
        uint8 or uint16 [height, width].

    Raises:
        ValueError: the stream is damaged, or its image does not have the given size and depth.
    """
    if len(frame) < _HEADER.size:
        raise ValueError(f"an RLE header must have {_HEADER.size} bytes; received {len(frame)}")
    num_segments, *starts = _HEADER.unpack_from(frame)
    if num_segments != bits // 8:
        raise ValueError(
            f"the number of RLE segments must be {bits // 8} for {bits}-bit pixels; received "
            f"{num_segments}"
        )
    bounds = [*starts[:num_segments], len(frame)]
    if bounds[0] < _HEADER.size or bounds != sorted(bounds):
        raise ValueError(
            f"RLE segments must follow the header and each other; received the bounds {bounds}"
        )
    image = np.empty((height, width), f"<u{num_segments}")
    planes = image.view(np.uint8).reshape(-1, num_segments).T[::-1]  # the highest bytes come first
    codes = np.frombuffer(frame, np.uint8)
    for plane, (start, past) in zip(planes, itertools.pairwise(bounds), strict=True):
        num_bytes = _unpack(codes[start:past], plane)
        if num_bytes != len(plane):
            raise ValueError(
                f"an RLE segment must decode to {len(plane)} bytes; received {num_bytes}"
            )
    return image


@numba.njit
def _unpack(codes, plane):
    """Fills `plane` from PackBits (PS3.5, G.3.2); returns the number of decoded bytes.

    Padding may follow the last byte. Decoding stops at a run or copy that would exceed the plane or
    the codes.
    """
    at, filled = 0, 0
    while filled < len(plane) and at < len(codes):
        code = int(codes[at])
        at += 1
        if code < 128:
            length = code + 1
            if length > min(len(codes) - at, len(plane) - filled):
                break
            for index in range(length):
                plane[filled + index] = codes[at + index]
            at += length
            filled += length
        elif code > 128:  # 128 is a no-op
            length = 257 - code
            if at == len(codes) or length > len(plane) - filled:
                break
            for index in range(length):
                plane[filled + index] = codes[at]
            at += 1
            filled += length
    return filled
