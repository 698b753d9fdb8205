"""Decodes lossless JPEG (ITU-T T.81, Annex H), also in the variant of DDSM's encoder.

DDSM's films were written by the JPEG coder of Stanford's Portable Video Research Group (PVRG). It
differs from T.81 in two points, both measured on streams of PVRG-JPEG 1.2.1:

- T.81 (H.1.2.1) predicts the first line from the left neighbour, with any predictor that the scan
  declares. PVRG uses the declared predictor, with a line of 2^(precision - 1) above the image. For
  predictors 1, 4 and 5 both rules agree. For 2, 3, 6 and 7, a decoder that follows T.81 returns
  wrong pixels and no error. According to users of DDSM, its films have predictor 7.
- T.81 (H.1.2.1) restarts prediction after a restart marker; PVRG continues with the line above.

DICOM's lossless JPEG streams (PS3.5, 8.2.1) follow T.81; the decoder supports both rules.

Why not use a library decoder and integrate its output again by PVRG's rule? That also needs a
compiled pass over the pixels (predictors 5 to 7 round, so the error of the first line spreads in no
closed form). It would also depend on how each library treats differences beyond 16 bits (some clamp
them), and on its parser for damaged files. Huffman decoding and prediction in one compiled pass are
60 lines. A film of 13 million pixels takes 0.2 s on one core; the first call in a process spends
1.3 s on compilation. The compiled code is not cached on disk: that would save only 0.3 s, and this
module could not be imported without a writable cache folder, which some containers lack.
"""

import numba
import numpy as np

from tfds_ddsm.sources.ljpeg_header import LjpegError, Scan, parse_header, read_marker

_RST0 = 0xD0
_DECODED, _CUT_SHORT, _NO_SUCH_CODE = 0, 1, 2


def decode(data: bytes, first_line_of_t81: bool = False) -> np.ndarray:
    """Decodes a lossless JPEG stream of one component.

    Supports predictors 1 to 7, 2 to 16 bits per sample, and streams with or without restart
    intervals, but no point transform. Sums are taken modulo 2^16 (H.1.2.1).

    Args:
        data: the whole stream, starting with SOI. Memory for the pixels is allocated only if the
            stream has at least one bit for each.
        first_line_of_t81: whether the first line, and each after a restart marker, is predicted
            according to T.81, as in DICOM; otherwise like the PVRG encoder.

    Returns:
        uint16 [lines, samples], the size declared in the stream's header. DDSM headers may swap the
        two: reshape, do not transpose.

    Raises:
        LjpegError: the stream is truncated, damaged or of another kind.
    """
    scan = parse_header(data)
    frame = scan.frame
    num_samples = frame.num_lines * frame.samples_per_line
    num_bits = 8 * (len(data) - scan.offset)
    if num_samples > num_bits:  # the shortest Huffman code has one bit
        raise LjpegError(
            f"byte {scan.offset}: {frame.num_lines} x {frame.samples_per_line} samples need at "
            f"least {num_samples} bits; received {num_bits}"
        )
    image = np.empty((frame.num_lines, frame.samples_per_line), np.uint16)
    middle = 1 << (frame.precision - 1)
    above = np.full(frame.samples_per_line, middle, np.int64)
    first_sample = middle if first_line_of_t81 else -1
    first = 0
    coded = np.frombuffer(data, np.uint8)
    for start, stop in _split_at_restarts(data, scan):
        lines = image[first : first + scan.lines_per_interval]
        _decode_interval(coded[start:stop], start, scan, above, first_sample, lines)
        first += len(lines)
    return image


def _split_at_restarts(data: bytes, scan: Scan) -> list[tuple[int, int]]:
    """Returns start and stop byte of each restart interval's data (T.81 B.1.1.5, E.1.4).

    A stream without restarts is one interval. The last interval ends at the next marker, or with
    the stream; decoding it shows whether it is complete.
    """
    coded = np.frombuffer(data, np.uint8)
    is_marker = (coded[scan.offset : -1] == 0xFF) & (coded[scan.offset + 1 :] != 0)
    marker_offsets = np.flatnonzero(is_marker) + scan.offset
    num_restarts = (scan.frame.num_lines - 1) // scan.lines_per_interval
    intervals = []
    start = scan.offset
    for index in range(num_restarts + 1):
        next_marker = np.searchsorted(marker_offsets, start)
        is_last = next_marker == len(marker_offsets)
        stop = len(coded) if is_last else int(marker_offsets[next_marker])
        intervals.append((start, stop))
        if index < num_restarts:
            marker, start = read_marker(data, stop)
            if marker != _RST0 + index % 8:
                raise LjpegError(
                    f"byte {stop}: expected restart marker FF{_RST0 + index % 8:02X}; "
                    f"received FF{marker:02X}"
                )
    return intervals


def _decode_interval(
    coded: np.ndarray,
    offset: int,
    scan: Scan,
    above: np.ndarray,
    first_sample: int,
    lines: np.ndarray,
) -> None:
    """Decodes one restart interval.

    Lines in messages are counted from the first of the interval.

    Args:
        coded: uint8 [n], the interval's data.
        offset: position of the interval's data in the stream, for messages.
        scan: parameters for decoding.
        above: int64 [samples], the line above; replaced by the interval's last line.
        first_sample: prediction of the first sample by T.81's rule; -1: PVRG's rule.
        lines: uint16 [lines, samples], output.
    """
    kept = np.ones(len(coded), bool)
    kept[1:] = (coded[:-1] != 0xFF) | (coded[1:] != 0)  # a zero is stuffed in behind FF (B.1.1.5)
    num_bytes = np.count_nonzero(kept)
    padded = np.zeros(4 * (num_bytes // 4 + 2), np.uint8)  # 32 more bits, for reading ahead
    padded[:num_bytes] = coded[kept]
    words = padded.view(">u4").astype(np.uint32)
    status, line, bit = _decode_lines(
        words, 8 * num_bytes, scan.huffman_lookup, scan.predictor, above, first_sample, lines
    )
    if status == _CUT_SHORT:
        raise LjpegError(
            f"byte {offset + len(coded)}: the coded data end in line {line} of {len(lines)}"
        )
    if status == _NO_SUCH_CODE:
        raise LjpegError(
            f"byte {offset + np.flatnonzero(kept)[bit // 8]}: the bits of line {line} match "
            "no code of the Huffman table"
        )


@numba.njit
def _decode_lines(words, num_bits, huffman_lookup, predictor, above, first_sample, lines):
    """Huffman decoding and prediction in one pass (T.81 H.2, Tables H.1 and H.2).

    Args:
        words: uint32 [n], the entropy-coded bits without stuffing, followed by at least 32 zeros.
        num_bits: number of bits of `words` from the stream.
        huffman_lookup: uint16 [65536], `Scan.huffman_lookup`.
        predictor: 1..7.
        above: int64 [samples], the line above the first; overwritten.
        first_sample: prediction of the first sample; the rest of its line is predicted from the
            left. -1: the first line is predicted like all others.
        lines: uint16 [lines, samples], output.

    Returns:
        _DECODED, _CUT_SHORT or _NO_SUCH_CODE; the line reached; the bits consumed.
    """
    num_lines, samples_per_line = lines.shape
    register, num_held, next_word = np.int64(0), 0, 0
    for line in range(num_lines):
        left, above_left = np.int64(0), np.int64(0)
        for column in range(samples_per_line):
            if num_held < 32:  # a sample takes at most 16 + 15 bits
                if next_word == len(words):
                    return _CUT_SHORT, line, num_bits
                register = (register << 32) | np.int64(words[next_word])
                next_word += 1
                num_held += 32
            entry = np.int64(huffman_lookup[(register >> (num_held - 16)) & 0xFFFF])
            if entry == 0:
                bit = 32 * next_word - num_held
                return (_NO_SUCH_CODE if bit + 16 <= num_bits else _CUT_SHORT), line, bit
            num_held -= entry >> 5
            size = entry & 31
            if size == 16:
                difference = np.int64(32768)  # has no further bits
            else:
                num_held -= size
                difference = (register >> num_held) & ((1 << size) - 1)
                if difference < (1 << size) >> 1:
                    difference -= (1 << size) - 1

            up = above[column]
            if line == 0 and first_sample >= 0:
                prediction = left if column > 0 else first_sample
            elif column == 0 or predictor == 2:
                prediction = up
            elif predictor == 1:
                prediction = left
            elif predictor == 3:
                prediction = above_left
            elif predictor == 4:
                prediction = left + up - above_left
            elif predictor == 5:
                prediction = left + ((up - above_left) >> 1)
            elif predictor == 6:
                prediction = up + ((left - above_left) >> 1)
            else:
                prediction = (left + up) >> 1
            left = (prediction + difference) & 0xFFFF
            lines[line, column] = left
            above[column] = left
            above_left = up
        bit = 32 * next_word - num_held
        if bit > num_bits:
            return _CUT_SHORT, line, num_bits
    return _DECODED, num_lines, bit
