"""Reads the header of a lossless JPEG stream: the marker segments before its data (ITU-T T.81 B).

Streams are untrusted input. Invalid data are refused with their byte position, and only one lookup
table of 128 KiB is allocated here.
"""

import dataclasses

import numpy as np

from tfds_ddsm.mammogram import MAX_PIXELS

_SOF3, _DHT, _SOI, _SOS, _DRI, _COM = 0xC3, 0xC4, 0xD8, 0xDA, 0xDD, 0xFE
_SKIPPED = frozenset(range(0xE0, 0xF0)) | {_COM}  # APP0..APP15, irrelevant for the pixels


class LjpegError(ValueError):
    """A stream that cannot be decoded; the message gives the byte and the reason."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """The parameters in SOF3 (T.81 B.2.2)."""

    precision: int
    num_lines: int
    samples_per_line: int
    component: int


@dataclasses.dataclass(frozen=True)
class _HuffmanTable:
    """A Huffman table (T.81 B.2.4.2).

    Attributes:
        counts: number of codes of each length, 1 to 16 bits.
        values: SSSS of every code, in the order of the codes.
        offset: byte at which the table starts, for messages.
    """

    counts: bytes
    values: bytes
    offset: int


@dataclasses.dataclass(frozen=True)
class Scan:
    """All parameters for decoding the entropy-coded data (T.81 B.2.3).

    Attributes:
        frame: the content of SOF3.
        predictor: 1..7 (Table H.1).
        huffman_lookup: uint16 [65536], see `_build_lookup`.
        lines_per_interval: lines between two restart markers; without restart markers, all lines.
        offset: byte at which the entropy-coded data start.
    """

    frame: Frame
    predictor: int
    huffman_lookup: np.ndarray
    lines_per_interval: int
    offset: int


def parse_header(data: bytes) -> Scan:
    """Reads the marker segments up to and including the scan header (T.81 B.2).

    Raises:
        LjpegError: a segment is damaged; or the stream is not lossless, is not Huffman-coded, has
            more than one component, or has a point transform.
    """
    if data[:2] != bytes((0xFF, _SOI)):
        raise LjpegError(f"byte 0: a JPEG stream must start with FFD8; received '{data[:2].hex()}'")
    frame, tables, restart_interval, offset = None, {}, 0, 2
    while True:
        marker, offset = read_marker(data, offset)
        segment = _read_segment(data, offset, marker)
        if marker == _SOF3:
            if frame is not None:
                raise LjpegError(f"byte {offset}: the stream has a second frame header")
            frame = _parse_frame(segment, offset)
        elif marker == _DHT:
            tables |= _parse_huffman_tables(segment, offset)
        elif marker == _DRI:
            if len(segment) != 2:
                raise LjpegError(f"byte {offset}: DRI must have 2 bytes; received {len(segment)}")
            restart_interval = int.from_bytes(segment)
        elif marker == _SOS:
            return _parse_scan(segment, offset, frame, tables, restart_interval)
        elif marker not in _SKIPPED:
            raise LjpegError(
                f"byte {offset}: marker FF{marker:02X} is not allowed in a lossless (SOF3) header"
            )
        offset += 2 + len(segment)


def read_marker(data: bytes, offset: int) -> tuple[int, int]:
    """Returns the marker's second byte and the offset after it; skips fill bytes (B.1.1.2)."""
    if data[offset : offset + 1] != b"\xff":
        raise LjpegError(
            f"byte {offset}: expected a marker (FF..); received '{data[offset : offset + 1].hex()}'"
        )
    while data[offset : offset + 1] == b"\xff":
        offset += 1
    if offset == len(data):
        raise LjpegError(f"byte {offset}: the stream ends within a marker")
    return data[offset], offset + 1


def _read_segment(data: bytes, offset: int, marker: int) -> bytes:
    """Returns the parameters of the marker segment whose length field is at `offset`."""
    length = int.from_bytes(data[offset : offset + 2])
    segment = data[offset + 2 : offset + length]
    if length < 2 or len(segment) != length - 2:
        raise LjpegError(
            f"byte {offset}: the segment of marker FF{marker:02X} must declare at least 2 bytes "
            f"and at most the remaining {len(data) - offset}; received {length}"
        )
    return segment


def _parse_frame(segment: bytes, offset: int) -> Frame:
    if len(segment) != 9 or segment[5] != 1:
        raise LjpegError(
            f"byte {offset}: SOF3 must have 9 bytes and 1 component; received {len(segment)} bytes "
            f"and {segment[5] if len(segment) > 5 else 0} components"
        )
    frame = Frame(
        precision=segment[0],
        num_lines=int.from_bytes(segment[1:3]),
        samples_per_line=int.from_bytes(segment[3:5]),
        component=segment[6],
    )
    if not 2 <= frame.precision <= 16:
        raise LjpegError(
            f"byte {offset}: the precision must be 2 to 16 bits; received {frame.precision}"
        )
    if frame.num_lines == 0 or frame.samples_per_line == 0:
        raise LjpegError(
            f"byte {offset}: lines and samples per line must be at least 1; received "
            f"{frame.num_lines} x {frame.samples_per_line}"
        )
    if frame.num_lines * frame.samples_per_line > MAX_PIXELS:
        raise LjpegError(
            f"byte {offset}: a film must have at most {MAX_PIXELS} samples; received "
            f"{frame.num_lines} x {frame.samples_per_line} samples"
        )
    return frame


def _parse_huffman_tables(segment: bytes, offset: int) -> dict[int, _HuffmanTable]:
    """Returns the tables in a DHT segment by their destinations (T.81 B.2.4.2)."""
    tables = {}
    start = 0
    while start < len(segment):
        counts = segment[start + 1 : start + 17]
        values = segment[start + 17 : start + 17 + sum(counts)]
        if len(counts) != 16 or len(values) != sum(counts):
            raise LjpegError(
                f"byte {offset + 2 + start}: a Huffman table of {sum(counts)} codes is truncated"
            )
        tables[segment[start]] = _HuffmanTable(counts, values, offset + 2 + start)
        start += 17 + len(values)
    return tables


def _parse_scan(
    segment: bytes,
    offset: int,
    frame: Frame | None,
    tables: dict[int, _HuffmanTable],
    restart_interval: int,
) -> Scan:
    """Checks the scan header against frame, tables and restart interval (T.81 B.2.3, H.1)."""
    if frame is None:
        raise LjpegError(f"byte {offset}: a lossless frame header (SOF3) must precede the scan")
    if len(segment) != 6 or segment[0] != 1 or segment[1] != frame.component:
        raise LjpegError(
            f"byte {offset}: the scan must contain only the frame's component {frame.component}; "
            f"received scan header '{segment.hex()}'"
        )
    table, predictor, point_transform = segment[2] >> 4, segment[3], segment[5] & 15
    if table not in tables:
        raise LjpegError(f"byte {offset}: the scan uses Huffman table {table}, which is undefined")
    if not 1 <= predictor <= 7:
        raise LjpegError(f"byte {offset}: the predictor must be 1 to 7; received {predictor}")
    if point_transform != 0:
        raise LjpegError(
            f"byte {offset}: the point transform must be 0; received {point_transform}"
        )
    if restart_interval % frame.samples_per_line:
        raise LjpegError(
            f"byte {offset}: a restart interval must be a whole number of lines of "
            f"{frame.samples_per_line} samples; received {restart_interval} samples"
        )
    return Scan(
        frame,
        predictor,
        _build_lookup(tables[table]),
        restart_interval // frame.samples_per_line or frame.num_lines,
        offset + 2 + len(segment),
    )


def _build_lookup(table: _HuffmanTable) -> np.ndarray:
    """Returns the length and SSSS of the code with which each 16-bit value begins.

    Codes are assigned in order (T.81 C.2). Left-justified in 16 bits, they therefore cover adjacent
    ranges: a code of length n covers 2^(16 - n) values.

    Returns:
        uint16 [65536], 32 * length + SSSS; 0 if a value begins with no code.
    """
    sizes = np.frombuffer(table.values, np.uint8)
    if max(table.values, default=0) > 16:
        raise LjpegError(
            f"byte {table.offset}: SSSS must be 0 to 16 (T.81 Table H.2); received {sizes.max()}"
        )
    lengths = np.repeat(np.arange(1, 17), np.frombuffer(table.counts, np.uint8))
    spans = 1 << (16 - lengths)
    if spans.sum() > 1 << 16:
        raise LjpegError(
            f"byte {table.offset}: the Huffman table has more codes than their lengths allow"
        )
    lookup = np.zeros(1 << 16, np.uint16)
    lookup[: spans.sum()] = np.repeat(32 * lengths + sizes, spans)
    return lookup
