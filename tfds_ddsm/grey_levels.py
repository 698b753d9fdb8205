"""Converts a film's stored values to grey levels and back: 0..65535; dense tissue is bright.

A digital mammogram has 10 to 16 stored bits and may be signed, inverted (MONOCHROME1), rescaled or
padded. All code that reads films, for the dataset and for whole films, uses this module: a table
from stored values to grey levels (DICOM PS3.3, C.7.6.3, C.11.1, C.11.2 and C.11.6; PS3.4, N.2), and
its inverse from grey levels to values that can be stored.
"""

import copy
import dataclasses
import functools

import numpy as np
import pydicom
from pydicom.pixels import apply_modality_lut, apply_voi_lut

WHITE = 65_535
MIN_BITS, MAX_BITS = 8, 16

# Films are 8, 10, 12, 14 or 16 bits deep. One of 14 bits uses a quarter of a 16-bit file's range.
_DEPTHS = (8, 10, 12, 14)

# If only a few values are below 0, or only slightly, they are probably not tissue of a film whose
# black is the lowest value. They are noise, the edge of a filter, or padding that the file
# does not state.
_MAX_STRAY_SHARE = 0.01
_MAX_STRAY_DEPTH = 1 / 8  # of the highest value

_MODALITY = ("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope")
_VOI = ("VOILUTFunction", "VOILUTSequence", "WindowCenter", "WindowWidth")


@dataclasses.dataclass(frozen=True, eq=False)
class GreyScale:
    """The grey level of each stored value.

    Attributes:
        lowest: the stored value of the table's first entry.
        levels: uint16 [2 ** bits], the grey level of each stored value, beginning with the lowest.
        bits: depth of the film.
        padding: lowest and highest stored value of the padding; None without padding.
        warning: one line if the file does not state the depth of its film; otherwise None.
    """

    lowest: int
    levels: np.ndarray
    bits: int
    padding: tuple[int, int] | None = None
    warning: str | None = None

    @functools.cached_property
    def is_identity(self) -> bool:
        """Whether stored values are the grey levels themselves."""
        return (
            self.padding is None
            and self.lowest == 0
            and self.bits == MAX_BITS
            and np.array_equal(self.levels, np.arange(WHITE + 1))
        )

    def to_grey(self, stored: np.ndarray) -> np.ndarray:
        """Returns the grey levels of stored values, uint16; padding is black."""
        if self.is_identity:
            return stored.astype(np.uint16, copy=False)
        last = self.lowest + len(self.levels) - 1
        index = np.clip(stored.astype(np.int32), self.lowest, last) - self.lowest
        grey = self.levels[index]
        if self.padding is not None:
            grey[_is_padding(stored, self.padding)] = 0
        return grey

    def to_stored(self, grey: np.ndarray, dtype: np.dtype) -> np.ndarray:
        """Returns the stored values, excluding padding, with the nearest grey levels."""
        if self.is_identity:
            return grey.astype(dtype)
        levels, values = self._by_level
        above = np.searchsorted(levels, grey).clip(1, max(1, len(levels) - 1))
        above = np.minimum(above, len(levels) - 1)
        below = np.maximum(above - 1, 0)
        nearest = np.where(
            levels[above].astype(np.int32) - grey < grey - levels[below].astype(np.int32),
            above,
            below,
        )
        return values[nearest].astype(dtype)

    @functools.cached_property
    def _by_level(self) -> tuple[np.ndarray, np.ndarray]:
        values = np.arange(self.lowest, self.lowest + len(self.levels))
        kept = np.ones(len(values), bool)
        if self.padding is not None:
            kept = ~_is_padding(values, self.padding)
        order = np.argsort(self.levels[kept], kind="stable")
        return self.levels[kept][order], values[kept][order]


def of_picture(
    stored: np.ndarray, stated_white: int | None = None, bits: int | None = None
) -> GreyScale:
    """Returns the grey scale of an image that is not a DICOM file; its bright pixels are dense.

    Args:
        stored: uint8 or uint16 [height, width].
        stated_white: stored value of white given by the file, such as a PGM's maximum value or the
            highest value of a PNG's sBIT; None if not given.
        bits: depth of the film, overriding the file; None: as given by the file, or estimated from
            the stored values.

    Raises:
        ValueError: a stored value does not fit into `bits`, or `bits` exceeds the file's bits per
            pixel.
    """
    stated_bits = None
    # Values above the highest of sBIT were scaled up to the whole range, as intended by PNG.
    if bits is None and stated_white is not None and stored.max() <= stated_white:
        stated_bits = stated_white.bit_length()
        if stated_bits > _container_bits(stored):
            stated_bits = None
    lowest, depth, warning = _range(stored, stated_bits, bits)
    table = np.arange(lowest, lowest + 2**depth)
    if stated_bits is not None:
        table = np.minimum(table, stated_white)
    return GreyScale(lowest, _stretched(table), depth, warning=warning)


def of_dicom(
    stored: np.ndarray, header: pydicom.Dataset, bits: int | None = None, voi: bool = False
) -> GreyScale:
    """Returns the grey scale of a DICOM film.

    The modality transform is applied, but the VOI transform (for display) only on request. Low
    values are bright if the photometric interpretation is MONOCHROME1 or the presentation LUT shape
    is INVERSE; in mammograms the two describe the same inversion (PS3.3, C.8.11.3).

    Args:
        stored: integers [height, width], as stored in the file.
        header: the film's attributes.
        bits: depth of the film, overriding the file; None: BitsStored.
        voi: whether to apply the VOI LUT or window.

    Raises:
        ValueError: a stored value does not fit into the depth, `bits` exceeds the file's bits per
            pixel, all pixels are padding, or a transform is missing or invalid.
    """
    padding = _padding(header)
    pictured = stored if padding is None else stored[~_is_padding(stored, padding)]
    if not pictured.size:
        raise ValueError(f"all pixels are padding: stored values {padding[0]} to {padding[1]}")
    lowest, depth, warning = _range(pictured, header.BitsStored, bits)
    table = np.arange(lowest, lowest + 2**depth)
    levels = apply_modality_lut(table, _modality(header))
    if voi:
        transform = _only(header, _VOI)
        if not transform:
            raise ValueError("the file has no VOI LUT and no window; omit voi")
        # These only affect the scale of the output, which is stretched below.
        transform.BitsStored, transform.PixelRepresentation = depth, 0
        transform.PhotometricInterpretation = "MONOCHROME2"
        levels = apply_voi_lut(levels, transform)
    levels = _stretched(levels)
    shape = str(header.get("PresentationLUTShape") or "IDENTITY")
    if shape not in ("IDENTITY", "INVERSE"):
        raise ValueError(f"PresentationLUTShape must be IDENTITY or INVERSE; received {shape!r}")
    if header.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE":
        levels = WHITE - levels
    return GreyScale(lowest, levels, depth, padding, warning)


def _range(
    stored: np.ndarray, stated_bits: int | None, bits: int | None
) -> tuple[int, int, str | None]:
    """Returns the lowest value that a film may store, its depth, and any assumption made."""
    low, high = int(stored.min()), int(stored.max())
    container = _container_bits(stored)
    file_bits = container if stated_bits is None else stated_bits
    is_shallow = low < 0 and -low <= _MAX_STRAY_DEPTH * high
    share = float(np.mean(stored < 0)) if low < 0 else 0.0
    is_rare = 0 < share <= _MAX_STRAY_SHARE
    if bits is not None:
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"bits must be in [{MIN_BITS}, {MAX_BITS}]; received {bits}")
        if bits > container:
            raise ValueError(
                f"bits must be at most {container}, the file's bits per pixel; received {bits}"
            )
        if bits not in (file_bits, container) and (
            is_shallow or (is_rare and high >= 2 ** (bits - 1))
        ):
            low = 0  # black
        lowest = -(2 ** (bits - 1)) if low < 0 else 0
        _check_fits(low, high, lowest, bits)
        return lowest, bits, None
    depth = file_bits
    lowest = -(2 ** (depth - 1)) if stored.dtype.kind == "i" else 0
    _check_fits(low, high, lowest, depth)
    claimed = f"{lowest} to {lowest + 2**depth - 1}"
    held = f"{low} to {high}"
    if file_bits > MIN_BITS and (is_shallow or (is_rare and depth == container)):
        if not (is_shallow and is_rare):
            raise ValueError(
                f"stored values are {held}, {share:.2%} of them below 0: pass bits="
                f"{max(MIN_BITS, high.bit_length())} if black is 0 and the negative values are "
                f"not part of the image, or bits={file_bits} if black is {lowest}"
            )
        held += " (those below 0 count as 0)"
        low = 0
    fitting = [
        (start, deep)
        for deep in _DEPTHS
        for start in ([0] if low >= 0 else [-(2 ** (deep - 1))])
        if start <= low and high < start + 2**deep
    ]
    if lowest < 0 <= low:  # air is the darkest: the film's black is 0
        lowest, depth = fitting[0] if fitting and depth == container else (0, depth - 1)
    elif depth == container == MAX_BITS and fitting and high > 0:
        lowest, depth = fitting[0]
    else:
        return lowest, depth, None
    return (
        lowest,
        depth,
        f"stored values are {held}, but the file allows {claimed}: treated as a film of "
        f"{depth} bits; pass bits={file_bits} or another depth if that is wrong",
    )


def _container_bits(stored: np.ndarray) -> int:
    return 8 * stored.dtype.itemsize


def _check_fits(low: int, high: int, lowest: int, bits: int) -> None:
    if low < lowest or high >= lowest + 2**bits:
        raise ValueError(
            f"stored values {low} to {high} do not fit into {bits} bits; pass more bits"
        )


def _only(header: pydicom.Dataset, keywords: tuple[str, ...]) -> pydicom.Dataset:
    """Returns some of a header's attributes."""
    some = pydicom.Dataset()
    some.set_original_encoding(*header.original_encoding)
    for keyword in keywords:
        if header.get(keyword) is not None:
            some[keyword] = header[keyword]
    return some


def _modality(header: pydicom.Dataset) -> pydicom.Dataset:
    """Returns the modality transform, with the depth of table entries corrected.

    The depth is 8 or 16 (PS3.3, C.11.1.1). Some devices write the depth of the values instead, such
    as 12, although they are stored in 16 bits.
    """
    transform = _only(header, _MODALITY)
    if not transform.get("ModalityLUTSequence"):
        transform.pop("ModalityLUTSequence", None)
        return transform
    transform = copy.deepcopy(transform)
    descriptor = list(transform.ModalityLUTSequence[0].LUTDescriptor)
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        raise ValueError(
            f"LUTDescriptor of the modality LUT must be the number of entries, the first stored "
            f"value and the bits per entry, 8 to 16; received {descriptor}"
        )
    if descriptor[2] != 8:
        descriptor[2] = 16
    transform.ModalityLUTSequence[0].LUTDescriptor = descriptor
    return transform


def _padding(header: pydicom.Dataset) -> tuple[int, int] | None:
    """Returns the lowest and highest padding value (PS3.3, C.7.5.1.1.2), or None."""
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    # Some devices write both as unsigned (US) in films with signed pixels, or vice versa.
    span = 2**header.BitsAllocated
    lowest = -(span // 2) if header.PixelRepresentation else 0
    ends = [
        (int(end) - lowest) % span + lowest for end in (value, value if limit is None else limit)
    ]
    return min(ends), max(ends)


def _is_padding(stored: np.ndarray, padding: tuple[int, int]) -> np.ndarray:
    return (stored >= padding[0]) & (stored <= padding[1])


def _stretched(table: np.ndarray) -> np.ndarray:
    """Returns a table of output values in 0..65535."""
    table = np.asarray(table, np.float64)
    low, high = table.min(), table.max()
    if not np.isfinite(high - low) or low == high:
        raise ValueError("the file's transforms give every stored value the same grey level")
    return np.round((table - low) * (WHITE / (high - low))).astype(np.uint16)
