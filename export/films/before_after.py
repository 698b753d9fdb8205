"""A picture of a film before and after infilling."""

import io
from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from cigan_tf import pictures
from tfds_ddsm.grey_levels import WHITE

from .film_infill import FilmLesion

# Colours of the outlines, by class.
CLASS_COLOURS = ("#3fc1c9", "#ff7849")
_HEIGHT_PX, _GAP_PX = 960, 12
# Bounds the picture of a film of any shape.
_MAX_FILM_WIDTH_PX = 2 * _HEIGHT_PX
# More lesions would be too small to see.
_MAX_LESIONS = 3
# Side of the square around a lesion, relative to the longer side of its bounding box.
_SURROUNDINGS = 3


def before_after(before: np.ndarray, after: np.ndarray, lesions: Sequence[FilmLesion]) -> bytes:
    """Returns the film before and after, side by side, with close-ups of its lesions.

    The infilled regions are outlined in the film before infilling. Both whole films have its
    grey-level window; a close-up has a window for both of its views.

    Args:
        before: uint16 [height, width], the film.
        after: uint16 [height, width], the film with its lesions infilled.
        lesions: the infilled lesions; the first three have close-ups.

    Returns:
        An RGB PNG file, 960 pixels high.
    """
    masks = [lesion.on_film(before.shape) for lesion in lesions]
    colours = [CLASS_COLOURS[lesion.malignant] for lesion in lesions]
    width = round(before.shape[1] * _HEIGHT_PX / before.shape[0])
    width = min(max(width, 1), _MAX_FILM_WIDTH_PX)
    # Every fourth pixel gives the same percentiles.
    window = pictures.display_window(before[::4, ::4] / WHITE)
    whole = [_view(film, (width, _HEIGHT_PX), window) for film in (before, after)]
    for mask, colour in zip(masks, colours, strict=True):
        _outline(whole[0], mask, colour)
    columns = [[("before", whole[0])], [("after", whole[1])]]
    num_shown = min(len(lesions), _MAX_LESIONS)
    num_rows = max(num_shown, 2)
    side = (_HEIGHT_PX - _GAP_PX * (num_rows - 1)) // num_rows
    pairs = []
    for number, mask in enumerate(masks[:num_shown]):
        place = _around(mask)
        views = [film[place][::2, ::2] / WHITE for film in (before, after)]
        window = pictures.display_window(*views)
        pair = [_view(film[place], (side, side), window) for film in (before, after)]
        _outline(pair[0], mask[place], colours[number])
        name = f"lesion {number + 1}" if num_shown > 1 else "lesion"
        pairs.append([(f"{name}, before", pair[0]), (f"{name}, after", pair[1])])
    # One column with both views of a single lesion, or two columns with one row per lesion.
    columns += [list(views) for views in (pairs if num_shown == 1 else zip(*pairs, strict=True))]
    widths = [column[0][1].shape[1] for column in columns]
    size = (sum(widths) + _GAP_PX * (len(widths) - 1), _HEIGHT_PX)
    sheet = PIL.Image.new("RGB", size, "white")
    left = 0
    for column, column_width in zip(columns, widths, strict=True):
        top = 0
        for title, view in column:
            sheet.paste(_titled(view, title), (left, top))
            top += view.shape[0] + _GAP_PX
        left += column_width + _GAP_PX
    encoded = io.BytesIO()
    # Takes half the time of the default level; the files are about as small.
    sheet.save(encoded, "png", compress_level=3)
    return encoded.getvalue()


def _titled(view: np.ndarray, title: str) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(view)
    PIL.ImageDraw.Draw(picture).text(
        (10, 6),
        title,
        "white",
        PIL.ImageFont.load_default(size=22),
        stroke_width=2,
        stroke_fill="black",
    )
    return picture


def _view(film: np.ndarray, size: tuple[int, int], window: tuple[float, float]) -> np.ndarray:
    """Returns a film in grey, uint8 [height, width, 3], resized to `size` (width, height)."""
    enlarges = size[1] > film.shape[0]
    way = cv2.INTER_CUBIC if enlarges else cv2.INTER_AREA
    grey = pictures.to_8_bit(cv2.resize(film, size, interpolation=way) / WHITE, window)
    return np.repeat(grey[..., None], 3, axis=2)


def _outline(view: np.ndarray, mask: np.ndarray, colour: str) -> None:
    shown = cv2.resize(mask.astype(np.uint8), (view.shape[1], view.shape[0]))
    contours, _ = cv2.findContours(shown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    rgb = tuple(bytes.fromhex(colour[1:]))
    cv2.drawContours(view, contours, -1, rgb, thickness=2, lineType=cv2.LINE_AA)


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """Returns the square around a mask, moved into the film if it would extend beyond it."""
    ranges = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    side = _SURROUNDINGS * (max(last - first for first, last in ranges) + 1)
    side = int(min(side, *mask.shape))
    starts = [
        int(np.clip((first + last + 1 - side) // 2, 0, length - side))
        for (first, last), length in zip(ranges, mask.shape, strict=True)
    ]
    return tuple(slice(start, start + side) for start in starts)
