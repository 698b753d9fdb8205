"""Draws the examples of one film: a pure function, the same in one process and on Beam workers."""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tfds_ddsm import patches, png_file
from tfds_ddsm.mammogram import Description, Film, Lesion, Source, UnreadableFilmError

KINDS = ("malignant", "benign", "background")


class PatchSettings(Protocol):
    """The settings of the dataset's config that `film_examples` uses."""

    patch_size: int
    film_size: tuple[int, int]
    mask_margin_px: int
    seed: int


@dataclasses.dataclass(frozen=True)
class FilmReport:
    """Result of drawing the patches planned for one film.

    Attributes:
        film: the film.
        planned: planned numbers of malignant, benign and background patches.
        made: actual numbers of the same three kinds.
        lesions: number of lesions by kind, such as 'malignant mass', with ', simulated' for
            simulated lesions.
        lesions_without_patch: number of lesions that no patch can show, for instance because they
            are too large, or too close to the film's edge or to a malignant lesion.
        left_out: the source's reasons for leaving out lesions.
        error: why the film could not be read, or ''.
        picture_sha256: hash of the film's pixels (see `picture_sha256`); '' if they could not be
            read.
    """

    film: Film
    planned: tuple[int, int, int]
    made: tuple[int, int, int] = (0, 0, 0)
    lesions: Mapping[str, int] = dataclasses.field(default_factory=dict)
    lesions_without_patch: int = 0
    left_out: tuple[str, ...] = ()
    error: str = ""
    picture_sha256: str = ""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "FilmReport":
        """Restores the result of `dataclasses.asdict` from JSON, which has no tuples."""
        tuples = {name: tuple(fields[name]) for name in ("planned", "made", "left_out")}
        return cls(**dict(fields) | tuples | {"film": Film(**fields["film"])})


def encoded_examples(
    source: Source, film: Film, counts: tuple[int, int, int], config: PatchSettings
) -> tuple[FilmReport, Iterator[tuple[str, dict[str, Any]]]]:
    """Like `film_examples`, but with images as PNG files.

    If the film is unreadable, the error is put into the report instead of being raised.
    """
    try:
        report, examples = film_examples(source, film, counts, config)
    except UnreadableFilmError as error:
        return FilmReport(film, counts, error=str(error)), iter(())
    return report, ((key, _with_png(example)) for key, example in examples)


def first_examples(
    report: FilmReport, examples: Iterator[tuple[str, dict[str, Any]]], count: int
) -> tuple[FilmReport, Iterator[tuple[str, dict[str, Any]]]]:
    """Returns at most `count` of a film's examples, and their report."""
    if sum(report.made) <= count:
        return report, examples
    first = list(itertools.islice(examples, count))
    kinds = [_kind_of(key) for key, _ in first]
    made = tuple(kinds.count(kind) for kind in KINDS)
    return dataclasses.replace(report, planned=made, made=made), iter(first)


def _with_png(example: dict[str, Any]) -> dict[str, Any]:
    return example | {name: png_file.encode(example[name]) for name in ("image", "mask")}


def film_examples(
    source: Source, film: Film, counts: tuple[int, int, int], config: PatchSettings
) -> tuple[FilmReport, Iterator[tuple[str, dict[str, Any]]]]:
    """Reads a film and draws its patches.

    Args:
        source: source of the film.
        film: the film's entry in the source's index.
        counts: numbers of malignant, benign and background patches to draw. Fewer are drawn if the
            film has fewer valid corners (see `patches`). If benign and background patches are both
            requested, one kind replaces missing patches of the other.
        config: patch size, film size, margin of the masks, and seed.

    Returns:
        The report, and the examples: pairs of a unique, stable key and the features; `image`
        uint16 and `mask` uint8 are [patch_size, patch_size, 1].

    Raises:
        UnreadableFilmError: the film cannot be used.
    """
    mammogram = source.read(film)
    factor = patches.rescale_factor(film.film_id, *mammogram.image.shape, config.film_size)
    try:
        image = patches.rescale(mammogram.image, factor)
    except UnreadableFilmError as error:
        raise UnreadableFilmError(f"{film.film_id}: {error}") from None
    lesions = [
        dataclasses.replace(
            lesion,
            mask=patches.with_margin(patches.rescale(lesion.mask, factor), config.mask_margin_px),
        )
        for lesion in mammogram.lesions
    ]
    # A lesion that the source could not use may be anywhere on the film.
    hidden = np.full(image.shape, bool(mammogram.left_out))
    for lesion, rescaled in zip(mammogram.lesions, lesions, strict=True):
        if not rescaled.mask.any():  # too small for the rescaled film, but still present
            hidden |= patches.with_margin(
                patches.touched(lesion.mask, factor), config.mask_margin_px
            )
    draws, without_patch = _draw(film, image, lesions, hidden, counts, config)
    report = FilmReport(
        film=film,
        planned=counts,
        made=tuple(sum(draw.kind == kind for draw in draws) for kind in KINDS),
        lesions=dict(collections.Counter(map(_lesion_kind, lesions))),
        lesions_without_patch=without_patch,
        left_out=mammogram.left_out,
        picture_sha256=picture_sha256(mammogram.image),
    )
    return report, _cut_out(film, image, lesions, draws, factor, config.patch_size)


def picture_sha256(image: np.ndarray) -> str:
    """Returns a hash of the pixels and shape of an image, as a hexadecimal string."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _lesion_kind(lesion: Lesion) -> str:
    label = "malignant" if lesion.malignant else "benign"
    return f"{label} {lesion.lesion_type}" + (", simulated" if lesion.simulated else "")


@dataclasses.dataclass(frozen=True)
class _Draw:
    kind: str
    lesion_type: str
    row: int
    column: int
    tissue_fraction: np.float32


def _draw(
    film: Film,
    image: np.ndarray,
    lesions: Sequence[Lesion],
    hidden: np.ndarray,
    counts: tuple[int, int, int],
    config: PatchSettings,
) -> tuple[list[_Draw], int]:
    """Draws the corners of all patches, and counts the lesions that no patch can show.

    Benign and background patches do not touch `hidden`, bool [height, width].
    """
    size = config.patch_size
    rng = patches.stable_rng(f"corners {config.seed} {film.film_id}")
    tissue = patches.tissue_fractions(patches.breast_mask(image), size)
    malignant = _union([lesion for lesion in lesions if lesion.malignant], image.shape) | hidden
    draws, without_patch = [], 0
    any_lesion = _union(lesions, image.shape) | hidden
    background = patches.background_patch_corners(any_lesion, tissue, size)
    num_malignant, num_benign, num_background = counts
    num_non_malignant = num_benign + num_background
    if num_benign and num_background:
        # If lesions fill a film, one kind replaces the other, to keep the totals per class.
        num_benign += max(0, num_background - len(background))
    for kind, count in zip(KINDS[:2], (num_malignant, num_benign), strict=True):
        own = [lesion for lesion in lesions if lesion.malignant == (kind == "malignant")]
        forbidden = None if kind == "malignant" else malignant
        corners = [
            patches.lesion_patch_corners(lesion.mask, tissue, size, forbidden) for lesion in own
        ]
        without_patch += sum(not len(places) for places in corners)
        for lesion, drawn in zip(own, patches.draw_evenly(corners, count, rng), strict=True):
            draws += _draws(kind, lesion.lesion_type, drawn, tissue)
    if num_background:
        num_background = num_non_malignant - sum(draw.kind == "benign" for draw in draws)
        drawn = patches.draw_corners(background, num_background, rng)
        draws += _draws("background", "none", drawn, tissue)
    return draws, without_patch


def _key(film: Film, draw: _Draw) -> str:
    return f"{film.film_id}/{draw.kind}/{draw.row}/{draw.column}"


def _kind_of(key: str) -> str:
    return key.split("/")[1]


def _draws(kind: str, lesion_type: str, corners: np.ndarray, tissue: np.ndarray) -> Iterator[_Draw]:
    for row, column in corners.tolist():
        yield _Draw(kind, lesion_type, row, column, tissue[row, column])


def _cut_out(
    film: Film,
    image: np.ndarray,
    lesions: Sequence[Lesion],
    draws: Sequence[_Draw],
    factor: float,
    size: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the patches one by one, so that they are never all in memory."""
    lesions_of_kind = {
        "malignant": [lesion for lesion in lesions if lesion.malignant],
        "benign": [lesion for lesion in lesions if not lesion.malignant],
        "background": [],
    }
    masks = {kind: _union(of_kind, image.shape) for kind, of_kind in lesions_of_kind.items()}
    simulated = _union([lesion for lesion in lesions if lesion.simulated], image.shape)
    for draw in draws:
        window = np.s_[draw.row : draw.row + size, draw.column : draw.column + size]
        key = _key(film, draw)
        description = _description_of_largest(lesions_of_kind[draw.kind], window)
        yield (
            key,
            {
                "image": image[window][..., None],
                # All lesions of the patch's class, not only the one it was drawn for: without
                # these lesions, the patch would belong to the opposite class.
                "mask": masks[draw.kind][window][..., None].astype(np.uint8),
                "label": "malignant" if draw.kind == "malignant" else "non_malignant",
                "lesion_type": draw.lesion_type,
                "simulated": bool(simulated[window].any()),
                "patient_id": film.patient_id,
                "film_id": film.film_id,
                "scanner": film.scanner,
                "view": film.view,
                "laterality": film.laterality,
                "rescale_factor": np.float32(factor),
                "corner": np.array([draw.row, draw.column], np.int32),
                "tissue_fraction": draw.tissue_fraction,
                "density": film.density,
                **dataclasses.asdict(description),
            },
        )


def _description_of_largest(lesions: Sequence[Lesion], window: tuple[slice, slice]) -> Description:
    """Returns the description of the lesion with the most pixels in a patch."""
    if not lesions:
        return Description()
    return max(lesions, key=lambda lesion: np.count_nonzero(lesion.mask[window])).description


def _union(lesions: Sequence[Lesion], shape: tuple[int, int]) -> np.ndarray:
    union = np.zeros(shape, bool)
    for lesion in lesions:
        union |= lesion.mask
    return union
