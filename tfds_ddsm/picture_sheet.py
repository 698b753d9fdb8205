"""Draws a sheet of patches with the outlines of their masks, for inspection before training."""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

_PER_ROW = 8
_ROWS_PER_KIND = 2
_INCHES = 1.25  # side of a patch, including its part of the gaps
_GAP_INCHES = 0.07
_TITLE_INCHES = 0.32
_MAX_LOOKED_AT = 2000  # so fewer patches of a rare kind may be shown
_TITLES = {
    "malignant": "malignant",
    "benign": "non-malignant, benign lesion",
    "background": "non-malignant, background",
}


def choose(examples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, list[Mapping]]:
    """Returns the first patches of every kind; TFDS's order on disk is random.

    Args:
        examples: decoded records: `image` [p, p, 1], `mask` [p, p, 1], `label`, `lesion_type`.
    """
    chosen = {kind: [] for kind in _TITLES}
    for example in itertools.islice(examples, _MAX_LOOKED_AT):
        of_kind = chosen[_kind(example)]
        if len(of_kind) < _PER_ROW * _ROWS_PER_KIND:
            of_kind.append(example)
        elif all(len(found) == _PER_ROW * _ROWS_PER_KIND for found in chosen.values()):
            break
    return {kind: found for kind, found in chosen.items() if found}


def _kind(example: Mapping[str, np.ndarray]) -> str:
    if example["label"]:
        return "malignant"
    return "benign" if example["lesion_type"] else "background"


def draw(chosen: Mapping[str, Sequence[Mapping]], title: str) -> bytes:
    """Returns a PNG file; the grey-level window is the 1st to 99.9th percentile of each patch."""
    # Imported here, because most processes that import the dataset draw nothing.
    from matplotlib.figure import Figure

    num_rows = {kind: -(-len(found) // _PER_ROW) for kind, found in chosen.items()}
    width = _PER_ROW * _INCHES
    height = _TITLE_INCHES * (1 + len(chosen)) + sum(num_rows.values()) * _INCHES
    figure = Figure(figsize=(width, height))
    # Positions are computed here, because matplotlib's layouts differ slightly between runs.
    top = height - _TITLE_INCHES
    figure.text(0.5, (top + 0.1) / height, title, fontsize=10, ha="center")
    for kind, found in chosen.items():
        top -= _TITLE_INCHES
        figure.text(0.01, (top + 0.1) / height, _TITLES[kind], fontsize=9)
        for number, example in enumerate(found):
            row, column = divmod(number, _PER_ROW)
            left, bottom = column * _INCHES + _GAP_INCHES / 2, top - (row + 1) * _INCHES
            side = _INCHES - _GAP_INCHES
            place = (left / width, (bottom + _GAP_INCHES) / height, side / width, side / height)
            _draw_patch(figure.add_axes(place), example)
        top -= num_rows[kind] * _INCHES
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    return data.getvalue()


def _draw_patch(axis, example: Mapping[str, np.ndarray]) -> None:
    axis.set_axis_off()
    image, mask = example["image"][..., 0], example["mask"][..., 0]
    low, high = np.percentile(image, (1, 99.9))
    axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1))
    if mask.min() < mask.max():
        colour = "#ff5a36" if example["label"] else "#35c4ff"
        axis.contour(mask, levels=[0.5], colors=colour, linewidths=1)
