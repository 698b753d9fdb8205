"""Writes lossless JPEG streams like the PVRG encoder, for tests of the decoder."""

import numpy as np


def encode(
    image: np.ndarray,
    predictor: int = 7,
    precision: int = 16,
    restart_lines: int = 0,
    huffman: tuple[bytes, bytes] | None = None,
    first_line_of_t81: bool = False,
) -> bytes:
    """Encodes one component (ITU-T T.81 Annex H).

    Args:
        image: unsigned integers [lines, samples] below 2^precision.
        predictor: 1..7.
        precision: bits per sample, 2..16; the line above the first is 2^(precision - 1).
        restart_lines: lines between restart markers; 0 writes none.
        huffman: the number of codes of length 1..16 and the SSSS in order of their codes;
            by default the three most frequent SSSS get 2 bits, each next one gets one more bit.
        first_line_of_t81: whether first lines are predicted as in T.81; otherwise as in PVRG.

    Returns:
        The stream: SOI, SOF3, DHT, optionally DRI, SOS, data, EOI.
    """
    num_lines, samples_per_line = image.shape
    lines = (restart_lines or num_lines) if first_line_of_t81 else 0
    differences = _differences(image.astype(np.int64), predictor, precision, lines)
    sizes = np.frexp(np.abs(differences))[1]  # bits of the magnitude: SSSS of Table H.2
    counts, values = huffman or _huffman_by_frequency(sizes)
    codes, lengths = _codes(counts, values)

    num_extra = np.where(sizes == 16, 0, sizes)
    extra = (differences - (differences < 0)) & ((1 << num_extra) - 1)
    words = (codes[sizes] << num_extra) | extra
    num_bits = lengths[sizes] + num_extra

    step = restart_lines or num_lines
    scan = b""
    for index, first in enumerate(range(0, num_lines, step)):
        if index:
            scan += bytes((0xFF, 0xD0 + (index - 1) % 8))
        rows = slice(first, first + step)
        scan += _pack(words[rows].ravel(), num_bits[rows].ravel())

    frame = bytes((precision, *_u16(num_lines), *_u16(samples_per_line), 1, 1, 0x11, 0))
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xC3, frame),
            segment(0xC4, b"\0" + counts + values),
            segment(0xDD, _u16(restart_lines * samples_per_line)) if restart_lines else b"",
            segment(0xDA, bytes((1, 1, 0, predictor, 0, 0))),
            scan,
            b"\xff\xd9",
        )
    )


def segment(marker: int, parameters: bytes) -> bytes:
    """Returns a marker segment: marker, length, parameters."""
    return bytes((0xFF, marker)) + _u16(2 + len(parameters)) + parameters


def _u16(value: int) -> bytes:
    return value.to_bytes(2)


def _differences(image, predictor, precision, t81_lines):
    """Returns sample minus prediction modulo 2^16, as -32767..32768.

    Prediction restarts every `t81_lines` lines as in T.81; 0: never, as in PVRG.
    """
    above = np.roll(image, 1, axis=0)
    above[0] = 1 << (precision - 1)
    left, above_left = np.roll(image, 1, axis=1), np.roll(above, 1, axis=1)
    prediction = {
        1: left,
        2: above,
        3: above_left,
        4: left + above - above_left,
        5: left + (above - above_left >> 1),
        6: above + (left - above_left >> 1),
        7: left + above >> 1,
    }[predictor].copy()
    prediction[:, 0] = above[:, 0]
    if t81_lines:
        prediction[::t81_lines] = left[::t81_lines]
        prediction[::t81_lines, 0] = 1 << (precision - 1)
    differences = (image - prediction) & 0xFFFF
    return np.where(differences > 32768, differences - 65536, differences)


def _huffman_by_frequency(sizes):
    values = np.argsort(-np.bincount(sizes.ravel(), minlength=17), kind="stable")
    return bytes((0, 3, *[1] * 14)), bytes(values.tolist())


def _codes(counts, values):
    """Returns code and length of each SSSS (T.81 Annex C)."""
    codes, lengths = np.zeros(17, np.int64), np.zeros(17, np.int64)
    code, index = 0, 0
    for length, count in enumerate(counts, start=1):
        for _ in range(count):
            codes[values[index]], lengths[values[index]] = code, length
            code, index = code + 1, index + 1
        code <<= 1
    return codes, lengths


def _pack(words, num_bits):
    """Writes the low `num_bits` of each word, pads with ones, stuffs a zero after each FF."""
    last_bit = np.cumsum(num_bits)
    word_of_bit = np.repeat(np.arange(len(words)), num_bits)
    shift = last_bit[word_of_bit] - 1 - np.arange(last_bit[-1])
    bits = (words[word_of_bit] >> shift & 1).astype(np.uint8)
    padding = np.ones(-len(bits) % 8, np.uint8)
    return np.packbits(np.concatenate((bits, padding))).tobytes().replace(b"\xff", b"\xff\0")
