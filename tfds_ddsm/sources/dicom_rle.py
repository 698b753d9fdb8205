"""DICOM's RLE (PS3.5, Annex G): the bytes of the pixels plane by plane, each packed with PackBits.

Reasons for our own decoder: pydicom's is in Python and takes 5 times as long, Pillow's takes 3
times as long, and pydicom's compiled plug-in panics on damaged streams. The first call in a process
compiles for half a second.
"""

import itertools
import struct

import numba
import numpy as np

_HEADER = struct.Struct("<16I")


def decode(frame: bytes, height: int, width: int, bits: int) -> np.ndarray:
    """Decodes one frame of grey values.

    Args:
        frame: the stream, its header first.
        height: height of the image in pixels; memory is allocated for it, so check it before.
        width: width of the image, likewise.
        bits: 8 or 16 for each pixel.

    Returns:
        uint8 or uint16 [height, width].

    Raises:
        ValueError: the stream is damaged, or of another image.
    """
    if len(frame) < _HEADER.size:
        raise ValueError(f"an RLE header has {_HEADER.size} bytes, received {len(frame)}")
    num_segments, *starts = _HEADER.unpack_from(frame)
    if num_segments != bits // 8:
        raise ValueError(f"{num_segments} RLE segments for {bits} bits")
    bounds = [*starts[:num_segments], len(frame)]
    if bounds[0] < _HEADER.size or bounds != sorted(bounds):
        raise ValueError(f"RLE segments must follow the header and each other, received {bounds}")
    image = np.empty((height, width), f"<u{num_segments}")
    planes = image.view(np.uint8).reshape(-1, num_segments).T[::-1]  # the highest bytes come first
    codes = np.frombuffer(frame, np.uint8)
    for plane, (start, past) in zip(planes, itertools.pairwise(bounds), strict=True):
        num_bytes = _unpack(codes[start:past], plane)
        if num_bytes != len(plane):
            raise ValueError(f"expected {len(plane)} bytes in an RLE segment, found {num_bytes}")
    return image


@numba.njit
def _unpack(codes, plane):
    """Fills `plane` from PackBits (PS3.5, G.3.2); returns the number of decoded bytes.

    Padding may follow the last byte. A run or copy that would exceed the plane or the codes is not
    executed.
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
